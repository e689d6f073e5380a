"""Let threadpoolctl see and limit the threads of the C kernels: import this module.

Then ``threadpoolctl.threadpool_info()`` lists them once they are loaded, and they obey
``threadpoolctl.threadpool_limits(1, user_api="fastrnn")``.
"""

from __future__ import annotations

from typing import Any

import threadpoolctl

from . import dispatch, threads


class Controller(threadpoolctl.LibController):  # type: ignore[misc]  # it has no types
    """What threadpoolctl asks of a library that it has found among the loaded ones."""

    user_api = "fastrnn"
    internal_api = "fastrnn"
    filename_prefixes = ("_c.abi3",)
    check_symbols = ("fastrnn_isa_count",)

    def get_num_threads(self) -> int:
        """Return how many threads a kernel may use."""
        return threads.num_threads()

    def set_num_threads(self, num_threads: int) -> None:
        """Set it, for every backend."""
        threads.set_num_threads(num_threads)

    def get_version(self) -> str:
        """Return the version of the package."""
        return dispatch.version()

    def set_additional_attributes(self) -> None:
        """Say which instruction set computes."""
        self.architecture: Any = dispatch.isa()


threadpoolctl.register(Controller)
