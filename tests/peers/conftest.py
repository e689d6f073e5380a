"""Keras runs on torch in these tests, whatever is configured: it is told before it is imported."""

import os

os.environ["KERAS_BACKEND"] = "torch"
