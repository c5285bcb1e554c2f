"""Which implementation of the kernels runs: C++ on CPUs, else the PyTorch reference."""

import os
import warnings
from functools import cache
from types import ModuleType

import torch

from fastgen.errors import nearest

BACKENDS = ("auto", "reference", "cpp")


@cache
def _cpp() -> ModuleType | ImportError:
    try:
        from fastgen.kernels import cpp
    except ImportError as error:
        return error
    return cpp


@cache
def _warn(reason: str) -> None:
    warnings.warn(
        f"fastgen: the C++ kernels are not available ({reason}); running on the PyTorch "
        "reference, which is slower. Reinstall with a C++17 compiler to build them, or set "
        "FASTGEN_BACKEND=reference to silence this.",
        RuntimeWarning,
        stacklevel=3,
    )


def requested() -> str:
    """The backend that the environment variable FASTGEN_BACKEND asks for, "auto" if unset."""
    return os.environ.get("FASTGEN_BACKEND", "auto")


def implementation(device: torch.device, backend: str | None = None) -> ModuleType:
    """The module with `combine`, `combine_into`, `bind` and `normals` for tensors on a device.

    Args:
        device: where the tensors are.
        backend: "auto" (C++ on CPUs, falling back to the reference with one warning),
            "reference", "cpp", or None for what FASTGEN_BACKEND says.

    Raises:
        ValueError: for an unknown backend, or one that cannot run on the device.
    """
    from fastgen.kernels import reference

    backend = backend or requested()
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}: {nearest(backend, BACKENDS)}")
    if backend == "reference" or (backend == "auto" and device.type != "cpu"):
        return reference
    if device.type != "cpu":
        raise ValueError(f"backend='cpp' runs on CPU tensors, got {device}; use backend='auto'")
    cpp = _cpp()
    if isinstance(cpp, ModuleType):
        return cpp
    if backend == "cpp":
        raise ValueError(f"backend='cpp': the extension could not be loaded ({cpp})") from cpp
    _warn(str(cpp))
    return reference
