"""Triton's own launchers without a GPU: behind them a libcuda that launches nothing.

It keeps the parameters of the last launch, so that their order and values can be looked at, and
what a launch costs the host can be measured. Everything here runs in a process of its own, whose
environment is `environment`; nothing is assembled, since nothing runs.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("fake_cuda.c")
CACHE = Path.home() / ".cache/fastgen/ptx"  # of kernels compiled and not assembled
STREAM = 77


def environment(folder: Path) -> dict[str, str] | None:
    """Build the library in a folder; what a process needs to find it, None without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or os.name == "nt":
        return None
    name = "libcuda.so.1"
    command = [compiler, "-shared", "-fPIC", "-O1", str(SOURCE), f"-Wl,-soname,{name}"]
    subprocess.run([*command, "-o", str(folder / name)], check=True, capture_output=True)
    kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    path = f"{folder}:{kept.get('LD_LIBRARY_PATH', '')}"
    found = {"LD_LIBRARY_PATH": path, "TRITON_LIBCUDA_PATH": str(folder)}
    return kept | found | {"TRITON_CACHE_DIR": str(CACHE), "OMP_NUM_THREADS": "1"}


def flat(values: Any, kinds: Any) -> Iterator[int]:
    """What a kernel is handed, as unsigned 64-bit integers; tuples are unpacked."""
    for value, kind in zip(values, kinds, strict=True):
        if isinstance(kind, tuple):
            yield from flat(value, kind)
        elif kind != "constexpr":
            number = value.data_ptr() if isinstance(value, Tensor) else int(value or 0)
            yield number & (2**64 - 1)


class Launches:
    """Makes Triton's launchers the ones of this process.

    Attributes:
        watched: whether launches are kept.
        driver: Triton's, which says what the current device and its stream are.
        kept: (kernel, where, parameters given, parameters received, whether the tensors were given
            as plain addresses) of each; where: grid, threads, stream, current device.
    """

    def __init__(self) -> None:
        from triton.backends.compiler import GPUTarget
        from triton.backends.nvidia import driver as nvidia
        from triton.backends.nvidia.compiler import CUDABackend
        from triton.runtime import driver

        library = ctypes.CDLL("libcuda.so.1")
        received = (ctypes.c_uint64 * 96).in_dll(library, "fake_parameters")
        shape = (ctypes.c_uint * 8).in_dll(library, "fake_grid")
        stream = ctypes.c_void_p.in_dll(library, "fake_stream")
        count = ctypes.c_int.in_dll(library, "fake_count")
        self.watched = True
        self.kept: list[tuple[str, tuple[Any, ...], list[int], list[int], bool]] = []
        outer = self

        class Launcher(nvidia.CudaLauncher):
            def __init__(self, source: Any, metadata: Any) -> None:
                super().__init__(source, metadata)
                self._kinds, self._name = list(source.signature.values()), metadata.name

            def __call__(self, *arguments: Any) -> None:
                if not outer.watched:
                    super().__call__(*arguments)
                    return
                given = list(flat(arguments[9:], self._kinds))
                count.value = len(given)
                super().__call__(*arguments)
                count.value = 0
                where = (*shape[:4], stream.value, outer.driver.get_current_device())
                short = not any(isinstance(x, Tensor) for x in _leaves(arguments[9:]))
                outer.kept.append((self._name, where, given, list(received[: len(given)]), short))

        class Driver(nvidia.CudaDriver):
            def __init__(self) -> None:
                self.utils, self.launcher_cls = nvidia.CudaUtils(), Launcher
                self.get_current_device = lambda: 0
                self.get_current_stream = lambda device: STREAM
                self.get_device_capability = lambda device=0: (9, 0)
                self.set_current_device = lambda device: None

            def get_current_target(self) -> Any:
                return GPUTarget("cuda", 90, 32)

            def get_active_torch_device(self) -> torch.device:
                return torch.device("cpu")

        CUDABackend.make_cubin = lambda self, ptx, *_: ptx.encode()
        self.driver = Driver()
        driver.set_active(self.driver)


def _leaves(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tuple):
            yield from _leaves(value)
        else:
            yield value


def calls(rows: int = 4, elements: int = 8192) -> dict[str, Callable[[], object]]:
    """A call of every kernel of the package, by name; of those of a step of dopri5 all in one.

    watched: as where a function looks at every step between its decision and its move.
    """
    from fastgen.common.step_size import StepSize
    from fastgen.kernels import Clock, Noise, Sampling
    from fastgen.kernels.bridge import triton as bridge
    from fastgen.kernels.brownian import triton as brownian
    from fastgen.kernels.cascade import triton as cascade
    from fastgen.kernels.cascade.contract import Sums
    from fastgen.kernels.combine import triton as combine
    from fastgen.kernels.gram import triton as gram
    from fastgen.kernels.normals import triton as normals
    from fastgen.kernels.pairwise import triton as pairwise
    from fastgen.kernels.runge_kutta.contract import Workspace
    from fastgen.kernels.runge_kutta.triton import TritonOperations
    from fastgen.kernels.stochastic_combine import triton as stochastic
    from fastgen.ode.tableaus import DOPRI5

    x, y, out = (torch.zeros(rows, elements) for _ in range(3))
    table = torch.zeros(1, 2, 4).double()
    seeds, ids, draws = torch.tensor([1]), torch.arange(rows), torch.tensor([2])
    noise = Noise(seeds, ids, draws, 3)
    stage = combine.bind([x, None], [out], table, (-1.0, 1.0), noise)
    tables = torch.zeros(2, 1, 1, 2, 5).double()
    step = stochastic.bind_stochastic([x, None], [x], tables, noise._replace(draws=draws[:, None]))
    recipe, quantiles = torch.zeros(2, 3, 5).double(), torch.linspace(0, 1, 9).double()
    clock = Clock(quantiles, Sampling.STRATIFIED)
    times = torch.tensor([0.5]).double()
    points, bias = torch.zeros(rows, 8), torch.zeros(rows).double()

    def steps(elements: int) -> tuple[TritonOperations, Tensor]:
        y = torch.zeros(rows, elements)
        work = Workspace.allocate(
            y,
            DOPRI5.matrix,
            DOPRI5.nodes,
            DOPRI5.errors,
            DOPRI5.polynomials,
            torch.tensor([elements]),
            torch.tensor([0.0, 1.0]).double(),
            StepSize(0.9, 0.2, 10.0, 0.0, 1e9, (0.1, 0.0, 0.0), 5, 1000),
        )
        return TritonOperations(work), torch.zeros_like(y)

    lines = torch.tensor([[2, 0, 2, 0]])
    workspace, weights = torch.zeros(3, rows, elements), torch.ones(1, 2).double()
    sums = cascade.Cascade(workspace, weights, Sums(lines, torch.tensor([0, 1])))

    def step_of(elements: int, watched: bool = False) -> Callable[[], None]:
        operations, slope = steps(elements)
        last = len(DOPRI5.c) - 1

        def whole_step() -> None:
            for i in range(1, last + (not watched)):
                operations.take(i, slope)
            if watched:
                operations.control()
                operations.commit()
                operations.stage(1)

        return whole_step

    return {
        "bound stage": lambda: stage([y]),
        "combine": lambda: combine.combine([x, y], table, [torch.float32], (-1.0, 1.0), noise),
        "SDE step": lambda: step(0, [y]),
        "sums of a workspace": lambda: sums(0, 1),
        "normals": lambda: normals.normals(elements, seeds, ids, draws, 0),
        "Brownian path": lambda: brownian.brownian(elements, seeds, ids, 1, times),
        "Brownian areas": lambda: brownian.brownian_area(elements, seeds, ids, 1, times),
        "training batch": lambda: bridge.bridge(
            x, y, None, None, recipe, clock, noise, True, [torch.float32] * 2, torch.float32
        ),
        "times": lambda: bridge.times(seeds, ids, draws, clock),
        "pairwise sum": lambda: pairwise.log_sum(points, points, bias, 1.0),
        "inner products": lambda: gram.gram([x, y]),
        "dopri5 step": step_of(64),
        "dopri5 step, long rows": step_of(8192),
        "dopri5 step, watched": step_of(64, True),
    }
