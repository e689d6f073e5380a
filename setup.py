"""Build script. What is static stands in pyproject.toml; what a compiler makes is added here."""

import ctypes
import os
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
# A file does not tell with which of these it was made, so it is never taken for another build.
CHOSEN = {"CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED"} & os.environ.keys()
# Python without its lock has no limited API before 3.15, and cffi leaves it out.
LIMITED_API = {} if sysconfig.get_config_var("Py_GIL_DISABLED") else {"py_limited_api": "cp311"}


def is_current(ext: Extension, path: Path) -> bool:
    """Say whether a file is what compiling would make."""
    given = [*ext.sources[1:], *ext.depends]  # the first one is generated, each time anew
    if CHOSEN or newer_group(given, path):
        return False
    try:
        ctypes.CDLL(str(path))
    except OSError:  # from another kind of machine, with which this one shares the folder
        return False
    return True


class BuildExt(build_ext):
    """Compile on all processors, and for an editable install only what has changed."""

    def run(self) -> None:
        if not self.editable_mode:
            return super().run()
        # pip compiles in a fresh folder each time, while environments share the source folder.
        (ext,) = self.extensions
        shared = Path(self.get_ext_fullpath(ext.name))
        if not is_current(ext, shared):
            super().run()
            if not Path(self.build_lib, self.get_ext_filename(ext.name)).exists():
                shared.unlink(missing_ok=True)  # else old kernels would compute with new Python

    def build_extension(self, ext: Extension) -> None:
        started = time.time()
        compile_all = self.compiler.compile

        def compile_each(sources: list[str], **options: object) -> list[str]:
            with ThreadPoolExecutor(PROCESSORS) as pool:
                objects = pool.map(lambda source: compile_all([source], **options), sources)
                return [path for [path] in objects]

        self.compiler.compile = compile_each
        super().build_extension(ext)
        if self.editable_mode:
            # A source that was edited while the compiler ran is newer than what came out.
            date = 0 if CHOSEN else started
            os.utime(self.get_ext_fullpath(ext.name), (date, date))


setup(
    cffi_modules=["csrc/build_ffi.py:ffi"],
    cmdclass={"build_ext": BuildExt},
    options={"bdist_wheel": LIMITED_API},
)
