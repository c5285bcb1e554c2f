"""The flow_matching interface: paths and schedulers beside their formulas, solvers beside
torchdiffeq called as that package does, Gaussian flows in closed form."""

import math

import pytest
import torch

from fastgen.integrations.flow_matching.path import (
    AffineProbPath,
    CondOTProbPath,
    GeodesicProbPath,
)
from fastgen.integrations.flow_matching.path.scheduler import (
    CondOTScheduler,
    CosineScheduler,
    LinearVPScheduler,
    PolynomialConvexScheduler,
    ScheduleTransformedModel,
    VPScheduler,
)
from fastgen.integrations.flow_matching.solver import ODESolver, RiemannianODESolver
from fastgen.integrations.flow_matching.utils import ModelWrapper
from fastgen.integrations.flow_matching.utils.manifolds import (
    Euclidean,
    FlatTorus,
    Sphere,
    geodesic,
)

DTYPE = torch.float64
SCHEDULERS = {
    "condot": CondOTScheduler(),
    "polynomial": PolynomialConvexScheduler(2.5),
    "vp": VPScheduler(),
    "linear_vp": LinearVPScheduler(),
    "cosine": CosineScheduler(),
}
FORMULAS = {
    "condot": lambda t: (t, 1 - t),
    "polynomial": lambda t: (t**2.5, 1 - t**2.5),
    "vp": lambda t: (
        torch.exp(-0.25 * (1 - t) ** 2 * 19.9 - 0.5 * (1 - t) * 0.1),
        torch.sqrt(1 - torch.exp(-0.5 * (1 - t) ** 2 * 19.9 - (1 - t) * 0.1)),
    ),
    "linear_vp": lambda t: (t, torch.sqrt(1 - t**2)),
    "cosine": lambda t: (torch.sin(math.pi / 2 * t), torch.cos(math.pi / 2 * t)),
}


def close(mine, theirs, tolerance=1e-10):
    assert mine.shape == theirs.shape
    assert ((mine - theirs).abs().max() / theirs.abs().max()).item() < tolerance


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def model(x, t, shift=0.0):
    """A smooth velocity; t without axes, as the solvers give it."""
    assert t.ndim == 0
    assert t.dtype == x.dtype
    return torch.tanh(x + shift) * torch.cos(3 * t) + 0.4 * x.flip(1)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(name):
    t = torch.linspace(0.02, 0.98, 25, dtype=DTYPE, requires_grad=True)
    found, (alpha, sigma) = SCHEDULERS[name](t), FORMULAS[name](t)
    close(found.alpha_t, alpha)
    close(found.sigma_t, sigma)
    for mine, value in ((found.d_alpha_t, alpha), (found.d_sigma_t, sigma)):
        close(mine.expand(25), torch.autograd.grad(value.sum(), t, retain_graph=True)[0])
    close(SCHEDULERS[name].snr_inverse(alpha / sigma), t, 1e-9)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_affine_paths(name):
    x_0, x_1, t = noise(5, 3, 2), noise(5, 3, 2, seed=1), torch.rand(5, dtype=DTYPE) * 0.9 + 0.05
    path = CondOTProbPath() if name == "condot" else AffineProbPath(SCHEDULERS[name])
    got = path.sample(x_0=x_0, x_1=x_1, t=t)
    assert got.x_0 is x_0
    assert got.x_1 is x_1
    assert got.t is t

    variable = t.clone().requires_grad_()
    alpha, sigma = FORMULAS[name](variable)
    d_alpha, d_sigma = (
        torch.autograd.grad(c.sum(), variable, retain_graph=True)[0] for c in (alpha, sigma)
    )

    def rows(c):
        return c.detach()[:, None, None]

    close(got.x_t, rows(sigma) * x_0 + rows(alpha) * x_1)
    close(got.dx_t, rows(d_sigma) * x_0 + rows(d_alpha) * x_1)
    # every quantity follows from every other
    x_t, u = got.x_t, got.dx_t
    for wanted, mine in (
        (u, path.target_to_velocity(x_1, x_t, t)),
        (u, path.epsilon_to_velocity(x_0, x_t, t)),
        (x_1, path.velocity_to_target(u, x_t, t)),
        (x_1, path.epsilon_to_target(x_0, x_t, t)),
        (x_0, path.velocity_to_epsilon(u, x_t, t)),
        (x_0, path.target_to_epsilon(x_1, x_t, t)),
    ):
        close(mine, wanted, 1e-9)
    # differentiable in everything
    inputs = [v.clone().requires_grad_() for v in (x_0, x_1, t)]
    assert torch.autograd.gradcheck(lambda *v: path.sample(*v).x_t, tuple(inputs))
    assert torch.autograd.gradcheck(lambda a, b: path.sample(a, b, t).dx_t, tuple(inputs[:2]))
    single = path.sample(x_0.float(), x_1.float(), t.float())
    assert single.x_t.dtype == single.dx_t.dtype == torch.float32
    with pytest.raises(ValueError, match="x_0, x_1, t"):
        path.sample(x_0, x_1, t[:4])


def test_a_training_loop():
    """As flow_matching's examples train: path.sample, a wrapped network, the loss, the solver."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 32), torch.nn.SiLU(), torch.nn.Linear(32, 2))

    class Wrapped(ModelWrapper):
        def forward(self, x, t, **extras):
            t = t.reshape(-1, 1).expand(x.shape[0], 1)
            return self.model(torch.cat([x, t], 1))

    velocity, path = Wrapped(net), CondOTProbPath()
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(150):
        x_1 = torch.randn(128, 2) * 0.1 + torch.tensor([3.0, -2.0])
        sample = path.sample(x_0=torch.randn(128, 2), x_1=x_1, t=torch.rand(128))
        loss = (velocity(x=sample.x_t, t=sample.t) - sample.dx_t).pow(2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    y = ODESolver(velocity_model=velocity).sample(
        x_init=torch.randn(256, 2), step_size=0.1, method="midpoint"
    )
    assert (y.mean(0) - torch.tensor([3.0, -2.0])).abs().max() < 0.3
    assert y.std() < 3


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "heun3", "rk4"])
@pytest.mark.parametrize("step_size", [0.1, 0.07, None])
def test_fixed_steps_are_torchdiffeqs(method, step_size):
    odeint = pytest.importorskip("torchdiffeq").odeint
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        x = noise(3, 4).to(dtype)
        for times in ([0.0, 0.33, 0.5, 1.0], [1.0, 0.4, 0.0]):
            grid = torch.tensor(times, dtype=DTYPE)
            options = {} if step_size is None else {"step_size": step_size}
            theirs = odeint(
                lambda t, x: model(x, t, 0.2), x, grid.to(dtype), method=method, options=options
            )
            solver = ODESolver(velocity_model=model)
            arguments = {"step_size": step_size, "method": method, "time_grid": grid, "shift": 0.2}
            close(solver.sample(x, return_intermediates=True, **arguments), theirs, tolerance)
            close(solver.sample(x_init=x, **arguments), theirs[-1], tolerance)


def test_enable_grad():
    weight = torch.tensor(0.7, dtype=DTYPE, requires_grad=True)
    x = noise(2, 3).requires_grad_()
    solver = ODESolver(lambda x, t: torch.tanh(weight * x) * (1 + t))

    def run(x):
        return solver.sample(x, step_size=0.25, method="rk4", enable_grad=True)

    assert torch.autograd.gradcheck(run, (x,))
    (gradient,) = torch.autograd.grad(run(x).sum(), weight)
    with torch.no_grad():
        values = []
        for shift in (1e-5, -1e-5):
            weight += shift
            values.append(run(x).sum())
            weight -= shift
    assert gradient.item() == pytest.approx(((values[0] - values[1]) / 2e-5).item(), rel=1e-7)
    assert not solver.sample(x, step_size=0.25).requires_grad
    states = solver.sample(x, step_size=0.25, return_intermediates=True, enable_grad=True)
    assert states.requires_grad


MEAN, STD = 0.5, 0.3


def gaussian_velocity(x, t):
    """Of x_t = (1 - t) x_0 + t x_1, x_1 ~ N(MEAN, STD^2): the flow maps x_0 to MEAN + STD x_0."""
    variance = (1 - t) ** 2 + t**2 * STD**2
    growth = (t * STD**2 - (1 - t)) / variance
    return MEAN + growth * (x - t * MEAN)


def normal(x):
    return torch.distributions.Normal(0.0, 1.0).log_prob(x).flatten(1).sum(1)


@pytest.mark.parametrize("exact", [True, False])
def test_likelihood_of_gaussian_data(exact):
    x_1 = MEAN + STD * noise(4, 2, 3)
    solver = ODESolver(gaussian_velocity)
    torch.manual_seed(0)
    x_0, found = solver.compute_likelihood(
        x_1, normal, step_size=0.02, method="rk4", exact_divergence=exact
    )
    close(x_0, (x_1 - MEAN) / STD, 1e-5)
    wanted = torch.distributions.Normal(MEAN, STD).log_prob(x_1).flatten(1).sum(1)
    close(found, wanted, 1e-5)  # the Jacobian is diagonal, so random signs are exact, too
    torch.manual_seed(0)
    states, again = solver.compute_likelihood(
        x_1, normal, step_size=0.02, method="rk4", exact_divergence=exact,
        time_grid=[1.0, 0.5, 0.0], return_intermediates=True,
    )  # fmt: skip
    assert states.shape == (3, 4, 2, 3)
    close(states[-1], x_0)
    close(again, found)


def test_likelihood_is_differentiable_and_calls_the_model_once_per_evaluation():
    calls = []

    def velocity(x, t):
        calls.append(t)
        return torch.tanh(x @ weight) * (1 + t)

    weight, x = noise(3, 3).requires_grad_(), noise(2, 3, seed=1)
    solver = ODESolver(velocity)
    options = {"step_size": 0.5, "method": "midpoint", "exact_divergence": True}
    solver.compute_likelihood(x, normal, **options)
    del calls[1:4]  # after the first: whether autograd saw all of the derivative
    assert len(calls) == 4

    def run(x):
        return solver.compute_likelihood(x, normal, enable_grad=True, **options)[1]

    assert torch.autograd.gradcheck(run, (x.clone().requires_grad_(),))
    (gradient,) = torch.autograd.grad(run(x).sum(), weight)
    assert gradient.abs().min() > 0
    with pytest.raises(ValueError, match="from 1 to 0"):
        solver.compute_likelihood(x, normal, step_size=0.5, time_grid=[0.0, 1.0])


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_adaptive_methods(method):
    pytest.importorskip("fastgen.ode")
    x = noise(4, 3)
    solver = ODESolver(gaussian_velocity)
    tolerances = {"method": method, "atol": 1e-9, "rtol": 1e-9, "step_size": None}
    close(solver.sample(x, **tolerances), MEAN + STD * x, 1e-6)
    states = solver.sample(
        x, time_grid=torch.linspace(0, 1, 5), return_intermediates=True, **tolerances
    )
    assert states.shape == (5, 4, 3)
    x_1 = MEAN + STD * x
    x_0, found = solver.compute_likelihood(x_1, normal, **tolerances)
    close(x_0, x, 1e-6)
    close(found, torch.distributions.Normal(MEAN, STD).log_prob(x_1).sum(1), 1e-6)


@pytest.mark.parametrize("new", SCHEDULERS)
@pytest.mark.parametrize("old", ["condot", "vp", "cosine"])
def test_schedule_transformed_models(old, new):
    """The exact Gaussian velocity of one scheduler becomes that of another."""

    def velocity_on(scheduler):
        def velocity(x, t, gain=1.0):
            c = scheduler(t.reshape(-1, 1))
            variance = c.sigma_t**2 + c.alpha_t**2 * STD**2
            slope = (c.sigma_t * c.d_sigma_t + c.alpha_t * c.d_alpha_t * STD**2) / variance
            u = c.d_alpha_t * MEAN + slope * (x - c.alpha_t * MEAN)
            return gain * u

        return velocity

    moved = ScheduleTransformedModel(
        velocity_model=velocity_on(SCHEDULERS[old]),
        original_scheduler=SCHEDULERS[old],
        new_scheduler=SCHEDULERS[new],
    )
    wanted = velocity_on(SCHEDULERS[new])
    x = noise(4, 3)
    for t in (0.05, 0.3, 0.7, 0.95):
        t = torch.tensor(t, dtype=DTYPE)
        alpha, sigma = FORMULAS[new](t)
        if old == "vp" and alpha / sigma < 0.01:
            continue  # its process begins with that ratio
        close(moved(x=x, t=t), wanted(x, t), 1e-8)
        close(moved(x=x, t=t.expand(4)), wanted(x, t), 1e-8)
    y = ODESolver(moved).sample(x, step_size=0.01, method="euler", gain=1.0)
    assert torch.isfinite(y).all()


@pytest.mark.parametrize(
    "manifold", [Sphere(), FlatTorus(), Euclidean()], ids=lambda m: type(m).__name__
)
def test_manifolds_and_geodesic_paths(manifold):
    x, y = (manifold.projx(noise(6, 3, seed=s) * 2) for s in (0, 1))
    u = manifold.logmap(x, y)
    close(manifold.expmap(x, u), y)
    close(manifold.proju(x, u), u)
    close(manifold.expmap(x, torch.zeros_like(u)), x)
    for scheduler in (CondOTScheduler(), PolynomialConvexScheduler(2.0)):
        path, t = GeodesicProbPath(scheduler, manifold), torch.linspace(0.1, 0.9, 6, dtype=DTYPE)
        sample = path.sample(x_0=x, x_1=y, t=t)
        kappa = scheduler(t).alpha_t
        close(geodesic(manifold, x, y)(kappa), sample.x_t)
        # the speed is constant in kappa, and the velocity is tangent
        speed = u.norm(dim=1) * scheduler(t).d_alpha_t
        close(sample.dx_t.norm(dim=1), speed)
        close(manifold.proju(sample.x_t, sample.dx_t), sample.dx_t)
        later = path.sample(x, y, t + 1e-6).x_t
        close(manifold.logmap(sample.x_t, later) / 1e-6, sample.dx_t, 1e-5)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_riemannian_solver_keeps_the_order(method, order):
    """Rotation about an axis whose direction turns with time: compared with tiny steps."""

    def field(x, t):
        axis = torch.stack([torch.sin(t), torch.cos(t), torch.ones_like(t)]).expand_as(x)
        return torch.linalg.cross(axis, x) + 0.3 * x  # with a part that is not tangent

    x = Sphere().projx(noise(4, 3))
    solver = RiemannianODESolver(Sphere(), field)
    exact = solver.sample(x, step_size=1 / 512, method="rk4")
    errors = []
    for n in (8, 16):
        y = solver.sample(x, step_size=1 / n, method=method)
        close(y.norm(dim=1), torch.ones(4, dtype=DTYPE))
        errors.append((y - exact).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.4)
    states = solver.sample(
        x, step_size=0.1, method=method, time_grid=[0.0, 0.25, 1.0], return_intermediates=True
    )
    assert states.shape == (3, 4, 3)
    free = solver.sample(x, step_size=0.1, projx=False, proju=False, method=method)
    assert (free.norm(dim=1) > 1.1).all()


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4"])
@pytest.mark.parametrize("step_size", [0.3, None])
def test_riemannian_solver_in_flat_space_is_the_other_one(method, step_size):
    x, grid = noise(4, 2), [0.0, 0.25, 0.4, 1.0]
    options = {"step_size": step_size, "method": method, "time_grid": grid}
    solvers = RiemannianODESolver(Euclidean(), model), ODESolver(model)
    close(*[s.sample(x, **options) for s in solvers], 1e-12)
    close(*[s.sample(x, **options, return_intermediates=True) for s in solvers], 1e-12)


def test_riemannian_solver_between_its_steps():
    """Times between steps lie on geodesics: numbers of flow_matching 1.0.10."""

    def field(x, t):
        return torch.stack([-x[:, 1], x[:, 0], 0 * x[:, 0] + 2], 1)

    start = torch.tensor([[1.0, 0.0, 0.0]], dtype=DTYPE)
    solver = RiemannianODESolver(Sphere(), field)
    points = solver.sample(
        start, step_size=0.5, time_grid=[0.0, 0.2, 0.5, 1.0], return_intermediates=True
    )
    expected = [0.943940040051948, 0.14763278821909906, 0.2952655764381981]
    close(points[1, 0], torch.tensor(expected, dtype=DTYPE), 1e-12)
    torus = RiemannianODESolver(FlatTorus(), lambda x, t: torch.ones_like(x) * (1 + t))
    one = torch.full((1, 1), 0.1, dtype=DTYPE)
    for grid, values in (
        ([0.0, 0.4, 1.0], [0.1, 0.5375, 1.475]),
        ([0.0, 0.25, 0.5, 1.0], [0.1, 0.35, 0.6625, 1.475]),
    ):
        found = torus.sample(one, step_size=0.25, time_grid=grid, return_intermediates=True)
        close(found.flatten(), torch.tensor(values, dtype=DTYPE), 1e-12)
    with pytest.warns(UserWarning, match="time_grid falls"):
        back = torus.sample(one, step_size=0.25, time_grid=[1.0, 0.0])
    close(back.flatten(), torch.tensor([0.1 - 1.625 + 2 * math.pi], dtype=DTYPE), 1e-12)


def test_riemannian_solver_on_the_torus():
    solver = RiemannianODESolver(FlatTorus(), lambda x, t, speed: torch.full_like(x, speed))
    x = FlatTorus().projx(noise(4, 2)).requires_grad_()
    y = solver.sample(x, step_size=0.3, speed=5.0, enable_grad=True)
    close(y, (x + 5.0) % (2 * math.pi))
    assert torch.autograd.grad(y.sum(), x)[0].min() == 1


def test_half_precision():
    seen = []

    def velocity(x, t):
        seen.append((x.dtype, t.dtype))
        return gaussian_velocity(x.double(), t.double()).to(x.dtype)

    x = noise(4, 3)
    y = ODESolver(velocity).sample(x.bfloat16(), step_size=0.05, method="midpoint")
    assert y.dtype == torch.bfloat16
    assert set(seen) == {(torch.bfloat16, torch.bfloat16)}
    close(y.double(), MEAN + STD * x, 0.03)


def test_errors_name_the_argument():
    solver, x = ODESolver(model), noise(2, 2)
    for options, match in (
        ({"step_size": 0.0}, "step_size=0.0"),
        ({"step_size": 0.1, "method": "eulr"}, "method='eulr'.*euler"),
        ({"step_size": 0.1, "method": "dopri5"}, "step_size=0.1"),
        ({"step_size": 0.1, "time_grid": [0.0, 0.0]}, "time_grid"),
        ({"step_size": 0.1, "time_grid": [0.0, 1.0, 0.5]}, "time_grid"),
        ({"step_size": 0.1, "time_grid": torch.tensor(1.0)}, "time_grid"),
    ):
        with pytest.raises(ValueError, match=match):
            solver.sample(x, **options)
    with pytest.raises(ValueError, match="velocity_model"):
        ODESolver(lambda x, t: x[:1]).sample(x, step_size=0.1)
    with pytest.raises(TypeError, match="stepsize"):
        solver.sample(x, step_size=0.1, stepsize=3)
    with pytest.raises(ValueError, match="x_init"):
        solver.sample(torch.zeros(2, 2, dtype=torch.int64), step_size=0.1)
    with pytest.raises(ValueError, match="method='heun2'"):
        RiemannianODESolver(Sphere(), model).sample(x, step_size=0.1, method="heun2")
    with pytest.raises(ValueError, match="n=0"):
        PolynomialConvexScheduler(0)
    with pytest.raises(ValueError, match="beta_min"):
        VPScheduler(3.0, 2.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("off", [0, 4])
def test_opposite_points_of_a_sphere_are_joined_by_a_great_circle(dtype, off):
    """Of length pi, tangent, and from the one to the other."""
    from fastgen.training.paths import Sphere as SpherePath

    x = Sphere().projx(torch.cat([torch.eye(3), noise(5, 3).float()]).to(dtype))
    y = Sphere().projx(-x + off * torch.finfo(dtype).eps)
    eps = 1e3 * torch.finfo(dtype).eps
    assert (Sphere().expmap(x, Sphere().logmap(x, y)) - y).abs().max() < eps
    path = GeodesicProbPath(scheduler=CondOTScheduler(), manifold=Sphere())
    t = torch.full((len(x),), 0.25, dtype=dtype)
    found = path.sample(x_0=x, x_1=y, t=t)
    own = SpherePath().along(x, y, t[:, None])
    for point, velocity in ((found.x_t, found.dx_t), own):
        assert (point.norm(dim=1) - 1).abs().max() < eps
        assert (velocity.norm(dim=1) - math.pi).abs().max() < 10 * eps
        assert (point * velocity).sum(1).abs().max() < 10 * eps
        assert ((point * x).sum(1) - math.cos(math.pi / 4)).abs().max() < eps
    ends = [SpherePath().along(x, y, torch.full_like(t, u)[:, None])[0] for u in (0.0, 1.0)]
    assert (ends[0] - x).abs().max() < eps
    assert (ends[1] - y).abs().max() < eps
