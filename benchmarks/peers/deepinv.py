"""deepinv's restoration samplers on an exact denoiser, with their defaults, on data in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.problems.posteriors import Modes


def samplers(prior: Modes, matrix: Tensor, y: Tensor, noise: float, steps: int) -> Any:
    """By method a function from a seed and a count to samples [count, n].

    Images are (x + 1) / 2 there, so y is (y + A 1) / 2 and its noise half.
    """
    from deepinv.optim.data_fidelity import L2
    from deepinv.physics import DecomposablePhysics, GaussianNoise
    from deepinv.sampling import DDRM, DiffPIR

    n, m = matrix.shape[1], len(matrix)
    u, s, vt = torch.linalg.svd(matrix, full_matrices=True)
    values = torch.nn.functional.pad(s, (0, n - len(s)))[None]
    u = torch.nn.functional.pad(u, (0, n - m)) if m < n else u[:, :n]
    physics = DecomposablePhysics(
        U=lambda c: c @ u.T,
        U_adjoint=lambda w: w @ u,
        V=lambda c: c @ vt,
        V_adjoint=lambda x: x @ vt.T,
        img_size=(n,),
        mask=values,
        noise_model=GaussianNoise(noise / 2),
    )

    class Exact(torch.nn.Module):
        def forward(self, x: Tensor, sigma: Any) -> Tensor:
            level = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1).clamp_min(1e-3)
            return (prior.denoise(2 * x - 1, torch.ones(1), 2 * level) + 1) / 2

    seen = (y + matrix.sum(1)) / 2
    levels = torch.linspace(1, 0, steps).tolist()
    made: dict[str, Callable[[], Any]] = {
        "ddrm": lambda: DDRM(Exact(), sigmas=levels),
        "diffpir": lambda: DiffPIR(Exact(), L2(), max_iter=steps),
    }

    def runner(make: Callable[[], Any]) -> Callable[[int, int], Tensor]:
        def run(seed: int, count: int) -> Tensor:
            torch.manual_seed(seed)
            found: Tensor = make()(seen.expand(count, -1), physics)
            return 2 * found - 1

        return run

    return {name: runner(make) for name, make in made.items()}
