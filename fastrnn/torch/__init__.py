"""Drop-in modules for torch: its own constructors, parameters and results, on our kernels.

Either use `LSTM`, `GRU`, `RNN`, `LSTMCell`, `GRUCell` and `RNNCell` in place of those of
`torch.nn`, or let `accelerate` turn those of an existing model into them.

Examples
--------
>>> import torch, fastrnn.torch
>>> model = torch.nn.Sequential(torch.nn.LSTM(8, 16, num_layers=2))
>>> print(fastrnn.torch.accelerate(model))
0: LSTM runs on fastrnn
>>> y, (h_n, c_n) = model(torch.zeros(5, 3, 8))
>>> y.shape
torch.Size([5, 3, 16])
>>> fastrnn.torch.restore(model)
['0']
"""

from .modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from .swap import Report, accelerate, restore

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "Report",
    "accelerate",
    "restore",
]
