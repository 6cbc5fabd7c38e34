"""Packages that lie: forged from toy packages, checksums made right again, each with the code that must refuse it."""
