"""Unknown keyword arguments name the nearest one, or the object that they belong to."""

import inspect

import pytest
import torch

import fastgen


def decay(t, y):
    return -y


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("toll", r"odeint\(\) got an unexpected keyword argument 'toll': did you mean 'rtol'"),
        ("max_stepps", "did you mean 'max_steps'"),
        ("snapshots", r"give it as gradient=Through\(snapshots=...\)"),
        ("parameters", r"give it as gradient=Adjoint\(parameters=...\)"),
        ("terminal", r"give it as event=Event\(terminal=...\)"),
        ("min_step", r"give it as controller=Controller\(min_step=...\)"),
        ("compact", r"give it as execution=Execution\(compact=...\)"),
    ],
)
def test_of_odeint(name, message):
    with pytest.raises(TypeError, match=message):
        fastgen.odeint(decay, torch.ones(2, 1), [0.0, 1.0], **{name: 1})


def test_of_sdeint():
    with pytest.raises(TypeError, match=r"give it as adaptive=Adaptive\(first_step=...\)"):
        fastgen.sdeint(decay, decay, torch.ones(2, 1), [0.0, 1.0], first_step=0.1)


def test_the_signature_stays_that_of_the_function():
    assert list(inspect.signature(fastgen.odeint).parameters)[:4] == ["f", "y0", "t", "rtol"]
    assert fastgen.odeint.__doc__.startswith("Solve dy/dt")
