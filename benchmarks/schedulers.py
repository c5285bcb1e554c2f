"""diffusers' schedulers beside ours, microseconds for one `step`: what is left is not the network.

Both loop over the timesteps with tensors made beforehand as the network's outputs, and both set
their timesteps anew for every loop, which is not timed. Noise comes from a torch generator; the
provider "fastgen contract" draws the library's reproducible noise in the kernel instead. Times are
the thread's own (one thread), so that other load on the machine does not favour short loops.
"""

from __future__ import annotations

import inspect
import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Iterator

import torch

from benchmarks.harness import Row, row, threads

ROUNDS = 8
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


def rows(quick: bool) -> Iterator[Row]:
    """The suite: all schedulers at all shapes, in alternation within each row's case."""
    try:
        import diffusers

        from fastgen.integrations import diffusers as ours
    except ImportError:
        return
    warnings.simplefilter("ignore")
    with threads(1):
        for shape in SHAPES[:1] if quick else SHAPES:
            big = torch.Size(shape).numel() > 2**20
            steps, rounds = (8, 4) if big else (20, ROUNDS)
            for name, config, options, noisy in CASES:
                providers = {
                    "diffusers": ("diffusers", getattr(diffusers, name)(**config)),
                    "fastgen": ("fastgen-torch", getattr(ours, name)(**config)),
                }
                if noisy:
                    contract = getattr(ours, name)(**config, noise="contract")
                    providers["fastgen contract"] = ("fastgen-torch", contract)
                with torch.no_grad():
                    loops = {k: _loop(s, shape, options, steps) for k, (_, s) in providers.items()}
                    times: dict[str, list[float]] = {k: [] for k in loops}
                    for run in loops.values():
                        run()
                    for _ in range(rounds):
                        for provider, run in loops.items():
                            times[provider].append(run() * 1e6)
                chosen = {**config, **options}
                label = " ".join(
                    [name.removesuffix("Scheduler"), *(f"{k}={v}" for k, v in chosen.items())]
                )
                for provider, (package, _) in providers.items():
                    yield row(
                        "schedulers",
                        label,
                        provider,
                        package,
                        shape,
                        torch.float32,
                        "step",
                        "us",
                        times[provider],
                        threads=torch.get_num_threads(),
                    )
                ratio = statistics.median(times["diffusers"]) / statistics.median(times["fastgen"])
                yield row(
                    "schedulers", label, "fastgen", "fastgen-torch", shape, torch.float32,
                    "speedup", "x", [ratio], threads=torch.get_num_threads(),
                )  # fmt: skip
