"""What a scheduler holds between two steps, and how one row runs on the caller's tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor

import fastgen.kernels as kernels
from fastgen.integrations.diffusers.rows import FIRST_REGISTER, Row
from fastgen.kernels import Noise, Stream
from fastgen.kernels.contract import compute_dtype
from fastgen.noise.keys import id_tensor, seed_tensor

if TYPE_CHECKING:
    from fastgen.kernels.combine.registers import Step  # needs the extension

# Dtype of the next state: that of the model's output, of the sample, or what both promote to.
Kind: TypeAlias = Literal["output", "sample", "promoted"]
Generators: TypeAlias = "torch.Generator | list[torch.Generator] | None"
# A register: the tensor, and whether it is a buffer of ours, to be written again once it is free.
Held: TypeAlias = "tuple[Tensor, bool]"
# State, output, data prediction and noise of a step.
Given: TypeAlias = "tuple[Tensor | None, ...]"


class Contract:
    """The library's reproducible noise for a run: seeds, sample ids and the current draw.

    The seeds are those of the generators; a list of generators makes every sample number 0 of its
    own seed, so that one image of a batch can be made again alone.
    """

    def __init__(self, seed: int | None, drawn: int | None = None) -> None:
        self.seed, self.drawn = seed, drawn
        self.noise: Noise | None = None
        self.key: object = None
        self.draw: Any = None  # the draw on the host, to write without torch's overhead

    def begin(self) -> None:
        """A new run: where no generator and no seed said otherwise, another one is drawn."""
        if self.drawn is not None:
            self.key = self.drawn = None

    def __reduce__(self) -> Any:
        """Copies point at tensors of their own."""
        return Contract, (self.seed, self.drawn)

    def use(self, generator: Generators, rows: int, device: torch.device, draw: int) -> bool:
        """Point at a draw; True if that needed new tensors, at other addresses."""
        if isinstance(generator, list):
            seeds: Any = tuple([g.initial_seed() for g in generator])
        else:
            seeds = None if generator is None else generator.initial_seed()
        key = (seeds, rows, device)
        fresh = key != self.key
        if fresh:
            self.key = key
            own = list(seeds) if isinstance(seeds, tuple) else [seeds]
            own = [self._own() if s is None else s for s in own]
            ids = [0] * rows if len(own) > 1 else None
            self.noise = Noise(
                seed_tensor(own, rows, device),
                id_tensor(ids, rows, device),
                torch.zeros(1, dtype=torch.int64, device=device),
                Stream.SOLVER,
            )
            self.draw = self.noise.draws.numpy() if device.type == "cpu" else None
        assert self.noise is not None
        if self.draw is not None:
            self.draw[0] = draw
        else:
            self.noise.draws.fill_(draw)
        return fresh

    def _own(self) -> int:
        if self.seed is not None:
            return self.seed
        if self.drawn is None:
            self.drawn = int(torch.randint(2**63 - 1, ()).item())
        return self.drawn


class Run:
    """Tables, layouts, history and noise of one scheduler on one grid of timesteps."""

    def __init__(self, timesteps: Tensor | None, sigmas: Tensor | None, config: object) -> None:
        self.timesteps, self.sigmas, self.config = timesteps, sigmas, config
        self.host_timesteps: list[float] = [] if timesteps is None else timesteps.tolist()
        self.host_sigmas: list[float] = [] if sigmas is None else sigmas.tolist()
        floating = timesteps is not None and timesteps.is_floating_point()
        self.floating = timesteps.dtype if floating and timesteps is not None else None
        # The first and the second position of a timestep, which may be the same.
        self.positions: dict[float, tuple[int, int]] = {}
        for i, t in enumerate(self.host_timesteps):
            first, second = self.positions.get(t, (i, i))
            self.positions[t] = first, i if second == first else second
        self.rows: dict[Any, Row] = {}
        self.steps: dict[Any, Step] = {}  # the calls of those that read state and output alone
        self.grids: dict[str, list[float]] = {}
        self.contract: Contract | None = None
        self.held: dict[int, Held] = {}
        self.free: list[Held] = []
        self.epoch = object()  # for as long as it is this one, rows may run as described
        self.data: Tensor | None = None  # the data prediction after "threshold"

    def __reduce__(self) -> Any:
        """Copies and pickles: tables and layouts, which hold addresses, are made again."""
        held = {k: v for k, (v, _) in self.held.items()}
        return _restored, (self.timesteps, self.sigmas, self.config, held, self.contract)

    def index(self, timestep: float | Tensor) -> int | None:
        """Position of a timestep in the grid; the second of several, as diffusers has it."""
        found = self.positions.get(self.value(timestep))
        return None if found is None else found[1]

    def value(self, timestep: float | Tensor) -> float:
        """The timestep as a number.

        A view into ``scheduler.timesteps``, which is what loops over it give, is placed by its
        offset; only another tensor on a device must be read from there.
        """
        if not isinstance(timestep, Tensor):
            return timestep
        grid = self.timesteps
        if (
            not timestep.is_cpu
            and grid is not None
            and timestep.device == grid.device
            and timestep.untyped_storage().data_ptr() == grid.untyped_storage().data_ptr()
        ):
            return self.host_timesteps[timestep.storage_offset() - grid.storage_offset()]
        return timestep.item()

    def use_contract(self, generator: Generators, output: Tensor, draw: int) -> None:
        """Set what rows with noise of their own draw next."""
        assert self.contract is not None
        if self.contract.use(generator, output.shape[0], output.device, draw):
            self.epoch = object()

    def advance(
        self, row: Row, kind: Kind, sample: Tensor, output: Tensor, z: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Run a row: the next state and perhaps a second result; registers change as it says.

        z: what the row reads as noise.
        """
        given: Given = (sample, output, self.data, z)
        if row.epoch is self.epoch:
            results = row.run(self.held, self.free, *given)
            if results is not None:
                return results
        # A network may return a transposed view in every step, as lerobot's does.
        given = tuple([t if t is None or t.is_contiguous() else t.contiguous() for t in given])
        if row.epoch is self.epoch:
            results = row.run(self.held, self.free, *given)
            if results is not None:
                return results
        if self._describe(row, kind, given):
            results = row.run(self.held, self.free, *given)
            if results is not None:
                return results
        return self._general(row, kind, given)

    def _tensors(self, row: Row, given: Given) -> list[Tensor]:
        found = [self.held[i][0] if i >= FIRST_REGISTER else given[i] for i in row.inputs]
        return [t for t in found if t is not None]

    def _describe(self, row: Row, kind: Kind, given: Given) -> bool:
        """Give the row a layout for these tensors, if C++ can run them; else the operator must."""
        tensors, sample = self._tensors(row, given), given[0]
        assert sample is not None
        # Registers are float64 where the sample is, so nothing else may be.
        plain = sample.ndim > 0 and all(
            t.__class__ is Tensor
            and t.is_cpu
            and t.is_contiguous()
            and not t.requires_grad
            and t.shape == sample.shape
            and (t.dtype is torch.float64) <= (sample.dtype is torch.float64)
            for t in [sample, *tensors]
        )
        module = kernels.implementation(sample.device).__name__
        if not plain or not module.endswith(".cpp"):
            return False
        from fastgen.kernels.combine import registers

        row.run = registers.describe(
            sample,
            row.inputs,
            tensors,
            _dtypes(row, kind, tensors, given)[: 1 + row.returns],
            row.keep if row.steps else None,
            row.table,
            row.clip,
            self.contract.noise if row.noise and self.contract is not None else None,
        )
        row.epoch = self.epoch
        row.alone = None if row.draws or row.before is not None else self.epoch
        return True

    def _general(self, row: Row, kind: Kind, given: Given) -> tuple[Tensor, ...]:
        """The same by the operator: any device, any strides, differentiable."""
        tensors = self._tensors(row, given)
        found: dict[int, Any] = dict(enumerate(given)) | {k: t for k, (t, _) in self.held.items()}
        results = kernels.combine(
            tensors,
            row.table_on(tensors[0].device),
            _dtypes(row, kind, tensors, given),
            clip=row.clip,
            noise=self.contract.noise if row.noise and self.contract is not None else None,
        )
        if row.steps:
            written = iter(results[1 + row.returns :])
            kept = {k: next(written) if i is None else found[i] for k, i in row.keep}
            self.held.clear()  # the same dict: C++ may have it
            self.held.update((k, (t, False)) for k, t in kept.items())
        return tuple(results[: 1 + row.returns])


def _dtypes(row: Row, kind: Kind, tensors: list[Tensor], given: Given) -> list[torch.dtype]:
    sample, output = given[:2]
    assert sample is not None
    assert output is not None
    wide = compute_dtype([sample.dtype, *(t.dtype for t in tensors)])
    return [promised(kind, sample, output)] + [wide] * (row.outputs - 1)


def promised(kind: torch.dtype | Kind, sample: Tensor, output: Tensor) -> torch.dtype:
    """The dtype that a kind stands for."""
    if kind == "output":
        return output.dtype
    if kind == "sample":
        return sample.dtype
    if kind == "promoted":
        return torch.promote_types(sample.dtype, output.dtype)
    return kind


def _restored(
    timesteps: Tensor | None,
    sigmas: Tensor | None,
    config: object,
    held: dict[int, Tensor],
    contract: Contract | None,
) -> Run:
    run = Run(timesteps, sigmas, config)
    run.held = {k: (v, False) for k, v in held.items()}
    run.contract = contract
    return run
