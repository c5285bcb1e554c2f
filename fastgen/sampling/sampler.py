"""Running a plan: one loop for every solver, `Sampler`, and `sample`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.common.errors import nearest
from fastgen.model.guidance import Guidance, Transform
from fastgen.model.model import Model
from fastgen.noise.keys import id_tensor, seed_tensor
from fastgen.noise.normals import randn
from fastgen.plans import Plan, Program
from fastgen.plans.forms import Increment
from fastgen.sampling.capture import Captured
from fastgen.sampling.increments import Path, PathTable
from fastgen.sampling.network_calls import Evaluation, TimeRows, TimeTables, check_plan
from fastgen.sampling.observation import Step, progress_bar, reports_of
from fastgen.sampling.run import BufferKey, InPlaceRun, RecordedRun, Tables
from fastgen.sampling.serving import Batch

NOISES = ("draws", "brownian")


class Sampler:
    """A model and a plan, ready to draw any number of batches.

    ``sampler(shape_or_x, seed=..., **net_kwargs)`` runs the plan. It may be called from several
    threads. The buffers of a run are kept for the next one of the same shape.

    Args:
        model: the network and what it means.
        plan: from `fastgen.plan`, on the model's schedule.
        guidance: classifier-free guidance or autoguidance, fused into every stage.
        transform: a function (data prediction [B, ...], t) -> data prediction between two
            kernels, for what is not linear (`fastgen.model.guidance.dynamic_threshold`). Static
            bounds cost nothing: `plan(..., clip=(low, high))`.
        noise: "draws", fresh noise in every step; or "brownian", increments of one motion W per
            sample (`fastgen.brownian` in internal time), so that other time grids follow the
            same path. Noise of no interval of the path (Langevin steps, churn, restarts) and
            noise of learned variance stay draws.
        dtype: dtype of the state, float32 or float64, whatever the network's.
        backend: "auto", "reference" or "cpp"; None reads FASTGEN_BACKEND.

    Raises:
        ValueError: if the plan is for another schedule, or asks for what the network's
            prediction does not determine at some time.
    """

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
    ) -> None:
        if plan.schedule != model.schedule:
            raise ValueError(
                f"plan: it was made for {plan.schedule!r}, the model is on {model.schedule!r}"
            )
        if model.parametrisation.outputs == 2 and (guidance or transform):
            raise ValueError(
                "guidance, transform: a network of velocity and score is run as it is; combine "
                "conditional and unconditional outputs in net"
            )
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype={dtype}: the state is torch.float32 or torch.float64")
        if noise not in NOISES:
            raise ValueError(f"noise={noise!r}: {nearest(noise, NOISES)}")
        self.model, self.plan, self.guidance, self.noise = model, plan, guidance, noise
        self.transform, self.dtype, self.backend = transform, dtype, backend
        # What the stages are handed; the transform itself needs what the network predicts.
        self.parametrisation = replace(model.parametrisation, transformed=transform is not None)
        self.dtypes = dtype, model.input_dtype(dtype)
        self._idle: deque[tuple[InPlaceRun, TimeRows]] = deque(maxlen=4)
        self._programs: dict[tuple[bool, bool, float], Program] = {}
        self._tables: dict[tuple[bool, bool, torch.device], Tables] = {}
        self._times: dict[tuple[int, torch.device], TimeTables] = {}
        check_plan(plan, model, transform)
        program = self.program(observe=False, keep=False)  # conversion errors belong here
        stages = [s for s in program.stages if s is not None]
        self._increments = [i for s in stages for i in s.inputs if isinstance(i, Increment)]
        model.time_table(plan.evaluations, 1, torch.device("cpu"))

    def __call__(
        self,
        shape_or_x: Sequence[int] | Tensor,
        *,
        seed: int | Sequence[int] | Tensor = 0,
        sample_ids: Sequence[int] | Tensor | None = None,
        device: torch.device | str | None = None,
        trajectory: bool = False,
        callback: Callable[[Step], None] | None = None,
        progress: bool = False,
        check_finite: bool = False,
        differentiable: bool = False,
        checkpoint: bool = False,
        **net_kwargs: Any,
    ) -> Any:
        """Draw a batch.

        Args:
            shape_or_x: [B, ...]: a shape (the initial state is then sigma at the plan's first
                time, times `fastgen.randn(shape, seed=seed)`), or the initial state itself.
            seed: one seed for the run or one per sample; with `sample_ids` it alone determines
                the noise, so that any part of a batch can be drawn again alone.
            sample_ids: B ids, by default 0 .. B - 1.
            device: where to run; the default is the state's or the network's device.
            trajectory: return (x, states [n + 1, B, ...]): the initial state and the n of
                ``plan.states``, one after each step.
            callback: called with a `Step` after each step.
            progress: show a progress bar (needs tqdm).
            check_finite: raise FloatingPointError at the first evaluation that returns NaN or
                infinity (one synchronisation per evaluation).
            differentiable: record the run for autograd; the default runs in inference mode.
            checkpoint: with differentiable, recompute each evaluation in the backward pass:
                memory of one evaluation instead of all.
            **net_kwargs: passed to the network at every evaluation.

        Returns:
            The sample [B, ...] in the state's dtype, or (sample, states).
        """
        if checkpoint and not differentiable:
            raise ValueError("checkpoint=True has a meaning with differentiable=True only")
        x, seeds, ids = self.initial(shape_or_x, seed, sample_ids, device)
        observe, keep = callback is not None, trajectory
        program = self.program(observe, keep)
        run: InPlaceRun | RecordedRun
        rows = None
        if differentiable:
            run = RecordedRun(
                program, self._table(observe, keep, x.device), self.dtypes, checkpoint
            )
        else:
            run, rows = self._workspace(observe, keep, x, seeds)
        evaluate = self.evaluation(
            x, seeds, ids, net_kwargs, check_finite=check_finite, progress=progress, rows=rows
        )
        run.start(x, seeds, ids)
        states = [x] if trajectory else []
        reports = reports_of(program, self.plan) if trajectory or callback else None
        with torch.inference_mode(not differentiable):
            for k in range(-1, self.plan.nfe):
                run.advance(k, evaluate)
                if reports is None:
                    continue
                for index, time, buffer in reports.get(k + 1, ()):
                    if callback is not None:
                        callback(Step(index, time, run.slots[buffer]))
                    if trajectory:
                        states.append(run.slots[buffer])
        stacked = torch.stack(states) if trajectory else None
        result = run.finish()
        if isinstance(run, InPlaceRun) and rows is not None:
            self._idle.append((run, rows))
        return result if stacked is None else (result, stacked)

    def capture(
        self,
        shape: Sequence[int],
        *,
        device: torch.device | str | None = None,
        warmup: int = 3,
        **net_kwargs: Any,
    ) -> Captured:
        """The whole run, network included, as one CUDA graph.

        The graph reads the initial state, seeds, sample ids, conditioning tensors, network times
        and coefficients from memory of its own, so that ``captured(seed=8, label=other)`` and,
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
            **net_kwargs: passed to the network. Tensors, also nested in lists and dictionaries,
                may be replaced by others of the same shape at each call.
        """
        place = torch.device(device) if device is not None else _device(self.model)
        return Captured(self, shape, place, warmup, net_kwargs)

    def serve(
        self,
        shape: Sequence[int],
        *,
        plans: Sequence[Plan] = (),
        device: torch.device | str | None = None,
        capture: bool | None = None,
        **net_kwargs: Any,
    ) -> Batch:
        """A batch whose rows are admitted, stepped and retired one by one.

        Args:
            shape: [B, ...]: room for B requests of one sample each.
            plans: plans that requests may ask for beside the sampler's own; any other will do
                that needs no more buffers, outputs, noises and steps than one of these.
            device: where to run; the default is the network's device.
            capture: replay each step as a CUDA graph; the default is whether there is a GPU.
            **net_kwargs: the network's arguments. Tensors whose first axis is B have a row for
                every request, which `Batch.admit` sets; everything else is shared.

        Raises:
            ValueError: for solvers and options that are not in tables: noise that depends on the
                data, Brownian paths, transforms, rescaled guidance.
        """
        place = torch.device(device) if device is not None else _device(self.model)
        wanted = place.type == "cuda" if capture is None else capture
        return Batch(self, shape, plans, place, wanted, net_kwargs)

    def evaluation(
        self,
        x: Tensor,
        seeds: Tensor,
        sample_ids: Tensor,
        net_kwargs: dict[str, Any],
        *,
        check_finite: bool = False,
        progress: bool = False,
        tables: TimeTables | None = None,
        rows: TimeRows | None = None,
    ) -> Evaluation:
        """The network with guidance and transform, for one run on states like x.

        ``tables`` are this sampler's own for these states, and ``rows`` a new copy of them, unless
        they are given.
        """
        tables = self._time_tables(x) if tables is None else tables
        rows = TimeRows(tables) if rows is None else rows
        path = None
        if tables.path is not None:
            path = Path(tables.path, x.shape, seeds, sample_ids, self.backend)
        return Evaluation(
            self.model,
            self.plan,
            x,
            seeds,
            sample_ids,
            rows.times,
            rows.doubled,
            self.guidance,
            self.transform,
            net_kwargs,
            check_finite,
            progress_bar(self.plan, progress),
            path,
        )

    def _weights(self, t: float, scale: float = 2.0) -> tuple[float, ...]:
        """The factors of the network's outputs at time t; ``scale`` stands for one per sample."""
        if self.guidance is None or self.transform is not None:
            return (1.0,)
        own = self.guidance.scale
        return self.guidance.weights(t, scale if isinstance(own, Tensor) else own)

    def initial(
        self,
        shape_or_x: Sequence[int] | Tensor,
        seed: int | Sequence[int] | Tensor,
        sample_ids: Sequence[int] | Tensor | None,
        device: torch.device | str | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The initial state, the seeds and the ids."""
        if device is None:
            device = shape_or_x.device if isinstance(shape_or_x, Tensor) else _device(self.model)
        device = torch.device(device)
        shape = tuple(shape_or_x.shape if isinstance(shape_or_x, Tensor) else shape_or_x)
        scale = None if self.guidance is None else self.guidance.scale
        if isinstance(scale, Tensor) and shape[:1] != scale.shape:
            raise ValueError(
                f"guidance: there are {len(scale)} scales for a batch of shape {shape}; give one "
                "number, or one per sample"
            )
        if not shape or any(not isinstance(n, int) or n < 0 for n in shape):
            raise ValueError(f"shape_or_x: expected [B, ...] with sizes >= 0, got {shape}")
        seeds, ids = seed_tensor(seed, shape[0], device), id_tensor(sample_ids, shape[0], device)
        if isinstance(shape_or_x, Tensor):
            if not shape_or_x.is_floating_point():
                raise ValueError(
                    f"shape_or_x: the initial state must be real, got {shape_or_x.dtype}"
                )
            return shape_or_x.to(device=device, dtype=self.dtype).contiguous(), seeds, ids
        z = randn(shape, seed=seeds, sample_ids=ids, dtype=self.dtype, device=device)
        return z.mul_(self.model.schedule.sigma(float(self.plan.times[0]))), seeds, ids

    def program(self, observe: bool = False, keep: bool = False, scale: float = 2.0) -> Program:
        """The lowered plan; ``scale`` stands for guidance scales that differ between samples."""
        key = observe, keep, scale
        if key not in self._programs:
            self._programs[key] = self.plan.lower(
                self.parametrisation,
                brownian=self.noise == "brownian",
                cast=self.dtypes[0] != self.dtypes[1],
                observe=observe,
                keep_states=keep,
                hold_outputs=not self.model.reuses_output,
                weights=partial(self._weights, scale=scale),
            )
        return self._programs[key]

    def _table(self, observe: bool, keep: bool, device: torch.device) -> Tables:
        key = observe, keep, device
        if key not in self._tables:
            self._tables[key] = self.tables(device, observe, keep)
        return self._tables[key]

    def tables(self, device: torch.device, observe: bool = False, keep: bool = False) -> Tables:
        """The coefficients of all stages."""
        scale = None if self.guidance is None else self.guidance.scale
        rows = scale if isinstance(scale, Tensor) else None
        other = None if rows is None else self.program(observe, keep, 3.0)
        return Tables(self.program(observe, keep), device, rows, other)

    def _workspace(
        self, observe: bool, keep: bool, x: Tensor, seeds: Tensor
    ) -> tuple[InPlaceRun, TimeRows]:
        """Buffers and prepared calls for a run, and its times: an earlier run's where they fit."""
        key = BufferKey(tuple(x.shape), x.device, self.dtypes, seeds.numel(), observe, keep)
        for _ in range(len(self._idle)):
            try:
                workspace = self._idle.popleft()
            except IndexError:  # another thread took it
                break
            if workspace[0].key == key:
                workspace[1].restore(self._time_tables(x))
                return workspace
            self._idle.append(workspace)
        tables = self._table(observe, keep, x.device)
        run = InPlaceRun(self.program(observe, keep), tables, key, self.backend)
        return run, TimeRows(self._time_tables(x))

    def _time_tables(self, x: Tensor) -> TimeTables:
        key = x.shape[0], x.device
        if key not in self._times:
            self._times[key] = self.time_tables(*key)
        return self._times[key]

    def time_tables(self, batch: int, device: torch.device) -> TimeTables:
        """What evaluations of B states read of the plan's times."""
        twice = self.guidance is not None and self.guidance.batched
        evaluations = self.plan.evaluations
        return TimeTables(
            self.model.time_table(evaluations, batch, device),
            self.model.time_table(evaluations, 2 * batch, device) if twice else None,
            PathTable(self._increments, device) if self._increments else None,
        )


def _device(model: Model) -> torch.device:
    if isinstance(model.net, nn.Module):
        for parameter in model.net.parameters():
            return parameter.device
    return torch.device("cpu")
