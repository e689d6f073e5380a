"""What every command needs: words, a bar, signals, and checks before work begins."""

from __future__ import annotations

import argparse
import importlib.util
import math
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

LINE_EVERY = 5.0  # seconds between lines where there is no terminal to draw a bar on


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM, so that they end training after a step and not inside one.

    Nor does a second one reach the saving that follows.
    """
    received: list[int] = []
    previous: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            # A process that was started to ignore a signal (nohup, &) goes on to do so.
            if handler is not None and handler != signal.SIG_IGN:
                previous[number] = handler
                signal.signal(number, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def display() -> Iterator[Callable[[float, str], None]]:
    """Give a function that shows how far work is: a bar, or a line now and then."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = BarColumn(bar_width=20), TextColumn("{task.description}")
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("", total=1.0)
            yield lambda done, words: bar.update(task, completed=done, description=words)
        return
    last = -math.inf

    def show(done: float, words: str) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last >= LINE_EVERY or done == 1.0:
            last = now
            write(f"{done:4.0%}  {words}\n", sys.stderr)

    yield show


def require(*modules: str) -> None:
    """Refuse to begin what could not be finished, for want of a library."""
    for name in modules:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"{name} is not installed: pip install 'fastrnn[cli]'")


def check_writable(argument: str, path: Path) -> None:
    """Refuse a file that could not be written in the end."""
    if path == Path():
        raise ValueError(f"{argument}: expected a file's name, got nothing")
    if path.is_dir():
        raise ValueError(f"{argument}: expected a file, got the folder {path}")
    folder = path.resolve().parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{argument}: expected a folder that can be written to, got {folder} ({error.strerror})"
        ) from None


def say(label: str, words: object) -> None:
    """Print a line with a label."""
    write(f"{label:<12}{words}\n")


def write(words: str, stream: TextIO | None = None) -> None:
    """Write words as they are, to standard output if not told otherwise."""
    stream = stream or sys.stdout
    encoding = stream.encoding or "utf-8"
    # A terminal may lack characters that a text has: better a question mark than no text.
    stream.write(words.encode(encoding, "replace").decode(encoding))
    stream.flush()


def whole(text: str) -> int:
    """Read an argument that is a whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None


def number(text: str) -> float:
    """Read an argument that is a number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
