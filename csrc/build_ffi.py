"""Describe the extension module `fastrnn._c`: its interface and its sources, for cffi.

Without a C compiler the extension is left out, and the other backends serve; with
``FASTRNN_REQUIRE_C=1`` that is an error.
"""

import os
import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent


def interface() -> str:
    """Return the declarations of fastrnn.h, as cffi wants them."""
    text = (HERE / "fastrnn.h").read_text()
    _, text, _ = re.split(r"/\* (?:begin|end) of the interface \*/", text)
    return text.replace("FASTRNN_API ", "")


def sources() -> list[str]:
    """Return the C files, as paths from the folder of setup.py."""
    files = sorted(HERE.glob("*.c")) + sorted((HERE / "isa").glob("*.c"))
    return [str(path.relative_to(HERE.parent)) for path in files]


ffi = FFI()
ffi.cdef(interface())
ffi.set_source(
    "fastrnn._c",
    '#include "fastrnn.h"',
    sources=sources(),
    include_dirs=["csrc"],
    depends=[str(path.relative_to(HERE.parent)) for path in sorted(HERE.rglob("*.h"))],
    extra_compile_args=[] if os.name == "nt" else ["-O2", "-fvisibility=hidden", "-pthread"],
    extra_link_args=[] if os.name == "nt" else ["-pthread"],
    py_limited_api=True,
    optional=os.environ.get("FASTRNN_REQUIRE_C") != "1",
)
