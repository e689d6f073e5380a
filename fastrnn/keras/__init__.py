"""Drop-in layers for Keras 3 on torch: its own arguments, weights and results, on our kernels.

`LSTM`, `GRU` and `SimpleRNN` are subclasses of those of `keras.layers`, and are saved, loaded,
wrapped and trained as these are. Keras has to run on torch: set ``KERAS_BACKEND=torch`` in the
environment before it is imported.

Examples
--------
>>> import keras, numpy as np, fastrnn.keras
>>> model = keras.Sequential(
...     [
...         keras.Input((5, 8)),
...         keras.layers.Bidirectional(fastrnn.keras.LSTM(16)),
...         keras.layers.Dense(1),
...     ]
... )
>>> model.compile(optimizer="adam", loss="mse")
>>> history = model.fit(np.ones((4, 5, 8)), np.zeros((4, 1)), epochs=2, verbose=0)
>>> model(np.ones((3, 5, 8))).shape
torch.Size([3, 1])
"""

from .layers import GRU, LSTM, SimpleRNN

__all__ = ["GRU", "LSTM", "SimpleRNN"]
