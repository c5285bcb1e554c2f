"""Which implementation of an operation runs: one table, and the choice of a backend for a device.

Operations that only some backends have, such as a walk along a Brownian path, are rows like any
other: `load` says whether a backend has one.
"""

import os
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch

from fastgen.common.checks import check_choice

BACKENDS = ("auto", "reference", "cpp", "triton")

# Where the implementations are, "module:attribute" in this package; imported when first asked for.
TABLE = {
    ("assignment", "reference"): "assignment.reference:solve",
    ("assignment", "cpp"): "assignment.cpp:solve",
    ("assignment", "cuda"): "assignment.cuda:solve",
    ("assignment_given", "cpp"): "assignment.cpp:solve_given",
    ("bind_cascade", "reference"): "cascade.reference:Cascade",
    ("bind_cascade", "cpp"): "cascade.cpp:Cascade",
    ("bind_cascade", "triton"): "cascade.triton:Cascade",
    ("bind_combine", "reference"): "combine.reference:bind",
    ("bind_combine", "cpp"): "combine.cpp:bind",
    ("bind_combine", "triton"): "combine.triton:bind",
    ("bind_stochastic", "reference"): "stochastic_combine.reference:bind_stochastic",
    ("bind_stochastic", "cpp"): "stochastic_combine.cpp:bind_stochastic",
    ("bind_stochastic", "triton"): "stochastic_combine.triton:bind_stochastic",
    ("bridge", "reference"): "bridge.reference:bridge",
    ("bridge", "cpp"): "bridge.cpp:bridge",
    ("bridge", "triton"): "bridge.triton:bridge",
    ("bridge_batches", "cpp"): "bridge.cpp:Batches",
    ("brownian", "reference"): "brownian.reference:brownian",
    ("brownian", "cpp"): "brownian.cpp:brownian",
    ("brownian", "triton"): "brownian.triton:brownian",
    ("brownian_area", "reference"): "brownian.area_reference:brownian_area",
    ("brownian_area", "triton"): "brownian.triton:brownian_area",
    ("brownian_walker", "cpp"): "brownian.cpp:Walker",
    ("combine", "reference"): "combine.reference:combine",
    ("combine", "cpp"): "combine.cpp:combine",
    ("combine", "triton"): "combine.triton:combine",
    ("combine_into", "reference"): "combine.reference:combine_into",
    ("combine_into", "cpp"): "combine.cpp:combine_into",
    ("combine_into", "triton"): "combine.triton:combine_into",
    ("combine_registers", "cpp"): "combine.registers:describe",
    ("follow_registers", "cpp"): "combine.registers:follow",
    ("watch", "cpp"): "combine.registers:watch",
    ("gram", "reference"): "gram.reference:gram",
    ("gram", "cpp"): "gram.cpp:gram",
    ("gram", "triton"): "gram.triton:gram",
    ("normals", "reference"): "normals.reference:normals",
    ("normals", "cpp"): "normals.cpp:normals",
    ("normals", "triton"): "normals.triton:normals",
    ("pairwise_best", "reference"): "pairwise.reference:best",
    ("pairwise_best", "cpp"): "pairwise.cpp:best",
    ("pairwise_best", "triton"): "pairwise.triton:best",
    ("pairwise_log_sum", "reference"): "pairwise.reference:log_sum",
    ("pairwise_log_sum", "cpp"): "pairwise.cpp:log_sum",
    ("pairwise_log_sum", "triton"): "pairwise.triton:log_sum",
    ("pairwise_mean", "reference"): "pairwise.reference:mean",
    ("pairwise_mean", "cpp"): "pairwise.cpp:mean",
    ("pairwise_mean", "triton"): "pairwise.triton:mean",
    ("pairwise_sample", "reference"): "pairwise.reference:sample",
    ("pairwise_sample", "cpp"): "pairwise.cpp:sample",
    ("pairwise_sample", "triton"): "pairwise.triton:sample",
    ("pairwise_sweep", "reference"): "pairwise.reference:sweep",
    ("pairwise_sweep", "cpp"): "pairwise.cpp:sweep",
    ("runge_kutta", "reference"): "runge_kutta.reference:ReferenceOperations",
    ("runge_kutta", "cpp"): "runge_kutta.cpp:CppOperations",
    ("runge_kutta", "triton"): "runge_kutta.triton:TritonOperations",
    ("runge_kutta_fused", "cpp"): "runge_kutta.cpp:CppOperations",
    ("stochastic_combine", "reference"): "stochastic_combine.reference:stochastic_combine",
    ("stochastic_combine", "cpp"): "stochastic_combine.cpp:stochastic_combine",
    ("stochastic_combine", "triton"): "stochastic_combine.triton:stochastic_combine",
    ("times", "reference"): "bridge.reference:times",
    ("times", "cpp"): "bridge.cpp:times",
    ("times", "triton"): "bridge.triton:times",
    ("transport", "reference"): "assignment.reference:ship",
    ("transport", "cpp"): "assignment.cpp:ship",
}

# Of a backend: the module that fails to import where it is not installed, its name in messages,
# and what to do about it.
REQUIRED = {
    "cpp": ("cpp_support", "C++", "Reinstall with a C++17 compiler to build them"),
    "triton": ("triton_support.launch", "Triton", "Install triton >= 3.5"),
}


@cache
def load(operation: str, backend: str) -> Callable[..., Any] | None:
    """The implementation of an operation for a backend; None where the table has none.

    Raises:
        KeyError: for an operation that no backend has.
    """
    place = TABLE.get((operation, backend))
    if place is None:
        if all(operation != known for known, _ in TABLE):
            raise KeyError(operation)
        return None
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(import_module(f"fastgen.kernels.{module}"), name)
    return found


def find(operation: str, device: torch.device, backend: str | None = None) -> Callable[..., Any]:
    """The implementation of an operation that runs on a device.

    Args:
        operation: the first word of a row of the table.
        device, backend: see `choose`. What the backend has not runs on the reference.

    Raises:
        ValueError: see `choose`.
        KeyError: for an operation that is not in the table, or not there for the reference.
    """
    found = load(operation, choose(device, backend)) or load(operation, "reference")
    if found is None:
        raise KeyError(f"{operation} on {device}")
    return found


def choose(device: torch.device, backend: str | None = None) -> str:
    """The backend that runs on a device: "reference", "cpp" or "triton".

    Args:
        device: where the tensors are.
        backend: "auto" (C++ on CPUs, Triton on CUDA and ROCm devices, falling back to the
            reference with one warning), "reference", "cpp", "triton", or None for what
            FASTGEN_BACKEND says.

    Raises:
        ValueError: for an unknown backend, or one that cannot run on the device.
    """
    backend = check_choice("backend", requested() if backend is None else backend, BACKENDS)
    on_cpu, on_gpu = device.type == "cpu", device.type == "cuda"  # ROCm devices say "cuda" too
    if backend == "reference" or (backend == "auto" and not (on_cpu or on_gpu)):
        return "reference"
    if backend == "triton" or (backend == "auto" and on_gpu):
        if not on_gpu and os.environ.get("TRITON_INTERPRET") != "1":
            raise ValueError(
                f"backend='triton' runs on CUDA and ROCm tensors, got {device}; use backend='auto'"
            )
        return _installed("triton", backend)
    if not on_cpu:
        raise ValueError(f"backend='cpp' runs on CPU tensors, got {device}; use backend='auto'")
    return _installed("cpp", backend)


def requested() -> str:
    """The backend that the environment variable FASTGEN_BACKEND asks for, "auto" if unset."""
    return os.environ.get("FASTGEN_BACKEND", "auto")


@cache
def missing(backend: str) -> ImportError | None:
    """Why "cpp" or "triton" cannot be used at all; None where it can."""
    try:
        import_module(f"fastgen.kernels.{REQUIRED[backend][0]}")
    except ImportError as error:
        return error
    return None


def _installed(backend: str, asked: str) -> str:
    """The backend; where it is missing, for asked="auto", the reference with a warning."""
    error = missing(backend)
    if error is None:
        return backend
    _, kernels, remedy = REQUIRED[backend]
    if asked != "auto":
        raise ValueError(
            f"backend={asked!r}: the {kernels} kernels could not be loaded ({error})"
        ) from error
    _warn(kernels, str(error), remedy)
    return "reference"


@cache
def _warn(kernels: str, reason: str, remedy: str) -> None:
    warnings.warn(
        f"fastgen: the {kernels} kernels are not available ({reason}); running on the PyTorch "
        f"reference, which is slower. {remedy}, or set FASTGEN_BACKEND=reference to silence this.",
        RuntimeWarning,
        stacklevel=5,
    )
