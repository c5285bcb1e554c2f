"""Drift and diffusion compiled by torch.compile: the same solves, and errors with names."""

import pytest
import torch
from torch import nn

import fastgen
from fastgen.common.compiled_calls import CompiledCall
from fastgen.sde.compiled import Fields
from tests.support.compiling import counted

T = [0.0, 0.4, 1.0]


def drift(t, y):
    return torch.sin(y) - 0.5 * y * t[:, None]


def diagonal(t, y):
    return 0.3 + 0.1 * torch.cos(y)


def scalar(t, y):
    return (0.2 * y)[..., None]


def additive(t, y):
    return t[:, None, None] * torch.ones_like(y)[..., None].expand(-1, -1, 3) + 0.1


def general(t, y):
    return torch.stack([0.1 * y, torch.cos(y), 0.2 + 0 * y], -1)


def states(rows, dtype=torch.float64):
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(rows)).to(dtype)


def both(f, g, y0, **options):
    options = {"steps": 8, "seed": 3, **options}
    return [fastgen.sdeint(f, g, y0, T, compile=compile, **options) for compile in (True, False)]


def test_compiled_code_is_called_by_itself(monkeypatch):
    """Of all batch sizes but one, once it is there; the results are the eager ones to rounding."""
    made, calls, whole = counted(monkeypatch), [], Fields._bound

    def bound(self, part, values):
        calls.append(whole(self, part, values))
        return calls[-1]

    monkeypatch.setattr(Fields, "_bound", bound)
    for rows in (5, 9, 30):
        got, wanted = both(drift, diagonal, states(rows, torch.float32), method="euler_maruyama")
        assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-5)
    assert len(made) == 1
    assert all(isinstance(call, CompiledCall) for call in calls)


@pytest.mark.usefixtures("uncompiled")
class TestTraced:
    @pytest.mark.parametrize(
        ("g", "options"),
        [
            (diagonal, {"method": "srk"}),
            (diagonal, {"method": "milstein_derivative_free", "noise": "brownian"}),
            (diagonal, {"method": "heun", "sde_type": "stratonovich"}),
            (scalar, {"method": "srk", "noise_type": "scalar"}),
            (additive, {"method": "srk", "noise_type": "additive"}),
            (general, {"method": "midpoint", "noise_type": "general", "sde_type": "stratonovich"}),
        ],
        ids=lambda value: value.__name__ if callable(value) else value.get("method"),
    )
    @pytest.mark.parametrize("backend", ["cpp", "reference"])
    def test_bits(self, g, options, backend):
        for rows in (1, 3):
            got, wanted = both(drift, g, states(rows), backend=backend, **options)
            assert torch.equal(got, wanted)

    def test_a_diffusion_of_another_dtype(self):
        got, wanted = both(drift, lambda t, y: diagonal(t, y).double(), states(3, torch.float32))
        assert torch.equal(got, wanted)

    def test_backwards_in_time(self):
        got, wanted = (
            fastgen.sdeint(drift, diagonal, states(2), T[::-1], steps=6, compile=compile)
            for compile in (True, False)
        )
        assert torch.equal(got, wanted)

    def test_what_they_depend_on_may_change_between_solves(self):
        class Decay(nn.Module):
            def __init__(self):
                super().__init__()
                self.rate = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
                self.sign = -1.0

            def forward(self, t, y):
                return self.sign * self.rate * y

        f = Decay()
        with torch.no_grad():
            for rate, sign in ((1.0, -1.0), (2.0, -1.0), (2.0, 1.0)):
                f.rate.fill_(rate)
                f.sign = sign
                got, wanted = both(f, diagonal, states(2))
                assert torch.equal(got, wanted)
        got, wanted = both(f, diagonal, states(2), gradient="none")
        assert torch.equal(got, wanted)

    def test_other_diffusions_of_one_drift(self):
        for g in (diagonal, lambda t, y: 0.5 * y, diagonal):
            got, wanted = both(drift, g, states(2))
            assert torch.equal(got, wanted)


@pytest.mark.usefixtures("uncompiled")
class TestRefused:
    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"adaptive": True, "steps": None}, "fixed steps of methods of one state"),
            (
                {"method": "reversible_heun", "sde_type": "stratonovich"},
                "not method='reversible_heun'",
            ),
            ({"method": "milstein"}, "use method='milstein_derivative_free'"),
            ({"mask": torch.ones(2, 2, dtype=torch.bool)}, "with a mask"),
        ],
    )
    def test_what_is_not_compiled(self, options, says):
        with pytest.raises(ValueError, match=f"compile=True: .*{says}"):
            fastgen.sdeint(drift, diagonal, states(2), T, **{"steps": 4} | options, compile=True)

    def test_gradients(self):
        rate = torch.ones((), dtype=torch.float64, requires_grad=True)
        for f, y0 in (
            (lambda t, y: -rate * y, states(2)),
            (drift, states(2).requires_grad_()),
        ):
            with pytest.raises(ValueError, match=r"need gradients; use gradient='none'"):
                fastgen.sdeint(f, diagonal, y0, T, steps=4, compile=True)
        with pytest.raises(ValueError, match="not for forward-mode"):
            torch.func.jvp(
                lambda y: fastgen.sdeint(drift, diagonal, y, T, steps=4, compile=True),
                (states(2),),
                (states(2),),
            )

    def test_what_reads_values_back(self):
        def f(t, y):
            return -y if float(y.sum()) > 0 else y

        with pytest.raises(ValueError, match=r"compile=True: torch\.compile cannot make one graph"):
            fastgen.sdeint(f, diagonal, states(2), T, steps=4, compile=True)

    def test_errors_of_shapes_and_writing_are_those_without(self):
        with pytest.raises(ValueError, match="f: expected a value of shape"):
            fastgen.sdeint(lambda t, y: y[:, :1], diagonal, states(2), T, steps=4, compile=True)
        with pytest.raises(ValueError, match="f: it changed its input in place"):
            fastgen.sdeint(lambda t, y: y.neg_(), diagonal, states(2), T, steps=4, compile=True)
        with pytest.raises(TypeError, match="compile=1: expected True or False"):
            fastgen.sdeint(drift, diagonal, states(2), T, steps=4, compile=1)
