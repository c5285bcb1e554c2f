"""DDPM against flow matching on handwritten digits: one network, one budget, two objectives.

Ho et al. 2020 (arXiv 2006.11239) on the cosine schedule, Lipman et al. 2023 (2210.02747).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import fastgen
from examples.common import Judge, arguments, sheet
from fastgen.demo.train import one_thread
from fastgen.networks import ModulatedMLP
from fastgen.training import Denoising, Flow, Settings, Trainer

OBJECTIVES: dict[str, Denoising | Flow] = {
    "DDPM": Denoising(fastgen.schedules.CosineVP(), "noise"),
    "flow": Flow(),
}
RUNS = (("DDPM", "ddpm", 100), ("DDPM", "ddim", 20), ("flow", "euler", 20), ("flow", "heun", 10))


@one_thread()
def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Fréchet distance of each run; writes ddpm-and-flow.png."""
    options = arguments("ddpm_and_flow", "DDPM and flow matching on digits", 1500, argv, width=256)
    judge = Judge(min(800, 10 * options.steps))
    train, labels = judge.digits.train, judge.labels
    settings = Settings(steps=options.steps, batch=128, seed=options.seed)
    models = {}
    for name, objective in OBJECTIVES.items():
        torch.manual_seed(options.seed)
        network = ModulatedMLP((1, 8, 8), options.width, classes=10)
        trainer = Trainer(network, objective.loss, train.images, settings, train.labels)
        trainer.run()
        models[name] = objective.model(trainer.average)
    found: dict[str, float] = {}
    rows: dict[str, Tensor] = {"held-out digits": judge.digits.held_out_a.images}
    for name, solver, steps in RUNS:
        # The noise prediction says little about data where there is hardly any signal: Ho et al.
        # clip what follows from it, too.
        clip = (-1.0, 1.0) if name == "DDPM" else None
        shape = (len(labels), 1, 8, 8)
        images = fastgen.sample(
            models[name], shape, solver, steps, seed=1, net_kwargs={"labels": labels}, clip=clip
        )
        key = f"{name}, {solver}, {steps} steps"
        found[key], rows[key] = judge.distance(images), images
        print(f"{key:24} Fréchet distance {found[key]:.3f}", flush=True)
    print(f"{'one half of the data':24} Fréchet distance {judge.floor:.3f}")
    mixed = torch.arange(len(labels)) * 37 % len(labels)  # labels come sorted
    sheet({k: x[mixed] for k, x in rows.items()}, options.out / "ddpm-and-flow.png")
    return {**found, "floor": judge.floor}


if __name__ == "__main__":
    main()
