"""A coupling of whole data sets: paired once, drawn from throughout a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from fastgen.common.arrays import read_arrays
from fastgen.common.checks import check_at_least, check_integer, check_positive, check_tensor
from fastgen.common.display import displayed
from fastgen.common.files import replacing
from fastgen.couplings import potentials
from fastgen.couplings.scattered import Scattered, ScatteredSolver
from fastgen.couplings.stored import Points, Stored, StoredSolver
from fastgen.kernels import Stream
from fastgen.kernels.pairwise import Keys
from fastgen.kernels.pairwise.reference import uniforms
from fastgen.noise.keys import id_tensor, seed_tensor

KIND = "fastgen.couplings.LargeCoupling 1"


@displayed
@dataclass(frozen=True)
class LargeCoupling:
    """Pairs of two data sets: x0[i] with x1[partner[i]], int64 [n].

    marginal_error: of the plan from which the partners were drawn, in L1; iterations: its sweeps.

    Raises:
        ValueError, TypeError: if partner is not that.
    """

    partner: Tensor
    marginal_error: float
    iterations: int

    def __post_init__(self) -> None:
        partner = check_tensor("partner", self.partner)
        if partner.dtype != torch.int64 or partner.ndim != 1 or len(partner) == 0:
            raise ValueError(
                f"partner: expected int64 [n], not empty, got {partner.dtype} {list(partner.shape)}"
            )
        if int(partner.min()) < 0:
            raise ValueError(f"partner: expected numbers of points >= 0, got {int(partner.min())}")

    @classmethod
    def pair(
        cls,
        x0: Points,
        x1: Points,
        reg: float,
        *,
        tolerance: float = 1e-2,
        max_iterations: int = 200,
        block: int = 16384,
        seed: int = 0,
        backend: str | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> LargeCoupling:
        """Draw each x0[i] a partner from the balanced entropic plan (arXiv 2506.05526).

        Blocks of both data sets are read in turn, so that files larger than memory will do. In
        memory are at most 96 bytes for each point of both sets (potentials, sums and norms in
        float64), 64 for each coordinate of a block of both, and 64 MiB of a mapped file. A sweep
        visits all n m pairs twice. float32 arithmetic.

        Args:
            x0: [n, ...], a tensor or a numpy array, memory-mapped for instance.
            x1: [m, ...], of the same trailing shape.
            reg: the regularisation as a part of the mean squared distance of the pairs of points,
                each set centred by itself (which does not change the plan).
            tolerance: of the marginal error.
            max_iterations: sweeps.
            block: points that are read at once.
            seed: of the draws.
            backend: as for `fastgen.kernels.dispatch.choose`.
            group: processes among which the work is shared, such as torch.distributed.group.WORLD.
                x0 and x1 are then the points of this one, and the sets those of all, by rank. Each
                finds all partners, with the bits of one process that has all points.

        Raises:
            ValueError, TypeError: naming the argument that does not fit.
            RuntimeError: the tolerance was not reached.
        """
        a: Stored
        b: Stored
        if group is None:
            a, b = Stored("x0", x0, block), Stored("x1", x1, block)
        else:
            a, b = Scattered("x0", x0, block, group), Scattered("x1", x1, block, group)
        if a.shape != b.shape:
            raise ValueError(f"x1: expected points of shape {a.shape} like x0's, got {b.shape}")
        check_positive("reg", reg)
        a.length = b.length = math.sqrt(a.squares + b.squares) or 1.0
        if isinstance(a, Scattered) and isinstance(b, Scattered):
            solver: StoredSolver = ScatteredSolver(a, b, reg, backend)
        else:
            solver = StoredSolver(a, b, reg, backend)
        state = potentials.solve(
            solver,
            potentials.Start(-a.norms()),
            tolerance=tolerance,
            max_iterations=max_iterations,
            relax=True,
            check_every=1,
        )
        if not state.error <= tolerance:
            raise RuntimeError(
                f"LargeCoupling: the marginal error is {state.error:.3g} after {state.iterations} "
                f"sweeps, above tolerance={tolerance:g}; raise max_iterations, tolerance or reg"
            )
        partner = solver.sample(state.G, seed_tensor(seed, 1, torch.device("cpu")), 0)
        return cls(partner, state.error, state.iterations)

    def batch(self, count: int, *, draw: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Indices (i, j), int64 [count]: batch `draw` of passes over all pairs in random order.

        Each pass visits every pair once; batches that reach over its end go on with the next. A
        function of (seed, draw, count) alone.

        Raises:
            ValueError: naming the argument that is out of range.
        """
        n = len(self.partner)
        check_at_least("count", count, 1)
        check_at_least("draw", check_integer("draw", draw), 0)
        places = torch.arange(draw * count, (draw + 1) * count, device="cpu")
        i = torch.empty_like(places)
        for epoch in range(int(places[0]) // n, int(places[-1]) // n + 1):
            inside = places // n == epoch
            i[inside] = _order(n, seed, epoch)[places[inside] % n]
        return i, self.partner[i]

    def save(self, path: str | Path) -> None:
        """Write everything to ``path`` as arrays of a .npz file, whole or not at all.

        The name is taken as it is: `load` finds the file under it.
        """
        with replacing(Path(path)) as file:
            np.savez(
                file,
                partner=self.partner.cpu().numpy(),
                marginal_error=np.float64(self.marginal_error),
                iterations=np.int64(self.iterations),
                kind=np.array(KIND),
            )

    @classmethod
    def load(cls, path: str | Path) -> LargeCoupling:
        """Read what `save` wrote, or an array of partners in a .npy file (error NaN, 0 sweeps).

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: the file is damaged, or holds something else.
        """
        path = Path(path)
        arrays = read_arrays(path)
        partner = arrays.pop("", None)  # of a .npy file
        error, iterations = math.nan, 0
        if partner is None:
            wanted = {"partner": "i", "marginal_error": "f", "iterations": "i", "kind": "U"}
            kinds = {name: array.dtype.kind for name, array in arrays.items()}
            if kinds != wanted or str(arrays["kind"]) != KIND or arrays["iterations"].ndim:
                raise ValueError(f"{path}: not written by LargeCoupling.save, found {kinds}")
            partner, iterations = arrays["partner"], int(arrays["iterations"])
            error = float(arrays["marginal_error"].reshape(()))
        if partner.dtype.newbyteorder("=") != np.int64:
            raise ValueError(f"{path}: expected int64 [n], got {partner.dtype} {partner.shape}")
        try:
            native = partner.astype(np.int64, copy=False)
            return cls(torch.from_numpy(native), error, iterations)
        except ValueError as fault:
            raise ValueError(f"{path}: {fault}") from fault


def _order(n: int, seed: int, epoch: int) -> Tensor:
    """The order of a pass: 0 .. n - 1 sorted by uniforms of the noise contract."""
    device = torch.device("cpu")
    # Above the draws of plans, below those of the semidiscrete potential.
    keys = Keys(seed_tensor(seed, 1, device), id_tensor(None, n, device), 2**30 + epoch)
    u, _ = uniforms(keys._replace(stream=Stream.PLAN), n, 0)
    return u.argsort(stable=True)
