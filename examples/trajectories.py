"""Eight Gaussians to two moons: I-CFM, OT-CFM, SB-CFM and [SF]2M side by side.

Tong et al. 2024 (arXiv 2302.00482, 2307.03672). The first three are flows; [SF]2M also learns the
score, and is sampled as the stochastic process whose marginals are those of its flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fastgen
from examples.common import arguments, panels
from fastgen.couplings import Coupling, ExactOT, Independent, Sinkhorn
from fastgen.datasets import eight_gaussians, moons
from fastgen.demo.train import one_thread
from fastgen.networks import MLP
from fastgen.training import Batch, Settings, Trainer, losses, paths

SIGMA = 1.0
METHODS: dict[str, tuple[paths.Linear | paths.Brownian, str]] = {
    "I-CFM": (paths.Linear(0.1), "independent"),
    "OT-CFM": (paths.Linear(0.1), "exact"),
    "SB-CFM": (paths.Brownian(SIGMA), "entropic"),
    "[SF]2M": (paths.Brownian(SIGMA), "entropic"),
}


def coupling_of(name: str) -> Coupling | Sinkhorn:
    """A new one: the entropic one counts its draws."""
    if name == "entropic":
        return Sinkhorn(2 * SIGMA**2, "absolute", options={"tolerance": 1e-3})
    return ExactOT() if name == "exact" else Independent()


def source(count: int, seed: Sequence[int]) -> Tensor:
    """Points of the eight Gaussians, [count, 2]."""
    return torch.from_numpy(eight_gaussians(count, np.random.default_rng(seed))).float()


def target(count: int, seed: Sequence[int]) -> Tensor:
    """Points of the moons, [count, 2]."""
    return torch.from_numpy(3 * moons(count, np.random.default_rng(seed)) - 1).float()


def train(method: str, steps: int, seed: int) -> fastgen.Model:
    """A network of velocity, and of [SF]2M also sigma^2 / 2 times the score."""
    path, name = METHODS[method]
    coupling = coupling_of(name)
    both = method == "[SF]2M"

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        x0 = source(len(batch.data), (1, batch.seed, batch.step))
        s = path.sample(
            x0,
            batch.data,
            seed=batch.seed,
            step=batch.step,
            coupling=coupling,
            targets=("velocity", "noise"),
        )
        output = network(s.x_t, s.t)
        if both:
            velocity, score = output.chunk(2, 1)
            return losses.score_and_flow_matching(velocity, score, s)
        return losses.flow_matching(output, s)

    settings = Settings(steps=steps, batch=256, average=0.99, learning_rate=2e-3, seed=seed)
    trainer = Trainer(MLP(outputs=2 if both else 1), loss, target(20_000, (2, seed)), settings)
    trainer.run()
    net, schedule = trainer.average, fastgen.schedules.Rectified()
    if not both:
        return fastgen.Model(net, schedule, "velocity", data_at=1)
    return fastgen.Model(
        lambda x, t: net(x, t).chunk(2, 1),
        schedule,
        "velocity_and_score",
        data_at=1,
        score_scale=SIGMA**2 / 2,
    )


@one_thread()
def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """W2 to the moons of each method; writes trajectories.png."""
    options = arguments(
        "trajectories", "8 Gaussians to moons by four methods", 1500, argv, points=1000
    )
    starts, held_out = source(options.points, (3,)), target(options.points, (4,))
    found, pictures = {}, {}
    for method in METHODS:
        model = train(method, options.steps, options.seed)
        solver = "bridge_sde" if method == "[SF]2M" else "euler"
        more: dict[str, Any] = {"sigma": SIGMA} if method == "[SF]2M" else {}
        ends, states = fastgen.sample(
            model,
            starts,
            solver,
            100,
            timesteps="uniform",
            trajectory=True,
            seed=options.seed,
            **more,
        )
        found[method] = fastgen.wasserstein(ends, held_out)
        print(f"{method:8} {solver:10} W2 to the moons {found[method]:.3f}", flush=True)
        pictures[method] = ends, states[:, :200]
    panels(pictures, options.out / "trajectories.png", 9.0)
    return found


if __name__ == "__main__":
    main()
