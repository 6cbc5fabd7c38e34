"""Weights as numbers and as bytes: rounding to a format (``rounding``) and the file's layouts (``formats``)."""

from n730c.quant.formats import dequantize, pack, unpack, values
from n730c.quant.rounding import encode, encode_vector, quantize

__all__ = ["dequantize", "encode", "encode_vector", "pack", "quantize", "unpack", "values"]
