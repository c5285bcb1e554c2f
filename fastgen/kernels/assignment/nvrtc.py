"""CUDA C++ compiled at run time with NVRTC, the compiler that comes with PyTorch: no nvcc needed.

PyTorch's own facility (`torch.cuda._compile_kernel`) compiles by the same library; it cannot launch
cooperatively, which kernels whose blocks wait for each other need, and is private.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from fastgen.common.files import replacing

# No product and sum is fused, as everywhere: the kernels give the same bits on the CPU in tests.
OPTIONS = ("--std=c++17", "--fmad=false")
# A kernel that wants more shared memory must say so (the driver's function attribute 8).
PLAIN_SHARED = 48 * 1024
_MOST_DYNAMIC_SHARED = 8


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """NVRTC as PyTorch has it, or as installed beside it.

    Raises:
        OSError: if there is none.
    """
    for name in _candidates():
        try:
            found = ctypes.CDLL(name)
        except OSError:
            continue
        load_builtins(found)
        return found
    raise OSError("no NVRTC library (libnvrtc.so); install PyTorch for CUDA or nvidia-cuda-nvrtc")


class _Place(ctypes.Structure):
    """What dladdr tells of a symbol."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def load_builtins(nvrtc: ctypes.CDLL) -> None:
    """Load what NVRTC opens by its bare name when it compiles: the file beside it.

    NVRTC from NVIDIA's wheels has no search path of its own, and would not find it there.
    """
    if os.name == "nt":
        return
    place = _Place()
    symbol = ctypes.cast(nvrtc.nvrtcVersion, ctypes.c_void_p)
    if ctypes.CDLL(None).dladdr(symbol, ctypes.byref(place)) and place.file:
        folder = Path(os.fsdecode(place.file)).parent
        for builtins in sorted(folder.glob("libnvrtc-builtins.so*")):
            ctypes.CDLL(str(builtins))


def _candidates() -> Iterator[str]:
    import torch

    major = (torch.version.cuda or "").split(".")[0]
    if major:
        yield f"libnvrtc.so.{major}"
        yield f"nvrtc64_{major}0_0.dll"
    wheels = find_spec("nvidia")
    for folder in (wheels and wheels.submodule_search_locations) or ():
        for found in sorted(Path(folder).glob("*/lib/libnvrtc.so.*")):
            if found.name.endswith(f".{major}" if major else ""):
                yield str(found)
    yield "libnvrtc.so"


def compile_source(
    source: str, headers: Mapping[str, str], architecture: str, options: tuple[str, ...] = ()
) -> bytes:
    """A cubin. Kernels are found by name: they are `extern "C"`.

    Args:
        source: CUDA C++. headers: those it includes, by name. architecture: like "sm_90".
        options: for NVRTC, after OPTIONS.

    Raises:
        OSError: without NVRTC.
        RuntimeError: with the compiler's messages.
    """
    nvrtc = library()

    def check(error: int) -> None:
        if error:
            nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
            raise RuntimeError(f"NVRTC: {nvrtc.nvrtcGetErrorString(error).decode()}")

    program = ctypes.c_void_p()
    strings = ctypes.c_char_p * len(headers)
    check(
        nvrtc.nvrtcCreateProgram(
            ctypes.byref(program),
            source.encode(),
            b"fastgen.cu",
            len(headers),
            strings(*(text.encode() for text in headers.values())),
            strings(*(name.encode() for name in headers)),
        )
    )
    try:
        arguments = [f"--gpu-architecture={architecture}", *OPTIONS, *options]
        strings = ctypes.c_char_p * len(arguments)
        error = nvrtc.nvrtcCompileProgram(
            program, len(arguments), strings(*(argument.encode() for argument in arguments))
        )
        size = ctypes.c_size_t()
        if error:
            check(nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
            log = ctypes.create_string_buffer(size.value)
            check(nvrtc.nvrtcGetProgramLog(program, log))
            raise RuntimeError(f"NVRTC for {architecture}:\n{log.value.decode()}")
        check(nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)))
        image = ctypes.create_string_buffer(size.value)
        check(nvrtc.nvrtcGetCUBIN(program, image))
        return image.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def cached(source: str, headers: Mapping[str, str], architecture: str) -> bytes:
    """`compile_source`, kept on disk: in FASTGEN_CACHE, or ~/.cache/fastgen."""
    numbers = ctypes.c_int(), ctypes.c_int()
    library().nvrtcVersion(*(ctypes.byref(number) for number in numbers))
    version = tuple(number.value for number in numbers)
    key = repr((source, sorted(headers.items()), architecture, OPTIONS, version))
    name = hashlib.sha256(key.encode()).hexdigest()
    folder = Path(os.environ.get("FASTGEN_CACHE") or Path.home() / ".cache" / "fastgen")
    path = folder / f"{name}.cubin"
    try:
        return path.read_bytes()
    except OSError:
        image = compile_source(source, headers, architecture)
    try:
        with replacing(path) as file:
            file.write(image)
    except OSError:
        pass  # a cache that cannot be written costs time alone
    return image


@lru_cache(maxsize=1)
def driver() -> ctypes.CDLL:
    """The driver's library.

    Raises:
        OSError: if there is none.
    """
    return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")


class Module:
    """Compiled kernels, loaded into the current context.

    Args:
        driver: the driver's library. image: a cubin.
    """

    def __init__(self, driver: ctypes.CDLL, image: bytes):
        self._driver = driver
        self._module = ctypes.c_void_p()
        self._functions: dict[str, ctypes.c_void_p] = {}
        self._shared: dict[str, int] = {}
        self._check(driver.cuModuleLoadData(ctypes.byref(self._module), image))

    def _check(self, error: int) -> None:
        if error:
            name = ctypes.c_char_p()
            self._driver.cuGetErrorName(error, ctypes.byref(name))
            raise RuntimeError(f"CUDA driver: {(name.value or b'unknown error').decode()}")

    def _function(self, name: str, shared: int) -> ctypes.c_void_p:
        if name not in self._functions:
            function = ctypes.c_void_p()
            self._check(
                self._driver.cuModuleGetFunction(
                    ctypes.byref(function), self._module, name.encode()
                )
            )
            self._functions[name] = function
        if shared > max(PLAIN_SHARED, self._shared.get(name, 0)):
            self._check(
                self._driver.cuFuncSetAttribute(self._functions[name], _MOST_DYNAMIC_SHARED, shared)
            )
            self._shared[name] = shared
        return self._functions[name]

    def launch(
        self,
        name: str,
        blocks: int,
        threads: int,
        shared: int,
        stream: int,
        argument: ctypes.Structure,
        cooperative: bool,
    ) -> None:
        """Start a kernel of one argument; does not wait for it.

        Args:
            shared: bytes for each block. stream: its handle. cooperative: all blocks are resident
                at the same time, or it is an error.
        """
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
        common = (self._function(name, shared), blocks, 1, 1, threads, 1, 1, shared)
        handle = ctypes.c_void_p(stream)
        if cooperative:
            error = self._driver.cuLaunchCooperativeKernel(*common, handle, parameters)
        else:
            error = self._driver.cuLaunchKernel(*common, handle, parameters, None)
        self._check(error)
