"""Benchmarks: who is how fast at what, and how one can know."""
