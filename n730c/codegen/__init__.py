"""Kernels as flat images: templates and TVM make them, ``select`` and ``tune`` choose, ``image`` links."""

from n730c.codegen.build import Choice, build_images, make_kernels
from n730c.codegen.gpu import GpuImage, build_gpu_images, computable
from n730c.codegen.nvrtc import missing as nvrtc_missing

__all__ = ["Choice", "GpuImage", "build_gpu_images", "build_images", "computable", "make_kernels", "nvrtc_missing"]
