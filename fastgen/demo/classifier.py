"""The classifier of digits by which samples are judged."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastgen.datasets import CLASSES, Part

PIXELS = 64
FEATURES = 32
BATCH = 128


class DigitFeatures(nn.Module):
    """A classifier and the features in which sets of digits are compared.

    Its hidden units see whether a picture is a digit but hardly any noise on it; the pixels see
    the noise, but a Gaussian of their mean and covariance would pass for digits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(PIXELS, 128), nn.SiLU(), nn.Linear(128, FEATURES), nn.Tanh()
        )
        self.classes = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 10] of images [B, 1, 8, 8]."""
        logits: Tensor = self.classes(self.hidden(x))
        return logits

    def describe(self, x: Tensor) -> Tensor:
        """The 64 pixels and the 32 hidden units, [B, 96], of images [B, 1, 8, 8]."""
        return torch.cat([x.flatten(1), self.hidden(x)], dim=1)


def classifier(digits: Part, steps: int) -> DigitFeatures:
    """Cross-entropy on slightly noisy digits."""
    network = DigitFeatures()
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.05, fused=True)
    for _ in range(steps):
        images, labels = _batch(digits)
        noisy = images + 0.2 * torch.randn_like(images)
        loss = functional.cross_entropy(network(noisy), labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return network.requires_grad_(False).eval()


def _batch(digits: Part) -> Part:
    chosen = torch.randint(len(digits.images), (BATCH,), device="cpu")
    return Part(digits.images[chosen], digits.labels[chosen])
