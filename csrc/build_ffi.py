"""Describe the extension module `fastrnn._c`: its interface and its sources, for cffi.

Without a C compiler the extension is left out, and the other backends serve; with
``FASTRNN_REQUIRE_C=1`` that is an error.
"""

import os
import re
import shlex
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent


def interface() -> str:
    """Return the declarations of fastrnn.h, as cffi wants them."""
    text = (HERE / "fastrnn.h").read_text()
    _, text, _ = re.split(r"/\* (?:begin|end) of the interface \*/", text)
    return text.replace("FASTRNN_API ", "")


def paths(pattern: str) -> list[str]:
    """Return the files in this folder and below, as paths from the folder of setup.py."""
    return [str(path.relative_to(HERE.parent)) for path in sorted(HERE.rglob(pattern))]


def flags() -> list[str]:
    """Return the compiler's options: ours, which go after those of Python, and then CFLAGS."""
    if os.name == "nt":
        return []
    # Many a Python asks for -g: a third of the compiler's time, and 5 MB.
    ours = ["-O2", "-g0", "-fvisibility=hidden", "-pthread"]
    return [*ours, *shlex.split(os.environ.get("CFLAGS", ""))]


ffi = FFI()
ffi.cdef(interface())
ffi.set_source(
    "fastrnn._c",
    '#include "fastrnn.h"',
    sources=paths("*.c"),
    include_dirs=["csrc"],
    depends=[*paths("*.h"), *paths("build_ffi.py"), "setup.py"],
    extra_compile_args=flags(),
    extra_link_args=[] if os.name == "nt" else ["-pthread"],
    py_limited_api=True,
    optional=os.environ.get("FASTRNN_REQUIRE_C") != "1",
)
