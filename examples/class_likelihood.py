"""Semi-supervised classification of digits by the likelihood of each class.

One flow learns all digits, and the labels of a few: log p(x | c) is its likelihood with label c,
and Bayes' rule with equal classes names the largest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import fastgen
from examples.common import arguments
from fastgen.datasets import CLASSES, load_digits
from fastgen.demo.train import one_thread
from fastgen.networks import ModulatedMLP
from fastgen.training import Batch, Flow, Settings, Trainer

OBJECTIVE = Flow()


def loss(network: nn.Module, batch: Batch) -> Tensor:
    """Flow matching of digits spread over their grey levels."""
    spread = batch.data + (torch.rand_like(batch.data) - 0.5) / 8
    return OBJECTIVE.loss(network, batch._replace(data=spread))


def log_likelihoods(model: fastgen.Model, images: Tensor, seed: int) -> Tensor:
    """log p(x | c) in nats, [B, 10]; equal probes for all classes, so that they can be compared."""
    columns = []
    for c in range(CLASSES):
        labels = torch.full((len(images),), c)
        columns.append(
            fastgen.log_likelihood(
                model,
                images,
                divergence="hutchinson",
                probes=4,
                seed=seed,
                rtol=1e-2,
                atol=1e-2,
                net_kwargs={"labels": labels},
            )
        )
    return torch.stack(columns, 1)


@one_thread()
def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """The share of held-out digits that are named rightly."""
    options = arguments(
        "class_likelihood",
        "semi-supervised classification by likelihood",
        1500,
        argv,
        labelled=200,
        digits=150,
    )
    digits = load_digits()
    train = digits.train
    few = torch.full_like(train.labels, CLASSES)  # no label
    generator = torch.Generator().manual_seed(options.seed)
    known = torch.randperm(len(few), generator=generator)[: options.labelled]
    few[known] = train.labels[known]
    network = ModulatedMLP((1, 8, 8), 192, classes=CLASSES)
    settings = Settings(steps=options.steps, batch=128, seed=options.seed)
    trainer = Trainer(network, loss, train.images, settings, few)
    trainer.run()
    chosen = torch.randperm(len(digits.held_out_a.labels), generator=generator)[: options.digits]
    images, labels = digits.held_out_a.images[chosen], digits.held_out_a.labels[chosen]
    found = log_likelihoods(OBJECTIVE.model(trainer.average), images, options.seed)
    nearest = torch.cdist(images.flatten(1), train.images[known].flatten(1)).argmin(1)
    shares = {
        "likelihood": float((found.argmax(1) == labels).double().mean()),
        "nearest labelled digit": float((few[known][nearest] == labels).double().mean()),
    }
    print(f"{options.labelled} labels among {len(few)} digits; rightly named, of {len(labels)}:")
    print("\n".join(f"{k:24} {v:.3f}" for k, v in shares.items()))
    return shares


if __name__ == "__main__":
    main()
