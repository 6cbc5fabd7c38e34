"""The ``.n730`` file: write, read, validate, describe. runtime/FORMAT.md is the law; ``layout`` holds its records."""

from n730c.package.inspect import describe, extract
from n730c.package.read import Package, read_package
from n730c.package.validate import validate
from n730c.package.write import package_size, write_package

__all__ = ["Package", "describe", "extract", "package_size", "read_package", "validate", "write_package"]
