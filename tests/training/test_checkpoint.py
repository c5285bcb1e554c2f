"""A checkpoint that is refused changes nothing, whatever is wrong with it."""

import json
import struct

import pytest
import torch
from torch import nn

import fastgen
from fastgen import networks
from fastgen.common.files import write_safetensors
from fastgen.training import Flow, Pairs, Settings, Trainer, describe, load

pytest.importorskip("safetensors")
from safetensors import safe_open

OBJECTIVE = Flow()
DATA = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
SETTINGS = Settings(steps=10, batch=16, warm_up=1)


def trainer(seed=0, network=None):
    torch.manual_seed(seed)
    network = networks.MLP((2,), (8,)) if network is None else network
    facts = describe(network, OBJECTIVE) if isinstance(network, networks.MLP) else None
    return Trainer(network, OBJECTIVE.loss, DATA, SETTINGS, description=facts)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The tensors and metadata of a checkpoint of step 5."""
    path = tmp_path_factory.mktemp("checkpoint") / "a.safetensors"
    started = trainer()
    started.run(5)
    started.save(path)
    with safe_open(path, "pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        return tensors, {k: v for k, v in file.metadata().items() if k != "fastgen_crc32"}


def state(t):
    """All that resuming may change."""
    found = {f"network {k}": v.clone() for k, v in t.network.state_dict().items()}
    found |= {f"average {k}": v.clone() for k, v in t.average.state_dict().items()}
    for name, p in t.network.named_parameters():
        found |= {f"{k} {name}": v.clone() for k, v in t.optimiser.state.get(p, {}).items()}
    return found, t.step


def same(a, b):
    return (
        a[1] == b[1]
        and a[0].keys() == b[0].keys()
        and all(torch.equal(a[0][k], b[0][k]) for k in a[0])
    )


def settings(**changes):
    return lambda t, m: m.update(settings=json.dumps({**json.loads(m["settings"]), **changes}))


def first(of):
    """The first tensor of a kind."""
    return lambda t, m: next(k for k in sorted(t) if k.startswith(of))


def changed(of, change):
    return lambda t, m: t.update({first(of)(t, m): change(t[first(of)(t, m)])})


NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: m.pop("step"), "step is missing"),
        (lambda t, m: m.update(step="-5"), "step '-5': expected a whole number up to the 10"),
        (lambda t, m: m.update(step="11"), "step '11': expected a whole number up to the 10"),
        (lambda t, m: m.update(step="1.5"), "step '1.5'"),
        (lambda t, m: m.update(step="9" * 30), "step '9"),
        (lambda t, m: m.update(step="0"), "the optimiser's state of .* is unexpected"),
        (lambda t, m: m.update(step="3"), "step of .* is 5.0, expected a whole number up to 3"),
        (lambda t, m: m.update(settings="null"), "settings: expected an object, got NoneType"),
        (settings(steps="10"), "settings: steps='10'"),
        (settings(steps=10.0), "settings: steps=10.0"),
        (settings(bfloat16=1), "settings: bfloat16=1"),
        (settings(betas=[0.9]), "settings: betas=.0.9."),
        (settings(learning_rate=None), "settings: learning_rate=None"),
        (settings(other=1), "unexpected keyword argument 'other'"),
        (settings(seed=3), "other settings: seed .3 there, 0 here"),
        (lambda t, m: m.update(description="[1]"), "description: expected an object, got list"),
        (lambda t, m: m.update(description="null"), "description: expected an object"),
        (lambda t, m: m.update(description="[" * 100_000), "description: "),
        (lambda t, m: m.update(description='{"network": "x"}'), "another network: x there"),
        (lambda t, m: t.update(more=torch.ones(1)), "unexpected tensor 'more'"),
        (lambda t, m: t.pop(first("average.")(t, m)), "missing"),
        (changed("average.", lambda x: x * NAN), "NaN or infinity in"),
        (changed("average.", lambda x: x.reshape(-1, 1)), "1 of another shape"),
        (changed("network.", lambda x: x.double()), "1 of another dtype"),
        (lambda t, m: t.pop(first("optimiser.")(t, m)), "optimiser's state of .* is missing"),
        (lambda t, m: t.update({"optimiser.step.none": torch.ones(())}), "of none .step. is unexp"),
        (changed("optimiser.exp_avg.", lambda x: x * NAN), "exp_avg of .* holds numbers that"),
        (
            changed("optimiser.exp_avg.", lambda x: x[:1] + 0),
            r"exp_avg of .* is torch.float32 \[1\]",
        ),
        (changed("optimiser.exp_avg.", lambda x: x.long()), "exp_avg of .* is torch.int64"),
        (changed("optimiser.exp_avg_sq.", lambda x: -x - 1), "exp_avg_sq of .* holds numbers"),
        (changed("optimiser.step.", lambda x: x + 0.5), "step of .* is 5.5, expected a whole"),
    ],
)
def test_a_refused_checkpoint_changes_nothing(stored, change, message, tmp_path):
    path = tmp_path / "b.safetensors"
    tensors, metadata = dict(stored[0]), dict(stored[1])
    change(tensors, metadata)
    write_safetensors(path, tensors, metadata)
    fresh = trainer(seed=9)
    fresh.run(2)
    before = state(fresh)
    with pytest.raises(ValueError, match=message) as caught:
        fresh.resume(path)
    assert str(caught.value).startswith(str(path))
    assert same(state(fresh), before)


def test_a_flipped_bit_anywhere_changes_nothing(stored, tmp_path):
    path = tmp_path / "b.safetensors"
    write_safetensors(path, *stored)
    whole = path.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    name = whole.index(b"fastgen_crc32")
    fresh = trainer(seed=9)
    before = state(fresh)
    for k in range(40):
        place = (
            (k * 97) % (8 + length) if k % 2 else 8 + length + (k * 131) % (len(whole) - length - 8)
        )
        if name <= place < name + 13:  # then there is no checksum, and nothing else is wrong
            continue
        broken = bytearray(whole)
        broken[place] ^= 1 << k % 8
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"b\.safetensors: "):
            fresh.resume(path)
        assert same(state(fresh), before)


def test_parameters_without_gradients_so_far_are_resumed(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x, t, labels=None):
            return self.used(x)

    path = tmp_path / "a.safetensors"
    torch.manual_seed(0)
    a = trainer(network=Net())
    a.run(5)
    a.save(path)
    rest = a.run()
    torch.manual_seed(1)
    b = trainer(network=Net())
    b.resume(path)
    assert b.run() == rest


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"network": "x"}, "no network that can be rebuilt"),
        ({"network": {"name": "MLP", "shape": "x"}}, "no network that can be rebuilt"),
        ({"objective": 1}, "no network that can be rebuilt"),
        (
            {"network": {"name": "MLP", "shape": [2], "widths": [10**9, 10**9]}},
            "do not fit the network",
        ),
    ],
)
def test_loading_builds_no_network_that_the_weights_are_not_of(
    stored, description, message, tmp_path
):
    path = tmp_path / "b.safetensors"
    whole = {**json.loads(stored[1]["description"]), **description}
    write_safetensors(path, stored[0], {**stored[1], "description": json.dumps(whole)})
    with pytest.raises(ValueError, match=f"{path}: .*{message}"):
        load(path)


def test_counts_are_whole_numbers():
    for name in ("steps", "batch", "seed"):
        with pytest.raises(TypeError, match=f"{name}=2.5: expected a whole number"):
            Settings(**{name: 2.5})


@pytest.mark.parametrize(
    ("facts", "x1", "message"),
    [
        ({"count": "4", "shard": 2}, torch.ones(2, 3), "count='4'"),
        ({"count": 4, "shard": 0}, torch.ones(2, 3), "shard=0"),
        ({"count": 4}, torch.ones(2, 3), "shard=None"),
        ([], torch.ones(2, 3), "facts: expected an object"),
        ({"count": 4, "shard": 2}, torch.ones(2, 1), "of one shape; remove it"),
        ({"count": 4, "shard": 2}, torch.ones(2, 3).int(), "not floating states"),
    ],
)
def test_shards_of_pairs_are_what_they_say(facts, x1, message, tmp_path):
    metadata = {"fastgen_reflow": "1", "facts": json.dumps(facts)}
    path = tmp_path / "pairs-00000.safetensors"
    write_safetensors(path, {"x0": torch.ones(2, 3), "x1": x1}, metadata)
    with pytest.raises(ValueError, match=f"{path}: .*{message}"):
        Pairs(tmp_path)


def test_networks_of_the_library_describe_themselves_and_others_are_told_what_to_do(tmp_path):
    path = tmp_path / "a.safetensors"
    data, settings = torch.randn(8, 2), Settings(steps=1, batch=4)
    Trainer(networks.MLP(widths=[4]), Flow().loss, data, settings).run(checkpoint=path)
    assert load(path).network.config["widths"] == [4]

    class Own(networks.MLP):
        pass

    Trainer(Own(widths=[4]), Flow().loss, data, settings).run(checkpoint=path)
    with pytest.raises(ValueError, match=r"its network is not described; train one of fastgen\."):
        load(path)
    Trainer(networks.MLP(widths=[4]), lambda *a: Flow().loss(*a), data, settings).run(
        checkpoint=path
    )
    with pytest.raises(ValueError, match="its objective is not described; train its loss"):
        load(path)


def test_what_is_loaded_in_inference_mode_can_be_trained(tmp_path):
    path = tmp_path / "a.safetensors"
    trainer().save(path)
    latent = fastgen.Latent.of(networks.VAE(1, 2, 8).eval()).fit(torch.randn(6, 1, 8, 8))
    latent.save(tmp_path / "l.safetensors")
    with torch.inference_mode():
        network = load(path).network
        vae = fastgen.Latent.load(tmp_path / "l.safetensors").network
    for found in (network, vae):
        assert not any(x.is_inference() for x in (*found.parameters(), *found.buffers()))
    network.requires_grad_(True)(torch.ones(3, 2), torch.ones(3)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
