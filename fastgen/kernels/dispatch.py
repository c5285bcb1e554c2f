"""Which implementation of the kernels runs: C++ on CPUs, Triton on GPUs, else the reference."""

import os
import warnings
from functools import cache
from types import ModuleType

import torch

from fastgen.common.errors import nearest

BACKENDS = ("auto", "reference", "cpp", "triton")


@cache
def _cpp() -> ModuleType | ImportError:
    try:
        from fastgen.kernels import cpp
    except ImportError as error:
        return error
    return cpp


@cache
def _triton() -> ModuleType | ImportError:
    try:
        from fastgen.kernels import triton
    except ImportError as error:
        return error
    return triton


@cache
def _warn(kernels: str, reason: str, remedy: str) -> None:
    warnings.warn(
        f"fastgen: the {kernels} kernels are not available ({reason}); running on the PyTorch "
        f"reference, which is slower. {remedy}, or set FASTGEN_BACKEND=reference to silence this.",
        RuntimeWarning,
        stacklevel=4,
    )


def requested() -> str:
    """The backend that the environment variable FASTGEN_BACKEND asks for, "auto" if unset."""
    return os.environ.get("FASTGEN_BACKEND", "auto")


def implementation(device: torch.device, backend: str | None = None) -> ModuleType:
    """The module with the kernels (`combine`, `combine_into`, `bind`, `normals`, `brownian`).

    Args:
        device: where the tensors are.
        backend: "auto" (C++ on CPUs, Triton on CUDA and ROCm devices, falling back to the
            reference with one warning), "reference", "cpp", "triton", or None for what
            FASTGEN_BACKEND says.

    Raises:
        ValueError: for an unknown backend, or one that cannot run on the device.
    """
    from fastgen.kernels import reference

    backend = backend or requested()
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}: {nearest(backend, BACKENDS)}")
    on_cpu, on_gpu = device.type == "cpu", device.type == "cuda"  # ROCm devices say "cuda" too
    if backend == "reference" or (backend == "auto" and not (on_cpu or on_gpu)):
        return reference
    if backend == "triton" or (backend == "auto" and on_gpu):
        if not on_gpu and os.environ.get("TRITON_INTERPRET") != "1":
            raise ValueError(
                f"backend='triton' runs on CUDA and ROCm tensors, got {device}; use backend='auto'"
            )
        return _loaded(_triton(), backend, "Triton", "Install triton >= 3.5") or reference
    if not on_cpu:
        raise ValueError(f"backend='cpp' runs on CPU tensors, got {device}; use backend='auto'")
    remedy = "Reinstall with a C++17 compiler to build them"
    return _loaded(_cpp(), backend, "C++", remedy) or reference


def _loaded(
    module: ModuleType | ImportError, backend: str, kernels: str, remedy: str
) -> ModuleType | None:
    """The module; where it could not be loaded None, with a warning, for backend="auto"."""
    if isinstance(module, ModuleType):
        return module
    if backend != "auto":
        raise ValueError(
            f"backend={backend!r}: the {kernels} kernels could not be loaded ({module})"
        ) from module
    _warn(kernels, str(module), remedy)
    return None
