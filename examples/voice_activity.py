"""Who speaks when: the LSTM of Silero VAD, against ONNX Runtime, on real speech.

silero-vad 6.2.3 (MIT, Silero Team) hears in 32 ms of sound at a time whether someone speaks:
convolutions, an LSTM of 128 units that remembers what came before, and a sigmoid. The LSTM's true
inputs are taken from the network as ONNX Runtime computes it, on speech from Debian's package
pocketsphinx-testdata (readings from LibriVox, and single commands).
"""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import fastrnn
import fetch
import harness
from fastrnn import weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODEL = "silero_vad/data/silero_vad_16k_sequence.onnx"
RATE = 16000  # samples a second
FRAME, BEFORE = 512, 64  # samples of a frame, and of the one before that it is read with
HIDDEN = 128
LIMIT = 2e-6  # largest error of an output, which lies in [-1, 1]

SPEECH = "usr/share/pocketsphinx/test/data"
RECORDINGS = [f"librivox/sense_and_sensibility_01_austen_64kb-0{n}.wav" for n in (870, 880, 890)]
RECORDINGS += [f"librivox/sense_and_sensibility_01_austen_64kb-0{n}.wav" for n in (920, 930)]
RECORDINGS += [f"cards/00{n}.wav" for n in (1, 2, 3, 4, 5)]


def recording(name: str) -> np.ndarray:
    """Return the samples of a recording, in [-1, 1]: from the package if installed, or fetched."""
    installed = Path("/") / SPEECH / name
    if installed.exists():
        data = installed.read_bytes()
    else:
        data = fetch.read("pocketsphinx-testdata", f"{SPEECH}/{name}")
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return samples.astype(np.float32) / 32768


def frames(samples: np.ndarray) -> np.ndarray:
    """Cut samples into frames (T, 576), each with the end of the one before in front of it."""
    T = -(-len(samples) // FRAME)
    padded = np.zeros(BEFORE + T * FRAME, np.float32)
    padded[BEFORE : BEFORE + len(samples)] = samples
    return np.lib.stride_tricks.sliding_window_view(padded, BEFORE + FRAME)[::FRAME].copy()


class Runtime:
    """ONNX Runtime with the network, whose LSTM's inputs and outputs are outputs too, and with the
    LSTM alone."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnx
        import onnxruntime

        model = onnx.load(str(path))
        (node,) = [node for node in model.graph.node if node.op_type == "LSTM"]
        info = partial(onnx.helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT)
        x = info(node.input[0], shape=["T", 1, HIDDEN])
        y = info(node.output[0], shape=["T", 1, 1, HIDDEN])
        model.graph.output.extend([x, y])
        alone = onnx.helper.make_model(
            onnx.helper.make_graph(
                [node],
                "lstm",
                [x, *(given for given in model.graph.input if given.name in node.input)],
                [y, *(found for found in model.graph.output if found.name in node.output[1:])],
                [array for array in model.graph.initializer if array.name in node.input],
            ),
            opset_imports=model.opset_import,
            ir_version=model.ir_version,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = partial(
            onnxruntime.InferenceSession, sess_options=options, providers=["CPUExecutionProvider"]
        )
        self.whole = session(model.SerializeToString())
        self.alone = session(alone.SerializeToString())
        self.x = node.input[0]
        self.outputs = [self.x, *node.output, "speech_probs"]
        self.zeros = {name: np.zeros((1, 1, HIDDEN), np.float32) for name in node.input[5:7]}

    def __call__(self, x: np.ndarray) -> list[np.ndarray]:
        """Run the network: return the LSTM's input, output, final states, and probabilities."""
        return self.whole.run(self.outputs, {"input": x, **self.zeros})

    def lstm(self, x: np.ndarray) -> Any:
        """Run the LSTM alone."""
        return self.alone.run(None, {self.x: x, **self.zeros})


class Errors(NamedTuple):
    """Largest differences on a recording."""

    from_runtime: float  # of outputs from ONNX Runtime's
    from_exact: float  # from those in float64
    of_runtime: float  # of ONNX Runtime's from those in float64
    states: float  # of final states from ONNX Runtime's, relative to the largest
    probabilities: float  # of speech, from ONNX Runtime's


class Detector:
    """The LSTM and the head of the network, and what they are compared with."""

    def __init__(self, path: Path) -> None:
        (layer,) = weights.load(path).values()
        self.lstm = layer.build()
        self.exact = fastrnn.LSTM(
            self.lstm.input_size, self.lstm.hidden_size, dtype="float64", backend="numpy"
        )
        parameters = self.lstm.parameters.items()
        self.exact.load_parameters({name: array.astype(float) for name, array in parameters})
        arrays = weights.arrays(path)
        self.weight, self.bias = arrays["output.weight"].ravel(), arrays["output.bias"]
        self.runtime = Runtime(path, fastrnn.info()["threads"])

    def probabilities(self, output: np.ndarray) -> np.ndarray:
        """Return the probability of speech in each frame (T,), of the LSTM's output (T, 1, 128)."""
        return 1 / (1 + np.exp(-(np.maximum(output[:, 0], 0) @ self.weight + self.bias)))

    def compare(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, Errors]:
        """Return the LSTM's input (T, 1, 128), the probabilities, and how they compare."""
        x, y, h_n, c_n, wanted = self.runtime(frames(samples))
        output, state = self.lstm(x)
        exact, _ = self.exact(x.astype(float))
        found = self.probabilities(output)
        states = zip(state, (h_n, c_n), strict=True)
        return (
            x,
            found,
            Errors(
                difference(output, y),
                difference(output, exact),
                difference(y, exact),
                max(difference(ours, theirs) / np.abs(theirs).max() for ours, theirs in states),
                difference(found, wanted),
            ),
        )


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference of arrays of as many numbers."""
    return float(np.abs(a.ravel() - b.ravel()).max())


def example(quick: bool = False, seed: int = 0) -> harness.Outcome:
    """Compare outputs and states on every recording, then times on the longest."""
    del seed  # nothing is drawn
    path = fetch.file("silero-vad", MODEL)
    detector = Detector(path)
    head = ("recording", "seconds", "speech", "from ORT", "from exact", "ORT from exact")
    table, all_errors = [(*head, "states", "probability")], []
    longest = np.empty((0, 1, HIDDEN), np.float32)
    drawn: list[tuple[str, np.ndarray, np.ndarray]] = []
    for name in harness.progress(RECORDINGS, len(RECORDINGS), "listening"):
        samples = recording(name)
        x, found, errors = detector.compare(samples)
        all_errors.append(errors)
        longest = max(longest, x, key=len)
        title = f"{Path(name).parent} {Path(name).stem.rpartition('-')[2]}"
        row = (f"{len(samples) / RATE:.1f}", f"{np.mean(found > 0.5):.0%}")
        table.append((title, *row, *(f"{error:.1e}" for error in errors)))
        drawn.append((title, samples, found))
    times = []
    for threads in sorted({1, fastrnn.info()["threads"]}):
        alone = Runtime(path, threads).lstm
        ratio = harness.compare(
            lambda alone=alone: alone(longest),
            lambda: detector.lstm(longest),
            quick=quick,
            threads=threads,
        )
        times.append(f"{ratio} with {threads}")
    worst = Errors(*(float(error) for error in np.max(all_errors, axis=0)))
    line = (
        f"on {len(all_errors)} recordings outputs are within {worst.from_exact:.1e} of exact "
        f"arithmetic (limit {LIMIT:.0e}), ONNX Runtime's within {worst.of_runtime:.1e}, both "
        f"{worst.from_runtime:.1e} apart; {len(longest)} frames take ONNX Runtime this many times "
        f"as long, by threads: {', '.join(times)}"
    )
    return harness.Outcome(line, is_right(worst), table, picture(drawn[:3]))


def picture(recordings: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> Figure:
    """Draw recordings, each with its name, samples and probabilities of speech (T,)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    figure.suptitle("Does someone speak? Probability in each 32 ms, over the sound")
    for axes, (name, samples, found) in zip(
        figure.subplots(len(recordings), squeeze=False)[:, 0], recordings, strict=True
    ):
        seconds = (np.arange(len(found)) + 0.5) * FRAME / RATE
        sound = frames(samples)[:, BEFORE:]
        loudest = np.abs(samples).max()
        axes.fill_between(
            seconds, sound.min(axis=1) / loudest, sound.max(axis=1) / loudest, color="0.7", lw=0
        )
        axes.plot(seconds, found, "C0", lw=1)
        axes.axhline(0.5, c="0.4", lw=0.8, ls=":")
        axes.set(title=name, xlim=(0, seconds[-1]), ylim=(-1, 1.05), ylabel="probability, sound")
    axes.set_xlabel("seconds")
    return figure


def is_right(errors: Errors) -> bool:
    """Tell whether outputs are as exact as they should be, and those of the same network."""
    ours = max(errors.from_exact, errors.states, errors.probabilities)
    return ours < LIMIT and errors.of_runtime < 2 * LIMIT


if __name__ == "__main__":
    harness.main(example, __doc__)
