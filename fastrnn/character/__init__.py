"""A character model: a recurrent network that learns to foretell the next character of a text.

`text` turns characters into indices, `model` says what the network is and how it writes, `training`
trains it, `checkpoint` keeps it in a file, and `curve` draws how it learned.
"""

from .checkpoint import Checkpoint
from .model import Options, sample
from .text import Corpus, Vocabulary
from .training import Progress, Trainer

__all__ = ["Checkpoint", "Corpus", "Options", "Progress", "Trainer", "Vocabulary", "sample"]
