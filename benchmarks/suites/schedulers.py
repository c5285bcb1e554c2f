"""diffusers' schedulers beside ours, microseconds for one `step`: what is left is not the network.

Both loop over the timesteps with tensors made beforehand as the network's outputs, and both set
their timesteps anew for every loop, which is not timed. Noise comes from a torch generator; the
provider "fastgen contract" draws the library's reproducible noise in the kernel instead. Times are
the thread's own (one thread), so that other load on the machine does not favour short loops.
Floors are the bytes that our step has to read and write, at the bandwidth of a copy of the same
size; making the noise is not in them.
"""

from __future__ import annotations

import inspect
import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.tools.harness import copy_bandwidth
from benchmarks.tools.rows import Row, recorded, row, show_progress
from fastgen.common.threads import threads

# Rounds by the number of elements up to which they are; short loops are disturbed most.
ROUNDS = {2**15: 40, 2**20: 16, 2**30: 4}
SUITE = "schedulers"
SHAPES = [(256, 2), (1, 4, 64, 64), (64, 3, 32, 32), (16, 3, 256, 256)]
# Scheduler, its configuration, options of its step, and whether it draws noise.
CASES: list[tuple[str, dict[str, object], dict[str, object], bool]] = [
    ("DDPMScheduler", {}, {}, True),
    ("DDIMScheduler", {}, {}, False),
    ("DDIMScheduler", {}, {"eta": 1.0}, True),
    ("DDIMInverseScheduler", {}, {}, False),
    ("PNDMScheduler", {"skip_prk_steps": True}, {}, False),
    ("LMSDiscreteScheduler", {}, {}, False),
    ("EulerDiscreteScheduler", {}, {}, False),
    ("EulerAncestralDiscreteScheduler", {}, {}, True),
    ("HeunDiscreteScheduler", {}, {}, False),
    ("KDPM2DiscreteScheduler", {}, {}, False),
    ("KDPM2AncestralDiscreteScheduler", {}, {}, True),
    ("DPMSolverMultistepScheduler", {}, {}, False),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, {}, True),
    ("DPMSolverSinglestepScheduler", {}, {}, False),
    ("DEISMultistepScheduler", {}, {}, False),
    ("UniPCMultistepScheduler", {}, {}, False),
    ("SASolverScheduler", {}, {}, True),
    ("IPNDMScheduler", {}, {}, False),
    ("EDMEulerScheduler", {}, {}, False),
    ("EDMDPMSolverMultistepScheduler", {}, {}, False),
    ("FlowMatchEulerDiscreteScheduler", {}, {}, False),
    ("FlowMatchHeunDiscreteScheduler", {}, {}, False),
    ("LCMScheduler", {}, {}, True),
    ("TCDScheduler", {}, {}, True),
    ("CMStochasticIterativeScheduler", {}, {}, True),
]


def _loop(
    scheduler: object, shape: tuple[int, ...], options: dict[str, object], steps: int
) -> Callable[[], float]:
    """A function that runs one loop and returns the seconds of one step."""
    pool = itertools.cycle([torch.randn(shape) for _ in range(4)])
    step, x = scheduler.step, torch.randn(shape)  # type: ignore[attr-defined]
    options = dict(options)
    if "generator" in inspect.signature(step).parameters:
        options["generator"] = torch.Generator()
    scheduler.is_scale_input_called = True  # type: ignore[attr-defined]

    def run() -> float:
        scheduler.set_timesteps(steps)  # type: ignore[attr-defined]
        timesteps, state = list(scheduler.timesteps), x  # type: ignore[attr-defined]
        outputs = list(itertools.islice(pool, len(timesteps)))
        start = time.thread_time()
        for t, output in zip(timesteps, outputs, strict=True):
            state = step(output, t, state, return_dict=False, **options)[0]
        return (time.thread_time() - start) / len(timesteps)

    return run


def _bytes(scheduler: Any, elements: int) -> float:
    """What a step reads and writes in float32, the mean over the last loop's tables."""
    tables = scheduler._run.steps.values()
    return 4 * elements * statistics.mean(len(t.inputs) + t.outputs for t in tables)


def _case(
    shape: tuple[int, ...], label: str, loops: dict[str, Any], schedulers: dict[str, Any]
) -> Iterator[Row]:
    """The rows of all providers, timed in alternation."""
    elements = torch.Size(shape).numel()
    rounds = next(n for size, n in ROUNDS.items() if elements <= size)
    times: dict[str, list[float]] = {k: [] for k in loops}
    for run in loops.values():
        run()
    for _ in range(rounds):
        for provider, run in loops.items():
            times[provider].append(run() * 1e6)
    bandwidth = copy_bandwidth(max(elements, 2**14))
    for provider, values in times.items():
        package = "diffusers" if provider == "diffusers" else "fastgen-torch"
        ours = schedulers["fastgen" if provider == "diffusers" else provider]
        yield row(
            SUITE, label, provider, package, shape, torch.float32, "step", "us", values,
            floor=_bytes(ours, elements) / bandwidth,
        )  # fmt: skip
    ratio = statistics.median(times["diffusers"]) / statistics.median(times["fastgen"])
    yield row(
        SUITE, label, "fastgen", "fastgen-torch", shape, torch.float32, "speedup", "x", [ratio]
    )


def rows(quick: bool) -> Iterator[Row]:
    """The suite: all schedulers at all shapes, those that the journal does not have."""
    try:
        import diffusers

        from fastgen.integrations import diffusers as ours
    except ImportError:
        return
    warnings.simplefilter("ignore")
    grid = list(itertools.product(SHAPES[:1] if quick else SHAPES, CASES))
    for done, (shape, (name, config, options, noisy)) in enumerate(grid):
        show_progress(done, len(grid))
        chosen = [f"{k}={v}" for k, v in {**config, **options}.items()]
        label = " ".join([name.removesuffix("Scheduler"), *chosen])
        last = "fastgen contract" if noisy else "fastgen"
        if recorded(SUITE, label, last, shape):
            continue
        schedulers = {
            "diffusers": getattr(diffusers, name)(**config),
            "fastgen": getattr(ours, name)(**config),
        }
        if noisy:
            schedulers["fastgen contract"] = getattr(ours, name)(**config, noise="contract")
        steps = 8 if torch.Size(shape).numel() > 2**20 else 20
        with threads(1), torch.no_grad():
            loops = {k: _loop(s, shape, options, steps) for k, s in schedulers.items()}
            yield from _case(shape, label, loops, schedulers)
    show_progress(len(grid), len(grid))
