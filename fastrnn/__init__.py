"""The fastest recurrent networks on a CPU, forward and backward."""

from . import decoding, functional
from .activations import Dropout, Flatten, ReLU, Sigmoid, Softmax, Tanh, softmax, softmax_jvp
from .cells import CELLS
from .convolution import Conv1d, Conv2d
from .dispatch import info
from .encoder_decoder import EncoderDecoder, OneToMany
from .feedforward import Embedding, Linear
from .layers import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from .losses import mean_squared_error, softmax_cross_entropy
from .optim import SGD, Adam, AdamW, clip_by_global_norm, clip_by_value
from .paradigms import ManyToMany, ManyToOne, OneToOne
from .perceptron import MLP, Perceptron
from .pooling import AvgPool1d, AvgPool2d, MaxPool1d, MaxPool2d
from .sequential import Sequential
from .stack import warmup
from .stream import Stream
from .tape import Gradients, Tape
from .threads import set_num_threads
from .truncation import TruncatedBPTT

__all__ = [
    "CELLS",
    "GRU",
    "LSTM",
    "MLP",
    "RNN",
    "SGD",
    "Adam",
    "AdamW",
    "AvgPool1d",
    "AvgPool2d",
    "Conv1d",
    "Conv2d",
    "Dropout",
    "Embedding",
    "EncoderDecoder",
    "Flatten",
    "GRUCell",
    "Gradients",
    "LSTMCell",
    "Linear",
    "ManyToMany",
    "ManyToOne",
    "MaxPool1d",
    "MaxPool2d",
    "OneToMany",
    "OneToOne",
    "Perceptron",
    "RNNCell",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Stream",
    "Tanh",
    "Tape",
    "TruncatedBPTT",
    "clip_by_global_norm",
    "clip_by_value",
    "decoding",
    "functional",
    "info",
    "mean_squared_error",
    "set_num_threads",
    "softmax",
    "softmax_cross_entropy",
    "softmax_jvp",
    "warmup",
]
