"""Networks and fields of which forward-mode derivatives would see nothing: right, or refused."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

import fastgen
from fastgen.common.tangents import uncompiled_calls
from fastgen.integrations import torchdiffeq, torchsde
from fastgen.integrations.flow_matching.solver import ODESolver
from fastgen.schedules import LinearVP

F64 = torch.float64
Net = Callable[[Tensor, Tensor], Tensor]
PLAN = fastgen.plan("heun", LinearVP(), 3, start=0.9, end=0.3)


def plain(x: Tensor, t: Tensor) -> Tensor:
    return torch.sin(x) * 0.5


class Module(nn.Module):
    def __init__(self, inner: Callable[[Tensor], Tensor] = torch.sin) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.5 * self.inner(x)


def without_tangents(graph: Callable[..., object], _: object) -> Callable[..., object]:
    """A backend of torch.compile without a compiler: its code has no tangents either."""

    def run(*arguments: object) -> object:
        with forward_ad._set_fwd_grad_enabled(False):
            return graph(*arguments)

    return run


def compiled(x: object) -> object:
    return torch.compile(x, backend=without_tangents)


def in_place() -> nn.Module:
    module = Module()
    module.compile(backend=without_tangents)
    return module


memory = torch.zeros(2, 3, dtype=F64)


def writes(x: Tensor, t: Tensor) -> Tensor:
    """Its value always lies in the same memory, as that of a captured network."""
    return memory[: len(x)].copy_(plain(x.detach(), t))


MODEL = {"time_dtype": F64}
SPAN = {"start": 0.9, "end": 0.3, "rtol": 1e-3, "atol": 1e-3}
ROUTES: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "sampler": lambda net, x: fastgen.Sampler(
        fastgen.Model(net, LinearVP(), "noise", **MODEL), PLAN, dtype=F64
    )(x, differentiable=True),
    "guided": lambda net, x: fastgen.Sampler(
        fastgen.Model(plain, LinearVP(), "noise", **MODEL),
        PLAN,
        dtype=F64,
        guidance=fastgen.Guidance(2.0, {}, network=net),
    )(x, differentiable=True),
    "sample_dopri5": lambda net, x: fastgen.sample(
        fastgen.Model(net, LinearVP(), "noise", **MODEL), x, "dopri5", dtype=F64, **SPAN
    ),
    "predict": lambda net, x: fastgen.Model(net, LinearVP(), "noise", **MODEL).predict(
        "data", x, 0.5
    ),
    "odeint": lambda net, x: fastgen.odeint(lambda t, y: net(y, t), x, [0.0, 1.0])[-1],
    "odeint_fixed": lambda net, x: fastgen.odeint(
        lambda t, y: net(y, t), x, [0.0, 1.0], method="rk4"
    )[-1],
    "sdeint_drift": lambda net, x: fastgen.sdeint(
        lambda t, y: net(y, t), lambda t, y: torch.full_like(y.detach(), 0.1), x, [0, 1], steps=2
    )[-1],
    "sdeint_diffusion": lambda net, x: fastgen.sdeint(
        lambda t, y: -y, lambda t, y: net(y, t), x, [0, 1], steps=2
    )[-1],
    "torchdiffeq": lambda net, x: torchdiffeq.odeint(
        lambda t, y: net(y, t), x, torch.tensor([0.0, 1.0], dtype=F64)
    )[-1],
    "torchdiffeq_fixed": lambda net, x: torchdiffeq.odeint(
        lambda t, y: net(y, t), x, torch.tensor([0.0, 1.0], dtype=F64), method="rk4"
    )[-1],
    "torchsde": lambda net, x: torchsde.sdeint(
        Sde(net), x, torch.tensor([0.0, 1.0], dtype=F64), dt=0.5, bm=motion(), method="euler"
    )[-1],
    "flow_matching": lambda net, x: ODESolver(lambda x, t: net(x, t)).sample(x, step_size=0.5),
}


class Sde:
    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, net: Net) -> None:
        self.net = net

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y, t)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        return 0.1 * torch.ones_like(y)


def motion() -> torchsde.BrownianInterval:
    return torchsde.BrownianInterval(0.0, 1.0, size=(2, 3), dtype=F64, entropy=3)


def pushed(run: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, how: str) -> Tensor | None:
    if how == "func":
        return torch.func.jvp(run, (x,), (v,))[1]
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(run(forward_ad.make_dual(x, v))).tangent


def points() -> tuple[Tensor, Tensor]:
    return fastgen.randn((2, 3), seed=1, dtype=F64), fastgen.randn((2, 3), seed=2, dtype=F64)


@pytest.fixture(autouse=True)
def _forgotten():
    """torch.compile leaves alone what it found within torch.func before."""
    torch._dynamo.reset()


@pytest.mark.parametrize("how", ["dual", "func"])
@pytest.mark.parametrize("route", ROUTES)
def test_compiled_networks_have_their_own_tangents(route, how):
    x, v = points()
    want = pushed(lambda x: ROUTES[route](plain, x), x, v, how)
    assert want is not None
    assert want.abs().max() > 0
    part = Module(compiled(torch.sin))  # of a network that is not compiled itself
    for net in (compiled(plain), compiled(Module()), in_place(), part):
        found = pushed(lambda x, net=net: ROUTES[route](net, x), x, v, how)
        torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("route", ROUTES)
def test_what_loses_a_tangent_is_refused(route):
    x, v = points()

    @torch.inference_mode()
    def inference(x: Tensor, t: Tensor) -> Tensor:
        return plain(x, t)

    lost: list[Net] = [
        lambda x, t: plain(x.detach(), t),
        lambda x, t: torch.from_numpy(np.sin(x.detach().numpy())),
        inference,
    ]
    if route != "sample_dopri5":  # calls it with some of the samples
        lost.append(writes)
    for net in lost:
        with pytest.raises(ValueError, match=r"(net|f|g|func|velocity_model): its value depends"):
            pushed(lambda x, net=net: ROUTES[route](net, x), x, v, "dual")


@pytest.mark.parametrize("how", ["dual", "func"])
@pytest.mark.parametrize("route", ROUTES)
def test_constant_networks_pass_and_others_can_be_declared(route, how):
    """A constant's derivative is 0 indeed; whoever means to drop one says so."""
    x, v = points()
    constants: list[Net] = [
        lambda x, t: torch.full_like(x.detach(), 0.5),
        lambda x, t: 0.5 * torch.ones_like(x),
    ]
    slopes = [pushed(lambda x, net=net: ROUTES[route](net, x), x, v, how) for net in constants]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-12, atol=1e-12)
    dropped = pushed(
        lambda x: ROUTES[route](lambda x, t: torch.sin(x.detach()) + 0 * x, x), x, v, how
    )
    assert dropped is not None


def test_parts_of_a_state_are_looked_at_one_by_one():
    """A part that has no tangent itself may have a slope without one."""
    x, v = points()

    def run(x: Tensor) -> Tensor:
        return fastgen.odeint(lambda t, y: (-y[0], torch.sin(y[1])), (x, points()[1]), [0.0, 1.0])[
            0
        ][-1]

    torch.testing.assert_close(pushed(run, x, v, "dual"), v * np.exp(-1.0), rtol=1e-4, atol=1e-6)


def test_the_stance_of_torch_compile_is_given_back():
    """Also where threads overlap: the first to come is not the last to go."""
    from torch._dynamo import eval_frame

    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with uncompiled_calls():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with uncompiled_calls():
        thread.start()
        assert inside.wait(10)
    assert eval_frame._stance.stance == "force_eager"
    leave.set()
    thread.join()
    assert eval_frame._stance.stance == "default"
    with pytest.raises(ZeroDivisionError), uncompiled_calls():
        raise ZeroDivisionError
    assert eval_frame._stance.stance == "default"
