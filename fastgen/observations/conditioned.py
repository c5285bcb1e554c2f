"""A model of samples given an observation: every solver, served and captured, as any model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastgen.common.checks import per_row
from fastgen.common.derivatives import Pullback, outside_inference_mode, recordable
from fastgen.common.display import displayed
from fastgen.common.typed import typed
from fastgen.kernels import Known
from fastgen.model.arguments import Declared
from fastgen.model.guidance import Guidance, check_guidance, check_pair_alone
from fastgen.model.inputs import network_time
from fastgen.model.masked import Masked, MaskedModel
from fastgen.model.model import Model, check_model
from fastgen.observations.methods import Method, Point, method_of
from fastgen.observations.observation import Mask, Observation, check_observation

# Nearer to noise than this sigma / alpha the state says nothing of the data that float32 could
# tell, and where alpha = 0 nothing at all: the prediction is that of the state scaled to here.
FARTHEST = 1e3


@displayed
class ConditionedNetwork:
    """E[x_0 | x_t, y] as a network called with (x_t, t, observed=..., **net_kwargs).

    Args:
        model: of the prior.
        observation: what is observed unless a call says otherwise.
        method: how it corrects the data prediction.
        guidance: of the prior.
    """

    def __init__(
        self, model: Model, observation: Observation, method: Method, guidance: Guidance | None
    ) -> None:
        self.model, self.observation = model, observation
        self.method, self.guidance = method, guidance
        ratio = float(model.schedule.ratio(1.0))
        far = ratio > FARTHEST
        self._latest = float(model.schedule.time_at_ratio(FARTHEST)) if far else 1.0
        self.replaces = method.replaces(observation)
        self._hard = self.replaces and isinstance(observation, Mask) and not observation.soft

    @property
    def device(self) -> torch.device:
        """Where the prior's network is."""
        return self.model.device

    def prior(self, x: Tensor, t: Tensor, net_kwargs: Mapping[str, Any]) -> Tensor:
        """D = E[x_0 | x_t] at float64 times [B], guided."""
        model, guidance = self.model, self.guidance
        c_in = model.parametrisation.input_scale(t)
        scaled = x * per_row(c_in.to(x.dtype), x) if isinstance(c_in, Tensor) else x
        scaled = scaled.to(model.input_dtype(x.dtype))
        told = network_time(model.time_input, model.schedule, t, model.parametrisation.data_at)
        if not model.time_dtype.is_floating_point:
            told = told.round()
        times = [told.to(model.time_dtype)]
        if model.predicts == "average_velocity":
            times.append(times[0] if model.second_time == "end" else torch.zeros_like(times[0]))
        which = model.parametrisation.output("data")

        def call(kwargs: Mapping[str, Any], net: Any) -> Tensor:
            return model.outputs(scaled, times, kwargs, net=net)[which]

        found = call(net_kwargs, None)
        if guidance is not None:
            found = guidance.around(found, net_kwargs, call, t)
        p, q = model.parametrisation.conversion("data", t)
        found = found.to(x.dtype)
        if isinstance(q, Tensor):
            found = found * per_row(q.to(x.dtype), x)
        elif q != 1:
            found = found * q
        return found + x * per_row(p.to(x.dtype), x) if isinstance(p, Tensor) else found

    @outside_inference_mode
    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        *,
        observed: Mapping[str, Tensor] | None = None,
        **net_kwargs: Any,
    ) -> Tensor:
        """The posterior's data prediction.

        Args:
            x: states [B, ...].
            t: internal times [B], float64.
            observed: an observation of each sample, as `Observation.rows` gives it.
            **net_kwargs: passed to the prior's network.
        """
        if self.method.gradient:  # autograd reads nothing that was made in inference mode
            given = x, t, observed, net_kwargs
            x, t, observed, net_kwargs = pytree.tree_map(recordable, given)
            return self.method.corrected(self.point(x, t, observed, net_kwargs))
        own = self._own(observed, x)
        x, t = self._placed(x, t)
        data = self.prior(x, t, net_kwargs)
        if self.replaces and isinstance(own, Mask):  # in one pass
            return torch.lerp(data, own.known, own.mask)
        return self.method.corrected(self._point(x, t, data, _no_gradient, own))

    def point(
        self,
        x: Tensor,
        t: Tensor,
        observed: Mapping[str, Tensor] | None,
        net_kwargs: Mapping[str, Any],
    ) -> Point:
        """The prior's data prediction at states and times, and the observation near it."""
        own = self._own(observed, x)
        x, t = self._placed(x, t)
        pull = Pullback(lambda z: self.prior(z, t, net_kwargs), x, "net")
        data = pull.value if pull.tracked else pull.value.detach()
        return self._point(x, t, data, pull.one, own)

    def known(self, observed: Mapping[str, Tensor] | None, like: Tensor) -> Known:
        """What a mask says of states [B, ...]: of them all, or what a call says is known."""
        own = self._own(observed, like)
        assert isinstance(own, Mask)
        hard = self._hard if observed is None else observed["mask"].dtype == torch.bool
        # Bytes of a hard mask, else weights.
        return Known(own.known, own.mask > 0 if hard else own.mask)

    def _own(self, observed: Mapping[str, Tensor] | None, x: Tensor) -> Observation:
        """What was observed of these samples."""
        own = self.observation.tensors if observed is None else observed
        return self.observation.of(own, x)

    def _placed(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """States and times at which the prior is asked: none farther than `FARTHEST`."""
        if self._latest == 1:
            return x, t
        schedule = self.model.schedule
        late = t > self._latest
        clamped = torch.where(late, self._latest, t)
        scale = torch.where(late, schedule.sigma(clamped) / schedule.sigma(t), 1.0)
        return x * per_row(scale.to(x.dtype), x), clamped

    def _point(
        self,
        x: Tensor,
        t: Tensor,
        data: Tensor,
        back: Callable[[Tensor], Tensor],
        observation: Observation,
    ) -> Point:
        schedule = self.model.schedule
        numbers = schedule.alpha(t), schedule.sigma(t), schedule.diffusion_squared(t)
        levels = [per_row(n.to(x.dtype), x) for n in numbers]
        return Point(data, back, observation.near(data), observation.noise.none, *levels)


def _no_gradient(vector: Tensor) -> Tensor:
    raise RuntimeError("a method without gradients asked for the network's Jacobian")


@displayed
class Conditioned(MaskedModel):
    """The model that `conditioned` gives; its times are checked as those of the prior's."""

    prior: Model
    traceable = False  # it takes derivatives

    def network_time(self, t: Any) -> Any:
        """See `Model.network_time`."""
        if not isinstance(t, Tensor):
            self.prior.network_time(t)
        return super().network_time(t)

    def compiled(self) -> Model:
        """The same model, whose prior's network is ``torch.compile(net)``."""
        network = self.net
        assert isinstance(network, ConditionedNetwork)
        return _of(
            ConditionedNetwork(
                self.prior.compiled(), network.observation, network.method, network.guidance
            )
        )

    @property
    def device(self) -> torch.device:
        """See `Model.device`."""
        return self.prior.device

    @property
    def masked(self) -> Masked | None:
        """See `MaskedModel.masked`."""
        network = self.net
        assert isinstance(network, ConditionedNetwork)
        if not network.replaces:
            return None
        return Masked(network.model, network.guidance, "observed", network.known)


@typed
def conditioned(
    model: Model,
    observation: Observation,
    method: str | Method = "mmps",
    *,
    guidance: Guidance | None = None,
) -> Model:
    """A model of p(x_0 | y), of a prior and an observation: any solver samples from it.

    Its network predicts E[x_0 | x_t, y] and takes the prior's keyword arguments, and ``observed``,
    what was observed of each sample (`Observation.rows`). So it is sampled, served with
    another observation for each request, captured, run parallel in time, and differentiated as any
    model is.

    Args:
        model: of the prior p(x_0).
        observation: a `Mask`, `Linear` or `Nonlinear`.
        method: one of ``fastgen.observations.METHODS``, or an object with its options.
        guidance: of the prior, at all times; guidance of what is sampled afterwards would
            multiply the observation too.

    Raises:
        TypeError, ValueError: for an observation that the method does not take, and for guidance
            with an interval, momentum, or scales per sample.

    Example:
        >>> prior = fastgen.Model(lambda x, t: 0 * x, fastgen.schedules.CosineVP(), "data")
        >>> seen = fastgen.observations.Mask(torch.ones(1, 2), torch.tensor([True, False]))
        >>> model = fastgen.observations.conditioned(prior, seen, "replacement")
        >>> fastgen.sample(model, (3, 2), "ddim", 10)[:, 0].tolist()
        [1.0, 1.0, 1.0]
    """
    check_model(model)
    check_observation(observation)
    found = method_of(method)
    found.check(observation)
    check_guidance(guidance)
    check_pair_alone(model.parametrisation.outputs, guidance)
    if guidance is not None:
        if guidance.interval != (0.0, 1.0):
            raise ValueError("guidance: samples may be at different times; leave the interval out")
        guidance.check_forgets("a model given an observation")
        if guidance.per_sample:
            raise ValueError("guidance: expected one scale for all samples beside an observation")
    if not math.isfinite(model.schedule.ratio(0.5)):
        raise ValueError(f"model: {model.schedule!r} has no data in the middle of its times")
    return _of(ConditionedNetwork(model, observation, found, guidance))


def _of(network: ConditionedNetwork) -> Conditioned:
    """The model around a conditioned network."""
    prior = network.model
    declared = prior.declared
    found = Conditioned(network, prior.schedule, "data", time_dtype=torch.float64)
    found.declared = Declared(declared.shared, declared.per_sample | {"observed"})
    found.prior = copy.copy(prior)
    return found
