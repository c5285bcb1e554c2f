"""What a trainer's network learns, as data: stored with checkpoints, and made a model again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

import fastgen.networks as networks
import fastgen.schedules as schedules
from fastgen.common.checks import check_at_least, check_choice
from fastgen.common.derivatives import outside_inference_mode
from fastgen.common.display import displayed
from fastgen.common.files import check_weights, load_strictly
from fastgen.couplings.named import NamedCoupling
from fastgen.kernels import Stream
from fastgen.model.model import Model
from fastgen.networks import VAE, Network, ScoreVAE
from fastgen.noise.normals import randn
from fastgen.schedules import LinearVP, Rectified, Schedule
from fastgen.training import checkpoint, losses
from fastgen.training.batch import Batch
from fastgen.training.latent import Latent
from fastgen.training.paths import Target
from fastgen.training.scaling import Scaling
from fastgen.training.settings import Settings
from fastgen.training.steps import ITEMS
from fastgen.training.times import SAMPLINGS, Times, uniform
from fastgen.training.times import likelihood as likelihood_times

# Ids of the draws from posteriors: apart from those of the noise of the same step.
POSTERIORS = 3 * ITEMS


@displayed
@dataclass(frozen=True)
class Flow:
    """Flow matching from noise to data: `paths.Target(sigma)`, the velocity.

    data_at: where the network's time has the data. sampling: of the times, see `Times`. coupling,
    coupling_options: which noise goes to which sample, by name, see
    `fastgen.couplings.NamedCoupling`.
    """

    by_row: ClassVar[bool] = True
    sigma: float = 0.0
    data_at: int = 1
    sampling: str = "stratified"
    coupling: str = "independent"
    coupling_options: Mapping[str, Any] = field(default_factory=dict)
    _coupling: NamedCoupling = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        Target(self.sigma, data_at=self.data_at)
        check_choice("sampling", self.sampling, SAMPLINGS)
        object.__setattr__(self, "_coupling", NamedCoupling(self.coupling, self.coupling_options))

    def model(self, network: nn.Module) -> Model:
        """For `fastgen.sample`."""
        return Model(network, Rectified(), "velocity", data_at=self.data_at)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The loss of a training step."""
        path, times = _path(self.sigma, self.data_at), _times(self.sampling)
        noise, labels = batch.noise, batch.labels
        pairs: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.coupling != "independent" and noise is None:
            noise, pairs = self._pairs(network, batch)
            labels = None if labels is None else labels[pairs[1]]
        sample = path.sample(noise, batch.data, **batch.draws(times), pairs=pairs)
        kwargs = {} if labels is None else {"labels": labels}
        output = network(sample.x_t, sample.t, **kwargs)
        return losses.flow_matching(output.to(sample.x_t.dtype), sample)

    def paired(self, network: nn.Module, batch: Batch) -> Batch:
        """A whole batch with the noise of its samples, before it is shared out."""
        if self.coupling == "independent":
            return batch
        noise, (i, j) = self._pairs(network, batch)
        labels = None if batch.labels is None else batch.labels[j]
        return batch._replace(data=batch.data[j], labels=labels, noise=noise[i])

    def _pairs(self, network: nn.Module, batch: Batch) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        noise, classes = drawn_noise(batch), getattr(network, "classes", 0)
        key = {"seed": batch.seed, "step": batch.step, "classes": classes}
        return noise, self._coupling(noise, batch.data, batch.labels, **key)

    def to_config(self) -> dict[str, Any]:
        """For JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return {"kind": "flow", **values, "coupling_options": dict(self.coupling_options)}


@displayed
@dataclass(frozen=True)
class Denoising:
    """`losses.denoising` of a prediction on a schedule."""

    by_row: ClassVar[bool] = True
    schedule: Schedule
    predicts: str = "noise"
    weighting: str = "simple"
    time_input: str = "unit"

    def __post_init__(self) -> None:
        check_choice("weighting", self.weighting, losses.WEIGHTINGS)
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
            **batch.draws(_denoising_times()),
            weighting=self.weighting,
            **kwargs,
        )

    def to_config(self) -> dict[str, Any]:
        """For JSON."""
        return {"kind": "denoising", **vars(self), "schedule": self.schedule.to_config()}


@displayed
@dataclass(frozen=True)
class Autoencoding:
    """`losses.evidence_bound` of a `fastgen.networks.VAE`, per element of the data.

    beta: weight of the divergence. variance: of the decoder.
    """

    by_row: ClassVar[bool] = True
    beta: float = 1.0
    variance: float = 0.1

    def __post_init__(self) -> None:
        zero = torch.zeros(1, 1, device="cpu")
        losses.evidence_bound(zero, zero, zero, zero, **vars(self))

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The loss of a training step; labels play no part."""
        data = batch.data
        assert isinstance(network, VAE)
        shape = (len(data), *network.latent_shape(data.shape[1:]))
        output, posterior, _ = network(data, drawn_noise(batch, shape))
        found = losses.evidence_bound(output, data, *posterior, **vars(self))
        return found / data[0].numel()

    def to_config(self) -> dict[str, Any]:
        """For JSON."""
        return {"kind": "autoencoding", **vars(self)}


@displayed
@dataclass(frozen=True)
class LatentScore:
    """LSGM: a VAE with a score model as its prior, a `fastgen.networks.ScoreVAE`, trained jointly.

    The loss is `losses.score_prior_bound`, per element of the data: reconstruction, plus beta times
    the cross entropy between posterior and prior less the posterior's entropy (Vahdat et al. 2021,
    arXiv 2106.05931). With ``frozen`` the VAE stays as it is and the prior alone is trained, by
    `losses.latent_cross_entropy` per element of the latent. Times are drawn in proportion to the
    likelihood weighting, between ``low`` and 1.

    schedule: of the latents' process, which ends near N(0, 1), at alpha > 0. predicts, time_input:
    of the prior. variance: of the decoder. beta: weight of the divergence, raised from 0 over
    ``rising`` steps.
    """

    by_row: ClassVar[bool] = True
    schedule: Schedule = field(default_factory=LinearVP)
    predicts: str = "noise"
    variance: float = 0.1
    beta: float = 1.0
    rising: int = 0
    frozen: bool = False
    low: float = 1e-3
    time_input: str = "unit"

    def __post_init__(self) -> None:
        zero = torch.zeros(1, 1, device="cpu")
        losses.evidence_bound(zero, zero, zero, zero, beta=self.beta, variance=self.variance)
        alpha, sigma = self.schedule.alpha(1.0), self.schedule.sigma(1.0)
        if not (alpha < 0.02 and abs(sigma - 1) < 0.02):
            raise ValueError(
                f"schedule={self.schedule!r}: expected one that ends in N(0, 1), such as LinearVP; "
                f"it ends at alpha={alpha:.3g}, sigma={sigma:.3g}"
            )
        if not alpha > 1e-6:
            raise ValueError(
                f"schedule={self.schedule!r}: g^2 / sigma^2, the weight of the cross entropy, is "
                "infinite where alpha is 0; take LinearVP, which ends just before"
            )
        if self.predicts == "edm":
            raise ValueError("predicts='edm' scales the network's input; predict 'noise' or 'v'")
        if not 0 < self.low < 1:
            raise ValueError(f"low={self.low!r}: expected a time between 0 and 1")
        check_at_least("rising", self.rising, 0)
        self.model(nn.Identity())

    def model(self, network: nn.Module) -> Model:
        """Of latents, for `Latent.sample`; see `latent`."""
        return Model(network, self.schedule, self.predicts, time_input=self.time_input)

    def latent(self, network: ScoreVAE, shape: Sequence[int]) -> Latent:
        """The VAE around the prior, for data of one sample's shape: what `model` samples with."""
        found = Latent.of(network.vae)
        found.shape = network.vae.latent_shape(shape)
        return found

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The loss of a training step.

        Raises:
            TypeError: for a network of another kind.
            ValueError: for frozen=True, where the VAE asks for gradients.
        """
        if not isinstance(network, ScoreVAE):
            raise TypeError(f"network: expected a fastgen.networks.ScoreVAE, got {type(network)}")
        data, vae, model = batch.data, network.vae, self.model(network)
        noise = drawn_noise(batch, (len(data), *vae.latent_shape(data.shape[1:])), POSTERIORS)
        options = batch.draws(_likelihood_times(_hashable(self.schedule), self.low))
        if batch.labels is not None and network.classes:
            options["labels"] = batch.labels
        if self.frozen:
            if any(p.requires_grad for p in vae.parameters()):
                raise ValueError("frozen=True: call network.vae.requires_grad_(False) first")
            with torch.no_grad():
                latent = vae.encode(data).sample(noise)
            found = losses.latent_cross_entropy(model, latent, **options)
            return found / latent[0].numel()
        output, posterior, latent = vae(data, noise)
        beta = self.beta * min(1.0, (batch.step + 1) / self.rising if self.rising else 1.0)
        found = losses.score_prior_bound(
            model,
            output,
            data,
            latent,
            posterior.log_variance,
            variance=self.variance,
            beta=beta,
            **options,
        )
        return found / data[0].numel()

    def to_config(self) -> dict[str, Any]:
        """For JSON."""
        return {"kind": "latent_score", **vars(self), "schedule": self.schedule.to_config()}


Objective = Flow | Denoising | LatentScore


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
    if config.get("kind") == "latent_score":
        return LatentScore(**{**values, "schedule": schedules.from_config(values["schedule"])})
    raise ValueError(f"kind={config.get('kind')!r}: expected 'flow', 'denoising' or 'latent_score'")


@displayed
class Trained(NamedTuple):
    """A checkpoint of a trainer: the averaged network and what it came from."""

    network: Network
    objective: Objective
    settings: Settings
    step: int
    description: dict[str, Any]

    def model(self) -> Model:
        """For `fastgen.sample`; of scaled data, where there is a `scaling`."""
        return self.objective.model(self.network)

    @property
    def scaling(self) -> Scaling | None:
        """Of the data: ``trained.scaling.sample(trained.model(), 16, steps=20)``."""
        config, shape = self.description.get("scaling"), self.description.get("shape")
        return None if config is None else Scaling.from_config(config, shape)


def describe(network: Network, objective: Objective, **facts: Any) -> dict[str, Any]:
    """The description with which a trainer's checkpoints can be loaded."""
    return {
        "network": networks.to_config(network),
        "objective": objective.to_config(),
        **facts,
    }


@outside_inference_mode
def load(path: Path | str) -> Trained:
    """The network of a trainer's checkpoint, with its averaged weights.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no whole checkpoint, or of a network unknown here.
    """
    path = Path(path)
    stored = checkpoint.read(path)
    weights, description = stored.part("average"), dict(stored.description)
    for part, remedy in (("network", "one of fastgen.networks"), ("objective", "its loss")):
        if part not in description:
            raise ValueError(
                f"{path}: no network that can be rebuilt, as its {part} is not described; train "
                f"{remedy}, give Trainer(description=fastgen.training.describe(...)), or load the "
                "tensors 'average.*' into a module of your own with safetensors"
            )
    try:
        with torch.device("meta"):  # sizes that no weights are of are not allocated
            shapes = networks.from_config(description["network"])
        objective = from_config(description["objective"])
    except Exception as error:  # whatever the arguments of a damaged file make of a network
        raise ValueError(
            f"{path}: no network that can be rebuilt ({type(error).__name__}: {error})"
        ) from error
    check_weights(shapes, weights, path)
    network = networks.from_config(description["network"])
    load_strictly(network, weights, path)
    network.requires_grad_(False).eval()
    return Trained(network, objective, stored.settings, stored.step, description)


def drawn_noise(batch: Batch, shape: Sequence[int] | None = None, first_id: int = 0) -> Tensor:
    """The noise that a path without x0 would draw for this batch, or as much of another shape.

    first_id: of the rows' ids, for draws that are independent of the path's.
    """
    data = batch.data
    return randn(
        data.shape if shape is None else shape,
        seed=batch.seed,
        sample_ids=range(first_id + batch.first, first_id + batch.first + len(data)),
        draw=batch.step,
        stream=Stream.TRAINING,
        dtype=data.dtype,
        device=data.device,
    )


# Both keep small tables on the device, which every step would make anew.
_path = cache(lambda sigma, data_at: Target(sigma, data_at=data_at))
_times = cache(lambda sampling: uniform(sampling=sampling))
_denoising_times = cache(lambda: uniform(1e-5, 1.0, sampling="stratified"))


@cache
def _likelihood_times(schedule: str, low: float) -> Times:
    found = schedules.from_config(json.loads(schedule))
    return likelihood_times(found, low=low, sampling="stratified", data_at=0)


def _hashable(schedule: Schedule) -> str:
    return json.dumps(schedule.to_config(), sort_keys=True)
