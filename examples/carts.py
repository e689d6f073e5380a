"""Carts with poles on them, side by side, and how long they are balanced.

A cart on a track is pushed to the left or to the right, always with the same force, every 20 ms, so
that the pole on it stays up (Barto, Sutton & Anderson 1983, IEEE Trans. SMC-13(5), 834-846; their
equations without friction, by Euler's method like theirs). With position x, its speed ẋ, angle θ
and its speed ω,

    a = (F + m l ω² sin θ) / M                                M: mass of both, m: of the pole
    ω' = (g sin θ - a cos θ) / (l (4/3 - m cos² θ / M))       l: half of the pole's length
    ẋ' = a - m l ω' cos θ / M

An episode ends when |x| > 2.4 m or |θ| > 12°, or after so many steps.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

GRAVITY, CART, POLE, HALF = 9.8, 1.0, 0.1, 0.5  # m/s², kg, kg, m
FORCE, TICK = 10.0, 0.02  # N, s
EDGE, TILT = 2.4, np.radians(12)  # m, rad
START = 0.05  # all four of a state begin between -START and START
SEEN, UNSEEN = [0, 2], [1, 3]  # of a state
GAINS = np.array([0.1, 0.2, 1.0, 0.3])  # who pushes to the right where GAINS @ state > 0 balances

Choose = Callable[["Carts"], np.ndarray]  # which carts are pushed to the right, (B,) booleans


def move(state: np.ndarray, force: np.ndarray) -> np.ndarray:
    """Return the states (4, B) of carts 20 ms later: x, ẋ, θ, ω, in m, m/s, rad, rad/s."""
    _, speed, angle, turn = state
    sin, cos, mass = np.sin(angle), np.cos(angle), CART + POLE
    pull = (force + POLE * HALF * turn**2 * sin) / mass
    d_turn = (GRAVITY * sin - pull * cos) / (HALF * (4 / 3 - POLE * cos**2 / mass))
    d_speed = pull - POLE * HALF * d_turn * cos / mass
    return state + TICK * np.stack([speed, d_speed, turn, d_turn])


class Carts:
    """Carts, each in an episode of its own.

    Attributes: `state` (4, B), float64, as in `move`; `age` (B,), steps of the episodes so far.
    """

    def __init__(self, rows: int, generator: np.random.Generator, limit: int) -> None:
        self.generator, self.limit = generator, limit
        self.state, self.age = np.zeros((4, rows)), np.zeros(rows, int)
        self.renew(np.ones(rows, bool))

    def renew(self, rows: np.ndarray) -> None:
        """Begin the episodes of some rows, (B,) booleans, anew."""
        self.state[:, rows] = self.generator.uniform(-START, START, (4, np.count_nonzero(rows)))
        self.age[rows] = 0

    def see(self) -> np.ndarray:
        """Return positions and angles (B, 2), float32, each from -1 to 1 while nothing fell."""
        return (self.state[SEEN] / [[EDGE], [TILT]]).T.astype(np.float32)

    def push(self, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Push every cart to one side; say which ones have fallen, and which ones are late."""
        self.state = move(self.state, np.where(right, FORCE, -FORCE))
        self.age += 1
        fell = (np.abs(self.state[0]) > EDGE) | (np.abs(self.state[2]) > TILT)
        return fell, ~fell & (self.age >= self.limit)


def lengths(choose: Choose, carts: Carts) -> np.ndarray:
    """Return the steps that each cart's episode takes (B,)."""
    found = np.zeros(len(carts.age), int)
    while not found.all():
        ended = np.logical_or(*carts.push(choose(carts)))
        found = np.where(ended & (found == 0), carts.age, found)
        carts.renew(ended)
    return found


def follow(choose: Choose, carts: Carts) -> np.ndarray:
    """Return the states of the first cart (T, 4), from the start of its episode to its end."""
    states, ended = [carts.state[:, 0]], False
    while not ended:
        ended = bool(np.logical_or(*carts.push(choose(carts)))[0])
        states.append(carts.state[:, 0])
    return np.array(states)
