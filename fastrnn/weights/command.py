"""``fastrnn inspect`` and ``fastrnn convert``."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..cells import CELLS
from ..console import check_writable, require, say, write
from ..validation import Array
from . import formats
from .layer import Layer

WIDTH = 160  # of tables that go to no terminal


def add_to(commands: Any) -> None:
    """Add both commands to a command line."""
    inspect = commands.add_parser(
        "inspect",
        help="say what a file of weights holds",
        description="List the recurrent layers of a file of safetensors, ONNX or Keras, what it "
        "says of them and what it does not, and all arrays that it holds.",
        allow_abbrev=False,
    )
    inspect.add_argument("file", metavar="FILE", help="the file")
    _add_option(inspect)
    inspect.set_defaults(run=_inspect)

    convert = commands.add_parser(
        "convert",
        help="turn a file of weights into another kind",
        description="Read the recurrent layers of a file of safetensors, ONNX or Keras, and write "
        "them, and nothing else, to another.",
        allow_abbrev=False,
    )
    convert.add_argument("source", metavar="IN", help="the file to read")
    convert.add_argument(
        "out", metavar="OUT", help=f"the file to write or replace: {' or '.join(formats.WRITERS)}"
    )
    _add_option(convert)
    convert.set_defaults(run=_convert)


def _add_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        type=_option,
        help="what the file does not say, such as gate_activation=hard_sigmoid; may be repeated",
    )


def _option(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, {"true": True, "false": False}.get(value.lower(), value)


def _load(path: str, options: list[tuple[str, object]]) -> dict[str, Layer]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # these commands say what was assumed
        return formats.load(path, options=dict(options))


def _inspect(args: argparse.Namespace) -> int:
    require("rich")
    try:
        layers = _load(args.file, args.option)
        arrays = formats.arrays(args.file)
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from None
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    console.print(_layers(layers))
    for name, layer in layers.items():
        for note in layer.notes:
            write(_plain(f"{name or '(no name)'}: {note}\n"))
    console.print(_arrays(arrays))
    return 0


def _layers(layers: Mapping[str, Layer]) -> Any:
    """Return a renderable table of layers."""
    from rich.table import Table

    found = Table(title="layers", title_justify="left", expand=False)
    for heading in ("layer", "cell", "input", "hidden", "layers", "directions", "gates"):
        found.add_column(heading)
    for heading in ("options", "assumed"):
        found.add_column(heading, overflow="fold")
    for name, layer in layers.items():
        directions = "both" if layer.bidirectional else "reverse" if layer.reverse else "forward"
        projection = f" to {layer.proj_size}" if layer.proj_size else ""
        said = dict(layer.options) | {"batch_first": layer.batch_first, "bias": layer.bias}
        cells = (
            _plain(name) or "(no name)",
            layer.cell.upper(),
            str(layer.input_size),
            f"{layer.hidden_size}{projection}",
            str(layer.num_layers),
            directions + (", states given" if layer.state is not None else ""),
            " ".join(CELLS[layer.cell].gates),
            _words({k: v for k, v in said.items() if k not in layer.assumed}),
            _words(layer.assumed),
        )
        found.add_row(*map(_text, cells))
    return found


def _arrays(arrays: Mapping[str, Array]) -> Any:
    """Return a renderable table of everything that a file holds."""
    from rich.table import Table

    found = Table(title="arrays in the file", title_justify="left", expand=False)
    found.add_column("array", overflow="fold")
    for heading in ("shape", "type"):
        found.add_column(heading)
    for name, array in arrays.items():
        found.add_row(*map(_text, (_plain(name), str(array.shape), str(array.dtype))))
    return found


def _convert(args: argparse.Namespace) -> int:
    source, out = Path(args.source), Path(args.out)
    formats.check_suffix("out", out)
    check_writable("out", out)
    if source.exists() and out.exists() and source.samefile(out):
        raise ValueError(f"out: expected another file than IN, got {args.out!r}")
    try:
        layers = _load(args.source, args.option)
        formats.save(out, layers)
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from None
    for name, layer in layers.items():
        words = f"{layer.cell.upper()} {layer.input_size} -> {layer.hidden_size}"
        if layer.assumed:
            words += f", assumed: {_words(layer.assumed)}"
        say("layer", _plain(f"{name or '(no name)'}: {words}"))
    say("written", out)
    return 0


def _words(options: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())


def _plain(text: str) -> str:
    """Replace what would control a terminal: names come from files of anyone."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _text(text: str) -> Any:
    from rich.text import Text

    return Text(text)  # which knows no markup
