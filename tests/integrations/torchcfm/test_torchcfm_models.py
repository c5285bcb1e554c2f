"""torchcfm's small networks and toy clouds."""

import ast
import importlib.util
import math
import pathlib

import numpy as np
import pytest
import torch

from fastgen.integrations.torchcfm import models, utils
from fastgen.integrations.torchcfm.models import unet
from fastgen.integrations.torchcfm.models.models import GradModel


def theirs(path, **given):
    """What a file of torchcfm defines, without what it imports (torchdyn, matplotlib)."""
    spec = importlib.util.find_spec("torchcfm")
    if spec is None:
        pytest.skip("torchcfm is not installed")
    source = (pathlib.Path(spec.submodule_search_locations[0]) / path).read_text()
    kept = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    names = {"torch": torch, "math": math, "np": np, **given}
    exec(compile(ast.Module(kept, []), path, "exec"), names)
    return names


@pytest.mark.parametrize("time_varying", [False, True])
def test_a_network_loads_torchcfms_weights(time_varying):
    peer = theirs("models/models.py")["MLP"](2, 3, w=8, time_varying=time_varying)
    own = models.MLP(2, 3, w=8, time_varying=time_varying)
    own.load_state_dict(peer.state_dict())
    x = torch.randn(5, 2 + time_varying)
    assert torch.equal(own(x), peer(x))
    assert models.MLP(2)(torch.randn(5, 2)).shape == (5, 2)


def test_the_gradient_of_an_action():
    x = torch.randn(4, 3)
    gradient = GradModel(lambda x: (x[:, :2] ** 2 * x[:, 2:]).sum(1))
    with torch.no_grad():
        found = gradient(x)
    assert torch.allclose(found, 2 * x[:, :2] * x[:, 2:])
    assert not x.requires_grad


@pytest.mark.parametrize("name", ["sample_8gaussians", "sample_moons"])
def test_clouds_are_torchcfms_number_by_number(name):
    def generate_moons(n, noise):
        """The formula of torchdyn's documentation: two half circles."""
        a, b = np.linspace(0, np.pi, n // 2), np.linspace(0, np.pi, n - n // 2)
        x = np.append(np.cos(a), 1 - np.cos(b))
        y = np.append(np.sin(a), 1 - np.sin(b) - 0.5)
        return torch.Tensor(np.vstack([x, y]).T + np.random.rand(n, 1) * noise), None

    peer = theirs("utils.py", generate_moons=generate_moons)
    found = []
    for draw in (peer[name], getattr(utils, name)):
        torch.manual_seed(2)
        np.random.seed(2)
        found.append(draw(301))
    assert torch.allclose(*found, atol=1e-5)
    assert found[1].shape == (301, 2)


def test_fields_are_called_with_the_time_first():
    field = utils.torch_wrapper(torch.nn.Linear(3, 2))
    x, t = torch.randn(4, 2), torch.tensor(0.3)
    expected = field.model(torch.cat([x, torch.full((4, 1), 0.3)], 1))
    assert torch.equal(field(t, x), expected)


def test_trajectories_are_drawn(monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(plt, "show", lambda: None)
    utils.plot_trajectories(torch.randn(3, 10, 2))
    assert len(plt.gca().collections) == 3
    plt.close("all")


def test_the_unet_is_torchcfms_own():
    with pytest.raises(AttributeError, match=r"no UNetModel: a network.*torchcfm\.models\.unet"):
        unet.UNetModel  # noqa: B018
