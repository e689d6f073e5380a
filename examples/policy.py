"""Balancing a pole without seeing how fast it moves: a GRU learns by trial, 64 carts at a time.

Of a cart and the pole on it (`carts.py`) position and angle are seen, their speeds are not: without
memory nobody balances it for long (Wierstra, Förster, Peters & Schmidhuber 2010, Recurrent policy
gradients, Logic Journal of the IGPL 18(5), 620-634). A fall brings -1, all else 0. Each cart's
episodes end at times of their own: its row of the stream is reset then, and the others go on.

After 64 steps of the stream, the same steps are recorded in one call, with the same resets, and go
backward: an actor that learns from a critic's advantages (Mnih et al. 2016, arXiv:1602.01783;
Schulman et al. 2016, arXiv:1506.02438). The same network, whose state is set to zeros before every
step, learns in the same way, and shows what memory is worth.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import fastrnn
import harness
from carts import GAINS, TICK, UNSEEN, Carts, Choose, follow, lengths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS, UNITS, STEPS = 64, 32, 64  # carts, units of a GRU, steps between updates
LIMIT, LONG = 500, 5000  # steps of an episode; of those that are to tell good from better
UPDATES, UPDATES_QUICK = 3000, 300
CHECKS, CHECKED = 30, 2000  # how often validation episodes are played, and their steps at most
GAMMA, LAMBDA = 0.998, 0.98  # how much later rewards count, and how far advantages look
LR, CLIP = 3e-3, 0.5
EPISODES = 256  # in the end
# The least mean length, in steps. Of six other seeds all had 500, of ten with --quick the worst
# had 494; without memory none had more than 54.
LEAST, LEAST_QUICK = 490, 430
TIMES = 5  # as long as without memory, at least
MOST_GAP = 1e-5  # between probabilities, streamed and recorded
WITH, WITHOUT = "with memory", "without memory"
HOW = "greedy", "as probable"
NAMES = "cart's", "pole's"
COLOURS = {WITH: "#2a9d8f", WITHOUT: "#d1495b"}


@dataclass(frozen=True)
class Rollout:
    """T steps of B carts."""

    x: np.ndarray  # (T + 1, B, 2), what was seen, after the last step, too
    reset: np.ndarray  # (T + 1, B), whether the state was set to zeros before that
    state: Any  # of the stream, before the first step
    chances: np.ndarray  # (T, B, 2), the probabilities of both sides, as streamed
    right: np.ndarray  # (T, B), which side it was
    fell: np.ndarray  # (T, B)
    late: np.ndarray  # (T, B)


def network(outputs: int, seed: int, dtype: str = "float32") -> fastrnn.Sequential:
    """Return a network from what is seen (T, B, 2) to (T, B, outputs)."""
    first, second = map(int, np.random.SeedSequence(seed).generate_state(2))
    gru = fastrnn.GRU(2, UNITS, dtype=dtype, seed=first)
    return fastrnn.Sequential(gru, fastrnn.Linear(UNITS, outputs, dtype=dtype, seed=second))


def advantages(values: np.ndarray, fell: np.ndarray, late: np.ndarray) -> np.ndarray:
    """Return how much better than expected it went on from each step (T, B).

    Generalised advantage estimation: the sum of (γλ)^k δ_{t+k} up to the end of the episode, where
    δ_t = r_t + γ V_{t+1} - V_t, and V after a fall is 0. `values` are (T + 1, B). The last step
    before the limit counts for nothing, since what would have come of it is never seen (Pardo et
    al. 2018, arXiv:1712.00378).
    """
    found = np.zeros(fell.shape)
    following = np.zeros(fell.shape[1])
    for t in range(len(fell) - 1, -1, -1):
        delta = np.where(fell[t], -1.0, GAMMA * values[t + 1]) - values[t]
        following = np.where(fell[t], delta, delta + GAMMA * LAMBDA * following)
        following[late[t]] = 0
        found[t] = following
    return found


def policy_gradients(
    scores: fastrnn.Sequential, rollout: Rollout, advantage: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the probabilities (T, B, 2), and the gradients of -mean(A log p) of what was done."""
    tape = scores.record(rollout.x[:-1], rollout.state, reset=rollout.reset[:-1])
    chances = fastrnn.softmax(tape.output)
    d_scores = chances - np.stack([~rollout.right, rollout.right], axis=-1)
    d_scores *= (advantage / advantage.size)[..., None]
    return chances, tape.backward(d_scores.astype(chances.dtype)).parameters


class Learner:
    """An actor, its stream, and a critic.

    `gap` is the largest difference so far between a probability that was streamed and the same one
    from a recorded sequence.
    """

    def __init__(self, seed: int, memory: bool = True) -> None:
        seeds = np.random.SeedSequence(seed)
        first, second = map(int, seeds.generate_state(2))
        self.generator = np.random.default_rng(seeds.spawn(1)[0])
        self.memory, self.gap = memory, 0.0
        self.scores, self.critic = network(2, first), network(1, second)
        self.actor = fastrnn.Sequential(*self.scores.layers, fastrnn.Softmax())
        self.optimizers = [fastrnn.Adam(m.parameters, LR) for m in (self.scores, self.critic)]
        self.stream = fastrnn.Stream(self.actor, ROWS)
        self.carts = Carts(ROWS, self.generator, LIMIT)
        self.fresh = np.ones(ROWS, bool)  # whose episode is about to begin
        self.lengths = np.zeros(ROWS, int)  # of each row's last episode
        self.critic_state: Any = None

    def play(self) -> Rollout:
        """Take steps, and begin each row anew that has come to its end."""
        carts, stream = self.carts, self.stream
        x = np.zeros((STEPS + 1, ROWS, 2), np.float32)
        reset = np.ones((STEPS + 1, ROWS), bool)  # without memory at every step
        chances = np.zeros((STEPS, ROWS, 2), np.float32)
        right, fell, late = np.zeros((3, STEPS, ROWS), bool)
        state = stream.state
        for t in range(STEPS):
            x[t] = carts.see()
            if self.memory:
                reset[t] = self.fresh
            if reset[t].any():
                stream.reset(reset[t])
            stream.step(x[t], chances[t])
            right[t] = self.generator.random(ROWS) < chances[t, :, 1]
            fell[t], late[t] = carts.push(right[t])
            self.fresh = fell[t] | late[t]
            self.lengths = np.where(self.fresh, carts.age, self.lengths)
            carts.renew(self.fresh)
        x[STEPS] = carts.see()
        if self.memory:
            reset[STEPS] = self.fresh
        return Rollout(x, reset, state, chances, right, fell, late)

    def learn(self, rollout: Rollout) -> None:
        """Make an update of both networks, and let the stream take the actor's."""
        x, reset = rollout.x, rollout.reset
        tape = self.critic.record(x[:-1], self.critic_state, reset=reset[:-1])
        last, _ = self.critic(x[-1:], tape.state, reset=reset[-1:])
        self.critic_state = tape.state
        values = np.concatenate([tape.output, last])[..., 0]
        advantage = advantages(values, rollout.fell, rollout.late)
        chances, gradients = policy_gradients(self.scores, rollout, advantage)
        self.gap = max(self.gap, float(np.abs(chances - rollout.chances).max()))
        target = (values[:-1] + advantage).astype(np.float32)
        _, d_values = fastrnn.mean_squared_error(tape.output, target[..., None])
        both = gradients, tape.backward(d_values).parameters
        for optimizer, found in zip(self.optimizers, both, strict=True):
            fastrnn.clip_by_global_norm(found, CLIP)
            optimizer.step(found)
        self.stream.refresh()

    def chooser(self, rows: int, generator: np.random.Generator | None = None) -> Choose:
        """Return what plays the policy from the start of episodes: at random, or greedily."""
        stream = fastrnn.Stream(self.actor, rows)

        def choose(carts: Carts) -> np.ndarray:
            if not self.memory:
                stream.reset()
            chance = stream.step(carts.see())[:, 1]
            return chance > (0.5 if generator is None else generator.random(rows))

        return choose


@dataclass(frozen=True)
class Run:
    """What became of a learner."""

    learner: Learner
    curve: np.ndarray  # (updates, B), the length of each row's last episode, in steps
    rate: float  # steps of all rows a second, while it played


def train(memory: bool, updates: int, seed: int) -> Run:
    """Play and learn by turns; keep the actor that balances longest in validation episodes."""
    learner = Learner(seed, memory)
    curve, seconds = np.zeros((updates, ROWS)), 0.0
    best, kept = -1.0, {}
    for k in harness.progress(range(updates), updates, WITH if memory else WITHOUT):
        start = time.perf_counter()
        rollout = learner.play()
        seconds += time.perf_counter() - start
        for optimizer in learner.optimizers:
            optimizer.lr = harness.cooled(LR, k / updates)
        learner.learn(rollout)
        curve[k] = learner.lengths
        if (k + 1) % (updates // CHECKS) == 0:
            carts = Carts(ROWS, np.random.default_rng([seed, 0]), CHECKED)
            found = lengths(learner.chooser(ROWS), carts).mean()
            if found > best:
                best = found
                kept = {name: array.copy() for name, array in learner.scores.parameters.items()}
    learner.scores.load_parameters(kept)
    learner.stream.refresh()
    return Run(learner, curve, updates * STEPS * ROWS / seconds)


@dataclass(frozen=True)
class Inside:
    """What the hidden units know of the two speeds that are not seen."""

    correlation: np.ndarray  # (2, H), of ẋ and ω with each unit
    explained: np.ndarray  # (2,), R² of a linear reading of the units
    plain: np.ndarray  # (2,), of a linear reading of what is seen
    speeds: np.ndarray  # (N, 2)
    read: np.ndarray  # (N, 2), from the units


def look_inside(learner: Learner, generator: np.random.Generator, steps: int = 250) -> Inside:
    """Let carts be balanced, and compare units with speeds, but for the first ten steps.

    Readings are fitted to the first half of the carts, and compared on the others.
    """
    carts, choose = Carts(ROWS, generator, LIMIT), learner.chooser(ROWS, generator)
    x, speeds = np.zeros((steps, ROWS, 2), np.float32), np.zeros((steps, ROWS, 2))
    up = np.ones((steps, ROWS), bool)
    for t in range(steps):
        x[t], speeds[t] = carts.see(), carts.state[UNSEEN].T
        ended = np.logical_or(*carts.push(choose(carts)))
        up[t + 1 :] &= ~ended
        carts.renew(ended)
    hidden, _ = learner.actor.layers[0](x)
    up[:10] = False
    first = up & (np.arange(ROWS) < ROWS // 2)
    others = up & ~first
    truth = speeds[others]

    def reading(what: np.ndarray) -> np.ndarray:
        known = np.concatenate([what, np.ones((steps, ROWS, 1))], axis=-1)
        return known[others] @ np.linalg.lstsq(known[first], speeds[first], rcond=None)[0]

    found, plain = reading(hidden), reading(x)
    explained = [1 - np.square(some - truth).mean(0) / truth.var(0) for some in (found, plain)]
    with np.errstate(all="ignore"):  # a unit may never change
        correlation = np.corrcoef(truth.T, hidden[others].T)[:2, 2:]
    return Inside(correlation, *explained, truth, found)


def draw(runs: dict[str, Run], paths: dict[str, np.ndarray], inside: Inside) -> Figure:
    """Draw how both learn, how a cart fares under each, and what the units know."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.5), layout="constrained")
    figure.suptitle("Balancing a pole of which position and angle are seen, and no speeds")
    (learning, moving), (known, reading) = figure.subfigures(2, 2)
    curves = learning.subplots()
    for name, run in runs.items():
        at = np.arange(1, len(run.curve) + 1) * STEPS
        quartiles = np.quantile(run.curve, [0.25, 0.75], axis=1)
        curves.fill_between(at, *quartiles, color=COLOURS[name], alpha=0.25, linewidth=0)
        curves.plot(at, run.curve.mean(axis=1), color=COLOURS[name], linewidth=1, label=name)
    curves.set(xlabel=f"steps of {ROWS} carts", ylabel="steps of each cart's last episode")
    curves.set_xscale("log")
    curves.set_title("Learning, by chance: mean and quartiles over the carts", fontsize=10)
    curves.set_ylim(0, 1.25 * LIMIT)
    curves.legend(loc="upper left", ncols=2)

    upper, lower = moving.subplots(2, 1, sharex=True)
    for name, path in paths.items():
        seconds = TICK * np.arange(len(path))
        for axes, values in ((upper, path[:, 0]), (lower, np.degrees(path[:, 2]))):
            axes.plot(seconds, values, color=COLOURS[name], linewidth=1.2)
            axes.plot(seconds[-1], values[-1], "o", color=COLOURS[name], markersize=4)
    upper.set_title("A cart under each, greedy, from the same start to the end", fontsize=10)
    upper.set_ylabel("position (m)")
    lower.set(xlabel="time (s)", ylabel="angle (°)")

    table = known.subplots()
    shown = inside.correlation[:, np.argsort(inside.correlation[1])]
    image = table.imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    table.set_yticks([0, 1], ["cart's\nspeed", "pole's\nspeed"])
    table.set(xticks=[], xlabel=f"the {UNITS} units, by their correlation with the pole's speed")
    table.set_title("What is not seen, and the GRU's hidden units", fontsize=10)
    known.colorbar(image, ax=table, label="correlation", location="bottom", shrink=0.6)

    reading.suptitle("Speeds read from the units, on carts that were not fitted", fontsize=10)
    pair = reading.subplots(1, 2)
    some = slice(None, None, max(1, len(inside.speeds) // 400))
    for k, (axes, unit) in enumerate(zip(pair, ("m/s", "rad/s"), strict=True)):
        axes.plot(inside.speeds[some, k], inside.read[some, k], ".", color=COLOURS[WITH], ms=3)
        axes.axline((0, 0), slope=1, color="#6b7280", linewidth=1)
        axes.set(xlabel=f"{NAMES[k]} speed ({unit})", ylabel=f"read ({unit})")
        axes.set_title(f"R² = {inside.explained[k]:.2f}", fontsize=10)
    for axes in (curves, upper, lower, *pair):
        axes.grid(color="#e5e7eb", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def compare_steps(actor: fastrnn.Sequential, quick: bool, seed: int) -> tuple[harness.Ratio, float]:
    """Time a step of all rows in one stream, and in as many of one row; how far are they apart?"""
    whole = fastrnn.Stream(actor, ROWS)
    single = [fastrnn.Stream(whole) for _ in range(ROWS)]
    whole.input[...] = Carts(ROWS, np.random.default_rng(seed), LIMIT).see()
    for k, stream in enumerate(single):
        stream.input[0] = whole.input[k]
    gap = float(np.abs(np.concatenate([stream.step() for stream in single]) - whole.step()).max())
    ratio = harness.compare(lambda: [stream.step() for stream in single], whole.step, quick=quick)
    return ratio, gap


def players(runs: dict[str, Run], seed: int) -> dict[str, Choose]:
    """Return the learners, greedy and not, and three to compare them with."""

    def chance() -> np.random.Generator:
        return np.random.default_rng([seed, 2])

    found: dict[str, Choose] = {}
    for name, run in runs.items():
        for how, generator in zip(HOW, (None, chance()), strict=True):
            found[f"{name}, {how}"] = run.learner.chooser(EPISODES, generator)
    coin = chance()
    found["at random"] = lambda carts: coin.random(EPISODES) < 0.5
    found["to where the pole leans"] = lambda carts: carts.state[2] > 0
    found["linear, sees the speeds"] = lambda carts: GAINS @ carts.state > 0
    return found


def judge(steps: float, without: float, gap: float, quick: bool) -> bool:
    """Say whether memory has learnt to balance, and streamed and recorded steps are the same."""
    least = LEAST_QUICK if quick else LEAST
    return steps >= least and steps >= TIMES * without and gap <= MOST_GAP


def example(quick: bool = False, seed: int = 0) -> harness.Outcome:
    """Learn with and without memory; play episodes that neither has seen."""
    updates = UPDATES_QUICK if quick else UPDATES
    runs = {name: train(name == WITH, updates, seed) for name in (WITH, WITHOUT)}
    table = [("", "mean steps", "shortest", f"all {LIMIT}", f"mean of up to {LONG:,}")]
    means = {}
    for name, choose in players(runs, seed).items():
        longer = lengths(choose, Carts(EPISODES, np.random.default_rng([seed, 1]), LONG))
        found = np.minimum(longer, LIMIT)
        means[name] = found.mean()
        full = f"{100 * np.mean(found == LIMIT):.1f} %"
        table.append((name, f"{means[name]:.1f}", str(found.min()), full, f"{longer.mean():.0f}"))
    learners = [run.learner for run in runs.values()]
    inside = look_inside(learners[0], np.random.default_rng([seed, 3]))
    for what, shares in (("the units", inside.explained), ("what is seen", inside.plain)):
        words = ", ".join(f"{name} {share:.2f}" for name, share in zip(NAMES, shares, strict=True))
        table.append((f"R² of the speeds in {what}", words, "", "", ""))
    ratio, gap = compare_steps(learners[0].actor, quick, seed)
    gap = max(gap, *(learner.gap for learner in learners))
    table.append(("probabilities, streamed and recorded", f"{gap:.0e} apart", "", "", ""))
    best, others = means[f"{WITH}, greedy"], [means[f"{WITHOUT}, {how}"] for how in HOW]
    paths = {
        name: follow(run.learner.chooser(1), Carts(1, np.random.default_rng([seed, 4]), LIMIT))
        for name, run in runs.items()
    }
    line = (
        f"{best:.1f} of {LIMIT} steps in {EPISODES} new episodes, without memory "
        f"{max(others):.1f}, at random {means['at random']:.1f}; {runs[WITH].rate / 1000:,.0f} "
        f"thousand steps of carts a second while it plays, a stream's step of {ROWS} rows in "
        f"{1e6 * ratio.ours:.1f} µs, {ROWS} steps of one row in {ratio} times that"
    )
    right = judge(best, max(others), gap, quick)
    return harness.Outcome(line, right, table, draw(runs, paths, inside))


if __name__ == "__main__":
    harness.main(example, __doc__)
