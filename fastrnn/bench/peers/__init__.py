"""Other libraries, one a file, each called the way its own documentation calls fast.

A file has functions ``(Problem) -> Run``, which raise `RefusedError` for what they do not compute.
The libraries are imported inside them, so that one that is not installed costs nothing else.
"""
