"""Build script. What is static stands in pyproject.toml; what a compiler makes is added here."""

from setuptools import setup

setup()
