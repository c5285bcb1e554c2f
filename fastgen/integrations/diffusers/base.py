"""What all schedulers here share: diffusers' configuration and grids, this library's steps.

A scheduler's `step` names what it is about to do by a key and calls `FusedScheduler._advance`. The
first time, `_update` gives the mathematics of that key, which becomes a `FusedStep`; it is kept in
the `SchedulerRun` of the grid. From then on the key leads to its prepared kernel call. Keys are
whatever the coefficients depend on: mostly the position in the grid, and the options of the call.
"""

from __future__ import annotations

import copy
import functools
import inspect
from itertools import pairwise
from types import FunctionType
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from fastgen.common.checks import check_integer, check_whole
from fastgen.common.compiling import uncompiled
from fastgen.common.transforms import transforming
from fastgen.integrations.common.noise import check_noise
from fastgen.integrations.diffusers.contract_noise import ContractNoise, Generators, check_generator
from fastgen.integrations.diffusers.fused_step import FusedStep, Transform, Update, out, x
from fastgen.integrations.diffusers.runs import ResultDtype, SchedulerRun, resolved_dtype
from fastgen.kernels import dispatch
from fastgen.plans.forms import Form, MissingLimitError

# The steps of that many grids are kept, for programs that alternate between a few.
GRIDS = 8
# In the key of a step whose noise the caller gives; its table differs with noise="contract".
CALLERS_NOISE = "caller's noise"
# Stands for alpha = 0 in x0 = (x - sigma eps) / alpha, which is infinite there. Where x0 is clipped
# or thresholded, the bound takes the place of the huge number, as it takes that of diffusers'
# infinity; where it is not, the step is refused.
NEARLY_ZERO = 1e-30


class FusedScheduler:
    """Runs every `step` of a diffusers scheduler as one kernel call on a table made beforehand.

    A class here derives from this one and from diffusers' class of the same name. Options, grids,
    saving, loading, `add_noise` and `get_velocity` are diffusers' own. The coefficients of a step
    are computed from diffusers' float32 tables, in float64 on the host, when it is first taken.
    They are kept for later runs on the same grid.

    Args:
        noise: "torch" takes noise from the generator exactly as diffusers does; "contract" makes
            it in the kernel, a function of (seed, sample, step, element) alone (`fastgen.randn`),
            with the generators' initial seeds.
        seed: for "contract" where a step is given no generator; by default one is drawn for each
            run from torch's global generator.
    """

    _result_dtype: ClassVar[ResultDtype] = "promoted"
    _noise_in_kernel: ClassVar[bool] = True
    # Dtype of the noise that a step draws from torch.
    _noise_dtype: ClassVar[torch.dtype | ResultDtype] = "output"
    # Names of the tables besides timesteps and sigmas that the steps on a grid depend on.
    _grids: ClassVar[tuple[str, ...]] = ()
    # The training schedule's, which `_chain` reads.
    _training: ClassVar[tuple[str, ...]] = ()
    _family: ClassVar[dict[str, type]] = {}
    _run: SchedulerRun | None = None
    # The choice of noise= and seed=.
    _noise: tuple[str, int | None] = ("torch", None)
    # A configuration, a chain, and what was made for them on each grid: the fused steps, and the
    # direct calls among them.
    _made: tuple[Any, Any, dict[Any, tuple[dict[Any, FusedStep], dict[Any, Any]]]] = (
        None,
        None,
        {},
    )
    _begin_index: int | None = None
    _step_index: int | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Pipelines save where a class comes from: say diffusers, so that it can load them."""
        self = super().__new__(cls)
        self.__dict__["__module__"] = _peer(cls).__module__
        self.__dict__["_cpp_step"] = _no_cpp_step
        return self

    def __init_subclass__(cls) -> None:
        """Wrap what diffusers inspects by its signature, and keep all out of torch.compile."""
        super().__init_subclass__()
        if cls.__module__.rpartition(".")[0] == __name__.rpartition(".")[0]:
            for name, own in list(vars(cls).items()):
                if isinstance(own, FunctionType) and not name.startswith("_"):
                    setattr(cls, name, uncompiled(own))
        peer = _peer(cls)
        if peer is None or cls.__name__ != peer.__name__:
            return  # what several schedulers share, or a user's subclass
        FusedScheduler._family[cls.__name__] = cls
        cls.__init__ = _initialiser(peer.__init__)  # type: ignore[method-assign]
        setter = uncompiled(_timesteps_setter(peer.set_timesteps))
        cls.set_timesteps = setter  # type: ignore[attr-defined]

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles make their tables, which C++ holds by address, again.

        A shallow copy too has a history of its own from here on.
        """
        state = {k: v for k, v in vars(self).items() if k not in ("_made", "_cpp_step")}
        return state if self._run is None else state | {"_run": copy.copy(self._run)}

    @staticmethod
    def family() -> dict[str, type]:
        """The schedulers there are, by diffusers' names."""
        return dict(FusedScheduler._family)

    @classmethod
    def _get_compatibles(cls) -> list[type]:
        peers: list[type] = super()._get_compatibles()  # type: ignore[misc]
        return [FusedScheduler._family.get(c.__name__, c) for c in peers]

    def set_noise(self, noise: str = "torch", seed: int | None = None) -> None:
        """Where the steps' noise comes from; see the class.

        Raises:
            ValueError: for another name, or a seed where the noise is torch's.
        """
        check_noise(noise, seed)
        self._noise = noise, None if seed is None else check_integer("seed", seed)
        self._made = (None, None, {})
        if self._run is not None:
            self._run.contract = None
            self._begin()

    @uncompiled
    def index_for_timestep(
        self, timestep: float | Tensor, schedule_timesteps: Tensor | None = None
    ) -> int:
        """Position of a timestep in the grid, found among host numbers.

        Raises:
            IndexError: if it is not there.
        """
        run = self._current()
        if schedule_timesteps is not None and schedule_timesteps is not run.timesteps:
            peer: Any = super()
            return int(peer.index_for_timestep(timestep, schedule_timesteps))
        index = run.index(timestep)
        return self._missing(run, timestep) if index is None else index

    def _missing(self, run: SchedulerRun, timestep: float | Tensor) -> int:
        raise IndexError(
            f"timestep={run.value(timestep)}: not in scheduler.timesteps, which set_timesteps made"
        )

    def _init_step_index(self, timestep: float | Tensor) -> None:
        begin = self._begin_index
        self._step_index = self.index_for_timestep(timestep) if begin is None else begin

    def _begin(self, keep: SchedulerRun | None = None) -> SchedulerRun:
        """Take over the grid that diffusers has set; ``keep``: with the history of that run."""
        me: Any = self
        run = SchedulerRun(vars(self), self._grids, self._training)
        config, chain, grids = self._made
        if config is not run.config or chain is not self._chain():
            grids = {}
            self._made = (run.config, self._chain(), grids)
        # As bytes: a table may have NaN in a place that is not read, which is not itself.
        key = tuple([np.array(t, np.float64).tobytes() for t in run.tables.values()])
        if key not in grids and len(grids) >= GRIDS:
            grids.clear()
        run.steps, run.direct_calls = grids.setdefault(key, ({}, {}))
        if self._noise[0] == "contract":
            held = None if self._run is None else self._run.contract
            run.contract = held or ContractNoise(self._noise[1])
            if keep is None:
                run.contract.begin()
        if keep is not None:
            run.registers, run.data = keep.registers, keep.data
        if self._run is not None:
            run.binding, run.free_buffers = self._run.binding, self._run.free_buffers
        self._run = run
        me._cpp_step = _no_cpp_step
        if run.direct_calls:
            self._prepare_cpp_steps(run)
        return run

    def _prepare_cpp_steps(self, run: SchedulerRun) -> None:
        """Let C++ look up the run's direct calls, while all that they depend on is unchanged.

        ``vars(self)["_cpp_step"](vars(self), key, timestep, sample, output)`` is then what
        `_advance` returns; None, with nothing run, where `_advance` has to be called.
        """
        follow = dispatch.load("follow_registers", "cpp")  # direct calls are of C++
        assert follow is not None
        me: Any = self
        me._cpp_step = follow(run.unchanged, run.direct_calls, run.registers, run.free_buffers)

    def _current(self) -> SchedulerRun:
        """The run, also after someone has changed what steps depend on."""
        run, own = self._run, self.__dict__
        if run is not None and run.unchanged(own):
            return run
        return self._begin(run if run is not None and run.config is own["_internal_dict"] else None)

    def _at(self, timestep: float | Tensor) -> int:
        """The position of this step; counted from the first step on."""
        k = self._step_index
        if k is None:
            self._init_step_index(timestep)
            k = self._step_index
            assert k is not None
        return k

    def _place(self, timestep: float | Tensor) -> tuple[SchedulerRun, int]:
        """`_current` and `_at`, for steps that count their position.

        In the middle of a run, where nothing was assigned meanwhile, it is a handful of look-ups.
        """
        run, k = self._run, self._step_index
        if (
            run is None
            or k is None
            or isinstance(timestep, int)
            or not run.unchanged(self.__dict__)
        ):
            self._check_timestep(timestep)
            run = self._current()
            k = self._at(timestep)
        return run, k

    def _check_timestep(self, timestep: float | Tensor) -> None:
        """Refuse what this scheduler's step does not take for a timestep."""

    def _check_steps(self, steps: int) -> None:
        """Refuse a number of steps that this scheduler has no grid for."""

    def _chain(self) -> object:
        """The training schedule as host numbers, where steps depend on it directly."""
        return None

    def _transform(self) -> Transform:
        """What happens to the data prediction before it is used."""
        return None

    def _update(self, run: SchedulerRun, key: Any) -> Update:
        """The step's forms: the mathematics of the scheduler."""
        raise NotImplementedError

    def _reason(self) -> str:
        """Why a step may divide by zero."""
        times = torch.as_tensor(getattr(self, "timesteps", ()), device="cpu").flatten().tolist()
        twice = sorted({t for s, t in pairwise(times) if s == t})
        if twice and 4 * len(twice) < len(times):  # Heun's come twice throughout
            return (
                f"timesteps {twice} come twice, and a step from one to the other goes nowhere; "
                f"take fewer steps than {len(times)}, or timestep_spacing='leading' or 'trailing'"
            )
        return "alpha or sigma is 0 there"

    def _fused(self, run: SchedulerRun, key: Any, callers_noise: bool) -> FusedStep:
        """Make the step of a key; callers_noise: its noise is given, whatever makes others'."""
        try:
            update: Update | None = self._update(run, key)
        except (ZeroDivisionError, MissingLimitError):
            update = None
        unbounded = self._transform() is None
        if update is None or (unbounded and update.raw is not None and _infinite(update.raw)):
            raise ValueError(
                f"{type(self).__name__}: the step divides by zero with this configuration "
                f"({self._reason()}); diffusers returns NaN or infinity"
            )
        in_kernel = run.contract is not None and self._noise_in_kernel and not callers_noise
        step = FusedStep(update, self._transform(), in_kernel)
        run.steps[(key, CALLERS_NOISE) if callers_noise else key] = step
        return step

    def _advance(
        self,
        run: SchedulerRun,
        key: Any,
        sample: Tensor,
        output: Tensor,
        generator: Generators = None,
        draw: int = 0,
        z: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """The step that ``key`` names; the noise of it is ``z``, or drawn as number ``draw``."""
        step = run.steps.get(key)
        direct = step is not None and step.direct_for is run.binding and z is None
        if direct and not transforming():  # what is called by address loses tangents
            assert step is not None
            results = step.call(run.registers, run.free_buffers, sample, output, None, None)
            if results is not None:
                return results
        if z is None:
            step = step or self._fused(run, key, False)
            if step.draws:
                if run.contract is None:
                    dtype = resolved_dtype(self._noise_dtype, sample, output)
                    z = normal(output.shape, generator, output.device, dtype)
                else:
                    run.use_contract(generator, output, draw)
        else:
            step = run.steps.get((key, CALLERS_NOISE)) or self._fused(run, key, True)
        if step.data_step is not None:
            me: Any = self
            run.data = me._threshold_sample(
                run.advance(step.data_step, "promoted", sample, output, z)[0]
            )
        results = run.advance(step, self._result_dtype, sample, output, z)
        if step.direct_for is run.binding and z is None and not step.in_kernel:
            run.direct_calls[key] = step.call
            if vars(self)["_cpp_step"] is _no_cpp_step:
                self._prepare_cpp_steps(run)
        return results


def _no_cpp_step(*_: object) -> None:
    """In place of C++'s look-up before the first direct call, and without the extension."""


def not_started(attribute: str, method: str) -> ValueError:
    """The error of a step before `set_timesteps`, when the attribute is still None."""
    return ValueError(f"{attribute}=None: call set_timesteps before {method}")


def _peer(cls: type) -> Any:
    """diffusers' class behind one of ours."""
    return next((c for c in cls.__mro__ if c.__module__.startswith("diffusers.")), None)


def _infinite(raw: Form) -> bool:
    return any(abs(c) >= 0.5 / NEARLY_ZERO for c in raw.terms.values())


def normal(
    shape: torch.Size, generator: Generators, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """diffusers' noise, bit for bit: `randn_tensor`, with a short way for the usual case."""
    check_generator(generator)
    if device.type == "cpu" and not isinstance(generator, list):
        return torch.randn(*shape, generator=generator, dtype=dtype, device=device)
    z: Tensor = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
    return z


def prediction(kind: str, alpha: float, sigma: float, allowed: tuple[str, ...], name: str) -> Form:
    """The data prediction x0 of a model output, x = alpha x0 + sigma eps.

    Raises:
        ValueError: for a kind that the scheduler does not know.
    """
    if kind not in allowed:
        raise ValueError(f"prediction_type={kind!r}: {name} knows {', '.join(allowed)}")
    if kind == "epsilon":
        return (x - sigma * out) / (alpha or NEARLY_ZERO)
    if kind == "v_prediction":
        return alpha * x - sigma * out
    if kind == "flow_prediction":
        return x - sigma * out
    return out


def _initialiser(original: Any) -> Any:
    @functools.wraps(original)
    def __init__(  # noqa: N807
        self: FusedScheduler,
        *args: Any,
        noise: str = "torch",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.set_noise(noise, seed)
        original(self, *args, **kwargs)

    signature = inspect.signature(original)
    parameters = list(signature.parameters.values())
    named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    rest = [p for p in parameters if p.kind is p.VAR_KEYWORD]
    own = [
        inspect.Parameter("noise", inspect.Parameter.KEYWORD_ONLY, default="torch"),
        inspect.Parameter("seed", inspect.Parameter.KEYWORD_ONLY, default=None),
    ]
    __init__.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*named, *own, *rest]
    )
    return __init__


def _timesteps_setter(original: Any) -> Any:
    @functools.wraps(original)
    def set_timesteps(self: FusedScheduler, *args: Any, **kwargs: Any) -> None:
        steps = args[0] if args else kwargs.get("num_inference_steps")
        others = {k for k, v in kwargs.items() if v is not None} - {"device"}
        if steps is not None or not (others or args[1:]):
            self._check_steps(check_whole("num_inference_steps", steps, 1))  # type: ignore[arg-type]
        original(self, *args, **kwargs)
        self._begin()

    return set_timesteps
