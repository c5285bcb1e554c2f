"""`sdeint`: independence of samples, paths, times, gradients, errors."""

import math
from itertools import pairwise

import pytest
import torch

import fastgen
from fastgen.noise import BrownianPath
from fastgen.sde import Adaptive
from fastgen.sde.adaptive import row_norm
from fastgen.sde.methods import METHODS
from tests.support.sde_equations import Fine, gbm
from tests.support.sde_equations import cosine_diffusion as g
from tests.support.sde_equations import sine_drift as f


def matrix(t, y):
    return torch.stack([0.3 * torch.cos(y), 0.2 * y], -1)


CASES = [(name, noise_type) for name, method in METHODS.items() for noise_type in method.strong]


def problem(method, noise_type, **changes):
    diffusion = {"general": matrix, "additive": lambda t, y: torch.ones_like(y)}.get(noise_type, g)
    options = {"method": method, "noise_type": noise_type, "steps": 6, "seed": 3}
    return diffusion, options | {"sde_type": METHODS[method].sde_types[0]} | changes


def start(rows=7, seed=1, dtype=torch.float32):
    return torch.randn(rows, 3, 2, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("noise", ["draws", "brownian", "adaptive"])
@pytest.mark.parametrize(("method", "noise_type"), CASES)
def test_a_sample_alone_is_bitwise_the_same(method, noise_type, noise):
    # torch's own cos and sin are rounded by position: polynomials are not. Matrix products are.
    if (METHODS[method].area and noise != "draws") or (
        noise == "adaptive" and METHODS[method].formula is None
    ):
        pytest.skip("needs the area, or fixed steps")
    diffusion, options = problem(method, noise_type, noise=noise)
    if noise == "adaptive":
        del options["steps"]
        options |= {"noise": None, "adaptive": True, "rtol": 0.05, "atol": 0.05}
    if noise_type == "general":
        diffusion = lambda t, y: torch.stack([0.3 * y, 1 - y], -1)  # noqa: E731
    elif noise_type != "additive":
        diffusion = lambda t, y: 0.3 * y + 0.1  # noqa: E731
    drift = lambda t, y: 0.5 - y * 0.7  # noqa: E731
    y0 = start()
    t = [0.0, 0.3, 1.0]
    whole = fastgen.sdeint(drift, diffusion, y0, t, **options)
    for b in (0, 4):
        alone = fastgen.sdeint(drift, diffusion, y0[b : b + 1], t, sample_ids=[b], **options)
        assert torch.equal(alone[:, 0], whole[:, b])
    again = fastgen.sdeint(drift, diffusion, y0, t, **options)
    assert torch.equal(again, whole)
    other = fastgen.sdeint(drift, diffusion, y0, t, **(options | {"seed": 4}))
    assert (other[-1] != whole[-1]).any(-1).all()


@pytest.mark.parametrize(("method", "noise_type"), CASES)
def test_backends_agree(method, noise_type):
    diffusion, options = problem(method, noise_type)
    y0 = start()
    cpp = fastgen.sdeint(f, diffusion, y0, [0.0, 1.0], backend="cpp", **options)
    reference = fastgen.sdeint(f, diffusion, y0, [0.0, 1.0], backend="reference", **options)
    assert torch.equal(cpp, reference)


@pytest.mark.parametrize(("method", "noise_type"), CASES)
def test_differentiable_and_bound_solves_agree(method, noise_type):
    diffusion, options = problem(method, noise_type)
    y0 = start(dtype=torch.float64)
    plain = fastgen.sdeint(f, diffusion, y0, [0.0, 0.5, 1.0], **options)
    traced = fastgen.sdeint(f, diffusion, y0.requires_grad_(), [0.0, 0.5, 1.0], **options)
    assert traced.requires_grad
    assert not plain.requires_grad
    torch.testing.assert_close(traced, plain, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(("method", "noise_type"), CASES)
def test_gradient_through_the_steps(method, noise_type):
    y0 = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    a = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    diffusion, options = problem(method, noise_type, steps=3)

    def solve(y0, a):
        return fastgen.sdeint(
            lambda t, y: a * torch.sin(y),
            lambda t, y: a * diffusion(t, y),
            y0,
            [0.0, 0.4, 1.0],
            **options,
        )

    assert torch.autograd.gradcheck(solve, (y0, a))


def test_gradient_through_adaptive_steps():
    y0 = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)

    def solve(y0):
        # Steps as given: their lengths would change with y0 by themselves.
        return fastgen.sdeint(
            f, g, y0, [0.0, 1.0], method="heun", sde_type="stratonovich",
            adaptive=Adaptive(rtol=10.0, atol=10.0, first_step=0.3, max_step=0.3),
        )  # fmt: skip

    assert torch.autograd.gradcheck(solve, (y0,))


@pytest.mark.parametrize("method", ["milstein", "euler_maruyama", "milstein_derivative_free"])
def test_smaller_steps_follow_the_same_path(method):
    drift, diffusion, exact = gbm("ito")
    y0 = torch.ones(64, 3, dtype=torch.float64)
    path = BrownianPath(y0.shape, 0.0, 1.0, seed=4, dtype=torch.float64)
    truth = exact(path(0.0, 1.0), 1.0)
    errors = []
    for steps in (4, 32, 256):
        y = fastgen.sdeint(
            drift, diffusion, y0, [0.0, 1.0], method=method, steps=steps, noise="brownian", seed=4
        )
        given = fastgen.sdeint(
            drift, diffusion, y0, [0.0, 1.0], method=method, steps=steps, noise=path
        )
        assert torch.equal(y, given)
        errors.append(float((y[-1] - truth).abs().mean()))
    assert errors[2] < 0.5 * errors[1] < 0.25 * errors[0]


def test_paths_are_stateless_and_increments_add_up():
    path = BrownianPath((3, 5), -1.0, 4.0, seed=7, dtype=torch.float64)
    times = torch.linspace(-1, 4, 41, dtype=torch.float64)
    w = path.at(times)
    assert torch.equal(path.at(times.flip(0)), w.flip(0))
    assert (w[0] == 0).all()
    for i, j in ((3, 17), (17, 3), (0, 40)):
        assert torch.equal(path(float(times[i]), float(times[j])), w[j] - w[i])
    torch.testing.assert_close(w.diff(dim=0).sum(0), w[-1], rtol=0, atol=1e-13)
    own = times[:3, None].expand(3, 3).contiguous()
    assert torch.equal(path.at(own), w[:3])
    many = BrownianPath((40, 500), -1.0, 4.0, seed=8)
    for a, b in ((-1.0, 4.0), (0.3, 0.31)):
        z = many(a, b).double() / math.sqrt(b - a)
        assert abs(float(z.var()) - 1) < 5 * math.sqrt(2 / z.numel())


def test_a_path_run_back_returns_to_the_start():
    # Stratonovich: along the same path, backwards in time.
    y0 = torch.full((20, 3), 0.4, dtype=torch.float64)
    path = BrownianPath(y0.shape, 0.0, 1.0, seed=2, dtype=torch.float64)
    options = {"method": "heun", "sde_type": "stratonovich", "noise": path, "steps": 512}
    there = fastgen.sdeint(f, g, y0, [0.0, 1.0], **options)[-1]
    back = fastgen.sdeint(f, g, there, [1.0, 0.0], **options)[-1]
    assert (there - y0).abs().mean() > 0.1
    assert (back - y0).abs().mean() < 3e-3
    path = Fine((20, 3), 9, seed=1)
    there = fastgen.sdeint(f, g, y0, [0.0, 1.0], **(options | {"noise": path}))[-1]
    back = fastgen.sdeint(f, g, there, [1.0, 0.0], **(options | {"noise": path}))[-1]
    assert (back - y0).abs().mean() < 3e-3


def test_backwards_in_time_an_ito_equation_is_that_of_reversed_time():
    # y(0) from y(1): drift -f. Ornstein-Uhlenbeck with f = +a y has mean e^-a then.
    y = fastgen.sdeint(
        lambda t, y: 1.2 * y, lambda t, y: 0.5 * torch.ones_like(y), torch.full((100, 300), 2.0),
        [1.0, 0.0], method="srk", noise_type="additive", steps=100,
    )[-1].double()  # fmt: skip
    variance = 0.25 * (1 - math.exp(-2.4)) / 2.4
    assert abs(y.mean() - 2 * math.exp(-1.2)) < 5 * math.sqrt(variance / y.numel()) + 1e-3
    assert abs(y.var() / variance - 1) < 5 * math.sqrt(2 / y.numel()) + 1e-3


def test_every_time_is_hit_and_nodes_are_evaluated_where_the_method_says():
    seen = []

    def drift(t, y):
        seen.append(float(t[0]))
        assert t.shape == (2,)
        return torch.zeros_like(y)

    times = [0.0, 0.1, 1 / 3, 1.0]
    with torch.no_grad():  # otherwise f is called once more, to see whether it needs gradients
        y = fastgen.sdeint(
            drift, g, torch.zeros(2, 1, dtype=torch.float64), times, method="heun",
            sde_type="stratonovich", dt=0.15,
        )  # fmt: skip
    assert y.shape == (4, 2, 1)
    inner = [0.0, 0.1, 0.1 + (1 / 3 - 0.1) / 2, 1 / 3]
    inner += [1 / 3 + k * (2 / 3) / 5 for k in range(1, 5)] + [1.0]
    assert seen == pytest.approx([t for pair in pairwise(inner) for t in pair])
    assert set(times) <= set(seen)


def test_outputs_do_not_depend_on_which_are_asked_for():
    y0 = start()
    some = fastgen.sdeint(f, g, y0, [0.0, 1.0], dt=0.25)
    more = fastgen.sdeint(f, g, y0, [0.0, 0.25, 0.5, 1.0], dt=0.25)
    assert torch.equal(some[-1], more[-1])
    assert torch.equal(some[0], y0)


def test_noise_of_shapes():
    # One motion for a sample's elements, or one for each: their correlation tells.
    zero, one = lambda t, y: torch.zeros_like(y), lambda t, y: torch.ones_like(y)
    y0 = torch.zeros(4000, 2)
    options = {"method": "euler_maruyama", "steps": 2}
    for noise_type, correlation in (("scalar", 1.0), ("diagonal", 0.0), ("additive", 0.0)):
        y = fastgen.sdeint(zero, one, y0, [0.0, 1.0], noise_type=noise_type, **options)[-1]
        assert abs(float(torch.corrcoef(y.T)[0, 1]) - correlation) < 0.08
        assert abs(float(y.var()) - 1) < 0.1
    trailing = fastgen.sdeint(
        zero, lambda t, y: one(t, y)[..., None], y0, [0.0, 1.0], noise_type="scalar", **options
    )
    assert torch.equal(
        trailing, fastgen.sdeint(zero, one, y0, [0.0, 1.0], noise_type="scalar", **options)
    )
    mix = torch.tensor([[1.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
    for noise_type in ("general", "additive"):
        y = fastgen.sdeint(
            zero, lambda t, y: mix.expand(4000, 2, 3), y0, [0.0, 1.0], noise_type=noise_type,
            **options,
        )[-1]  # fmt: skip
        torch.testing.assert_close(torch.cov(y.T), mix @ mix.T, rtol=0, atol=0.4)


def test_layouts_dtypes_and_empty_batches():
    y0 = torch.randn(4, 6).T
    y = fastgen.sdeint(f, lambda t, y: g(t, y).T.contiguous().T, y0, [0.0, 1.0], steps=3)
    assert torch.equal(y, fastgen.sdeint(f, g, y0.contiguous(), [0.0, 1.0], steps=3))
    half = fastgen.sdeint(lambda t, y: f(t, y).bfloat16(), g, y0, [0.0, 1.0], steps=3)
    torch.testing.assert_close(half, y, rtol=0, atol=0.05)
    assert fastgen.sdeint(f, g, torch.zeros(0, 3), [0.0, 1.0], steps=2).shape == (2, 0, 3)
    scalars = fastgen.sdeint(f, g, torch.zeros(5), [0.0, 1.0], steps=2)
    assert scalars.shape == (2, 5)


def test_a_first_step_is_float64_and_may_be_one_for_each_sample():
    y0, same = start(), torch.full((7,), 0.3, dtype=torch.float64)
    found = [
        fastgen.sdeint(f, g, y0, [0.0, 1.0], adaptive=Adaptive(first_step=first, rtol=0.1))
        for first in (0.3, same, torch.where(torch.arange(7) < 3, same, 0.1))
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0][:, :3], found[2][:, :3])
    assert not torch.equal(found[0][:, 3:], found[2][:, 3:])


def test_steps_follow_earlier_errors_where_the_controller_says_so():
    gains = {"integral": 0.3, "proportional": 0.4}
    found = []
    for numbers in ({}, gains, gains | {"derivative": 0.1}, gains | {"proportional": 0.0}):
        control = Adaptive(rtol=0.01, atol=0.01, first_step=0.01, **numbers)
        found.append(fastgen.sdeint(f, g, start(), [0.0, 1.0], adaptive=control)[-1])
    assert all((a != b).any() for a, b in pairwise(found))
    assert all((a - b).abs().max() < 0.1 for a, b in pairwise(found))


def test_norms_do_not_depend_on_the_batch():
    x = torch.randn(33, 701)
    torch.testing.assert_close(row_norm(x), x.double().square().mean(1).sqrt())
    for b in (0, 32):
        assert torch.equal(row_norm(x[b : b + 1]), row_norm(x)[b : b + 1])


ARGUMENTS = {"f": f, "g": g, "y0": torch.zeros(2, 3), "t": [0.0, 1.0], "steps": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "eular"}, "method='eular'"),
        ({"method": "euler_maruyma"}, "did you mean 'euler_maruyama'"),
        ({"method": "heun"}, "sde_type='ito'; use euler_maruyama or milstein"),
        ({"method": "srk", "noise_type": "general"}, "noise_type='general'; use euler_maruyama"),
        ({"method": "srk", "noise": BrownianPath((2, 3))}, "space-time Levy area"),
        ({"noise_type": "diagnal"}, "did you mean 'diagonal'"),
        ({"sde_type": "strat"}, "sde_type='strat'"),
        ({"noise": "white"}, "noise='white'"),
        ({"adaptive": {"step": "each"}}, "step='each'"),
        ({"gradient": "reverse"}, "gradient='reverse'"),
        ({"gradient": "adjoint"}, "reversible_heun"),
        ({"parameters": []}, "parameters: for gradient='adjoint'"),
        ({"on_failure": "warn"}, "on_failure='warn'"),
        ({"steps": None}, "steps=None, dt=None: expected one"),
        ({"dt": 0.1}, "steps=2, dt=0.1: expected one"),
        ({"rtol": 0.1}, "rtol=0.1: the steps are fixed"),
        ({"steps": 0}, "steps=0: expected a positive"),
        ({"steps": 2.5}, "steps=2.5: expected a positive"),
        ({"steps": None, "dt": -0.1}, "dt=-0.1: expected a positive"),
        ({"adaptive": True}, "adaptive steps take first_step"),
        ({"adaptive": True, "steps": None, "noise": "draws"}, "noise='draws'"),
        ({"adaptive": True, "steps": None, "rtol": -1.0}, "rtol=-1.0"),
        ({"adaptive": True, "steps": None, "rtol": 0, "atol": 0}, "one of them must be"),
        ({"adaptive": {"first_step": 0.0}, "steps": None}, "first_step=0.0"),
        ({"adaptive": {"min_step": 1.0, "max_step": 0.5}, "steps": None}, "min_step=1.0"),
        ({"adaptive": {"max_steps": 0}, "steps": None}, "max_steps=0"),
        ({"t": [0.0]}, "t: expected two or more"),
        ({"t": [0.0, 0.0]}, "t: expected strictly"),
        ({"t": [0.0, 1.0, 0.5]}, "t: expected strictly"),
        ({"t": [0.0, math.nan]}, "t: expected finite"),
        ({"y0": torch.tensor([[1.0], [math.nan]])}, "y0: sample 1 is not finite"),
        ({"f": lambda t, y: y[:1]}, r"f: expected a value of shape \(2, 3\)"),
        ({"g": lambda t, y: y[:, :1]}, r"g: expected \[2, 3\] like y for noise_type='diagonal'"),
        ({"noise_type": "general"}, r"g: expected \[2, 3, m\]"),
        ({"noise": BrownianPath((2, 4))}, "noise: expected a path of shape"),
        ({"noise": BrownianPath((2, 3), 0, 0.5)}, r"noise: the path is on \[0.0, 0.5\]"),
        ({"noise": lambda s, t: torch.ones(2)}, "noise: expected increments of shape"),
        ({"seed": [1, 2, 3]}, "seed: expected 1 or 2"),
        ({"sample_ids": [1]}, "sample_ids: expected 2"),
        ({"backend": "cuda"}, "backend='cuda'"),
    ],
)
def test_malformed_calls_name_the_argument(changes, message):
    call = ARGUMENTS | changes

    def solve():
        if isinstance(call.get("adaptive"), dict):
            call["adaptive"] = Adaptive(**call["adaptive"])
        fastgen.sdeint(call.pop("f"), call.pop("g"), call.pop("y0"), call.pop("t"), **call)

    with pytest.raises(ValueError, match=message):
        solve()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"f": 3}, "f: expected a function"),
        ({"g": lambda t, y: 0.3}, "g: expected a tensor of floating-point numbers, got float"),
        ({"y0": 1.0}, "y0: expected a tensor with a batch axis"),
        ({"y0": torch.zeros(2, 3).half()}, "y0: expected float32 or float64"),
        ({"noise": 5}, "noise: expected a name, a path or a function"),
        ({"step_size": 2}, "unexpected keyword argument 'step_size'"),
    ],
)
def test_wrong_types_name_the_argument(changes, message):
    call = ARGUMENTS | changes
    with pytest.raises(TypeError, match=message):
        fastgen.sdeint(call.pop("f"), call.pop("g"), call.pop("y0"), call.pop("t"), **call)


def test_samples_that_blow_up_are_named_or_returned():
    y0 = torch.tensor([[0.1], [50.0]])
    cubic = lambda t, y: y**3  # noqa: E731
    with pytest.raises(RuntimeError, match=r"sample 1 is not finite at t=0.5 \(it was at t=0"):
        fastgen.sdeint(cubic, g, y0, [0.0, 0.5, 1.0], steps=20)
    ys = fastgen.sdeint(cubic, g, y0, [0.0, 0.5, 1.0], steps=20, on_failure="return")
    assert torch.isfinite(ys[:, 0]).all()
    assert not torch.isfinite(ys[1:, 1]).any()
    bad = lambda t, y: torch.where(t[:, None] > 0.4, math.nan, y)  # noqa: E731
    with pytest.raises(RuntimeError, match=r"sample \d is not finite after t=0\.[34]"):
        fastgen.sdeint(bad, g, y0, [0.0, 1.0], adaptive=Adaptive(first_step=0.01))
    with pytest.raises(RuntimeError, match="after max_steps=3 steps"):
        fastgen.sdeint(f, g, y0, [0.0, 1.0], adaptive=Adaptive(max_steps=3, first_step=1e-4))
