"""Readers and writers of weight files, one module a format. None of them executes what it reads."""
