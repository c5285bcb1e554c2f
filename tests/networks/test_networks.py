import json

import pytest
import torch

from fastgen import networks
from fastgen.networks import MLP, DiT, ModulatedMLP, UNet

CASES = [
    (MLP((2,)), (3, 2)),
    (MLP((2, 3), (8,), "silu", classes=4), (3, 2, 3)),
    (ModulatedMLP((1, 8, 8), 16, classes=4), (3, 1, 8, 8)),
    (UNet(2, 8, dims=1, classes=4), (3, 2, 12)),
    (UNet(1, 8, (1, 2, 2), blocks=2), (3, 1, 8, 12)),
    (DiT(2, 8, width=16, depth=2, heads=2, classes=4), (3, 2, 8, 8)),
]
IDS = [f"{type(net).__name__}{i}" for i, (net, _) in enumerate(CASES)]


def shaken(net):
    """Some weights start at 0, so that blocks begin as the identity."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


@pytest.mark.parametrize(("net", "shape"), CASES, ids=IDS)
class TestEveryNetwork:
    def test_shapes_and_dependence(self, net, shape):
        net, x, t = shaken(net), torch.randn(shape), torch.rand(3)
        y = net(x, t)
        assert y.shape == x.shape
        assert not torch.equal(y, net(x, t / 2))
        moved = net(x.index_fill(0, torch.tensor([1]), 0.0), t)
        assert torch.allclose(moved[[0, 2]], y[[0, 2]], atol=1e-5)
        y.square().sum().backward()
        assert all(p.grad is not None for p in net.parameters() if p.requires_grad)

    def test_labels(self, net, shape):
        net, x, t = shaken(net), torch.randn(shape), torch.rand(3)
        labels = torch.tensor([0, 1, 2])
        if not net.classes:
            with pytest.raises(ValueError, match="knows no classes"):
                net(x, t, labels=labels)
            return
        assert not torch.equal(net(x, t, labels=labels), net(x, t, labels=labels.flip(0)))
        none = torch.full((3,), net.classes)
        assert torch.equal(net(x, t, labels=none), net(x, t))

    def test_comes_back_from_its_configuration(self, net, shape):
        config = json.loads(json.dumps(networks.to_config(net)))
        again = networks.from_config(config)
        again.load_state_dict(net.state_dict())
        x, t = torch.randn(shape), torch.rand(3)
        assert torch.equal(again(x, t), net(x, t))


def test_two_times():
    net, x, t = shaken(UNet(1, 8, second_time=True)), torch.randn(2, 1, 8, 8), torch.rand(2)
    assert not torch.equal(net(x, t, t), net(x, t, t + 0.5))
    with pytest.raises(ValueError, match="called with two times"):
        net(x, t)


def test_patches_are_put_back_where_they_were():
    net = DiT(1, 4, patch=2, width=8, depth=0, heads=1)
    x = torch.zeros(1, 1, 4, 4)
    with torch.no_grad():
        net.positions.zero_()
        net.inward.weight.zero_()
        net.inward.bias.zero_()
        net.outward.bias.copy_(torch.arange(4.0))
    expected = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).repeat(2, 2)
    assert torch.equal(net(x, torch.zeros(1))[0, 0], expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MLP(activation="slu"), "'selu'|'silu'"),
        (lambda: MLP(outputs=-1), "outputs=-1"),
        (lambda: MLP(classes=-1), "classes=-1"),
        (lambda: UNet(dims=3), "dims=3"),
        (lambda: UNet(1, 8)(torch.zeros(1, 1, 7, 8), torch.zeros(1)), "multiples of 2"),
        (lambda: DiT(size=9), "size=9"),
        (lambda: DiT()(torch.zeros(1, 1, 4, 4), torch.zeros(1)), "expected"),
        (lambda: networks.from_config({"name": "Unet"}), "mean 'UNet'"),
    ],
)
def test_errors_are_clear(call, message):
    with pytest.raises(ValueError, match=message):
        call()
