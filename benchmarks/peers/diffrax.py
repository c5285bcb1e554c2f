"""diffrax's solves, jitted, with steps for each sample alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import installed

# Read when jax is first used: one thread, as torch has.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)


def van_der_pol(
    mu: float, method: str, y0: Tensor, t: Tensor, tolerance: float = 1e-5
) -> Callable[[], Tensor] | None:
    """A solve with one of diffrax's solvers on its own arrays, compiled; None without diffrax."""
    diffrax, jax = installed("diffrax"), installed("jax")
    if diffrax is None or jax is None:
        return None
    numbers, times = jax.numpy.asarray(y0.numpy()), jax.numpy.asarray(t.numpy())
    solver = getattr(diffrax, method)()
    controller = diffrax.PIDController(rtol=tolerance, atol=tolerance)
    saved = diffrax.SaveAt(ts=times) if len(t) > 2 else diffrax.SaveAt(t0=True, t1=True)

    def f(t: Any, y: Any, _: Any) -> Any:
        x, v = y[0], y[1]
        return jax.numpy.stack([v, mu * (1 - x * x) * v - x])

    def one(y: Any) -> Any:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(f), solver, times[0], times[-1], None, y, saveat=saved,
            stepsize_controller=controller,
        ).ys  # fmt: skip

    every = jax.jit(jax.vmap(one, out_axes=1))

    def run() -> Tensor:
        return torch.utils.dlpack.from_dlpack(every(numbers).block_until_ready())

    run()
    return run
