"""JAX: a scan over time, compiled, with the input's product taken for all steps at once."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..problem import Arrays, Problem, RefusedError, Run


def scan(p: Problem) -> Run:
    """Compile the whole computation."""
    kind = p.work.kind
    if kind == "character":
        raise RefusedError("has no optimizers of its own")
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) != p.threads:
        raise RefusedError("has no setting for its threads: it takes all processors")
    import jax
    from jax import numpy as jnp

    w = {name: jnp.asarray(array) for name, array in p.parameters.items()}
    cell, H, layers = p.work.cell, p.work.H, p.work.layers

    def step(state: Any, a: Any, weight: Any, bias: Any) -> Any:
        u = state[0] @ weight.T + bias
        if cell == "rnn":
            return (jnp.tanh(a + u),)
        if cell == "gru":
            r, z = (jax.nn.sigmoid(v) for v in jnp.split((a + u)[:, : 2 * H], 2, 1))
            n = jnp.tanh(a[:, 2 * H :] + r * u[:, 2 * H :])
            return ((1 - z) * n + z * state[0],)
        i, f, g, o = jnp.split(a + u, 4, 1)
        c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    def forward(w: Any, x: Any) -> Any:
        zeros = jnp.zeros((x.shape[1], H), x.dtype)
        for k in range(layers):
            weight, bias = w[f"weight_hh_l{k}"], w[f"bias_hh_l{k}"]
            a = x @ w[f"weight_ih_l{k}"].T + w[f"bias_ih_l{k}"]

            def body(state: Any, a: Any, weight: Any = weight, bias: Any = bias) -> Any:
                state = step(state, a, weight, bias)
                return state, state[0]

            x = jax.lax.scan(body, (zeros,) * len(p.state), a)[1]
        return x

    if kind == "step":

        @jax.jit
        def once(w: Any, x: Any, state: Any) -> Any:
            a = x @ w["weight_ih"].T + w["bias_ih"]
            return step(state, a, w["weight_hh"], w["bias_hh"])

        x, state = jnp.asarray(p.x), tuple(map(jnp.asarray, p.state))
        return lambda: _arrays(jax.block_until_ready(once(w, x, state)))
    x = jnp.asarray(p.x)
    if kind == "inference":
        infer = jax.jit(forward)
        return lambda: _arrays([jax.block_until_ready(infer(w, x))])

    @jax.jit
    def train(w: Any, x: Any, d_y: Any) -> Any:
        y, pullback = jax.vjp(forward, w, x)
        d_w, d_x = pullback(d_y)
        return y, d_x, d_w

    d_y = jnp.asarray(p.d_y)

    def run() -> Arrays:
        y, d_x, d_w = jax.block_until_ready(train(w, x, d_y))
        return _arrays([y, d_x, *(d_w[name] for name in p.parameters)])

    return run


def _arrays(values: Any) -> Arrays:
    return [np.asarray(value) for value in values]
