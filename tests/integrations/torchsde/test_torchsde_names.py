"""Base classes, settings, areas, the solver's state, and gradients of every method."""

import math

import pytest
import torch
from torch import nn

from fastgen.integrations import torchsde as ours
from fastgen.integrations.torchsde.log_ode import _joined

D = torch.float64


class Equation(ours.SDEStratonovich):
    """dy = sum_k B_k y dW_k + a y dt with matrices B_k that do not commute."""

    def __init__(self, kind="general"):
        super().__init__(kind)
        self.a = nn.Parameter(torch.tensor(-0.3, dtype=D))
        self.b = torch.tensor([[[0.0, 1.0], [0.0, 0.0]], [[0.5, 0.0], [1.0, -0.5]]], dtype=D)

    def f(self, t, y):
        return self.a * y

    def g(self, t, y):
        if self.noise_type == "diagonal":
            return 0.4 * torch.sin(y) + 0.1 * self.a
        return torch.einsum("kde,be->bdk", self.b, y)


def test_base_classes_say_what_they_are():
    assert (ours.SDEIto("scalar").sde_type, ours.SDEIto("scalar").noise_type) == ("ito", "scalar")
    assert isinstance(Equation(), ours.BaseSDE)
    with pytest.raises(ValueError, match="noise_type='diag': did you mean 'diagonal'"):
        ours.SDEIto("diag")
    with pytest.raises(ValueError, match="sde_type"):
        ours.BaseSDE("diagonal", "itoh")
    with pytest.raises(TypeError, match="abstract"):
        ours.BaseBrownian()


def test_settings_are_torchsdes():
    theirs = pytest.importorskip("torchsde.settings")
    for name in (
        "LEVY_AREA_APPROXIMATIONS",
        "METHODS",
        "METHOD_OPTIONS",
        "NOISE_TYPES",
        "SDE_TYPES",
    ):
        mine, other = getattr(ours.settings, name), getattr(theirs, name)
        assert (mine.all(), str(mine)) == (other.all(), str(other))
        assert mine.all()[0] in mine
        assert "none of them" not in mine


def test_a_motion_like_a_tensor_and_its_reverse():
    y = torch.zeros(3, 2, dtype=D)
    bm = ours.brownian_interval_like(y, t1=2.0, entropy=3)
    assert bm.size() == bm.shape == y.shape
    assert bm.dtype == D
    assert ours.brownian_interval_like(y, size=(5, 1)).shape == (5, 1)
    back = ours.ReverseBrownian(bm)
    assert torch.equal(back(-1.5, -0.5), bm(0.5, 1.5))
    assert (back.shape, back.dtype, back.device) == (bm.shape, bm.dtype, bm.device)
    assert back.levy_area_approximation == "none"
    with pytest.raises(ValueError, match="tb=None"):
        back(-1.0)


@pytest.mark.parametrize("kind", ["davie", "foster"])
def test_areas_have_the_moments_of_levys(kind):
    """Antisymmetric, variance h^2 / 4, mean H_i W_j - H_j W_i given W and H."""
    n, h = 20000, 0.5
    bm = ours.BrownianInterval(
        0.0, 1.0, size=(n, 2), entropy=4, levy_area_approximation=kind, dtype=D
    )
    w, u, a = bm(0.25, 0.75, return_U=True, return_A=True)
    assert torch.equal(a, bm(0.25, 0.75, return_A=True)[1])
    assert torch.equal(w, bm(0.25, 0.75))
    assert (a + a.mT).abs().max() < 1e-12
    area = a[:, 0, 1]
    space_time = u / h - w / 2
    mean = space_time[:, 0] * w[:, 1] - space_time[:, 1] * w[:, 0]
    # Standard errors of a mean, and of variances with fourth moments below 9 squares.
    assert abs(area.mean()) < 4 * h / 2 / math.sqrt(n)
    assert area.var().item() == pytest.approx(h**2 / 4, rel=4 * math.sqrt(8 / n))
    assert (area - mean).var().item() == pytest.approx(h**2 / 12, rel=4 * math.sqrt(8 / n))


class Given:
    """A motion whose one increment and area are given."""

    levy_area_approximation = "foster"

    def __init__(self, w, a):
        self.w, self.a, self.shape = w, a, w.shape

    def __call__(self, ta, tb, return_A=False):
        return (self.w, self.a) if return_A else self.w


def test_a_log_ode_step_is_the_exponential_of_its_lie_series():
    """To h^(3/2): with steps of 1/16 the difference falls by 64, without areas by 16."""
    sde = Equation()
    sde.a.data.zero_()
    y0 = torch.tensor([[1.0, -0.5]], dtype=D)
    differences = {}
    for method in ("log_ode", "midpoint"):
        differences[method] = []
        for h in (1e-2, 1e-2 / 16):
            w = torch.tensor([[0.8, -1.1]], dtype=D) * math.sqrt(h)
            a = torch.tensor([[[0.0, 0.6], [-0.6, 0.0]]], dtype=D) * h
            b0, b1 = sde.b
            lie = w[0, 0] * b0 + w[0, 1] * b1 + a[0, 0, 1] * (b1 @ b0 - b0 @ b1)
            exact = torch.linalg.matrix_exp(lie) @ y0[0]
            ys = ours.sdeint(sde, y0, [0.0, h], bm=Given(w, a), dt=h, method=method)
            differences[method].append((ys[1, 0] - exact).norm().item())
    fell = {k: v[0] / v[1] for k, v in differences.items()}
    assert fell["log_ode"] > 55
    assert fell["midpoint"] < 20


def test_log_ode_is_the_midpoint_rule_where_noise_commutes():
    sde, y0 = Equation("diagonal"), torch.ones(3, 2, dtype=D)
    bm = ours.BrownianInterval(
        0.0, 1.0, size=(3, 2), entropy=1, levy_area_approximation="davie", dtype=D
    )
    results = [
        ours.sdeint(sde, y0, [0.0, 1.0], bm=bm, dt=0.1, method=m) for m in ("log_ode", "midpoint")
    ]
    assert torch.equal(*results)


def test_log_ode_makes_its_own_areas_and_has_gradients():
    sde, y0 = Equation(), torch.ones(3, 2, dtype=D)
    call = {"dt": 0.1, "method": "log_ode", "entropy": 5}
    ys = ours.sdeint(sde, y0, [0.0, 0.5, 1.0], **call)
    ys[-1].sum().backward()
    step = 1e-6
    with torch.no_grad():
        sde.a += step
        more = ours.sdeint(sde, y0, [0.0, 0.5, 1.0], **call)[-1].sum()
        sde.a -= 2 * step
        less = ours.sdeint(sde, y0, [0.0, 0.5, 1.0], **call)[-1].sum()
    assert sde.a.grad.item() == pytest.approx(((more - less) / (2 * step)).item(), rel=1e-6)
    with pytest.raises(ValueError, match="log_ode"):
        ours.sdeint(sde, y0, [0.0, 1.0], **{**call, "bm": ours.BrownianInterval(size=(3, 2))})


def test_the_reversible_state_leads_back_to_the_start():
    """From the end with (-f, -g, z) along the motion run backwards; and on, as if never stopped."""
    sde, y0 = Equation(), torch.ones(4, 2, dtype=D)
    ts = torch.linspace(0, 1, 6, dtype=D)
    bm = ours.BrownianInterval(0.0, 1.0, size=(4, 2), entropy=6, dtype=D)
    call = {"dt": 0.2, "method": "reversible_heun"}
    ys, (f, g, z) = ours.sdeint(sde, y0, ts, bm=bm, extra=True, **call)

    class Minus(nn.Module):
        noise_type, sde_type = sde.noise_type, sde.sde_type

        def f(self, t, y):
            return -sde.f(-t, y)

        def g(self, t, y):
            return -sde.g(-t, y)

    back = ours.sdeint(
        Minus(),
        ys[-1],
        -ts.flip(0),
        bm=ours.ReverseBrownian(bm),
        extra_solver_state=(-f, -g, z),
        **call,
    )
    assert torch.allclose(back.flip(0), ys, rtol=1e-9, atol=1e-9)
    first, state = ours.sdeint(sde, y0, ts[:4], bm=bm, extra=True, **call)
    rest = ours.sdeint(sde, first[-1], ts[3:], bm=bm, extra_solver_state=state, **call)
    assert torch.allclose(torch.cat([first, rest[1:]]), ys, rtol=1e-12, atol=1e-12)


def test_methods_without_a_state_return_none():
    ys, state = ours.sdeint(Equation(), torch.ones(2, 2, dtype=D), [0.0, 0.1], dt=0.1, extra=True)
    assert state == ()
    assert ys.shape == (2, 2, 2)


@pytest.mark.parametrize("method", ["euler_heun", "heun", "log_ode", "midpoint", "milstein", None])
@pytest.mark.parametrize("given", [False, True])
def test_adjoint_gradients_are_those_of_the_steps(method, given):
    kind = "diagonal" if method == "milstein" else "general"
    ts = torch.linspace(0, 1, 5, dtype=D)
    found = []
    for solve in (ours.sdeint, ours.sdeint_adjoint):
        sde, y0 = Equation(kind), torch.ones(3, 2, dtype=D, requires_grad=True)
        bm = ours.BrownianInterval(
            0.0, 1.0, size=(3, 2), entropy=8, levy_area_approximation="foster", dtype=D
        )
        ys = solve(sde, y0, ts, bm=bm if given else None, dt=0.05, method=method, entropy=9)
        found.append((ys, *torch.autograd.grad(ys.square().sum(), [y0, sde.a])))
    assert all(x.isfinite().all() for x in found[1])
    if given:  # of itself the one draws steps' noise, the other a path
        for a, b in zip(*found, strict=True):
            assert torch.allclose(a, b, rtol=1e-10)


def test_adjoint_memory_is_that_of_a_piece():
    """Tensors kept for the way back: fewer than a third of those of all steps."""

    def kept(solve):
        sde, y0 = Equation("diagonal"), torch.ones(3, 2, dtype=D, requires_grad=True)
        count = 0

        def pack(x):
            nonlocal count
            count += 1
            return x

        ts = torch.linspace(0, 1, 11, dtype=D)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            solve(sde, y0, ts, dt=0.01, method="midpoint", entropy=1)
        return count

    assert 0 < kept(ours.sdeint_adjoint) < kept(ours.sdeint) / 3


def test_adaptive_log_ode_of_linear_noise():
    """dy = A_1 y o dW_1 + A_2 y o dW_2 with A_2 = 0 beside it: y = exp(A_1 W_1) y_0."""
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=D)

    class Linear:
        noise_type, sde_type = "general", "stratonovich"

        def f(self, t, y):
            return torch.zeros_like(y)

        def g(self, t, y):
            return torch.stack([y @ turn.T, 0 * y], -1)

    bm = ours.BrownianInterval(size=(5, 2), dtype=D, entropy=4, levy_area_approximation="foster")
    y0 = torch.tensor([[1.0, 0.0]], dtype=D).expand(5, 2)
    angle = bm(0.0, 1.0)[:, 0]
    exact = torch.stack([angle.cos(), angle.sin()], 1)
    call = {"method": "log_ode", "adaptive": True, "dt": 0.1}
    errors = []
    for tolerance in (3e-2, 3e-4):
        ys = ours.sdeint(Linear(), y0, [0.0, 1.0], bm, rtol=tolerance, atol=tolerance, **call)
        errors.append(float((ys[-1] - exact).square().mean().sqrt()))
    assert errors[1] < errors[0] / 4
    assert errors[1] < 0.01


def test_areas_over_halves_join_to_the_whole():
    """Chen's relation against areas of a polygon through the same points."""
    torch.manual_seed(0)
    steps = torch.randn(9, 4, 3, dtype=D)

    def area(dw):
        w = torch.cat([torch.zeros_like(dw[:1]), dw.cumsum(0)])
        middle = (w[1:] + w[:-1]) / 2
        outer = torch.einsum("nbi,nbj->bij", middle, dw)
        return dw.sum(0), (outer - outer.mT) / 2

    w, a = _joined(area(steps[:4]), area(steps[4:]), 4.0, 5.0)
    # The second part's area is taken from where it starts.
    exact = area(steps)
    assert (w - exact[0]).abs().max() < 1e-12
    assert (a - exact[1]).abs().max() < 1e-12


def test_adaptive_srk_follows_a_motion():
    """Geometric Brownian motion, on the module's own motion and on one that is a function."""

    class Growth:
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t, y):
            return 0.5 * y

        def g(self, t, y):
            return 0.4 * y

    bm = ours.BrownianInterval(
        size=(6, 2), dtype=D, entropy=2, levy_area_approximation="space-time"
    )
    y0 = torch.ones(6, 2, dtype=D)
    exact = torch.exp(0.5 - 0.08 + 0.4 * bm(0.0, 1.0))
    own = ours.BrownianInterval(W=bm(0.0, 1.0), entropy=9, levy_area_approximation="space-time")
    for motion in (bm, own):
        ys = ours.sdeint(
            Growth(), y0, [0.0, 1.0], motion, method="srk", adaptive=True, rtol=1e-3, atol=1e-4
        )
        assert (ys[-1] - exact).abs().max() < 5e-3
    with pytest.raises(ValueError, match="space-time"):
        ours.sdeint(
            Growth(), y0, [0.0, 1.0], ours.BrownianInterval(size=(6, 2), dtype=D), method="srk"
        )


@pytest.mark.parametrize("area", [True, False])
def test_motions_with_given_ends(area):
    """They end there, join, and are the bridge's law in between."""
    w = torch.tensor([2.0, -1.0], dtype=D).repeat_interleave(20_000)
    h = 0.3 * torch.ones_like(w) if area else None
    kind = "space-time" if area else "none"
    bm = ours.BrownianInterval(1.0, 3.0, W=w, H=h, entropy=5, levy_area_approximation=kind)
    assert bm.size() == w.shape
    assert (bm(1.0, 3.0) - w).abs().max() < 1e-12
    assert (bm(1.0, 1.7) + bm(1.7, 3.0) - w).abs().max() < 1e-12
    s = 0.35  # of the interval, at t = 1.7
    gap = bm(1.0, 1.7) - w * s
    mean, variance = (6 * s * (1 - s) * 0.3, 2 * s * (1 - s)) if area else (0, 2 * s * (1 - s))
    if area:  # without what H says: 6 s (1 - s) H, of variance h / 12
        variance -= (6 * s * (1 - s)) ** 2 * 2 / 12
        _, u = bm(1.0, 3.0, return_U=True)
        assert (u - 2 * (w / 2 + 0.3)).abs().max() < 1e-12
        w1, u1 = bm(1.0, 1.7, return_U=True)
        _, u2 = bm(1.7, 3.0, return_U=True)
        assert (u1 + u2 + 1.3 * w1 - u).abs().max() < 1e-12
    # Means and variances of 40000 samples, to five standard deviations.
    assert abs(float(gap.mean()) - mean) < 5 * (variance / 40_000) ** 0.5
    assert abs(float(gap.var()) / variance - 1) < 5 * (2 / 40_000) ** 0.5


def test_one_channel_has_no_areas():
    for size in ((), (4,)):
        bm = ours.BrownianInterval(size=size, levy_area_approximation="foster")
        w, u, a = bm(0.0, 0.5, return_U=True, return_A=True)
        assert w.shape == u.shape == a.shape == size
        assert not a.any()
    tree = ours.BrownianTree(0.0, torch.zeros(3), w1=torch.ones(3), entropy=1)
    assert (tree(1.0) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("times", [[0.0, 0.5], [0.0, 0.2, 0.5]])
def test_parameters_that_are_not_used_have_a_gradient_of_zero(times):
    class Frozen(torch.nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Parameter(torch.ones(3))

        def f(self, t, y):
            return -y

        def g(self, t, y):
            return torch.ones_like(y)

    sde = Frozen()
    ys = ours.sdeint_adjoint(sde, torch.ones(2, 2), times, method="milstein", dt=0.1)
    ys.sum().backward()
    assert sde.unused.grad.tolist() == [0, 0, 0]
    with torch.no_grad():
        assert not ours.sdeint_adjoint(sde, torch.ones(2, 2), times, dt=0.1).requires_grad


class Encoded:
    """Of a tensor computed before: `context`, which has a graph of its own."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, a):
        self.a, self.context = a, a.exp()

    def f(self, t, y):
        return -self.context * y

    def g(self, t, y):
        return 0.1 * self.context * torch.sin(self.a * y)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("method", ["milstein", "srk"])
def test_adjoint_gradients_reach_what_was_computed_before(method, given):
    found = []
    for solve in (ours.sdeint, ours.sdeint_adjoint):
        a = torch.tensor(0.3, dtype=D, requires_grad=True)
        sde, y0 = Encoded(a), torch.ones(3, 2, dtype=D)
        bm = ours.BrownianInterval(
            0.0, 1.0, size=(3, 2), entropy=8, levy_area_approximation="space-time", dtype=D
        )
        options = {"adjoint_params": (sde.context, a)} if given and solve is not ours.sdeint else {}
        ys = solve(sde, y0, [0.0, 0.4, 1.0], bm=bm, dt=0.05, method=method, **options)
        found.append((ys, *torch.autograd.grad(ys.square().sum(), [a])))
    for x, y in zip(*found, strict=True):
        assert torch.allclose(x, y, rtol=1e-10)
        assert y.any()


@pytest.mark.parametrize("adjoint", [False, True])
def test_evaluations_grow_as_steps_do(adjoint):
    """Autograd's work at a step does not depend on the steps before it, nor does that of a piece.

    Evaluations are counted; so are nodes that a derivative of g lets autograd go through.
    """

    class Counted(Encoded):
        noise_type = "scalar"
        calls = 0

        def g(self, t, y):
            Counted.calls += 1
            return 0.1 * torch.sin(self.a * y)[..., None]

    def calls(steps):
        Counted.calls = 0
        sde = Counted(torch.tensor(0.3, dtype=D, requires_grad=True))
        sde.context = sde.a
        solve = ours.sdeint_adjoint if adjoint else ours.sdeint
        ys = solve(
            sde, torch.ones(2, 2, dtype=D), [0.0, 0.5, 1.0], dt=1 / steps, method="milstein",
            entropy=1,
        )  # fmt: skip
        ys.sum().backward()
        return Counted.calls

    assert calls(64) < 2.1 * calls(32)
