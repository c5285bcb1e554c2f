"""Semidiscrete optimal transport: noise is paired with a whole data set, by one potential."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from fastgen.common.checks import check_at_least, check_positive
from fastgen.common.display import displayed, extent
from fastgen.common.files import read_safetensors, write_safetensors
from fastgen.couplings.coupling import check_no_labels
from fastgen.couplings.points import check_cloud
from fastgen.couplings.stored import Points, Stored, best_column
from fastgen.kernels import Stream
from fastgen.noise.normals import randn

# Draws of the noise that fits the potential, above those of plans and of batches.
_FIRST_DRAW = 2**31
KIND = "fastgen_semidiscrete"  # in the metadata of files
# The last step of the ascent over the first.
_DECAY = 1e-3


@displayed
class Semidiscrete:
    """The optimal coupling of a noise distribution with a data set of m points.

    x goes to the point of the Laguerre cell it lies in, argmin_j |x - y_j|^2 - g_j, where g
    maximises E_x min_j (|x - y_j|^2 - g_j) + sum_j g_j / m. `fit` finds g by averaged stochastic
    gradient ascent: the gradient at y_j is 1 / m less the share of a noise batch that fell into its
    cell (Genevay, Cuturi, Peyre and Bach 2016, arXiv 1605.08527; in flow matching:
    arXiv 2509.25519). Pairing a fresh batch of noise is one pass over the data, and a partner
    never depends on the batch.

    Args:
        data: [m, ...], a tensor or a numpy array, memory-mapped for instance.
        potential: float64 [m], in units of squared distance; None is all zero: nearest points.
        block: points that are read at once.
        backend: as for `fastgen.kernels.dispatch.choose`.

    Raises:
        ValueError, TypeError: naming the argument that does not fit.
    """

    def __init__(
        self,
        data: Points,
        potential: Tensor | None = None,
        *,
        block: int = 65536,
        backend: str | None = None,
    ) -> None:
        self.data = Stored("data", data, block)
        self.data.length = math.sqrt(self.data.squares) or 1.0
        self.backend = backend
        m = self.data.count
        if potential is None:
            potential = torch.zeros(m, dtype=torch.float64, device="cpu")
        if potential.shape != (m,) or not potential.isfinite().all():
            raise ValueError(
                f"potential: expected finite numbers [{m}], one for each point of data, got "
                f"{list(potential.shape)}"
            )
        self.potential = potential.double().cpu()
        self._norms = self.data.norms().cpu()

    def _facts(self) -> dict[str, object]:
        facts = {"points": self.data.count, "shape": self.data.shape}
        return {**facts, "potential": extent(self.potential)}

    def fit(
        self,
        steps: int,
        *,
        batch: int = 1024,
        rate: float = 0.2,
        seed: int = 0,
        noise: Callable[[int], Tensor] | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> Semidiscrete:
        """Improve the potential; returns self.

        Step t moves g by rate unit m 1000^(-t / steps) times the gradient, where unit is the mean
        squared distance of the data from its centre. Cells are small in few dimensions and large in
        many; steps that fall geometrically pass the right size in any. The potential kept is the
        mean over the last quarter of the steps.

        Args:
            steps: number of noise batches.
            batch: size of a batch.
            rate: of the steps, relative.
            seed: of the noise.
            noise: noise(t) is the batch [batch, ...] of step t; None: standard normals.
            group: processes among which each batch is shared out, such as
                torch.distributed.group.WORLD; all have the data and end with the bits of one.

        Raises:
            ValueError: naming the argument that does not fit.
        """
        check_at_least("steps", steps, 1)
        check_at_least("batch", batch, 1)
        check_positive("rate", rate)
        m, unit = self.data.count, self.data.length**2
        g = self.potential / unit
        total, first = torch.zeros_like(g), steps - max(1, steps // 4)
        rank, size = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
        for t in range(steps):
            given = None if noise is None else noise(t)
            rows = batch if given is None else len(given)
            ids = range(rank * rows // size, (rank + 1) * rows // size)
            if given is None:
                x = randn(
                    (len(ids), *self.data.shape),
                    seed=seed,
                    draw=_FIRST_DRAW + t,
                    stream=Stream.PLAN,
                    sample_ids=ids,
                )
            else:
                x = given[ids.start : ids.stop]
            counts = torch.bincount(self._pair(x, g), minlength=m)
            if group is not None:
                dist.all_reduce(counts, group=group)
            gradient = 1 / m - counts.cpu().double() / rows
            g = g + rate * m * _DECAY ** ((t + 1) / steps) * gradient
            if t >= first:
                total += g
        g = total / (steps - first)
        # g is free up to a constant.
        self.potential = (g - g.mean()) * unit
        return self

    def pair(self, x0: Tensor) -> Tensor:
        """The index of each noise sample's partner in the data, int64 [n]."""
        return self._pair(x0, self.potential / self.data.length**2)

    def __call__(
        self,
        x0: Tensor,
        x1: Tensor | None = None,
        labels0: Tensor | None = None,
        labels1: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Index tensors (i, j): x0[i] pairs with data[j].

        Args:
            x0: [n, ...].
            x1: None, or the whole data set: partners are chosen among all of it.
            labels0: None.
            labels1: None.

        Raises:
            ValueError: naming the argument; also for labels, which would be ignored.
        """
        check_no_labels(self, labels0, labels1)
        if x1 is not None and x1.shape[0] != self.data.count:
            raise ValueError(
                f"x1: expected None or the whole data set of {self.data.count} points, got "
                f"{x1.shape[0]}; a batch of it is not what the potential belongs to"
            )
        return torch.arange(len(x0), device=x0.device), self.pair(x0)

    def _pair(self, x0: Tensor, g: Tensor) -> Tensor:
        check_cloud("x0", x0)
        if tuple(x0.shape[1:]) != self.data.shape:
            raise ValueError(
                f"x0: expected points of shape {self.data.shape} like the data's, got "
                f"{tuple(x0.shape[1:])}"
            )
        x = self.data.normalised(x0.detach().float())
        # argmin_j |x - y_j|^2 - g_j = argmax_j 2 <x, y_j> + (g_j - |y_j|^2)
        return best_column(x, self.data, g - self._norms, self.backend)

    def _fingerprint(self) -> str:
        """Of 64 points spread over the data."""
        index = torch.linspace(0, self.data.count - 1, 64, dtype=torch.float64, device="cpu").long()
        content = self.data.read(index).contiguous().cpu().numpy().tobytes()
        return f"{self.data.count} {self.data.shape} {zlib.crc32(content):08x}"

    def save(self, path: str | Path) -> None:
        """Write the potential and a fingerprint of the data as safetensors, whole or not at all.

        Raises:
            ImportError: the package safetensors is missing.
        """
        facts = {KIND: "1", "data": self._fingerprint()}
        write_safetensors(path, {"potential": self.potential}, facts)

    @classmethod
    def load(
        cls, path: str | Path, data: Points, *, block: int = 65536, backend: str | None = None
    ) -> Semidiscrete:
        """Read what `save` wrote, for the same data.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: the file is damaged or of another kind, or the potential belongs to other
                data.
            ImportError: the package safetensors is missing.
        """
        path = Path(path)
        tensors, metadata = read_safetensors(path)
        if tensors.keys() != {"potential"} or metadata.get(KIND, "1") != "1":
            raise ValueError(f"{path}: not written by Semidiscrete.save, found {sorted(tensors)}")
        potential, saved = tensors["potential"], metadata.get("data")
        if potential.dtype != torch.float64 or not potential.isfinite().all():
            raise ValueError(
                f"{path}: expected a finite float64 potential, got {potential.dtype} "
                f"{list(potential.shape)}; fit and save it anew"
            )
        coupling = cls(data, block=block, backend=backend)
        if saved != coupling._fingerprint():
            raise ValueError(
                f"data: the potential in {path} belongs to data with the fingerprint {saved!r}, "
                f"got {coupling._fingerprint()!r}"
            )
        return cls(data, potential, block=block, backend=backend)
