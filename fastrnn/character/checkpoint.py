"""A training run in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ..cells import CELLS
from ..sequential import Sequential
from ..validation import Array
from ..weights import Layer, safetensors
from .model import Options, build
from .text import Corpus, Vocabulary
from .training import Trainer

FORMAT = "fastrnn-character"
VERSION = "1"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the file holds.

    Attributes
    ----------
    options, backend
        Those of the run.
    vocabulary
        That of the text.
    digest
        SHA-256 of the text.
    source
        Where the text came from, as its reader calls it; None for the standard library.
    arrays
        `Trainer.snapshot`.
    """

    options: Options
    backend: str
    vocabulary: Vocabulary
    digest: str
    source: str | None
    arrays: Mapping[str, Array]

    @classmethod
    def of(cls, trainer: Trainer, source: str | None) -> Checkpoint:
        """Take a checkpoint of a training run as it is now."""
        return cls(
            trainer.options,
            trainer.backend,
            trainer.corpus.vocabulary,
            trainer.corpus.digest,
            source,
            trainer.snapshot(),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, atomically; `OSError` if that is not possible."""
        metadata = {
            "format": FORMAT,
            "version": VERSION,
            "options": json.dumps(asdict(self.options)),
            "backend": self.backend,
            "vocabulary": json.dumps(self.vocabulary.characters),
            "text": json.dumps({"sha256": self.digest, "source": self.source}),
        }
        # So that other readers of weights find the layer, and not the optimizer's moments of it.
        layer = Layer.of(self.model().layers[1])
        safetensors.save(path, self.arrays, metadata | safetensors.describe({"model.1": layer}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Read a file.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is not a checkpoint of this version, or is damaged.
        """
        arrays, metadata = safetensors.load(path)
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path}: expected a checkpoint of fastrnn, got other weights")
        if metadata.get("version") != VERSION:
            raise ValueError(
                f"{path}: expected a checkpoint of version {VERSION}, "
                f"got version {metadata.get('version')}"
            )
        try:
            text = json.loads(metadata["text"])
            found = cls(
                Options(**json.loads(metadata["options"])),
                metadata["backend"],
                Vocabulary(json.loads(metadata["vocabulary"])),
                text["sha256"],
                text["source"],
                arrays,
            )
            found._check_sizes()
        except ValueError as error:
            raise ValueError(f"{path}: expected a whole checkpoint, got {error}") from error
        except KeyError as error:
            raise ValueError(f"{path}: expected a whole checkpoint, got none of {error}") from error
        # What JSON holds may be of any kind and depth.
        except (TypeError, RecursionError) as error:
            raise ValueError(f"{path}: expected a whole checkpoint, got {error}") from error
        return found

    def _check_sizes(self) -> None:
        """Compare the options with the arrays, before anything is allocated by the former."""
        options = self.options
        layers = [name for name in self.arrays if name.startswith("model.1.weight_hh_l")]
        wide = len(CELLS[options.cell].gates) * options.hidden
        for name, shape in (
            ("model.1.weight_hh_l0", (wide, options.hidden)),
            ("model.2.weight", (len(self.vocabulary), options.hidden)),
        ):
            if name not in self.arrays or self.arrays[name].shape != shape:
                raise ValueError(f"{name}: expected shape {shape}")
        if len(layers) != options.layers:
            raise ValueError(f"layers: expected {options.layers}, got {len(layers)}")

    def model(self, backend: str | None = None) -> Sequential:
        """Make the network, on any backend; `ValueError` or `TypeError` if it does not fit."""
        model = build(self.options, self.vocabulary, backend)
        parameters = {
            name.removeprefix("model."): array
            for name, array in self.arrays.items()
            if name.startswith("model.")
        }
        model.load_parameters(parameters)
        return model

    def trainer(self, corpus: Corpus) -> Trainer:
        """Continue the run; `ValueError` or `TypeError` if the text or the arrays do not fit."""
        if corpus.digest != self.digest:
            raise ValueError(
                f"text: expected the one that was trained on (sha256 {self.digest[:12]}), "
                f"got another (sha256 {corpus.digest[:12]})"
            )
        trainer = Trainer(corpus, self.options, self.backend)
        trainer.restore(self.arrays)
        return trainer
