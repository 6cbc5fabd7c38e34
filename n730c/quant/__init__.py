"""Weights as numbers and as bytes: rounding to a format (``rounding``) and the file's layouts (``formats``)."""

from n730c.quant.formats import CodedScales, dequantize, pack, round_scales, scale_values, unpack, values
from n730c.quant.rounding import encode, encode_vector, quantize

__all__ = [
    "CodedScales",
    "dequantize",
    "encode",
    "encode_vector",
    "pack",
    "quantize",
    "round_scales",
    "scale_values",
    "unpack",
    "values",
]
