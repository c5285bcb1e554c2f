"""The loop of a run: evaluations, stages, and what watches them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgen.common.modes import unrecorded
from fastgen.sampling.network_calls import NetworkCalls
from fastgen.sampling.observation import (
    Step,
    check_resumable,
    progress_bar,
    reports_of,
    written,
)
from fastgen.sampling.parallel import Parallel, WindowCalls
from fastgen.sampling.prepared import Prepared
from fastgen.sampling.recorded import RecordedRun
from fastgen.sampling.run import CallsNetwork, InPlaceRun
from fastgen.sampling.untraced import Untraced, Within


def run_plan(
    prepared: Prepared,
    shape_or_x: Sequence[int] | Tensor,
    seed: int | Sequence[int] | Tensor,
    sample_ids: Sequence[int] | Tensor | None,
    arguments: dict[str, Any],
    *,
    device: torch.device | str | None,
    trajectory: bool,
    callback: Callable[[Step], None] | None,
    progress: bool,
    check_finite: bool,
    differentiable: bool = False,
    parallel: Parallel | None = None,
    checkpoint: bool = False,
    within: Within | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`Sampler.__call__` evaluation by evaluation.

    within: gives the network the transforms of torch back that are active.
    """
    plan = prepared.plan
    seen = differentiable or callback is not None or within is not None
    prepared = prepared if parallel else prepared.of_run(seen)
    x, seeds, ids = prepared.initial(shape_or_x, seed, sample_ids, device)
    arguments, known = prepared.split(arguments, x)
    observe, keep = callback is not None, trajectory
    program = prepared.program(observe, keep)
    run: InPlaceRun | RecordedRun
    rows = None
    if differentiable:
        tables = prepared.tables(x.device, observe, keep)
        run = RecordedRun(program, tables, prepared.dtypes, checkpoint)
    else:
        run, rows = prepared.workspace(observe, keep, x, seeds, known, shape_or_x)
    tick = progress_bar(plan, progress)
    calls: CallsNetwork = prepared.network_calls(
        x, seeds, ids, arguments, check_finite=check_finite, tick=tick, rows=rows
    )
    if within is not None:
        calls = Untraced(calls, within)
    window = None
    if parallel is not None:
        assert isinstance(run, InPlaceRun)
        assert isinstance(calls, NetworkCalls)
        length = min(parallel.window, plan.nfe)
        sums = prepared.window_sums(observe, keep, length, x.device)
        calls = window = WindowCalls(parallel, prepared, calls, run, sums, seeds, ids)
    run.start(x, seeds, ids, sample_ids is None, known)
    states = [x] if trajectory else []
    reports = reports_of(program, plan) if trajectory or observe else None
    with torch.inference_mode(False) if differentiable else unrecorded(prepared.model.net):
        for k in range(-1, plan.nfe):
            run.advance(k, calls)
            if reports is None:
                continue
            for index, time, buffer in reports.get(k + 1, ()):
                if written(callback, prepared, run, k, Step(index, time, run.slots[buffer])):
                    check_resumable(program, plan, index)
                    run.resume(index, calls)
                    if window is not None:
                        window.forget()
                if trajectory:
                    states.append(run.slots[buffer])
    stacked = torch.stack(states) if trajectory else None
    result = run.finish()
    if parallel is not None and window is not None:
        parallel.ended(window.report())
    if isinstance(run, InPlaceRun) and rows is not None:
        prepared.keep(run, rows)
    return result if stacked is None else (result, stacked)
