"""torchdiffeq's functions beside the originals: results, gradients, events, options, errors."""

import math
import warnings

import pytest
import torch
from torch import nn

from fastgen.integrations import torchdiffeq as mine

FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams")
ADAPTIVE = ("dopri8", "dopri5", "bosh3", "adaptive_heun")
MATRIX = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=torch.float64)
Y0 = torch.tensor([[2.0, 0.0], [0.5, 1.0]], dtype=torch.float64)
T = torch.linspace(0, 2, 9, dtype=torch.float64)


@pytest.fixture
def theirs():
    return pytest.importorskip("torchdiffeq")


def spiral(t, y):
    return torch.tanh(y) @ MATRIX.to(y) + 0.2 * torch.sin(3 * t)


def pair(t, state):
    y, s = state
    return spiral(t, y), -s * y.sum(1) / 4


STATES = {
    "tensor": (spiral, Y0),
    "scalar": (lambda t, y: t - torch.sin(y), torch.tensor(1.0, dtype=torch.float64)),
    "tuple": (pair, (Y0, torch.ones(2, dtype=torch.float64))),
}


def gap(a, b):
    if isinstance(a, tuple):
        assert isinstance(b, tuple)
        return max(gap(x, y) for x, y in zip(a, b, strict=True))
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    return (a - b).abs().max().item()


@pytest.mark.parametrize("ahead", [1, -1])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("method", [None, *ADAPTIVE, "fehlberg2"])
def test_varying_steps(theirs, method, state, ahead):
    f, y0 = STATES[state]
    tolerance = 1e-4 if method in ("fehlberg2", "adaptive_heun") else 1e-6
    options = {"method": method, "rtol": tolerance, "atol": tolerance / 100}
    a = mine.odeint(f, y0, ahead * T, **options)
    b = theirs.odeint(f, y0, ahead * T, method="dopri5", rtol=1e-10, atol=1e-12)
    # fehlberg2 estimates a 512th of the usual error.
    assert gap(a, b) < (3000 if method == "fehlberg2" else 50) * tolerance


@pytest.mark.parametrize("ahead", [1, -1])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("method", FIXED)
def test_fixed_steps_are_the_same(theirs, method, state, ahead):
    f, y0 = STATES[state]
    # Adams' methods of high orders are unstable, and have other weights for a short last step.
    adams = {"max_order": 6} if "adams" in method else {}
    size = 0.05 if adams else 0.06
    for options in (
        {},
        {"step_size": size},
        {"step_size": size, "interp": "cubic", "perturb": True},
        {"grid_constructor": lambda f, y0, t: torch.linspace(t[0], t[-1], 31).to(t)},
    ):
        found = []
        for kind in (mine, theirs):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of implicit iterations that did not converge
                found.append(kind.odeint(f, y0, ahead * T, method=method, options=options | adams))
        assert gap(*found) < (1e-9 if adams else 1e-12)


def test_adams_of_unequal_steps_keep_their_order():
    y0 = torch.tensor([1.0], dtype=torch.float64)
    errors = []
    for n in (40, 80):
        grid = torch.linspace(0, 1, n + 1, dtype=torch.float64) ** 1.5
        y = mine.odeint(lambda t, y: y, y0, grid, method="explicit_adams", options={"max_order": 5})
        errors.append(abs(y[-1].item() - math.e))
    assert math.log2(errors[0] / errors[1]) > 3.5


# torchdiffeq hands scipy's solvers a min_step, which RK45 does not know.
@pytest.mark.filterwarnings("ignore:The following arguments have no effect:UserWarning")
def test_scipy(theirs):
    options = {"method": "scipy_solver", "options": {"solver": "RK45"}}
    found = (kind.odeint(spiral, Y0, T, **options) for kind in (mine, theirs))
    assert gap(*found) < 1e-12


def gradients(solve, f, y0, t, parameters):
    y0, t = y0.clone().requires_grad_(), t.clone().requires_grad_()
    ys = solve(f, y0, t)
    weights = torch.linspace(0.5, 1.5, ys.numel(), dtype=ys.dtype).reshape(ys.shape)
    return torch.autograd.grad((ys * weights).sum(), (y0, t, *parameters))


class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2)).double()

    def forward(self, t, y):
        return self.layers(torch.cat([y, t.expand(*y.shape[:-1], 1)], -1))


WAYS = {
    "dopri5": {"method": "dopri5", "rtol": 1e-8, "atol": 1e-10},
    "rk4": {"method": "rk4", "options": {"step_size": 0.02}},
    "adams": {"method": "implicit_adams", "options": {"step_size": 0.02, "max_iters": 10}},
    "stops": {
        "method": "dopri5",
        "rtol": 1e-8,
        "atol": 1e-10,
        "options": {"step_t": torch.tensor([0.3, 1.25]).double()},
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_gradients_through_the_steps(theirs, way):
    net = Net()
    found = [
        gradients(
            lambda f, y, t, kind=kind: kind.odeint(f, y, t, **WAYS[way]),
            net, Y0, T, list(net.parameters()),
        )
        for kind in (mine, theirs)
    ]  # fmt: skip
    assert gap(*found) < (1e-4 if way == "adams" else 1e-5)


@pytest.mark.parametrize(
    "back",
    [
        {},
        {"adjoint_options": {"norm": "seminorm"}},
        {"adjoint_rtol": 1e-7, "adjoint_atol": 1e-7, "adjoint_method": "bosh3"},
        {"adjoint_method": "rk4", "adjoint_options": {"step_size": 0.02}},
        {"adjoint_options": {"first_step": 0.01, "max_step": 0.2}},
    ],
)
def test_adjoints(theirs, back):
    net = Net()
    parameters = list(net.parameters())

    def solve(f, y, t):
        return mine.odeint_adjoint(f, y, t, rtol=1e-8, atol=1e-10, **back)

    found = gradients(solve, net, Y0, T, parameters)
    exact = gradients(
        lambda f, y, t: theirs.odeint(f, y, t, rtol=1e-10, atol=1e-12), net, Y0, T, parameters
    )
    assert gap(found, exact) < 1e-5


@pytest.mark.parametrize("way", ["rk4", "adams", "stops"])
def test_adjoints_of_other_methods(theirs, way):
    net = Net()
    parameters = list(net.parameters())
    found = gradients(
        lambda f, y, t: mine.odeint_adjoint(f, y, t, **WAYS[way]), net, Y0, T, parameters
    )
    exact = gradients(
        lambda f, y, t: theirs.odeint(f, y, t, rtol=1e-10, atol=1e-12), net, Y0, T, parameters
    )
    assert gap(found, exact) < 1e-4


def test_adjoint_of_tuples_and_given_parameters():
    p = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def f(t, state):
        return -p * state[0], p * state[1]

    y0 = (torch.ones(3).double(), torch.ones(2, 2).double())
    for method in ("dopri5", "rk4"):
        ys = mine.odeint_adjoint(f, y0, T, method=method, adjoint_params=(p,))
        (found,) = torch.autograd.grad(ys[0][-1].sum() + ys[1][-1].sum(), p)
        wanted = -3 * 2 * math.exp(-1.4) + 4 * 2 * math.exp(1.4)
        assert found.item() == pytest.approx(wanted, rel=1e-2 if method == "rk4" else 1e-5)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("adjoint", [False, True])
def test_events(theirs, method, reverse, adjoint):
    options = {"step_size": 0.01, "interp": "cubic"} if method == "rk4" else None
    found = []
    for kind in (mine, theirs):
        y0, t0, p = (torch.tensor(x).double().requires_grad_() for x in ([1.0, 0.2], 0.1, 1.3))
        more = {"odeint_interface": kind.odeint}
        if adjoint:
            more["odeint_interface"] = lambda *a, kind=kind, p=p, **k: kind.odeint_adjoint(
                *a, adjoint_params=(p,), **k
            )
        time, ys = kind.odeint_event(
            lambda t, y, p=p: p * (y @ MATRIX) + 0.1 * t, y0, t0,
            event_fn=lambda t, y: torch.stack([y[0] + 0.5, y[1] + 4 + 0.1 * t]),
            reverse_time=reverse, method=method, options=options, atol=1e-9, **more,
        )  # fmt: skip
        loss = 1.3 * time + ys[-1].square().sum()
        found.append((time.detach(), ys.detach(), *torch.autograd.grad(loss, (y0, t0, p))))
    assert gap(*map(tuple, found)) < 1e-5


def test_events_far_away_at_the_start_and_of_tuples(theirs):
    y0 = torch.zeros(1).double()
    time, ys = mine.odeint(
        lambda t, y: torch.ones_like(y), y0, T[:2], event_fn=lambda t, y: y[0] - 300
    )
    assert time.item() == pytest.approx(300, abs=1e-6)
    assert ys.shape == (2, 1)
    time, ys = mine.odeint(lambda t, y: y + 1, y0, T[:2], event_fn=lambda t, y: y[0])
    assert time.item() == 0
    assert torch.equal(ys, torch.zeros(2, 1).double())
    event = lambda t, y: y[1][0] - 0.8  # noqa: E731
    state = (Y0, torch.ones(2).double())
    found = [k.odeint_event(pair, state, T[0], event_fn=event) for k in (mine, theirs)]
    assert gap(found[0][1], found[1][1]) < 1e-6


@pytest.mark.parametrize("ahead", [1, -1])
def test_jumps_are_seen_from_one_side(ahead):
    """dy/dt = 1, then 5 from |t| = 1 on: exact if no step looks over the jump."""
    calls = []

    def f(t, y):
        calls.append(float(t))
        return torch.full_like(y, ahead * (1.0 if ahead * t < 1 else 5.0))

    y0, t = torch.zeros(1).double(), ahead * torch.tensor([0, 0.4, 1, 1.7, 2], dtype=T.dtype)
    jump = torch.tensor([ahead * 1.0])
    y = mine.odeint(f, y0, t, options={"jump_t": jump})
    wanted = torch.tensor([0, 0.4, 1, 4.5, 6], dtype=T.dtype)
    torch.testing.assert_close(y[:, 0], wanted, rtol=0, atol=1e-12)
    assert len(calls) < 60
    assert ahead * 1.0 not in calls
    y = mine.odeint(
        f, y0, t[[0, 4]], options={"step_t": ahead * torch.tensor([0.5]), "jump_t": jump}
    )
    torch.testing.assert_close(y[:, 0], wanted[[0, 4]], rtol=0, atol=1e-12)


def test_options_of_the_controller_are_honoured():
    times = []

    def f(t, y):
        times.append(float(t))
        return -y

    options = {"first_step": 0.01, "max_step": 0.05, "ifactor": 2.0, "dfactor": 0.5, "safety": 0.8}
    mine.odeint(f, Y0, T[:2], method="bosh3", options=options)
    ends = times[3::3]
    steps = [b - a for a, b in zip([0.0, *ends], ends, strict=False)]
    assert steps[0] == pytest.approx(0.01)
    assert steps[1] <= 0.02 + 1e-12
    assert max(steps) <= 0.05 + 1e-12
    y = mine.odeint(lambda t, y: -t[:, None] * y, Y0, T, options={"step": "per_sample"})
    torch.testing.assert_close(y[-1], Y0 * math.exp(-2), rtol=1e-5, atol=0)


def test_callbacks():
    class Heard(nn.Module):
        seen = 0

        def forward(self, t, y):
            return -y

        def callback_step(self, t, y, dt):
            self.seen += 1

    f = Heard()
    mine.odeint(f, Y0, T, method="rk4")
    assert f.seen == 8
    seen = f.seen
    mine.odeint(f, Y0, T)
    assert f.seen > seen
    f.callback_accept_step = lambda t, y, dt: None
    with pytest.warns(UserWarning, match="does not support callbacks.*accept"):
        mine.odeint(f, Y0, T, method="rk4")


BLOWS_UP = {"method": "dopri5", "rtol": 1e-6, "atol": 1e-6}


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((spiral, Y0, T), {"method": "dopri6"}, "Invalid method.*dopri5"),
        ((spiral, Y0, [0.0, 1.0]), {}, "t must be a torch.Tensor"),
        ((spiral, Y0, torch.tensor([0, 1])), {}, "floating point"),
        ((spiral, Y0, T[None]), {}, "one dimensional"),
        ((spiral, Y0, T[[0, 2, 1]]), {}, "strictly increasing"),
        ((spiral, Y0, T), {"event_fn": lambda t, y: y.sum()}, "len.t. == 2"),
        ((spiral, Y0, T[:2]), {"event_fn": lambda t, y: y.sum() + 9, "method": "rk4"}, "step_size"),
        (
            (spiral, Y0, T),
            {
                "method": "rk4",
                "options": {"step_size": 0.1, "grid_constructor": lambda f, y, t: t},
            },
            "mutually exclusive",
        ),
        (
            (spiral, Y0, T),
            {"method": "rk4", "options": {"grid_constructor": lambda f, y, t: t[1:]}},
            "must begin|^assert",
        ),
        (
            (spiral, Y0, T),
            {"options": {"step_t": T[1:2], "jump_t": T[1:2]}},
            "repeated elements",
        ),
        (
            (spiral, Y0, T),
            {"options": {"max_num_steps": 1}, "rtol": 1e-10},
            "max_num_steps exceeded",
        ),
        ((lambda t, y: y * y, 9 * Y0, T), BLOWS_UP, "underflow|non-finite"),
    ],
)
def test_errors_of_the_same_type(theirs, arguments, options, message):
    with pytest.raises(Exception) as wanted:  # noqa: PT011
        theirs.odeint(*arguments, **options)
    with pytest.raises(wanted.type, match=message):
        mine.odeint(*arguments, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"options": {"first_stp": 1}}, "first_stp.*first_step"),
        ({"options": {"norm": lambda y: y.abs()}}, "norm: expected one number"),
        ({"options": {"dtype": torch.float32}}, "float64"),
        ({"method": "rk4", "options": {"interp": "cubi"}}, "interp='cubi'.*cubic"),
        ({"rtol": (1e-3, 1e-4)}, "one number"),
        ({"options": {"step": "per_sample", "step_t": T[1:2]}}, "step='joint'"),
    ],
)
def test_what_is_refused_says_why(options, message):
    with pytest.raises(ValueError, match=message):
        mine.odeint(spiral, Y0, T, **options)


def test_errors_of_the_adjoint():
    with pytest.raises(ValueError, match=r"nn\.Module"):
        mine.odeint_adjoint(spiral, Y0, T)
    with pytest.raises(ValueError, match="adjoint_options"):
        mine.odeint_adjoint(Net(), Y0, T, method="dopri5", adjoint_method="rk4", options={})
    with pytest.raises(ValueError, match="'seminorm', a function or none"):
        mine.odeint_adjoint(Net(), Y0, T, adjoint_options={"norm": "linf"})


def test_the_training_loop():
    """torchdiffeq's spiral demo, shortened: batches of pieces, odeint_adjoint, RMSprop."""
    matrix = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    t = torch.linspace(0, 10, 200)
    true = mine.odeint(lambda t, y: y**3 @ matrix, torch.tensor([[2.0, 0.0]]), t, rtol=1e-5)

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 2))

        def forward(self, t, y):
            return self.net(y**3)

    f, losses = Field(), []
    optimiser = torch.optim.RMSprop(f.parameters(), lr=2e-3)
    for _ in range(25):
        start = torch.randint(0, 190, (20,))
        target = torch.stack([true[start + i] for i in range(10)])
        found = mine.odeint_adjoint(f, true[start], t[:10], rtol=1e-5, atol=1e-6)
        assert found.shape == target.shape
        loss = (found - target).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


@pytest.mark.parametrize("through", [False, True])
def test_the_adjoints_event_time_has_its_derivative(through):
    """y' = -a y reaches c at T = log(y0 / c) / a; through odeint_event it is counted once."""
    a = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    call = {
        "event_fn": lambda t, y: y[0] - 1.0,
        "adjoint_params": (a,),
        "rtol": 1e-10,
        "atol": 1e-12,
    }
    if through:
        solve = mine.odeint_event
        call |= {"odeint_interface": mine.odeint_adjoint}
        time, ys = solve(lambda t, y: -a * y, y0, torch.zeros((), dtype=torch.float64), **call)
    else:
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        time, ys = mine.odeint_adjoint(lambda t, y: -a * y, y0, ends, **call)
    by_a, by_y = torch.autograd.grad(time, [a, y0], retain_graph=True)
    exact = math.log(3.0) / 0.8
    assert time.item() == pytest.approx(exact, rel=1e-8)
    assert by_a.item() == pytest.approx(-exact / 0.8, rel=1e-6)
    assert by_y.item() == pytest.approx(1 / (0.8 * 3.0), rel=1e-6)
    # The state: at the fixed time it moves with a, at the event it is c.
    (moved,) = torch.autograd.grad(ys[-1].sum(), a)
    assert moved.item() == pytest.approx(0.0 if through else -exact, rel=1e-6, abs=1e-8)
