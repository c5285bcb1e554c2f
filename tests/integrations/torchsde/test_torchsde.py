"""`fastgen.integrations.torchsde` beside torchsde itself, along the same paths."""

import math
import warnings

import pytest
import torch
from torch import nn

from fastgen.integrations import torchsde as ours

OPTIONS = {"dtype": torch.float64}


class Equation(nn.Module):
    """An equation of any noise type with d = 3."""

    def __init__(self, noise_type, sde_type):
        super().__init__()
        self.noise_type, self.sde_type = noise_type, sde_type
        self.a = nn.Parameter(torch.tensor(0.7, **OPTIONS))
        self.m = {"diagonal": 3, "scalar": 1}.get(noise_type, 2)

    def f(self, t, y):
        assert t.ndim == 0
        return torch.sin(self.a * y) - t

    def g(self, t, y):
        if self.noise_type == "additive":
            return (self.a * torch.cos(t) * torch.ones(len(y), 3, 2, **OPTIONS)).tril()
        g = 0.3 * torch.cos(y) + 0.1 * self.a
        return (
            g
            if self.noise_type == "diagonal"
            else torch.stack([g * k for k in (1, 0.5)][: self.m], -1)
        )

    def h(self, t, y):
        return -y


def cases():
    for sde_type, methods in {
        "ito": ("euler", "milstein", "srk"),
        "stratonovich": ("milstein", "heun", "euler_heun", "midpoint", "reversible_heun"),
    }.items():
        for method in methods:
            for noise_type in ("diagonal", "scalar", "additive", "general"):
                if not (noise_type == "general" and method in ("milstein", "srk")):
                    yield method, noise_type, sde_type


def motions(theirs, equation, area=False):
    return theirs.BrownianInterval(
        t0=0.0,
        t1=1.0,
        size=(4, equation.m),
        entropy=7,
        levy_area_approximation="space-time" if area else "none",
        **OPTIONS,
    )


def solve_both(theirs, equation, method, **options):
    y0 = torch.linspace(-1, 1, 12, **OPTIONS).reshape(4, 3)
    ts = torch.tensor([0.0, 0.25, 1.0], **OPTIONS)
    bm = motions(theirs, equation, method == "srk")
    call = {"bm": bm, "dt": 1 / 16, "method": method} | options
    return theirs.sdeint(equation, y0, ts, **call), ours.sdeint(equation, y0, ts, **call)


@pytest.mark.parametrize(("method", "noise_type", "sde_type"), list(cases()))
def test_states_and_gradients_equal_torchsde_on_its_own_motion(method, noise_type, sde_type):
    theirs = pytest.importorskip("torchsde")
    equation = Equation(noise_type, sde_type)
    if method == "srk" and noise_type != "additive":
        # Another tableau of Roessler's: two methods of order 1.5 approach each other.
        far, near = (
            (a - b).abs().max() for dt in (1 / 16, 1 / 64)
            for a, b in [solve_both(theirs, equation, method, dt=dt)]
        )  # fmt: skip
        assert near < 0.35 * far < 2e-3
        return
    a, b = solve_both(theirs, equation, method)
    torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-10)
    grads = [torch.autograd.grad(y[-1].square().sum(), equation.a)[0] for y in (a, b)]
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("sde_type", ["ito", "stratonovich"])
def test_derivative_free_milstein_and_defaults(sde_type):
    theirs = pytest.importorskip("torchsde")
    equation = Equation("diagonal", sde_type)
    a, b = solve_both(theirs, equation, "milstein", options={"grad_free": True})
    torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-10)
    for noise_type in ("diagonal", "general"):
        equation = Equation(noise_type, "stratonovich")
        a, b = solve_both(theirs, equation, None)
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("noise_type", ["diagonal", "scalar", "general"])
def test_log_ratio(noise_type):
    theirs = pytest.importorskip("torchsde")
    equation = Equation(noise_type, "ito")
    y0, ts = torch.randn(4, 3, **OPTIONS), torch.tensor([0.0, 0.5, 1.0], **OPTIONS)
    found = []
    for library in (theirs, ours):
        bm = motions(theirs, equation)
        if noise_type == "diagonal":  # the wider state has a motion for its last element too
            bm = theirs.BrownianInterval(0.0, 1.0, size=(4, 4), entropy=1, **OPTIONS)
        found.append(library.sdeint(equation, y0, ts, bm=bm, dt=1 / 16, method="euler", logqp=True))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-10)


def test_adjoint_of_the_reversible_heun_method_equals_torchsde():
    theirs = pytest.importorskip("torchsde")
    equation = Equation("general", "stratonovich")
    y0 = torch.randn(4, 3, **OPTIONS).requires_grad_()
    ts, found = torch.tensor([0.0, 0.5, 1.0], **OPTIONS), []
    for library in (theirs, ours):
        ys = library.sdeint_adjoint(
            equation, y0, ts, bm=motions(theirs, equation), dt=1 / 16, method="reversible_heun",
            adjoint_method="adjoint_reversible_heun",
        )  # fmt: skip
        found.append((ys, *torch.autograd.grad(ys.square().sum(), [y0, equation.a])))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-7, atol=1e-9)


def test_their_solver_runs_on_our_motion():
    theirs = pytest.importorskip("torchsde")
    equation = Equation("diagonal", "ito")
    y0, ts = torch.zeros(4, 3, **OPTIONS), torch.tensor([0.0, 0.5, 1.0], **OPTIONS)
    bm = ours.BrownianInterval(0.0, 1.0, size=(4, 3), entropy=11, **OPTIONS)
    call = {"bm": bm, "dt": 1 / 16, "method": "euler"}
    a, b = theirs.sdeint(equation, y0, ts, **call), ours.sdeint(equation, y0, ts, **call)
    torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-10)


def test_adaptive_steps_approach_the_solution():
    equation = Equation("diagonal", "stratonovich")
    y0, ts = torch.zeros(4, 3, **OPTIONS), [0.0, 0.5, 1.0]
    bm = ours.BrownianInterval(0.0, 1.0, size=(4, 3), entropy=3, **OPTIONS)
    with torch.no_grad():
        fine = ours.sdeint(equation, y0, ts, bm=bm, dt=2**-11, method="heun")
        call = {"bm": bm, "dt": 0.1, "method": "heun", "adaptive": True}
        loose = ours.sdeint(equation, y0, ts, rtol=1e-2, atol=1e-2, **call)
        tight = ours.sdeint(equation, y0, ts, rtol=1e-4, atol=1e-4, **call)
    assert (tight - fine).abs().max() < 5e-3
    assert (tight - fine).abs().mean() < 0.5 * (loose - fine).abs().mean()
    with pytest.warns(UserWarning, match="adaptive Euler-Maruyama"):
        ours.sdeint(Equation("diagonal", "ito"), y0, ts, method="euler", adaptive=True, rtol=0.1)


def test_motions():
    bm = ours.BrownianInterval(t0=-1.0, t1=3.0, size=(50, 400), entropy=5)
    assert bm.shape == (50, 400)
    assert bm.dtype == torch.float32
    assert bm.device.type == "cpu"
    same = ours.BrownianInterval(t0=-1.0, t1=3.0, size=(50, 400), entropy=5)
    assert torch.equal(bm(0.1, 0.2), same(0.1, 0.2))
    torch.testing.assert_close(bm(0.0, 1.0) + bm(1.0, 2.0), bm(0.0, 2.0))
    assert abs(float(bm(0.5, 2.5).var()) / 2 - 1) < 5 * math.sqrt(2 / 20_000)
    assert torch.equal(bm(0.5), bm(-1.0, 0.5))
    area = ours.BrownianInterval(
        -1.0, 3.0, size=(50, 400), entropy=5, levy_area_approximation="space-time"
    )
    w, u = area(0.5, 2.5, return_U=True)  # U is half of 2 W, and 2 H of variance 4 * 2 / 12
    assert torch.equal(w, area(0.5, 2.5))
    assert abs(float((u - w).var()) / (2 / 3) - 1) < 5 * math.sqrt(2 / 20_000)
    assert all((x == 0).all() for x in area(0.5, 0.5, return_U=True))
    with pytest.warns(UserWarning, match="outside"):
        assert torch.equal(bm(0.5, 9.0), bm(0.5, 3.0))
    with pytest.raises(RuntimeError, match="must respect"):
        bm(0.5, 0.4)
    w0 = torch.ones(2, 3)
    path = ours.BrownianPath(0.0, w0)
    torch.testing.assert_close(path(0.7) - w0, path(0.0, 0.7))
    tree = ours.BrownianTree(0.0, w0, t1=2.0, entropy=9)
    assert torch.equal(tree(1.7), ours.BrownianTree(0.0, w0, t1=2.0, entropy=9)(1.7))
    assert torch.equal(tree(0.0), w0)
    assert "entropy=9" in repr(tree)
    torch.manual_seed(3)
    first = ours.BrownianInterval(size=(2, 2)).entropy
    torch.manual_seed(3)
    assert ours.BrownianInterval(size=(2, 2)).entropy == first


def test_srk_on_a_motion_with_areas():
    bm = ours.BrownianInterval(
        0.0, 1.0, size=(4, 3), levy_area_approximation="space-time", entropy=2, **OPTIONS
    )
    y0, equation = torch.linspace(-1, 1, 12, **OPTIONS).reshape(4, 3), Equation("diagonal", "ito")
    coarse, fine, finer = (
        ours.sdeint(equation, y0, [0.0, 1.0], bm=bm, method="srk", dt=1 / n)[-1]
        for n in (8, 64, 512)
    )
    assert (fine - finer).abs().max() < 0.1 * (coarse - finer).abs().max()


def test_names_and_both_at_once():
    class Renamed:
        noise_type, sde_type = "diagonal", "ito"

        def drift(self, t, y):
            return -y

        def g(self, t, y):
            return 0.1 * y

    class Both(Renamed):
        g = None

        def f_and_g(self, t, y):
            return -y, 0.1 * y

    y0 = torch.ones(2, 3)
    call = {"dt": 0.1, "method": "euler", "entropy": 1}
    a = ours.sdeint(Renamed(), y0, [0.0, 1.0], names={"drift": "drift"}, **call)
    assert torch.equal(a, ours.sdeint(Both(), y0, [0.0, 1.0], **call))
    torch.manual_seed(1)
    del call["entropy"]
    first = ours.sdeint(Both(), y0, [0.0, 1.0], **call)
    assert not torch.equal(first, ours.sdeint(Both(), y0, [0.0, 1.0], **call))
    torch.manual_seed(1)
    assert torch.equal(first, ours.sdeint(Both(), y0, [0.0, 1.0], **call))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "log_ode"}, "method='log_ode': is of Stratonovich"),
        ({"method": "adjoint_reversible_heun"}, "use sdeint_adjoint"),
        ({"method": "eulr"}, "did you mean 'euler'"),
        ({"method": "heun"}, "expected one of euler, milstein, srk for sde_type='ito'"),
        ({"options": {"grad_free": True}, "method": "euler"}, "options: expected grad_free"),
        ({"options": {"speed": 2}}, "options: expected grad_free"),
        ({"extra_solver_state": (1, 2, 3)}, "extra_solver_state: method=None has none"),
        ({"names": {"dirft": "x"}}, r"names\['dirft'\]: did you mean 'drift'"),
        ({"names": {"drift": "absent"}}, "sde: has no drift"),
        ({"ts": [0.0, 1.0, 0.5]}, "ts: expected strictly increasing"),
        ({"y0": torch.zeros(3)}, r"y0: expected a tensor \[batch, channels\]"),
        ({"bm": ours.BrownianInterval(size=(2, 3)), "method": "srk"}, "space-time Levy area"),
    ],
)
def test_refusals_name_the_argument(options, message):
    call = {"y0": torch.zeros(4, 3, **OPTIONS), "ts": [0.0, 1.0], "dt": 0.5} | options
    with pytest.raises(ValueError, match=message):
        ours.sdeint(Equation("diagonal", "ito"), call.pop("y0"), call.pop("ts"), **call)


def test_refusals_of_motions_and_equations():
    with pytest.raises(ValueError, match="H: is given with W"):
        ours.BrownianInterval(size=(2, 2), H=torch.ones(2, 2))
    with pytest.raises(ValueError, match="W has shape"):
        ours.BrownianInterval(size=(2, 3), W=torch.ones(2, 2))
    with pytest.raises(ValueError, match="levy_area_approximation='fester': did you mean 'foster'"):
        ours.BrownianInterval(size=(2, 2), levy_area_approximation="fester")
    with pytest.raises(
        ValueError, match="return_A=True: with levy_area_approximation='space-time'"
    ):
        ours.BrownianInterval(size=(2, 2), levy_area_approximation="space-time")(
            0.0, 1.0, return_A=True
        )
    with pytest.raises(ValueError, match="size: expected"):
        ours.BrownianInterval()
    with pytest.raises(ValueError, match="return_U"):
        ours.BrownianInterval(size=(2, 2))(0.0, 1.0, return_U=True)
    equation = Equation("diagonal", "ito")
    equation.noise_type = "diag"
    with pytest.raises(ValueError, match=r"sde\.noise_type='diag'"):
        ours.sdeint(equation, torch.zeros(1, 3), [0.0, 1.0])
    with pytest.raises(TypeError, match="unexpected keyword"):
        ours.sdeint(equation, torch.zeros(1, 3), [0.0, 1.0], rtoll=1)
    with pytest.raises(ValueError, match="adjoint_method='eulre': did you mean 'euler'"):
        ours.sdeint_adjoint(equation, torch.zeros(1, 3), [0.0, 1.0], adjoint_method="eulre")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.BrownianInterval(size=(2, 2))(0.0, 1.0)


class ByProducts(nn.Module):
    """dy = y / 2 dt + 0.2 sum(dW) y with products alone."""

    def __init__(self, noise_type, joint):
        super().__init__()
        self.noise_type, self.sde_type = noise_type, "stratonovich"
        if joint:
            self.f_and_g_prod = lambda t, y, v: (self._f(t, y), self._g_prod(t, y, v))
        else:
            self.f, self.g_prod = self._f, self._g_prod

    def _f(self, t, y):
        return 0.5 * y

    def _g_prod(self, t, y, v):
        return 0.2 * y * (v if self.noise_type == "diagonal" else v.sum(1, keepdim=True))


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize(("noise_type", "width"), [("diagonal", 2), ("general", 3), ("scalar", 1)])
def test_an_sde_by_products_of_its_diffusion(noise_type, width, joint):
    """exp(t / 2 + 0.2 W), and torchsde's own steps on the same motion."""
    torchsde = pytest.importorskip("torchsde")
    sde, y0 = ByProducts(noise_type, joint), torch.ones(4, 2, dtype=torch.float64)
    bm = torchsde.BrownianInterval(0.0, 1.0, (4, width), dtype=torch.float64, entropy=3)
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    mine = ours.sdeint(sde, y0, ts, bm=bm, dt=0.01, method="midpoint")[-1]
    theirs = torchsde.sdeint(sde, y0, ts, bm=bm, dt=0.01, method="midpoint")[-1]
    assert (mine - theirs).abs().max() < 1e-9
    w = bm(0.0, 1.0) if noise_type == "diagonal" else bm(0.0, 1.0).sum(1, keepdim=True)
    assert (mine - torch.exp(0.5 + 0.2 * w)).abs().max() < 0.02


def test_products_need_the_number_of_noises_and_srk_an_area():
    torchsde = pytest.importorskip("torchsde")
    y0, ts = torch.ones(4, 2), [0.0, 1.0]
    with pytest.raises(ValueError, match="how many noises there are; give bm"):
        ours.sdeint(ByProducts("general", False), y0, ts, dt=0.1, method="midpoint")
    sde = ByProducts("diagonal", False)
    sde.sde_type = "ito"
    bm = torchsde.BrownianInterval(0.0, 1.0, (4, 2))
    with pytest.raises(ValueError, match="make it with levy_area_approximation='space-time'"):
        ours.sdeint(sde, y0, ts, bm=bm, dt=0.1, method="srk")
