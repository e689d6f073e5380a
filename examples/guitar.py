"""An electric guitar and the amplifier that `amplifier.py` imitates, both made of equations.

The guitar: strings by Karplus & Strong (1983, "Digital synthesis of plucked-string and drum
timbres", Computer Music Journal 7(2)), with the adjustable decay of Jaffe & Smith (1983, same
issue). A string is a loop of N samples, filled with noise when it is plucked:

    s[n] = ρ ((1 - S) s[n-N] + S s[n-N-1])

The amplifier, at a rate of r = 48 kHz; lowpass(f, x) is the filter of one pole

    y[n] = y[n-1] + (1 - exp(-2π f / r)) (x[n] - y[n-1])

and, step by step,

    u = DRIVE (x - lowpass(LOW, x))         a high-pass: less bass is distorted
    e = lowpass(1 / (2π TIME), max(u, 0))   a capacitor, charged while the grid of a tube conducts
    v = u - SAG e                           so that the working point follows the envelope
    w = clip(v)                             at 4 r; the filters there cost no time
    y = lowpass(TREBLE, w) - lowpass(BASS, lowpass(TREBLE, w))     tone; a coupling capacitor

with clip(v) = tanh(v) for v > 0 and tanh(v / FLOOR) FLOOR below, which is soft, and has even
harmonics. That the bias of a stage follows what it amplifies is what tubes do and curves cannot
(Pakarinen & Yeh 2009, "A review of digital techniques for modeling vacuum-tube guitar amplifiers",
Computer Music Journal 33(2)).
"""

from __future__ import annotations

import math

import numpy as np

RATE = 48_000  # samples a second
OVER = 4  # times as many inside of the clipper
TAPS = 8  # samples to each side that a value between them is made of

DRIVE, SAG, FLOOR = 6.0, 1.5, 0.4
LOW, BASS, TREBLE = 150.0, 40.0, 5000.0  # Hz
TIME = 0.03  # s
PICKUP = 4000.0  # Hz

OPEN = 82.41 * 2 ** (np.array([0, 5, 10, 15, 19, 24]) / 12)  # Hz: E A D G B E
SHAPES = ((0, 2, 2, 1, 0, 0), (0, 2, 2, 0, 0, 0), (3, 2, 0, 0, 0, 3), (0, 2, 2), (3, 5, 5))


def lowpass(hertz: float, x: np.ndarray) -> np.ndarray:
    """Return what is left of x (..., T) by a filter of one pole."""
    from scipy.signal import lfilter

    share = 1 - math.exp(-2 * math.pi * hertz / RATE)
    return lfilter([share], [1, share - 1], x)


def pluck(period: int, samples: int, sustain: float, generator: np.random.Generator) -> np.ndarray:
    """Return a string's sound.

    Parameters
    ----------
    period
        N, its samples a period; it sounds at RATE / (N + S).
    samples
        How many are returned.
    sustain
        Seconds after which 1/1000 of the lowest partial is left.
    generator
        Draws the noise, how bright it is, how far from the bridge it is plucked, and S.
    """
    S = generator.uniform(0.1, 0.5)
    burst = lowpass(10 ** generator.uniform(3, 4), generator.uniform(-1, 1, period))
    burst -= np.roll(burst, math.ceil(period * generator.uniform(0.08, 0.3)))
    decay = 10 ** (-3 * period / (RATE * sustain))
    sound = np.zeros((math.ceil(samples / period) + 1, period))  # a loop's samples in each row
    sound[0] = burst
    before = 0.0
    for k in range(1, len(sound)):
        last = sound[k - 1]
        sound[k] = decay * ((1 - S) * last + S * np.concatenate([[before], last[:-1]]))
        before = last[-1]
    return sound.ravel()[:samples]


def stroke(samples: int, generator: np.random.Generator) -> np.ndarray:
    """Return a note, or a chord whose strings are struck one after the other; its peak is 1."""
    shape = np.array(SHAPES[generator.integers(len(SHAPES))])
    strings = np.arange(len(shape))
    if generator.random() < 0.5:
        strings = generator.integers(0, len(OPEN), 1)
        shape = generator.integers(0, 15, len(OPEN))
    else:
        shape = shape + generator.integers(0, 8)
    sound = np.zeros(samples)
    delay = generator.integers(0, 1200)
    sustain = generator.choice([0.3, 2.0, 5.0])
    for k, string in enumerate(strings):
        period = round(RATE / (OPEN[string] * 2 ** (shape[string] / 12)) - 0.3)
        start = k * delay
        sound[start:] += pluck(period, samples - start, sustain, generator)
    sound = lowpass(PICKUP, sound)
    fade = min(480, samples)
    sound[-fade:] *= np.linspace(1, 0, fade)
    return sound / np.abs(sound).max()


def play(seconds: float, rows: int, generator: np.random.Generator) -> np.ndarray:
    """Return a guitarist's takes (rows, T), float64 in [-1, 1]: notes, chords, and silence."""
    x = np.zeros((rows, round(seconds * RATE)))
    for row in x:
        at = 0
        while at < len(row):
            samples = min(round(RATE * generator.uniform(0.15, 1.0)), len(row) - at)
            if samples > 7200 and generator.random() < 0.9:
                loudness = 10 ** generator.uniform(-1.3, 0)
                row[at : at + samples] = loudness * stroke(samples, generator)
            at += samples
    return x


def kernel() -> np.ndarray:
    """Return the low-pass between both rates (2 * TAPS * OVER + 1,): a sinc in Kaiser's window."""
    n = np.arange(-TAPS * OVER, TAPS * OVER + 1)
    return np.sinc(n / OVER) * np.kaiser(len(n), 8.0)


def clip(v: np.ndarray) -> np.ndarray:
    """Return the curve of the tube at v."""
    return np.where(v > 0, np.tanh(v), FLOOR * np.tanh(v / FLOOR))


def oversampled_clip(v: np.ndarray) -> np.ndarray:
    """Return clip(v) of signals (..., T), computed at OVER times the rate."""
    from scipy.signal import upfirdn

    h, T = kernel(), v.shape[-1]
    dense = clip(upfirdn(h, v, up=OVER))
    found = upfirdn(h / h.sum(), dense, down=OVER)
    return found[..., 2 * TAPS : 2 * TAPS + T]


def amplify(x: np.ndarray) -> np.ndarray:
    """Return what the amplifier makes of signals (..., T)."""
    u = DRIVE * (x - lowpass(LOW, x))
    e = lowpass(1 / (2 * math.pi * TIME), np.maximum(u, 0))
    w = lowpass(TREBLE, oversampled_clip(u - SAG * e))
    return w - lowpass(BASS, w)
