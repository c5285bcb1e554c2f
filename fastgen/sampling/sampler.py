"""`Sampler`: a model and a plan, one loop for every solver."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, overload

import torch
from torch import Tensor

from fastgen.common.checks import check_choice
from fastgen.common.devices import check_device
from fastgen.common.display import displayed
from fastgen.common.transforms import (
    BACKWARD,
    check_untraced,
    suspended,
    transforming,
    untransformed,
    unwrapped,
)
from fastgen.common.typed import typed
from fastgen.model.guidance import Guidance
from fastgen.model.model import Model, merged
from fastgen.model.transforms import Transform
from fastgen.plans import Plan
from fastgen.sampling.capture import Captured
from fastgen.sampling.compiled import CompiledRuns, runs_of
from fastgen.sampling.loop import run_plan
from fastgen.sampling.observation import (
    Step,
)
from fastgen.sampling.parallel import Parallel, check_parallel, refuse_parallel
from fastgen.sampling.prepared import Prepared
from fastgen.sampling.reversible import Retracing, check_retraced, retracing_of
from fastgen.sampling.serving import ContinuousBatch
from fastgen.sampling.untraced import CALL, RECORD


@displayed
class Sampler:
    """A model and a plan, ready to draw any number of batches.

    ``sampler(shape_or_x, seed=..., **net_kwargs)`` runs the plan. It may be called from several
    threads. The buffers of a run are kept for the next one of the same shape.

    Args:
        model: the network and what it means.
        plan: from `fastgen.plan`, on the model's schedule.
        guidance: classifier-free guidance or autoguidance, fused into every stage.
        transform: (data prediction [B, ...], t) -> data prediction between two kernels, or
            (data, t, state), for what is not linear (`fastgen.model.dynamic_threshold`). Static
            bounds cost nothing: `plan(..., clip=(low, high))`.
        noise: "draws", fresh noise in every step; or "brownian", increments of one motion W per
            sample (`fastgen.brownian` in internal time), so that other time grids follow the
            same path. Noise of no interval of the path (Langevin steps, churn, restarts) and
            noise of learned variance stay draws.
        dtype: dtype of the state, float32 or float64, whatever the network's.
        backend: "auto", "reference" or "cpp"; None reads FASTGEN_BACKEND.
        compile: True compiles each evaluation and the stage after it as one graph of
            `torch.compile`, "loop" the whole of a short run; in the first run of a shape. What is
            more than a network and linear stages (guidance, transforms, pairs, learned variances,
            Brownian paths), and runs that are watched or recorded, have their network compiled.

    Raises:
        ValueError: if the plan is for another schedule, or asks for what the network's
            prediction does not determine at some time.

    Example:
        >>> schedule = fastgen.schedules.LinearVP()
        >>> model = fastgen.Model(lambda x, t: x, schedule, predicts="noise")
        >>> sampler = fastgen.Sampler(model, fastgen.plan("ddpm", schedule, steps=20))
        >>> batch = sampler((64, 2), seed=1)
        >>> alone = sampler((1, 2), seed=1, sample_ids=[41])  # one of them again, bit for bit
        >>> torch.equal(alone[0], batch[41])
        True
    """

    @typed
    def __init__(
        self,
        model: Model,
        plan: Plan,
        *,
        guidance: Guidance | None = None,
        transform: Transform | None = None,
        noise: str = "draws",
        dtype: torch.dtype = torch.float32,
        backend: str | None = None,
        compile: bool | str = False,
    ) -> None:
        if not isinstance(compile, bool):
            check_choice("compile", compile, ("loop",))
        options = guidance, transform, noise, dtype, backend
        self.prepared = self._eager = Prepared(model, plan, *options)
        self._compiled: CompiledRuns | None = None
        if compile:
            self._compiled = runs_of(self._eager, compile, fixed=False)
        self.model, self.plan, self.guidance, self.noise = model, plan, guidance, noise
        self.transform, self.dtype, self.backend = transform, dtype, backend
        if compile:
            self.prepared = self._compiled_network()

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = self.prepared.facts()
        facts |= {"guidance": self.guidance} if self.guidance is not None else {}
        facts |= {"transform": self.transform} if self.transform is not None else {}
        facts |= {"noise": self.noise} if self.plan.draws else {}
        facts |= {"dtype": self.dtype, "device": self.model.device}
        return facts | ({} if self.backend is None else {"backend": self.backend})

    @overload
    def __call__(
        self,
        shape_or_x: Sequence[int] | Tensor,
        *,
        seed: int | Sequence[int] | Tensor = 0,
        sample_ids: Sequence[int] | Tensor | None = None,
        data: Tensor | None = None,
        device: torch.device | str | None = None,
        trajectory: Literal[False] = False,
        callback: Callable[[Step], None] | None = None,
        progress: bool = False,
        check_finite: bool = False,
        differentiable: bool = False,
        checkpoint: bool = False,
        memory: Literal["whole", "reversible"] = "whole",
        parallel: Parallel | None = None,
        net_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor: ...
    @overload
    def __call__(
        self,
        shape_or_x: Sequence[int] | Tensor,
        *,
        seed: int | Sequence[int] | Tensor = 0,
        sample_ids: Sequence[int] | Tensor | None = None,
        data: Tensor | None = None,
        device: torch.device | str | None = None,
        trajectory: Literal[True],
        callback: Callable[[Step], None] | None = None,
        progress: bool = False,
        check_finite: bool = False,
        differentiable: bool = False,
        checkpoint: bool = False,
        memory: Literal["whole", "reversible"] = "whole",
        parallel: Parallel | None = None,
        net_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]: ...
    @overload
    def __call__(
        self,
        shape_or_x: Sequence[int] | Tensor,
        *,
        seed: int | Sequence[int] | Tensor = 0,
        sample_ids: Sequence[int] | Tensor | None = None,
        data: Tensor | None = None,
        device: torch.device | str | None = None,
        trajectory: bool,
        callback: Callable[[Step], None] | None = None,
        progress: bool = False,
        check_finite: bool = False,
        differentiable: bool = False,
        checkpoint: bool = False,
        memory: Literal["whole", "reversible"] = "whole",
        parallel: Parallel | None = None,
        net_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor | tuple[Tensor, Tensor]: ...
    @typed
    def __call__(
        self,
        shape_or_x: Sequence[int] | Tensor,
        *,
        seed: int | Sequence[int] | Tensor = 0,
        sample_ids: Sequence[int] | Tensor | None = None,
        data: Tensor | None = None,
        device: torch.device | str | None = None,
        trajectory: bool = False,
        callback: Callable[[Step], None] | None = None,
        progress: bool = False,
        check_finite: bool = False,
        differentiable: bool = False,
        checkpoint: bool = False,
        memory: Literal["whole", "reversible"] = "whole",
        parallel: Parallel | None = None,
        net_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Draw a batch.

        Args:
            shape_or_x: [B, ...]: a shape (the initial state is then sigma at the plan's first
                time, times `fastgen.randn(shape, seed=seed)`), or the initial state itself.
                A shape alone is refused where alpha is above sigma / 4, below ``t_max``.
            seed: one seed for the run or one per sample; with `sample_ids` it alone determines
                the noise, so that any part of a batch can be drawn again alone.
            sample_ids: B ids, by default 0 .. B - 1.
            data: [B, ...] or [1, ...], with a shape: alpha times it is added to that noise (SDEdit,
                Meng et al. 2021, arXiv 2108.01073), for plans with a ``start`` below 1.
            device: where to run; the default is the state's, data's or the network's device.
            trajectory: return (x, states [n + 1, B, ...]): the initial state and the n of
                ``plan.states``, one after each step.
            callback: called with a `Step` after each step; it may write to the state in place.
            progress: show a progress bar (needs tqdm).
            check_finite: raise FloatingPointError at the first evaluation that returns NaN or
                infinity (one synchronisation per evaluation).
            differentiable: record the run for autograd, forward-mode derivatives and `torch.func`;
                the default records nothing, and refuses tensors that these see. Networks are
                called outside of inference mode (`fastgen.common.modes`).
            checkpoint: with differentiable, recompute evaluations backwards, in memory of one.
            memory: with differentiable and a plan made with reversible=True, "reversible" retraces
                the run in the backward pass: memory of two states, at no evaluation more than
                checkpoint. Gradients of the start, of parameters and of the network's arguments.
            parallel: call the network on a window of evaluations at once; see `Parallel`.
            net_kwargs, **kwargs: passed to the network at every evaluation; net_kwargs is a
                dictionary for names that mean something else here, such as seed or device.

        Returns:
            The sample [B, ...] in the state's dtype, or (sample, states).
        """
        if checkpoint and not differentiable:
            raise ValueError("checkpoint=True has a meaning with differentiable=True only")
        if callback is not None and not callable(callback):
            raise TypeError(f"callback={callback!r}: expected a function of a fastgen.Step")
        arguments = merged(net_kwargs, kwargs)
        if data is not None:
            shape_or_x = self.prepared.initial(shape_or_x, seed, sample_ids, device, data)[0]
        watched = trajectory or progress or check_finite or callback is not None
        if check_choice("memory", memory, ("whole", "reversible")) == "reversible":
            check_retraced(differentiable, checkpoint, watched)
            x, *keys = self.prepared.initial(shape_or_x, seed, sample_ids, device)
            return self.retracing.recorded(x, (keys[0], keys[1]), arguments)
        if parallel is not None:
            check_parallel(parallel, differentiable)
        options: dict[str, Any] = {"device": device, "trajectory": trajectory, "parallel": parallel}
        options |= {"callback": callback, "progress": progress, "check_finite": check_finite}
        if transforming() and not differentiable:
            check_untraced(CALL, RECORD, shape_or_x=shape_or_x, net_kwargs=arguments)
            with suspended(CALL, tangents=True) as within:
                given = unwrapped((shape_or_x, seed, sample_ids, arguments))
                return run_plan(self._prepared, *given, within=within, **options)
        options |= {"differentiable": differentiable, "checkpoint": checkpoint}
        if self._compiled is not None and not (watched or differentiable or parallel):
            return self._compiled(shape_or_x, seed, sample_ids, device, arguments)
        return run_plan(self._prepared, shape_or_x, seed, sample_ids, arguments, **options)

    @cached_property
    def retracing(self) -> Retracing:
        """The runs there and back of a reversible plan.

        Raises:
            ValueError: for another plan.
        """
        return retracing_of(self.prepared)

    def __getstate__(self) -> dict[str, Any]:
        """Copies compile the network when they run: what torch made of it cannot be stored."""
        compiled = self.prepared is not self._eager
        return self.__dict__ | ({"prepared": None} if compiled else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.prepared is None:
            self.prepared = self._compiled_network()

    def _compiled_network(self) -> Prepared:
        options = self.guidance, self.transform, self.noise, self.dtype, self.backend
        return Prepared(self.model.compiled(), self.plan, *options)

    @property
    def _prepared(self) -> Prepared:
        return self._eager if transforming() else self.prepared  # compiled: without tangents

    @untransformed(BACKWARD)
    @typed
    def compile(
        self,
        shape: Sequence[int],
        *,
        loop: bool = False,
        device: torch.device | str | None = None,
        net_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Sampler:
        """The same sampler as compiled code, which is made now for states of a shape.

        What ``Sampler(..., compile=True)`` does, but whether the network is still what it was
        compiled for is looked at in the first run of a shape alone: weights may be written to,
        and nothing else of the network may change. That look takes as long as a small network,
        so that short runs gain most.

        Args:
            shape: [B, ...] of the states; other shapes are compiled in their first run.
            loop: the whole run as one graph: at most 32 evaluations without noise.
            device: where to run; the default is the network's device.
            net_kwargs, **kwargs: passed to the network in that run, see `__call__`.

        Raises:
            ValueError: where torch cannot compile it, with its reason.
        """
        refuse_parallel(kwargs)
        made, way = copy.copy(self), "loop" if loop else True
        made._compiled = runs_of(self._eager, way, fixed=True)
        made.prepared = made._compiled_network()
        place = self.model.device if device is None else check_device("device", device)
        start = torch.zeros(*shape, dtype=self.dtype, device=place)
        made(start, net_kwargs=merged(net_kwargs, kwargs))
        return made

    @untransformed(BACKWARD)
    @typed
    def capture(
        self,
        shape: Sequence[int],
        *,
        device: torch.device | str | None = None,
        warmup: int = 3,
        net_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Captured:
        """The whole run, network included, as one CUDA graph.

        The graph reads the initial state, seeds, sample ids, conditioning tensors, network times
        and coefficients from its own memory, so that ``captured(seed=8, label=other)`` and,
        after ``captured.exchange(plan)``, another plan of the same structure give what an eager
        run gives, bit for bit. Networks compiled by `torch.compile` can be captured, except in
        mode "reduce-overhead", which captures on its own. Without a GPU, or with a warning if
        the network cannot be captured, the same object runs the loop eagerly.

        Built in, not in tables: bounds of the clip, and the times of solvers whose noise depends
        on the data ("ddpm" with learned variance, Langevin steps) and of runs with a transform.

        Args:
            shape: [B, ...] of the states.
            device: where to run; the default is the network's device.
            warmup: eager runs before the capture.
            net_kwargs, **kwargs: passed to the network, see `__call__`. Tensors, also nested in
                lists and dictionaries, may be replaced by others of the same shape at each call.
        """
        place = self.model.device if device is None else check_device("device", device)
        refuse_parallel(kwargs)
        return Captured(self.prepared, shape, place, warmup, merged(net_kwargs, kwargs))

    @untransformed(BACKWARD)
    @typed
    def serve(
        self,
        shape: Sequence[int],
        *,
        plans: Sequence[Plan] = (),
        device: torch.device | str | None = None,
        capture: bool | None = None,
        previews: bool = False,
        net_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> ContinuousBatch:
        """A batch whose rows are admitted, stepped and retired one by one.

        Args:
            shape: [B, ...]: room for B requests of one sample each.
            plans: plans that requests may ask for beside the sampler's own; any other will do
                that needs no more buffers, outputs, noises and steps than one of these.
            device: where to run; the default is the network's device.
            capture: replay each step as a CUDA graph; the default is whether there is a GPU.
            previews: keep what `ContinuousBatch.preview` needs, one copy of the inputs a step.
            net_kwargs, **kwargs: the network's arguments, see `__call__`. Tensors whose first
                axis is B have a row for every request, which `ContinuousBatch.admit` sets, unless
                ``Model(shared=...)`` names them; everything else is shared.

        Raises:
            ValueError: for what is not in tables: noise that depends on data, paths, transforms.
        """
        place = self.model.device if device is None else check_device("device", device)
        wanted = place.type == "cuda" if capture is None else capture
        refuse_parallel(kwargs)
        arguments = merged(net_kwargs, kwargs)
        with torch.inference_mode(False):  # for steps in whatever mode
            return ContinuousBatch(self.prepared, shape, plans, place, wanted, arguments, previews)
