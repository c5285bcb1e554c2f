"""What networks return, where their parameters are and in which dtype, and errors that say so."""

import contextlib
import functools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import fastgen
from fastgen import Guidance, schedules
from fastgen.model.output import modules_of
from fastgen.training import losses, paths

FLOW = schedules.Rectified()
DISCRETE = schedules.DiscreteVP(torch.linspace(1e-4, 0.02, 5))
X = torch.linspace(-1, 1, 32).reshape(4, 8)


def flow(net):
    return fastgen.Model(net, FLOW, "velocity")


def discrete(net):
    return fastgen.Model(net, DISCRETE, "noise", time_input="index")


def path_sample():
    return paths.Target().sample(None, X)


ROUTES = {
    "euler": lambda net: fastgen.sample(flow(net), X, "euler", 2),
    "guided": lambda net: fastgen.sample(
        flow(net), X, "euler", 2, guidance=Guidance(2.0, batched=False)
    ),
    "joined": lambda net: fastgen.sample(flow(net), X, "euler", 2, guidance=Guidance(2.0)),
    "differentiable": lambda net: fastgen.sample(flow(net), X, "euler", 2, differentiable=True),
    "dopri5": lambda net: fastgen.sample(flow(net), X, "dopri5"),
    "dpm_adaptive": lambda net: fastgen.sample(flow(net), X, "dpm_adaptive", start=0.9, end=0.1),
    "log_likelihood": lambda net: fastgen.log_likelihood(flow(net), X),
    "predict": lambda net: flow(net).predict("data", X, 0.5),
    "variational_bound": lambda net: fastgen.variational_bound(discrete(net), X),
    "invert": lambda net: fastgen.invert(flow(net), X, steps=2),
    "serve": lambda net: served(net),
    "trajectory": lambda net: of_trajectory(net),
    "denoising": lambda net: losses.denoising(flow(net), X),
    "bits_per_dimension": lambda net: losses.bits_per_dimension(discrete(net), X),
    "shortcut": lambda net: losses.shortcut(net, path_sample(), torch.full((4,), 0.1)),
    "consistency": lambda net: losses.consistency(net, X, torch.ones(4), 2 * torch.ones(4)),
    "annealed": lambda net: losses.annealed(net, X, torch.tensor([1.0, 0.1])),
    "flow_matching": lambda net: losses.flow_matching(net(X, X), path_sample()),
}


def served(net):
    batch = fastgen.Sampler(flow(net), fastgen.plan("euler", FLOW, 2)).serve((4, 8))
    batch.admit()
    batch.step()


def of_trajectory(net):
    good = flow(lambda x, t: 0.1 * x)
    plan = fastgen.plan("euler_ancestral", FLOW, 2)
    _, states = fastgen.Sampler(good, plan)(X, trajectory=True)
    fastgen.trajectory_log_probability(fastgen.Sampler(flow(net), plan), states)


WRONG = {
    "[B, 1]": (lambda x: 0.1 * x[:, :1], "got torch.float32"),
    "[1, B, D]": (lambda x: 0.1 * x[None], "got torch.float32"),
    "no axes": (lambda x: x.sum(), "got torch.float32"),
    "complex": (lambda x: 0.1 * x * (1 + 5j), r"complex64.*\.real"),
    "integers": (lambda x: (9 * x).long(), r"int64.*\.float\(\)"),
    "a tuple": (lambda x: (x, x), r"tuple of 2.*\[0\]"),
    "a dictionary": (lambda x: {"sample": x}, r"\['sample'\]"),
    "another key": (lambda x: {"size": 3, "pred": x}, r"\['pred'\]"),
    "an output": (lambda x: SimpleNamespace(sample=x), r"\.sample"),
    "a field": (lambda x: SimpleNamespace(eps=x), r"\.eps"),
    "nothing": (lambda x: None, "None; the network must return"),
    "numpy": (lambda x: x.detach().numpy(), "ndarray"),
    "sparse": (lambda x: (0.1 * x).to_sparse(), r"layout is torch\.sparse_coo.*to_dense"),
    "nested": (lambda x: torch.nested.as_nested_tensor([0.1 * x]), r"nested.*to_padded"),
}


@pytest.mark.parametrize(
    ("route", "kind"),
    [("euler", kind) for kind in WRONG]
    + [(r, k) for r in ROUTES for k in ("[B, 1]", "complex", "integers", "an output", "sparse")],
)
def test_other_outputs_are_refused_with_what_came_and_the_remedy(route, kind):
    make, message = WRONG[kind]
    with pytest.raises(ValueError, match=f"expected a real tensor.*{message}"):
        ROUTES[route](lambda x, *t, **k: make(x))


@pytest.mark.parametrize("route", ["euler", "dopri5", "log_likelihood", "predict"])
def test_outputs_of_other_real_dtypes_are_taken(route):
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        ROUTES[route](lambda x, t, to=dtype: (-0.1 * x).to(to))


def test_a_network_of_variances_is_told_so():
    net = nn.Conv2d(2, 4, 1)
    with pytest.raises(ValueError, match="learned_variance=True"):
        fastgen.sample(flow(lambda x, t: net(x)), (2, 2, 3, 3), "euler", 2)


class Static:
    """A network that overwrites its last output, as a CUDA graph does."""

    def __init__(self):
        self.memory = {}

    def __call__(self, x, *t, y=0.0, **k):
        found = clean(x, *t, y=y)
        kept = self.memory.setdefault(tuple(found.shape), torch.empty_like(found))
        return kept.copy_(found)


def clean(x, *t, y=0.0, **k):
    return torch.tanh(x.flip(1) + y) + 0.3


@pytest.mark.parametrize(
    "solver", ["euler", "heun", "dpmpp_2m", "ddim_cfgpp", "dopri5", "dpm_adaptive"]
)
@pytest.mark.parametrize("rescale", [0.0, 0.7])
@pytest.mark.parametrize("auto", [False, True])
def test_guidance_of_a_network_that_overwrites_its_output(solver, rescale, auto):
    def run(net, **options):
        model = fastgen.Model(net, schedules.CosineVP(), "v", **options)
        weak = functools.partial(net, y=-1.0) if auto else None
        guidance = Guidance(3.0, {"y": -1.0}, rescale=rescale, batched=False, network=weak)
        adaptive = solver in ("dopri5", "dpm_adaptive")
        ends = {"start": 0.9, "end": 0.1} if adaptive else {"start": 0.9}
        steps = None if adaptive else 4
        return fastgen.sample(model, (2, 6), solver, steps, seed=3, guidance=guidance, **ends)

    if rescale and solver == "ddim_cfgpp":  # merged outputs leave it none of its own
        with pytest.raises(ValueError, match="reads the unconditional output on its own"):
            run(clean)
        return
    want = run(clean)
    torch.testing.assert_close(run(Static(), reuses_output=True), want, rtol=1e-5, atol=1e-5)
    if solver in ("heun", "dpmpp_2m"):  # earlier outputs are still needed
        with contextlib.suppress(ValueError):
            torch.testing.assert_close(run(Static()), want, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(run(Static()), want)


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("solver", ["adams_bashforth", "rk4"])
def test_a_network_that_overwrites_outputs_which_are_still_needed(solver, differentiable):
    plan = fastgen.plan(solver, FLOW, 4, start=0.9)

    def run(net, **options):
        model = fastgen.Model(net, FLOW, "velocity", **options)
        return fastgen.Sampler(model, plan)((2, 6), differentiable=differentiable)

    found = run(Static(), reuses_output=True)
    torch.testing.assert_close(found, run(clean), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="reuses_output=True"):
        run(Static())


def test_log_probabilities_by_a_network_that_overwrites_its_output():
    plan = fastgen.plan("dpmpp_2m_sde", schedules.CosineVP(), 4, start=0.9)

    def run(net, **options):
        model = fastgen.Model(net, schedules.CosineVP(), "v", **options)
        sampler = fastgen.Sampler(model, plan, dtype=torch.float64)
        return fastgen.trajectory_log_probability(sampler, states).values

    model = fastgen.Model(clean, schedules.CosineVP(), "v")
    _, states = fastgen.Sampler(model, plan)((2, 6), trajectory=True)
    want = run(clean)
    assert torch.equal(run(Static(), reuses_output=True), want)
    with pytest.raises(ValueError, match="reuses_output=True"):
        run(Static())


def test_losses_of_a_network_that_overwrites_its_output():
    low, high = torch.full((4,), 0.5), torch.full((4,), 1.0)
    step = torch.full((4,), 0.25)
    with torch.no_grad():
        for loss in (
            lambda net: losses.consistency(net, X, low, high),
            lambda net: losses.shortcut(net, path_sample(), step),
        ):
            assert torch.equal(loss(Static()), loss(clean))


class Body(nn.Module):
    """A first parameter of one dtype, a body of another."""

    def __init__(self, first, body, norm=torch.float32):
        super().__init__()
        self.first = nn.Parameter(torch.zeros(64).to(first), requires_grad=False)
        self.table = nn.Embedding(1000, 8).to(norm)
        self.norm = nn.LayerNorm(8).to(norm)
        self.body = nn.Linear(8, 8).to(body)

    def forward(self, x, t):
        return self.body(x)


@pytest.mark.parametrize(
    "first",
    [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float32, torch.float64],
)
@pytest.mark.parametrize("body", [torch.bfloat16, torch.float32, torch.float64])
def test_a_module_is_fed_the_dtype_of_its_body(first, body):
    model = flow(Body(first, body))
    assert model.input_dtype(torch.float32) == body
    assert fastgen.sample(model, (2, 8), "euler", 2).isfinite().all()
    assert fastgen.Model(model.net, FLOW, "velocity", dtype=torch.float16).input_dtype(
        torch.float32
    ) == (torch.float16)


def test_parameters_that_only_store_leave_the_state_its_dtype():
    stored = nn.ParameterList(
        [nn.Parameter(torch.zeros(3, 3).to(torch.float8_e4m3fn), requires_grad=False)]
    )
    assert fastgen.Model(stored, FLOW, "velocity").input_dtype(torch.float64) == torch.float64


class Holder:
    def __init__(self, module):
        self.parts = {"net": [module]}

    def __call__(self, x, t):
        return self.parts["net"][0](x)

    def method(self, x, t):
        return self(x, t)


MODULE = nn.Linear(3, 3).to("meta")


def by_global(x, t):
    return MODULE(x)


def test_a_function_around_a_module_keeps_its_device():
    module = MODULE

    def inner(x, t):
        return module(x)

    for net in (
        module,
        lambda x, t: module(x),
        lambda x, t: inner(x, t),
        by_global,
        functools.partial(inner, t=None),
        Holder(module),
        Holder(module).method,
        functools.wraps(inner)(lambda x, t: inner(x, t)),
    ):
        assert modules_of(net) == [module]
        assert flow(net).device == torch.device("meta")
    other = nn.Linear(3, 3)
    assert flow(lambda x, t: other(module(x))).device == torch.device("cpu")
    assert flow(lambda x, t: x).device == torch.device("cpu")


@pytest.mark.parametrize("solver", ["euler", "dopri5"])
def test_a_function_around_a_module_of_another_dtype_says_what_to_pass(solver):
    module = nn.Linear(3, 3).bfloat16()
    steps = None if solver == "dopri5" else 2
    with pytest.raises(RuntimeError, match=r"pass Model\(..., dtype=torch.bfloat16\)"):
        fastgen.sample(flow(lambda x, t: module(x)), (2, 3), solver, steps)
    model = fastgen.Model(lambda x, t: module(x), FLOW, "velocity", dtype=torch.bfloat16)
    assert fastgen.sample(model, (2, 3), solver, steps).dtype == torch.float32
    # One that converts by itself is left alone.
    cast = flow(lambda x, t: x - module(x.bfloat16()).float())
    assert cast.input_dtype(torch.float32) == torch.float32


@pytest.mark.parametrize("shape", [(4,), (0, 3), (3, 1), (2, 0)])
def test_rescale_and_thresholds_of_small_states(shape):
    c = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    whole = Guidance(4.0, rescale=1.0)
    torch.testing.assert_close(whole.merge([c, 2 * c], 0.5).output, -2 * c)  # nothing to scale
    data = fastgen.model.dynamic_threshold(0.995)(torch.full(shape, 2.0), 0.5)
    assert torch.equal(data, torch.ones(shape))


def test_rescale_is_per_sample_and_finite_for_constant_outputs():
    c = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])
    u = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [1.0, 2.0, 3.0]]) / 2
    found = Guidance(3.0, rescale=0.5).merge([c, u], 0.5).output
    # The last is 2 c, brought back half of the way.
    want = torch.tensor([[0.0] * 3, [2.5] * 3, [1.5, 3.0, 4.5]])
    torch.testing.assert_close(found, want)


def test_the_threshold_of_more_numbers_than_torch_quantile_takes():
    size = (1 << 24) + 5
    row = torch.linspace(0, 4, size)
    data = fastgen.model.dynamic_threshold(0.75)(row[None], 0.5)[0]
    torch.testing.assert_close(data[:: size // 9], (row.clamp(max=3.0) / 3.0)[:: size // 9])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("percentile", [1e-9, 0.3, 0.5, 0.995, 1.0])
@pytest.mark.parametrize("size", [1, 2, 37, 3001])
def test_the_threshold_is_torch_s_quantile(dtype, percentile, size):
    data = fastgen.randn((4, size), seed=5, dtype=dtype) * 3
    scale = torch.quantile(data.abs(), percentile, dim=1, keepdim=True).clamp(min=0.25)
    want = data.clamp(-scale, scale) * (0.25 / scale)
    assert torch.equal(fastgen.model.dynamic_threshold(percentile, 0.25)(data, 0.5), want)


@pytest.mark.parametrize("kind", ["sparse", "nested"])
def test_fields_of_other_layouts_are_refused(kind):
    make, _ = WRONG[kind]
    for run in (
        lambda: fastgen.odeint(lambda t, y: make(y), X, [0.0, 1.0]),
        lambda: fastgen.odeint(lambda t, y: make(y), X, [0.0, 1.0], method="rk4"),
        lambda: fastgen.sdeint(lambda t, y: make(y), lambda t, y: y, X, [0.0, 1.0], steps=2),
    ):
        with pytest.raises(TypeError, match=r"f: expected a dense tensor: .*give"):
            run()
