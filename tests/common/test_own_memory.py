"""Fields that write every value to the same memory: solves go on as with fresh ones."""

import pytest
import torch

import fastgen
import fastgen.integrations.torchdiffeq as torchdiffeq
import fastgen.integrations.torchsde as torchsde
from fastgen.common.memory import OwnMemory
from fastgen.integrations.flow_matching.solver import ODESolver

F64 = torch.float64
X = fastgen.randn((2, 3), seed=1, dtype=F64)
TIMES = torch.linspace(0.0, 1.0, 9, dtype=F64)


def fresh(x):
    return torch.sin(x) + 0.5


class InTurn:
    """Writes its values to so many places in turn; torch counts that, or knows nothing of it."""

    def __init__(self, places, counted):
        self.places, self.counted, self.calls = torch.zeros(places, *X.shape, dtype=F64), counted, 0

    def __call__(self, x):
        self.calls += 1
        value, place = fresh(x), self.places[self.calls % len(self.places), : len(x)]
        if self.counted:
            return place.copy_(value)
        place.detach().numpy()[...] = value.detach().numpy()
        return place


def sde(field, method, **options):
    def g(t, y):
        return field(0.3 * y)

    options = options or {"steps": 10}
    return fastgen.sdeint(
        lambda t, y: field(y), g, X, [0.0, 1.0], seed=1, method=method, sde_type=kind_of(method),
        **options,
    )  # fmt: skip


def kind_of(method):
    return "stratonovich" if method in STRATONOVICH else "ito"


def peer_sde(field, method):
    class Equation:
        noise_type, sde_type = "diagonal", kind_of(method)

        def f(self, t, y):
            return field(y)

        def g(self, t, y):
            return field(0.3 * y)

    area = "foster" if method in ("srk", "log_ode") else "none"
    motion = torchsde.BrownianInterval(
        0.0, 1.0, size=X.shape, dtype=F64, entropy=1, levy_area_approximation=area
    )
    span = torch.tensor([0.0, 1.0], dtype=F64)
    return torchsde.sdeint(Equation(), X, span, bm=motion, dt=0.1, method=method)


STRATONOVICH = ("heun", "midpoint", "euler_heun", "reversible_heun", "log_ode")
ROUTES = {
    **{
        f"odeint {method}": lambda field, method=method: fastgen.odeint(
            lambda t, y: field(y), X, [0.0, 1.0], method=method, step_size=0.1
        )
        for method in ("euler", "midpoint", "rk4", "explicit_adams")
    },
    "odeint dopri5": lambda field: fastgen.odeint(lambda t, y: field(y), X, [0.0, 1.0]),
    "odeint tuple": lambda field: fastgen.odeint(
        lambda t, y: (field(y[0]), -y[1]), (X, X), [0.0, 1.0], method="rk4", step_size=0.1
    )[0],
    **{
        f"torchdiffeq {method}": lambda field, method=method: torchdiffeq.odeint(
            lambda t, y: field(y), X, TIMES, method=method
        )
        for method in ("midpoint", "rk4", "heun3", "explicit_adams", "implicit_adams", "dopri5")
    },
    "torchdiffeq scipy": lambda field: torchdiffeq.odeint(
        lambda t, y: field(y), X, TIMES, method="scipy_solver", options={"solver": "RK45"}
    ),
    **{
        f"flow_matching {method}": lambda field, method=method: ODESolver(
            lambda x, t: field(x)
        ).sample(X, step_size=0.1, method=method)
        for method in ("euler", "midpoint", "heun2", "rk4")
    },
    **{
        f"sdeint {method}": lambda field, method=method: sde(field, method)
        for method in (
            "euler_maruyama", "srk", "milstein_derivative_free", "heun", "midpoint", "euler_heun",
            "reversible_heun",
        )
    },
    **{
        f"sdeint {method} adaptive": lambda field, method=method: sde(field, method, adaptive=True)
        for method in ("euler_maruyama", "milstein_derivative_free", "heun", "midpoint")
    },
    **{
        f"torchsde {method}": lambda field, method=method: peer_sde(field, method)
        for method in (
            "euler", "srk", "midpoint", "heun", "euler_heun", "reversible_heun", "log_ode",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize(("places", "counted"), [(1, True), (1, False), (3, True)])
@pytest.mark.parametrize("route", ROUTES)
def test_values_in_one_place(route, places, counted):
    assert torch.equal(ROUTES[route](InTurn(places, counted)), ROUTES[route](fresh))


def test_only_what_shares_memory_is_copied():
    own = OwnMemory()
    values = [torch.ones(3) for _ in range(20)]
    assert [own(x) is x for x in values] == [False] * 8 + [True] * 12
    own, one = OwnMemory(), torch.ones(3)
    assert not any(own(x) is x for x in [*values[:5], one, one, *values])
    assert own("what is no tensor") == "what is no tensor"
