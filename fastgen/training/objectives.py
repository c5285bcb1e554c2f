"""What a trainer's network learns, as data: stored with checkpoints, and made a model again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastgen import networks, schedules
from fastgen.errors import nearest
from fastgen.kernels import Stream
from fastgen.model import Model
from fastgen.networks import VAE, Network
from fastgen.noise import randn
from fastgen.schedules import Rectified, Schedule
from fastgen.training import losses
from fastgen.training.files import load_strictly, read_safetensors
from fastgen.training.pairing import Pairing
from fastgen.training.paths import Target
from fastgen.training.times import SAMPLINGS, uniform
from fastgen.training.trainer import Batch, Settings, read_metadata


@dataclass(frozen=True)
class Flow:
    """Flow matching from noise to data: `paths.Target(sigma)`, the velocity.

    data_at: where the network's time has the data. sampling: of the times, see `Times`. coupling,
    coupling_options: which noise goes to which sample, by name, see `Pairing`.
    """

    sigma: float = 0.0
    data_at: int = 1
    sampling: str = "stratified"
    coupling: str = "independent"
    coupling_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Target(self.sigma, data_at=self.data_at)
        _check_sampling(self.sampling)
        Pairing(self.coupling, self.coupling_options)

    def model(self, network: nn.Module) -> Model:
        """For `fastgen.sample`."""
        return Model(network, Rectified(), "velocity", data_at=self.data_at)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The loss of a training step."""
        path, times = _path(self.sigma, self.data_at), _times(self.sampling)
        noise, labels = None, batch.labels
        pairs: tuple[Tensor | None, Tensor | None] = (None, None)
        key: dict[str, Any] = {"seed": batch.seed, "step": batch.step}
        if self.coupling != "independent":
            noise = drawn_noise(batch)
            pairing = Pairing(self.coupling, self.coupling_options)
            classes = getattr(network, "classes", 0)
            pairs = _, j = pairing(noise, batch.data, labels, **key, classes=classes)
            labels = None if labels is None else labels[j]
        sample = path.sample(noise, batch.data, **key, times=times, pairs=pairs)
        kwargs = {} if labels is None else {"labels": labels}
        output = network(sample.x_t, sample.t, **kwargs)
        return losses.flow_matching(output.to(sample.x_t.dtype), sample)

    def to_config(self) -> dict[str, Any]:
        """For JSON."""
        return {"kind": "flow", **vars(self), "coupling_options": dict(self.coupling_options)}


@dataclass(frozen=True)
class Denoising:
    """`losses.denoising` of a prediction on a schedule."""

    schedule: Schedule
    predicts: str = "noise"
    weighting: str = "simple"
    time_input: str = "unit"

    def __post_init__(self) -> None:
        if self.weighting not in losses.WEIGHTINGS:
            known = nearest(self.weighting, losses.WEIGHTINGS)
            raise ValueError(f"weighting={self.weighting!r}: {known}")
        self.model(nn.Identity())

    def model(self, network: nn.Module) -> Model:
        """For `fastgen.sample`."""
        return Model(network, self.schedule, self.predicts, time_input=self.time_input)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The loss of a training step."""
        kwargs: dict[str, Any] = {} if batch.labels is None else {"labels": batch.labels}
        return losses.denoising(
            self.model(network),
            batch.data,
            seed=batch.seed,
            step=batch.step,
            times=uniform(1e-5, 1.0, sampling="stratified"),
            weighting=self.weighting,
            **kwargs,
        )

    def to_config(self) -> dict[str, Any]:
        """For JSON."""
        return {"kind": "denoising", **vars(self), "schedule": self.schedule.to_config()}


@dataclass(frozen=True)
class Autoencoding:
    """`losses.evidence_bound` of a `fastgen.networks.VAE`, per element of the data.

    beta: weight of the divergence. variance: of the decoder.
    """

    beta: float = 1.0
    variance: float = 0.1

    def __post_init__(self) -> None:
        zero = torch.zeros(1, 1)
        losses.evidence_bound(zero, zero, zero, zero, **vars(self))

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The loss of a training step; labels play no part."""
        data = batch.data
        assert isinstance(network, VAE)
        shape = (len(data), *network.latent_shape(data.shape[1:]))
        output, posterior, _ = network(data, drawn_noise(batch, shape))
        found = losses.evidence_bound(output, data, *posterior, **vars(self))
        return found / data[0].numel()


Objective = Flow | Denoising


def from_config(config: dict[str, Any]) -> Objective:
    """The objective of `to_config`.

    Raises:
        ValueError: for an unknown kind.
    """
    values = {k: v for k, v in config.items() if k != "kind"}
    if config.get("kind") == "flow":
        return Flow(**values)
    if config.get("kind") == "denoising":
        return Denoising(**{**values, "schedule": schedules.from_config(values["schedule"])})
    raise ValueError(f"kind={config.get('kind')!r}: expected 'flow' or 'denoising'")


class Trained(NamedTuple):
    """A checkpoint of a trainer: the averaged network and what it came from."""

    network: Network
    objective: Objective
    settings: Settings
    step: int
    description: dict[str, Any]

    def model(self) -> Model:
        """For `fastgen.sample`."""
        return self.objective.model(self.network)


def describe(network: Network, objective: Objective, **facts: Any) -> dict[str, Any]:
    """The description with which a trainer's checkpoints can be loaded."""
    return {
        "network": networks.to_config(network),
        "objective": objective.to_config(),
        **facts,
    }


def load(path: Path) -> Trained:
    """The network of a trainer's checkpoint, with its averaged weights.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no whole checkpoint, or of a network unknown here.
    """
    tensors, metadata = read_safetensors(path)
    settings, description = read_metadata(path, metadata)
    try:
        network = networks.from_config(description["network"])
        objective = from_config(description["objective"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no network that can be rebuilt ({error})") from error
    start = "average."
    weights = {k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)}
    load_strictly(network, weights, path)
    network.requires_grad_(False).eval()
    return Trained(network, objective, settings, int(metadata["step"]), description)


def drawn_noise(batch: Batch, shape: Sequence[int] | None = None) -> Tensor:
    """The noise that a path without x0 would draw for this batch, or as much of another shape."""
    data = batch.data
    return randn(
        data.shape if shape is None else shape,
        seed=batch.seed,
        draw=batch.step,
        stream=Stream.TRAINING,
        dtype=data.dtype,
        device=data.device,
    )


def _check_sampling(sampling: str) -> None:
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling={sampling!r}: {nearest(sampling, SAMPLINGS)}")


# Both keep small tables on the device, which every step would make anew.
_path = cache(lambda sigma, data_at: Target(sigma, data_at=data_at))
_times = cache(lambda sampling: uniform(sampling=sampling))
