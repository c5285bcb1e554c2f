"""Derivatives of users' functions: recorded, or refused where they would count as zero.

A function that works under `torch.no_grad`, detaches or leaves torch (NumPy, JAX) gives a value of
which autograd knows nothing. Such a value is taken for a constant where it is one: where the
function gives the same at another point.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._C import _functorch
from torch._functorch import pyfunctorch
from torch.utils import _pytree as pytree

from fastgen.common.transforms import (
    constant,
    suspended,
    tangent_of,
    traced,
    transforming,
    unwrapped,
)

P = ParamSpec("P")
R = TypeVar("R")
_jvp: Any = torch.func.jvp
_vjp: Any = torch.func.vjp
_two_ways_back: Any = torch.autograd.functional.jvp
REMEDY = "write it in operations that autograd records"


def outside_inference_mode(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator: work in no_grad mode in place of inference mode, where nothing is recorded.

    Tensors made in inference mode, also those in tuples, lists and dictionaries, are copied, as
    autograd cannot read them.
    """

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            args, kwargs = pytree.tree_map(recordable, (args, kwargs))
            return function(*args, **kwargs)

    return called


def recordable(value: Any) -> Any:
    """A tensor that autograd can read: a copy of one made in inference mode. Else the value."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def check_recorded(
    name: str, value: Tensor, again: Callable[[], Any], of: str = "x", remedy: str = REMEDY
) -> None:
    """Raise a ValueError for a value of which autograd knows nothing though it is not constant.

    Args:
        name: of the function, as the message shows it.
        value: what it gave.
        again: gives its value at another point; called where `value` requires no gradient.
        of: what it is differentiated in.
        remedy: the end of the message.
    """
    if value.requires_grad:
        return
    with torch.no_grad():
        number = value.clone()  # the function may write where its value is
        other = again()
    if not torch.equal(other, number):
        raise ValueError(
            f"{name}: the value depends on {of}, but autograd did not record how (torch.no_grad, "
            f"inference mode, detach, NumPy or JAX inside), so its derivative would count as zero; "
            f"{remedy}"
        )


def elsewhere(x: Tensor) -> Tensor:
    """Another point, in the order of magnitude of x."""
    return 1.5 * x.detach() + 1


class Pullback:
    """The value of a function at x, and vector-Jacobian products v^T J, as many as are asked for.

    They are differentiable again where gradients were enabled, and inside of forward-mode
    derivatives and `torch.func`.

    Args:
        function: of x alone, whose value has x's rows.
        x: the point.
        name, of, remedy: see `check_recorded`.
        check: whether to refuse a value that is not recorded; False leaves that to the caller.

    Attributes:
        value: the function's, with its graph.
        x: the point, with which it was called.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        x: Tensor,
        name: str,
        of: str = "x",
        remedy: str = REMEDY,
        *,
        check: bool = True,
    ) -> None:
        self.function = function
        self.tracked = torch.is_grad_enabled()
        self._vjp: Callable[..., Any] | None = None
        self._looped = self._once = False
        self.recorded = True

        def seen(x: Tensor) -> Tensor:
            value = function(x)
            self.recorded = value.requires_grad
            if check:
                check_recorded(name, value, lambda: function(elsewhere(x)), of, remedy)
            return value

        with torch.enable_grad():
            if transforming():
                self.tracked, self.x = True, x
                self.value, self._vjp = _vjp(seen, x)
                return
            keep = self.tracked and x.requires_grad
            self.x = x if keep else x.detach().requires_grad_()
            self.value = seen(self.x)

    def one(self, vector: Tensor, last: bool = False) -> Tensor:
        """v^T J for v like the value; `last`: no other product will be asked for."""
        if not self.recorded:
            return torch.zeros_like(self.x)
        if self._vjp is not None:
            found: Tensor = self._vjp(vector)[0]
            return found
        keep = self.tracked or not last
        try:
            return self._product(self.value, self.x, vector, keep and not self._once)
        except RuntimeError as error:
            # A compiled network gives its memory away on the first way back.
            if self.tracked or not keep or self._once or "donated" not in str(error):
                raise
            self._once = True
        return self.one(vector)

    def _product(self, value: Tensor, x: Tensor, vector: Tensor, keep: bool) -> Tensor:
        if self._once:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                value = self.function(x)
        (found,) = torch.autograd.grad(
            value,
            x,
            vector.reshape(value.shape),
            retain_graph=keep,
            create_graph=self.tracked,
            allow_unused=True,
        )
        return torch.zeros_like(x) if found is None else found

    def many(self, vectors: Tensor) -> Tensor:
        """v^T J for all v of [K, *value's shape], together where the function allows it."""
        if not self.recorded:
            return self.x.new_zeros(len(vectors), *self.x.shape)
        if self._vjp is None and not self._looped:
            try:
                (found,) = torch.autograd.grad(
                    self.value,
                    self.x,
                    vectors,
                    retain_graph=True,
                    create_graph=self.tracked,
                    is_grads_batched=True,
                    allow_unused=True,
                )
            except RuntimeError:  # an autograd.Function without vmap, a compiled network
                self._looped = True
            else:
                return self.x.new_zeros(len(vectors), *self.x.shape) if found is None else found
        return torch.stack([self.one(v) for v in vectors])


def along(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    tangent: Tensor,
    name: str,
    of: str = "x",
    remedy: str = REMEDY,
) -> Tensor:
    """J u for a tangent u within forward-mode derivatives and `torch.func`.

    It is the derivative in v of J^T v along u: a forward mode within another one that is not
    `torch.func`'s would mix their tangents.
    """
    pull = Pullback(function, x, name, of, remedy)
    if not pull.recorded:
        return torch.zeros_like(pull.value)
    _, push = _vjp(pull.one, torch.zeros_like(pull.value))
    found: Tensor = push(tangent)[0]
    return found


def directional(
    function: Callable[..., Tensor],
    primals: tuple[Tensor, ...],
    tangents: tuple[Tensor, ...],
    name: str,
) -> tuple[Tensor, Tensor]:
    """A function's value and its derivative along the tangents, in forward mode.

    Both are differentiable. Where an operation has no forward mode, two ways back take its place.

    Raises:
        ValueError: for a value that is not recorded and not constant; see `check_recorded`.
    """

    def checked(recorded: Callable[[Tensor], bool]) -> Callable[..., Tensor]:
        def seen(*inputs: Tensor) -> Tensor:
            value = function(*inputs)
            if not recorded(value):
                moved = [elsewhere(x) for x in inputs]
                check_recorded(name, value.detach(), lambda: function(*moved), "its inputs")
            return value

        return seen

    reverse = checked(lambda value: value.requires_grad)
    if transforming():
        with torch.enable_grad():
            value, pull = _vjp(reverse, *primals)
            _, push = _vjp(lambda v: pull(v), torch.zeros_like(value))
        return value, push(tangents)[0]
    forward = checked(lambda value: tangent_of(value) is not None)
    try:
        value, slope = _jvp(forward, primals, tangents)
    except RuntimeError:  # an operation has no forward mode
        value, slope = _two_ways_back(
            reverse, primals, tangents, create_graph=torch.is_grad_enabled()
        )
    return value, slope


def first_order(
    call: str, differentiable: tuple[str, ...]
) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    """A decorator: forward mode, `torch.func.grad` and `jvp` for a number with backward() alone.

    The function runs on plain memory; its gradient there times the arguments' change, which is 0,
    carries first derivatives. A second one would be lost, so one derivative at a time is taken.

    Args:
        call: the function's name.
        differentiable: names of its arguments that have derivatives.

    Raises:
        ValueError: when called for derivatives of derivatives, or inside of `torch.vmap` or
            `torch.func.functionalize`.
    """

    def decorate(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            if not transforming():
                return function(*args, **kwargs)
            given = signature.bind(*args, **kwargs).arguments
            moving = [name for name in differentiable if traced(given.get(name))]
            if not moving:
                return constant(function)(*args, **kwargs)
            once = len(pyfunctorch.retrieve_all_functorch_interpreters()) <= 1
            if not once or any(_recorded_outside(given[name]) for name in moving):
                raise ValueError(
                    f"{moving[0]}: {call} has first derivatives alone; take one at a time, with "
                    "backward(), torch.func.grad or a jvp"
                )
            with suspended(call):
                bare = unwrapped(dict(given), call)
                with torch.enable_grad():
                    points = {name: bare[name].requires_grad_() for name in moving}
                    value = function(**(bare | points))  # type: ignore[call-arg]
                    slopes = torch.autograd.grad(value, list(points.values()))
                value = value.detach()
            for name, slope in zip(moving, slopes, strict=True):
                value = value + ((given[name] - bare[name].detach()) * slope).sum()
            return value

        return called

    return decorate


def _recorded_outside(x: Tensor) -> bool:
    """Whether autograd follows a tensor besides the transform that wraps it."""
    while _functorch.is_functorch_wrapped_tensor(x):
        x = _functorch.get_unwrapped(x)
    return x.requires_grad and torch.is_grad_enabled()


def check_whole_derivative(
    name: str, function: Callable[[Tensor], Tensor], x: Tensor, of: str = "x", remedy: str = REMEDY
) -> None:
    """Raise a ValueError where autograd recorded a part of a function only.

    A value of which a part is detached requires gradients as any other. Central differences along
    a direction tell it: without the part, autograd's derivative there is another one. Differences
    are believed where half the step gives the same, in three tries, so that networks with noise,
    few digits, kinks or steep slopes pass.

    Args:
        name: of the function, as the message shows it.
        function: of x alone, whose value has x's rows. Called three times, and again in doubt.
        x: the point, [B, ...]; nothing is checked at less than 32 bits.
        of, remedy: as for `check_recorded`.
    """
    if transforming() or not x.numel() or x.dtype not in (torch.float32, torch.float64):
        return
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    generator = torch.Generator().manual_seed(0)
    x = x.detach()
    size = x.double().square().mean().sqrt().item()
    step = 2e-3 * (size if 0 < size < math.inf else 1.0)
    lost = 0.0
    for attempt in range(3):
        toss = torch.rand((2, *x.shape), generator=generator, device="cpu").to(x) - 0.5
        at, u = x + step * toss[0], 2.0 * (toss[1] > 0).to(x) - 1
        d = _change(function, at, u, step)
        now = _off(_pushed(function, at, u, d), d)
        if not now > 0.01:
            return
        lost = max(lost, now)
        if attempt and not _off(_change(function, at, u, step / 2), d) < 0.02:
            return  # differences do not agree: no number to rely on
        step /= 2
    if lost < 0.1:
        return
    raise ValueError(
        f"{name}: autograd recorded a part of its derivative in {of} only: along one direction "
        f"{100 * min(lost, 1.0):.0f} % of the change that differences show is not there (detached "
        f"or computed under torch.no_grad or in NumPy) and would count as zero; {remedy}"
    )


def _change(function: Callable[[Tensor], Tensor], x: Tensor, u: Tensor, h: float) -> Tensor:
    """The derivative along u by central differences."""
    with torch.no_grad():
        ahead = function(x + h * u).to(torch.float64, copy=True)  # its memory may be used again
        return (ahead - function(x - h * u).double()) / (2 * h)


def _off(found: Tensor | None, d: Tensor) -> float:
    """How far a derivative is off as part of the differences d; 0 where either is nothing."""
    if found is None:
        return 0.0
    off: Tensor = (found.double() - d).norm() / d.norm()
    return off.item() if math.isfinite(off) else 0.0


def _pushed(function: Callable[[Tensor], Tensor], x: Tensor, u: Tensor, d: Tensor) -> Tensor | None:
    """J u as autograd has it, by two ways back; None for a value that requires no gradient.

    Where an operation has one way back only, d times the part of d that J u has along it.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = function(x)
        if not value.requires_grad:
            return None
        v = torch.zeros_like(value, requires_grad=True)
        try:
            (pulled,) = torch.autograd.grad(value, x, v, create_graph=True)
            (found,) = torch.autograd.grad(pulled, v, u)
            return found
        except RuntimeError:
            value = function(x)
            (once,) = torch.autograd.grad(value, x, d.to(value.dtype), allow_unused=True)
    part = 0.0 if once is None else (once.double() * u).sum() / d.square().sum()
    return part * d
