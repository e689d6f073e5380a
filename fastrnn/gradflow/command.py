"""``fastrnn gradflow``: how gradients flow through a trained character model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from .. import validation
from ..character import Checkpoint, Corpus, text
from ..console import check_writable, require, say, whole, write
from ..losses import softmax_cross_entropy
from .analysis import analyse

STEPS = 200
ROWS = 8  # streams of text that are read side by side


def add_to(commands: Any) -> None:
    """Add the command to a command line."""
    gradflow = commands.add_parser(
        "gradflow",
        help="say how gradients flow back through a trained character model",
        description="Run the text that a model was not trained on through it, take the "
        "cross-entropy at each step, and show what each step contributes to the gradient.",
        allow_abbrev=False,
    )
    gradflow.add_argument("checkpoint", metavar="CHECKPOINT", help="what fastrnn train has written")
    gradflow.add_argument(
        "--text",
        metavar="FILE",
        help="file of UTF-8 text to read instead (default: the end of the text of the training, "
        "which is held out)",
    )
    gradflow.add_argument(
        "--steps", type=whole, default=STEPS, help="characters to read (default: %(default)s)"
    )
    gradflow.add_argument("--out", metavar="FILE.png", help="picture to write")
    gradflow.set_defaults(run=_gradflow)


def _gradflow(args: argparse.Namespace) -> int:
    require("safetensors", *(["matplotlib"] if args.out is not None else []))
    steps = validation.positive("steps", args.steps)
    if args.out is not None:
        if Path(args.out).suffix != ".png":
            raise ValueError(f"out: expected a name that ends in .png, got {args.out!r}")
        check_writable("out", Path(args.out))
    checkpoint = Checkpoint.load(args.checkpoint)
    try:
        model = checkpoint.model()
    except (ValueError, TypeError) as error:
        raise ValueError(f"{args.checkpoint}: {error}") from error
    source, indices = _indices(args.text, checkpoint)
    rows = min(ROWS, (len(indices) - 1) // steps)
    if not rows:
        raise ValueError(
            f"text: expected at least {steps + 1} characters for steps={steps}, got {len(indices)}"
        )
    cut = indices[: rows * steps + 1]
    x, targets = (part.reshape(rows, steps).T for part in (cut[:-1], cut[1:]))
    logits, _ = model(x)
    loss, d_logits = softmax_cross_entropy(logits, targets)
    options = checkpoint.options
    say("model", f"{options.cell}, {options.layers} x {options.hidden}")
    say("text", f"{source}: {rows} x {steps} characters, {loss / np.log(2):.3f} bits a character")
    flow = analyse(model, x, d_logits)
    write(f"\n{flow}\n")
    if args.out is not None:
        flow.plot(args.out)
        say("picture", args.out)
    return 0


def _indices(path: str | None, checkpoint: Checkpoint) -> tuple[str, Any]:
    """Return where the text comes from, and its characters as indices."""
    if path is not None:
        return path, checkpoint.vocabulary.encode(text.read(path))
    source = checkpoint.source
    found = text.standard_library() if source is None else text.read(source)
    corpus = Corpus.of(found, checkpoint.options.batch, checkpoint.options.window)
    if corpus.digest != checkpoint.digest:
        raise ValueError(
            "text: expected the one that was trained on, or --text, got another "
            f"(sha256 {corpus.digest[:12]})"
        )
    return f"held out, {source or 'standard library'}", corpus.held_out
