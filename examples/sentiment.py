"""How people rate a sentence: a bidirectional LSTM that reads it, against bags of its words.

Many-to-one, on 23,703 sentences of tweets, film reviews, product reviews and editorials, each rated
by some twenty people from -4 to 4 (Hutto & Gilbert, "VADER", ICWSM 2014; in vaderSentiment 0.5,
MIT). The network learns everything, its word embeddings too, from the training part alone, and says
the rating and its sign. Sentences of one review, and nearly the same ones, stay in one part.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import fastrnn
import fetch
import harness

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARCHIVE = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
SOURCES = {
    "tweets": "tweets",
    "films": "movieReviewSnippets",
    "products": "amazonReviewSnippets",
    "editorials": "nytEditorialSnippets",
}
SHARES = 0.7, 0.15, 0.15  # of the parts: training, validation, test
NEAR = 0.7  # of the words of two sentences in common (Jaccard): nearly the same
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+|[:;=8x][-o']?[()\[\]dp/\\|*]+|<3|[!?.]+|\S")
UNKNOWN = 0  # the index of words that the training part has less than twice
LR = 3e-3
READ_ALOUD = (
    "The story is not good and the jokes are terrible, but the acting is simply wonderful!",
    "I was really looking forward to this phone, but it died after a week.",
)


@dataclass(frozen=True)
class Sentences:
    """What was rated; row by row."""

    texts: np.ndarray  # of str
    ratings: np.ndarray  # -4 to 4, the mean of those who rated
    sources: np.ndarray  # index into SOURCES
    groups: np.ndarray  # a number; the same one for sentences that belong together

    def __getitem__(self, rows: np.ndarray) -> Sentences:
        return Sentences(*(array[rows] for array in vars(self).values()))

    def __len__(self) -> int:
        return len(self.texts)


def load() -> Sentences:
    """Read the sentences out of the package, each one once."""
    rows = []
    for source, name in enumerate(SOURCES.values()):
        path = f"hutto_ICWSM_2014/{name}_GroundTruth.txt"
        for line in fetch.read("vaderSentiment", ARCHIVE, path).decode("utf-8-sig").splitlines():
            number, rating, text = line.split("\t")
            # Reviews and editorials are numbered 12_1, 12_2, ...; the others stand alone.
            rows.append((text, float(rating), source, (source, number.partition("_")[0])))
    texts, ratings, sources, reviews = zip(*rows, strict=True)
    return Sentences(
        np.array(texts, object), np.array(ratings), np.array(sources), related(texts, reviews)
    )


def related(texts: Sequence[str], reviews: Sequence[Hashable]) -> np.ndarray:
    """Return a number for each text: the same one for those of one review or nearly the same."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from sklearn.feature_extraction.text import CountVectorizer

    x = CountVectorizer(binary=True, token_pattern=r"[^\W\d_]+", dtype=np.int32).fit_transform(
        texts
    )
    # Only pairs with two words in common that are not frequent: all pairs would be half a billion.
    rare = x[:, np.asarray(x.sum(axis=0)).ravel() <= 300]
    pairs = (rare @ rare.T).tocoo()
    some = (pairs.row < pairs.col) & (pairs.data > 1)
    a, b = pairs.row[some], pairs.col[some]
    words, both = np.asarray(x.sum(axis=1)).ravel(), np.asarray(x[a].multiply(x[b]).sum(axis=1))
    near = both.ravel() >= NEAR * (words[a] + words[b] - both.ravel())
    links = [(a[near], b[near])]
    alike = [frozenset(re.findall(r"[^\W\d_]+", text.lower())) or text for text in texts]
    for keys in (reviews, alike):
        first: dict[Hashable, int] = {}
        links.append((np.arange(len(texts)), [first.setdefault(k, n) for n, k in enumerate(keys)]))
    a, b = (np.concatenate(ends) for ends in zip(*links, strict=True))
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(len(texts),) * 2)
    return connected_components(graph, directed=False)[1]


def parts(sentences: Sentences, seed: int) -> list[Sentences]:
    """Draw the training, validation and test parts, of each source alike."""
    generator = np.random.default_rng(seed)
    _, first, group = np.unique(sentences.groups, return_index=True, return_inverse=True)
    source = sentences.sources[first][group]  # of a group, whatever its other sentences are
    found: list[list[np.ndarray]] = [[] for _ in SHARES]
    for k in range(len(SOURCES)):
        rows = np.flatnonzero(source == k)
        for part, chosen in zip(found, harness.split(group[rows], SHARES, generator), strict=True):
            part.append(rows[chosen])
    return [sentences[np.concatenate(part)] for part in found]


def words(text: str) -> list[str]:
    """Cut a text into words, numbers, emoticons and marks."""
    return WORD.findall(text.lower().replace("’", "'"))


class Reader:
    """The network: words in, the mean rating and the scores of its sign (no, yes) out.

    Parameters
    ----------
    training
        The sentences that it is to learn from; only their words get an embedding.
    size
        Of an embedding, and of the LSTM in each direction.
    seed
        Of all that is drawn.
    """

    def __init__(self, training: Sentences, size: tuple[int, int], seed: int) -> None:
        self.training, self.seed = training, seed
        count = Counter(word for text in training.texts for word in words(text))
        often = sorted(word for word, n in count.items() if n > 1)
        self.vocabulary = {word: k for k, word in enumerate(often, UNKNOWN + 1)}
        E, H = size
        self.model = fastrnn.ManyToOne(
            fastrnn.Embedding(1 + len(often), E, seed=seed),
            fastrnn.Dropout(0.5, seed=seed + 1),
            fastrnn.LSTM(E, H, bidirectional=True, seed=seed + 2),
            fastrnn.Dropout(0.5, seed=seed + 3),
            fastrnn.Linear(2 * H, 3, seed=seed + 4),
        )
        self.model.parameters["0.weight"] *= 0.3  # its standard deviation, so far 1

    def numbers(self, text: str) -> list[int]:
        """Return the indices of a text's words."""
        return [self.vocabulary.get(word, UNKNOWN) for word in words(text)]

    def learn(self, epochs: int, size: int = 64) -> None:
        """Train, `size` sentences at a time, with a fifth of their words hidden."""
        rows = [self.numbers(text) for text in self.training.texts]
        ratings = self.training.ratings.astype(np.float32)
        optimizer = fastrnn.Adam(self.model.parameters, lr=LR)
        generator = np.random.default_rng(self.seed)
        steps = epochs * -(-len(rows) // size)
        for step, chosen in enumerate(
            harness.batches(len(rows), size, epochs, generator, "training the LSTM")
        ):
            x, lengths = harness.padded([rows[k] for k in chosen])
            x[generator.random(x.shape) < 0.2] = UNKNOWN  # it must not rely on any one word
            tape = self.model.record(x, lengths=lengths)
            gradients = tape.backward(d_loss(tape.output, ratings[chosen])).parameters
            fastrnn.clip_by_global_norm(gradients, 1.0)
            optimizer.lr = harness.cooled(LR, step / steps)
            optimizer.step(gradients)

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the rating of each text, and whether it is positive."""
        rows = [self.numbers(text) for text in texts]
        found = np.empty((len(rows), 3), np.float32)
        for part in np.array_split(np.arange(len(rows)), -(-len(rows) // 256)):
            x, lengths = harness.padded([rows[k] for k in part])
            found[part] = self.model(x, lengths=lengths)
        return found[:, 0], found[:, 2] > found[:, 1]

    def along(self, text: str) -> np.ndarray:
        """Return the rating after each word: one batch, of which every row ends one word later."""
        row = self.numbers(text)
        x = np.repeat(np.array(row)[:, np.newaxis], len(row), axis=1)
        return self.model(x, lengths=np.arange(1, len(row) + 1))[:, 0]


def d_loss(output: np.ndarray, ratings: np.ndarray) -> np.ndarray:
    """Return the gradient of the squared error, and of half the cross-entropy of the sign."""
    _, d_rating = fastrnn.mean_squared_error(output[:, 0], ratings)
    signed = (ratings != 0).astype(output.dtype)
    _, d_scores = fastrnn.softmax_cross_entropy(
        output[:, 1:], (ratings > 0).astype(int), weights=signed
    )
    return np.column_stack([d_rating, output.dtype.type(0.5) * d_scores])


def bag(
    training: Sentences, validation: Sentences, classes: bool, **options: Any
) -> Callable[[Sequence[str]], np.ndarray]:
    """Fit a linear model to TF-IDF weights, its penalty chosen by the validation part.

    It is a ridge regression of the ratings, or a logistic one of their signs (which then are what
    the function returned gives); `options` say what is weighed.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge

    weigh = TfidfVectorizer(sublinear_tf=True, **options)
    x, x_validation = weigh.fit_transform(training.texts), weigh.transform(validation.texts)
    if classes:
        models = [LogisticRegression(C=c, solver="liblinear") for c in (1, 3, 10, 30)]
        y, y_validation = training.ratings > 0, validation.ratings > 0
    else:
        models = [Ridge(alpha, solver="sparse_cg") for alpha in (0.1, 0.2, 0.5, 1, 2)]
        y, y_validation = training.ratings, validation.ratings
    best = max(models, key=lambda model: model.fit(x, y).score(x_validation, y_validation))
    return lambda texts: best.predict(weigh.transform(texts))


@dataclass(frozen=True)
class Answers:
    """What a model says of the sentences of the test part."""

    ratings: np.ndarray | None  # None from a model of the sign alone
    positive: np.ndarray

    def against(self, ratings: np.ndarray, rows: np.ndarray) -> tuple[float, float, float]:
        """Return Pearson's r, the mean absolute error and the share of right signs, of some rows.

        What is not defined is NaN; a rating of 0 has no sign.
        """
        r = error = np.nan
        if self.ratings is not None:
            error = float(np.abs(self.ratings - ratings)[rows].mean())
            if np.ptp(self.ratings[rows]):
                r = float(np.corrcoef(self.ratings[rows], ratings[rows])[0, 1])
        signed = rows[ratings[rows] != 0]
        return r, error, float((self.positive == (ratings > 0))[signed].mean())


def _cell(r: float, error: float, sign: float) -> str:
    shown = (f"{r:.3f}", f"{error:.2f}", f"{sign:.1%}")
    return " ".join(word.replace("nan", "-".center(len(word) + 1)) for word in shown)


def rated(ratings: np.ndarray) -> Answers:
    """Return the answers of a model of ratings, which give the signs, too."""
    return Answers(ratings, ratings > 0)


def gain(a: np.ndarray, b: np.ndarray, ratings: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of how much larger a's correlation is than b's (bootstrap)."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(500):
        rows = generator.integers(0, len(ratings), len(ratings))
        with_a, with_b = np.corrcoef([ratings[rows], a[rows], b[rows]])[0, 1:]
        found.append(with_a - with_b)
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def draw(test: Sentences, found: np.ndarray, along: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Draw predictions against ratings, by source, and how they move along a sentence."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.2), layout="constrained")
    figure.suptitle("Ratings of sentences that the network has not seen, and of two word by word")
    grid = figure.add_gridspec(3, len(SOURCES), height_ratios=(1.3, 1, 1))
    for k, name in enumerate(SOURCES):
        axes = figure.add_subplot(grid[0, k])
        rows = test.sources == k
        axes.plot(test.ratings[rows], found[rows], ".", markersize=2, alpha=0.5, color=f"C{k}")
        axes.plot([-4, 4], [-4, 4], color="0.6", linewidth=0.8)
        r = np.corrcoef(test.ratings[rows], found[rows])[0, 1]
        axes.set_title(f"{name}: {rows.sum()}, r = {r:.2f}", fontsize=10)
        axes.set(xlim=(-4.2, 4.2), ylim=(-4.2, 4.2), aspect="equal", xlabel="rated, -4 to 4")
        axes.set(xticks=range(-4, 5, 2), yticks=range(-4, 5, 2))
        if not k:
            axes.set_ylabel("LSTM, -4 to 4")
    for k, (text, lines) in enumerate(along.items(), 1):
        axes = figure.add_subplot(grid[k, :])
        for (name, line), style in zip(lines.items(), ("o-", "s--"), strict=True):
            axes.plot(line, style, markersize=4, linewidth=1.2, label=name)
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.set_xticks(range(len(words(text))), words(text), rotation=30, ha="right")
        axes.set(ylabel="rating so far", ylim=(-3.6, 3.6))
        axes.legend(loc="upper left", ncols=2)
    return figure


def example(quick: bool = False, seed: int = 0) -> harness.Outcome:
    """Train all models, and compare them on the test part."""
    training, validation, test = parts(load(), seed)
    if quick:
        few = np.random.default_rng(seed).permutation(len(training))[:4000]
        training = training[few]
    reader = Reader(training, (64, 32) if quick else (100, 64), seed)
    reader.learn(8)
    lstm = Answers(*reader(test.texts))
    in_words = {
        "tokenizer": words,
        "token_pattern": None,
        "lowercase": False,
        "ngram_range": (1, 2),
    }
    in_letters = {"analyzer": "char_wb", "ngram_range": (2, 5), "min_df": 3}
    by_words = bag(training, validation, False, **in_words)
    signs = bag(training, validation, True, **in_words)(test.texts)
    bag_of_words = by_words(test.texts)
    bag_of_letters = bag(training, validation, False, **in_letters)(test.texts)
    answers = {
        "mean of the training part": rated(np.full(len(test), training.ratings.mean())),
        "logistic, words and pairs": Answers(None, signs),
        "ridge, words and pairs": rated(bag_of_words),
        "ridge, 2 to 5 letters": rated(bag_of_letters),
        "both ridges, averaged": rated((bag_of_words + bag_of_letters) / 2),
        "LSTM": lstm,
        "LSTM and ridges, averaged": rated((lstm.ratings + bag_of_words + bag_of_letters) / 3),
    }
    rows = {"all": np.arange(len(test))}
    rows |= {name: np.flatnonzero(test.sources == k) for k, name in enumerate(SOURCES)}
    table = [("r, mean absolute error, signs", *(f"{name} ({len(k)})" for name, k in rows.items()))]
    scores = {}
    for name, answer in answers.items():
        each = [answer.against(test.ratings, some) for some in rows.values()]
        scores[name] = each[0]
        table.append((name, *(_cell(*numbers) for numbers in each)))
    low, high = gain(lstm.ratings, bag_of_words, test.ratings, seed)
    mean, ridge, ridges, own, joint = (
        scores[name]
        for name in (
            "mean of the training part",
            "ridge, words and pairs",
            "both ridges, averaged",
            "LSTM",
            "LSTM and ridges, averaged",
        )
    )
    line = (
        f"on {len(test)} sentences the LSTM's r is {own[0]:.3f}, the bag of words' {ridge[0]:.3f} "
        f"(difference {low:+.3f} to {high:+.3f} at 95 %), that of the ridges and it together "
        f"{joint[0]:.3f} (without it {ridges[0]:.3f}); its error is {own[1]:.2f}, the mean's "
        f"{mean[1]:.2f}"
    )
    if quick:  # too few sentences to learn embeddings from: better than the mean, and no nonsense
        right = own[0] > 0.4 and own[1] < 0.95 * mean[1]
    else:
        right = high > 0 and own[1] < 0.7 * mean[1] and joint[0] > ridges[0]
    along = {
        text: {
            "LSTM": reader.along(text),
            "ridge, words and pairs": by_words(
                [" ".join(words(text)[:n]) for n in range(1, 1 + len(words(text)))]
            ),
        }
        for text in READ_ALOUD
    }
    return harness.Outcome(line, right, table, draw(test, lstm.ratings, along))


if __name__ == "__main__":
    harness.main(example, __doc__)
