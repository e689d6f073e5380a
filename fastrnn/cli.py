"""The command line: ``fastrnn info``, ``train``, ``generate``, ``inspect``, ``convert``, ...

It reads arguments and prints; what is computed is in `fastrnn.character`, `fastrnn.gradflow`,
`fastrnn.weights`, `fastrnn.bench` and `fastrnn.latency`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from . import dispatch, validation
from .bench import command as bench
from .cells import CELLS
from .character import Checkpoint, Corpus, Options, Trainer, curve, sample, text, training
from .console import check_writable, display, number, require, say, signals, whole, write
from .gradflow import command as gradflow
from .initialisation import INITS
from .latency import command as latency
from .weights import command as weights

SECONDS = 60.0
OUT = "character.safetensors"
SAVE_EVERY = 300.0  # seconds: the most that a power cut can cost


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 2 for a mistake, 128 + n for a signal n.

    Parameters
    ----------
    argv
        Arguments; those of the process if not given.
    """
    try:
        code = _run(argv)
        sys.stdout.flush()  # here, where a reader that has gone away can still be handled
        return code
    except BrokenPipeError:
        # Python flushes once more when it exits: into nothing, so that it has no complaint.
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = _parser().parse_args(argv)
        dispatch.info()  # refuses nonsense in FASTRNN_* before any work is done
        code: int = args.run(args)
        return code
    except SystemExit:  # argparse has printed the help or the version
        return 0
    except BrokenPipeError:
        raise
    except (ValueError, ArithmeticError, OSError, MemoryError) as error:
        words = str(error) or "out of memory"
        if isinstance(error, OSError) and error.filename is not None:
            words = f"{error.filename}: {error.strerror}"
        write(f"fastrnn: {' '.join(words.split())}\n", sys.stderr)
        return 2


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")


def _parser() -> _Parser:
    parser = _Parser(prog="fastrnn", description="Recurrent networks on a CPU.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"fastrnn {dispatch.version()}")
    commands = parser.add_subparsers(metavar="command", required=True)

    info = commands.add_parser("info", help="say what computes here", allow_abbrev=False)
    info.add_argument("--json", action="store_true", help="print it as JSON")
    info.set_defaults(run=_info)

    train = commands.add_parser(
        "train",
        help="train a character model on a text",
        description="Train a character model by truncated back-propagation through time, then "
        "write a checkpoint and a picture of the loss. Ctrl-C writes the checkpoint, too.",
        allow_abbrev=False,
    )
    _add_options(train)
    train.add_argument("--backend", help=_backend_help("; with --resume, the checkpoint's"))
    train.add_argument("--text", help="file of UTF-8 text (default: Python's standard library)")
    train.add_argument(
        "--seconds",
        type=number,
        help=f"stop after so long (default: {SECONDS:g}, or no limit if --epochs is given)",
    )
    train.add_argument(
        "--epochs",
        type=whole,
        help="stop when the text was read so often, before and after --resume together "
        "(default: no limit)",
    )
    train.add_argument(
        "--out",
        help=f"checkpoint to write; the picture goes beside it, as .png (default: {OUT}, or that "
        "of --resume)",
    )
    train.add_argument(
        "--resume",
        metavar="FILE",
        help="continue from this checkpoint, to the bit; its text and options are taken over",
    )
    train.set_defaults(run=_train)

    generate = commands.add_parser("generate", help="let a trained model write", allow_abbrev=False)
    generate.add_argument(
        "--checkpoint", metavar="FILE", default=OUT, help="what to load (default: %(default)s)"
    )
    generate.add_argument(
        "--prompt", default="\n", help="text to continue (default: the start of a line)"
    )
    generate.add_argument(
        "--length", type=whole, default=500, help="characters to write (default: %(default)s)"
    )
    generate.add_argument(
        "--temperature",
        type=number,
        default=0.8,
        help="how bold to be; 0 always takes the likeliest character (default: %(default)s)",
    )
    generate.add_argument(
        "--seed", type=whole, default=0, help="seed of the draws (default: %(default)s)"
    )
    generate.add_argument("--backend", help=_backend_help())
    generate.set_defaults(run=_generate)

    gradflow.add_to(commands)
    weights.add_to(commands)
    bench.add_to(commands)
    latency.add_to(commands)
    return parser


def _add_options(train: _Parser) -> None:
    """Add `character.Options`; the defaults are its own, so that what is given can be told."""
    words: dict[str, tuple[Callable[[str], Any], str]] = {
        "cell": (str, f"one of {', '.join(CELLS)}"),
        "hidden": (whole, "hidden units of a layer"),
        "layers": (whole, "recurrent layers"),
        "batch": (whole, "streams of text that are read side by side"),
        "window": (whole, "characters between two updates (k1)"),
        "k2": (whole, "characters that gradients flow back"),
        "lr": (number, "learning rate of Adam"),
        "clip": (number, "largest norm of the gradient"),
        "seed": (whole, "seed of the initial parameters"),
        "init": (str, f"where the recurrent layers start, one of {', '.join(INITS)}"),
        "forget_bias": (number, "where the bias of an LSTM's forget gate starts"),
    }
    unset = {"k2": "the window", "forget_bias": "drawn like the others"}
    for field in fields(Options):
        convert, text = words[field.name]
        default = unset.get(field.name, field.default)
        train.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=convert,
            default=argparse.SUPPRESS,
            help=f"{text} (default: {default})",
        )


def _backend_help(more: str = "") -> str:
    return f"one of {', '.join(dispatch.BACKENDS)} (default: the fastest that is there{more})"


def _info(args: argparse.Namespace) -> int:
    found = dispatch.info()
    if args.json:
        write(json.dumps(found, indent=2) + "\n")
        return 0
    say("fastrnn", f"{found['version']} (Python {found['python']}, NumPy {found['numpy']})")
    for name, status in found["backends"].items():
        default = " (the default)" if name == found["backend"] else ""
        say(f"  {name}", status + default)
    say("ISA", found["isa"] or "none: the C kernels are not built")
    say("threads", found["threads"])
    return 0


@dataclass(slots=True)
class _Session:
    """A training run, and where it begins and ends."""

    trainer: Trainer
    source: str | None  # file of the text; None for the standard library
    out: Path
    seconds: float
    epochs: int | None

    def save(self) -> None:
        Checkpoint.of(self.trainer, self.source).save(self.out)


def _train(args: argparse.Namespace) -> int:
    require("safetensors", "rich", "matplotlib")
    session = _session(args)
    trainer, out = session.trainer, session.out
    options, K = trainer.options, len(trainer.corpus.vocabulary)
    size = len(trainer.corpus.train) + len(trainer.corpus.held_out)
    parameters = sum(array.size for array in trainer.model.parameters.values())
    title = f"{options.cell}, {options.layers} x {options.hidden}, {parameters:,} parameters"
    source = session.source or f"standard library of Python {platform.python_version()}"
    say("text", f"{source}: {size:,} characters, {K} different")
    say("model", f"{title}; batch {options.batch}, window {options.window}, k2 {options.k2}")
    # It would be silent for long: some twenty seconds, the first time on a machine.
    say("backend", f"{trainer.backend}{', compiling ...' if trainer.backend == 'numba' else ''}")
    trainer.warm_up()
    if stopped := _loop(session):
        say("stopped", f"{out} is saved; to go on: fastrnn train --resume {shlex.quote(str(out))}")
        return 128 + stopped
    final, steps = trainer.evaluate(), len(trainer.losses)
    say("held out", f"{final:.3f} bits a character, step {steps:,} (blind: {math.log2(K):.3f})")
    say("checkpoint", out)
    picture = out.with_suffix(".png")
    curve.draw(picture, trainer.losses, [*trainer.held_out, (steps, final)], K, title)
    say("picture", picture)
    if trainer.backend != "numpy":
        speed = training.measure(trainer)
        say(
            "speed",
            f"{speed.reference / speed.step:.1f} times the NumPy reference: a training step took "
            f"{speed.step * 1e3:.1f} ms, the reference's {speed.reference * 1e3:.1f} ms",
        )
    say("sample", "")
    for character in sample(trainer.model, trainer.corpus.vocabulary, "\n", 400):
        write(character)
    write("\n")
    return 0


def _session(args: argparse.Namespace) -> _Session:
    """Start or resume a run; everything that can be wrong is found here."""
    seconds = args.seconds
    if seconds is None:
        seconds = SECONDS if args.epochs is None else math.inf
    else:
        validation.number("seconds", seconds, 0.0, open_low=True)
    if args.epochs is not None:
        validation.positive("epochs", args.epochs)
    out = Path(args.out if args.out is not None else args.resume or OUT)
    if out.suffix != ".safetensors":  # so that no other file of the user's is replaced
        raise ValueError(f"out: expected a name that ends in .safetensors, got {str(out)!r}")
    for path in (out, out.with_suffix(".png")):
        check_writable("out", path)
    source = None if args.text is None else str(Path(args.text).resolve())
    given = {f.name: getattr(args, f.name) for f in fields(Options) if hasattr(args, f.name)}
    if args.resume is None:
        options = Options(**given)
        backend = dispatch.choose(args.backend, options.cell)
        trainer = Trainer(_corpus(source, options), options, backend)
    else:
        checkpoint = Checkpoint.load(args.resume)
        kept = {name: getattr(checkpoint.options, name) for name in given}
        if args.backend is not None:
            given["backend"], kept["backend"] = args.backend, checkpoint.backend
        for name, value in given.items():
            if value != kept[name]:
                raise ValueError(f"{name}: expected {kept[name]} as in {args.resume}, got {value}")
        source = source or checkpoint.source
        with _naming(args.resume):
            trainer = checkpoint.trainer(_corpus(source, checkpoint.options))
    if args.epochs is not None and args.epochs <= trainer.epoch:
        raise ValueError(f"epochs: expected more than the {trainer.epoch} done, got {args.epochs}")
    return _Session(trainer, source, out, seconds, args.epochs)


def _corpus(source: str | None, options: Options) -> Corpus:
    found = text.standard_library() if source is None else text.read(source)
    return Corpus.of(found, options.batch, options.window)


def _loop(session: _Session) -> int:
    """Train, then save; return the signal that ended it, or 0."""
    trainer, seconds, epochs = session.trainer, session.seconds, session.epochs
    first = len(trainer.losses)
    total = math.inf if epochs is None else epochs * trainer.steps_per_epoch - first
    characters, held_out = 0, ""
    with signals() as received, display() as show:
        start = saved = time.perf_counter()
        try:
            for progress in trainer.run(epochs):
                now = time.perf_counter()
                elapsed = now - start
                done = min(max(elapsed / seconds, (progress.step - first) / total), 1.0)
                characters += progress.characters
                if progress.held_out is not None:
                    held_out = f"  held out {progress.held_out:.3f}"
                left = round(elapsed / done - elapsed)
                show(
                    done,
                    f"{left // 60}:{left % 60:02d} left  step {progress.step:,}  "
                    f"{progress.loss:.3f} bits/char  gradient {progress.norm:.2f}  "
                    f"{characters / elapsed:,.0f} chars/s{held_out}",
                )
                if received or elapsed >= seconds:
                    break
                if now - saved > SAVE_EVERY:
                    session.save()
                    saved = now
        except BrokenPipeError:  # from `show`, hence between two steps
            received.append(signal.SIGPIPE)
        session.save()
    return received[0] if received else 0


def _generate(args: argparse.Namespace) -> int:
    require("safetensors")
    checkpoint = Checkpoint.load(args.checkpoint)
    backend = dispatch.choose(args.backend, checkpoint.options.cell)
    vocabulary = checkpoint.vocabulary
    with _naming(args.checkpoint):
        model = checkpoint.model(backend)
    characters = sample(
        model,
        vocabulary,
        args.prompt,
        args.length,
        temperature=args.temperature,
        seed=args.seed,
    )
    if unknown := vocabulary.unknown(args.prompt):
        write(f"fastrnn: prompt: {unknown!r} not in the vocabulary, read as U+FFFD\n", sys.stderr)
    write(args.prompt)
    for character in characters:
        write(character)
    write("\n")
    return 0


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Let an error say which checkpoint does not fit."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
