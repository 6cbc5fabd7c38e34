"""Kernels as flat images: templates and TVM make them, ``select`` and ``tune`` choose, ``image`` links."""

from n730c.codegen.build import Choice, build_images, make_kernels

__all__ = ["Choice", "build_images", "make_kernels"]
