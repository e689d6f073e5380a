"""How gradients flow back through time: the sum of BPTT term by term, as numbers and as a picture.

>>> import numpy as np, fastrnn
>>> from fastrnn import gradflow
>>> layer = fastrnn.RNN(3, 8, seed=1)
>>> x = np.random.default_rng(2).standard_normal((40, 4, 3)).astype(np.float32)
>>> flow = gradflow.analyse(layer, x, np.ones((40, 4, 8), np.float32))
>>> flow.contributions["weight_hh_l0"].shape  # (loss step t, step k)
(40, 40)
>>> flow.verdict.kind
'vanishing'
"""

from .analysis import GradientFlow, analyse
from .measures import Saturation
from .monitor import Monitor, Record
from .picture import picture
from .verdict import Verdict

__all__ = [
    "GradientFlow",
    "Monitor",
    "Record",
    "Saturation",
    "Verdict",
    "analyse",
    "picture",
]
