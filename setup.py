"""Build script. What is static stands in pyproject.toml; what a compiler makes is added here."""

from setuptools import setup

setup(cffi_modules=["csrc/build_ffi.py:ffi"])
