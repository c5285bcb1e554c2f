"""Models as folders: what round-trips, what is refused, and that nothing is changed then."""

import json
import sys
import types

import pytest
import torch
from torch import nn

import fastgen
from fastgen import networks, schedules
from fastgen.common.files import write_safetensors
from fastgen.model import Card, Model, PretrainedError
from fastgen.model.card import MARK

pytest.importorskip("safetensors")
from safetensors import safe_open

FLOW = schedules.Rectified()
STEPS = 10

SCHEDULES = {
    "LinearVP": schedules.LinearVP(0.2, 15.0),
    "SubVP": schedules.SubVP(0.1, 19.0),
    "CosineVP": schedules.CosineVP(0.01),
    "Trig": schedules.Trig(),
    "VE": schedules.VE(0.02, 40.0),
    "EDM": schedules.EDM(0.003, 70.0, 0.4),
    "Rectified": schedules.Rectified(3.0),
    "DiscreteVP.linear": schedules.DiscreteVP.linear(STEPS),
    "DiscreteVP.zero": schedules.DiscreteVP.scaled_linear(STEPS).rescale_zero_terminal_snr(),
    "DiscreteVP.betas": schedules.DiscreteVP(torch.linspace(1e-4, 0.02, STEPS) ** 0.99),
}
NETWORKS = {
    "MLP": lambda: networks.MLP((2,), (8,), "silu", classes=3),
    "ModulatedMLP": lambda: networks.ModulatedMLP((1, 4, 4), 16, 1, time_scale=10.0),
    "UNet": lambda: networks.UNet(1, 8, (1, 2), outputs=2),
    "DiT": lambda: networks.DiT(1, 4, 2, 16, 1, 2, classes=4),
    "ScoreVAE": lambda: networks.ScoreVAE(networks.VAE(1, 2, 8), networks.DiT(2, 4, 2, 16, 1, 2)),
}


def small():
    torch.manual_seed(3)
    return networks.MLP((2,), (8,))


def flow(net=None, **options):
    return Model(small() if net is None else net, FLOW, "velocity", data_at=1, **options)


def facts(model):
    """All that a model says of itself."""
    names = ("time_input", "second_time", "dtype", "time_dtype", "learned_variance")
    return (
        model.schedule,
        model.parametrisation,
        model.declared,
        model.reuses_output,
        *(getattr(model, name) for name in names),
    )


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a
    )


class TestRoundTrip:
    @pytest.mark.parametrize("name", list(SCHEDULES))
    def test_every_schedule(self, name, tmp_path):
        model = Model(small(), SCHEDULES[name], "noise")
        model.save_pretrained(tmp_path)
        found = Model.from_pretrained(tmp_path)
        assert found.schedule == model.schedule
        assert type(found.schedule) is type(model.schedule)
        assert found.schedule.alpha(0.37) == model.schedule.alpha(0.37)

    def test_all_kinds_of_schedules_are_among_them(self):
        assert {name.partition(".")[0] for name in SCHEDULES} >= {
            name for name in schedules.names() if getattr(schedules, name, None)
        }

    @pytest.mark.parametrize("name", list(NETWORKS))
    def test_every_network(self, name, tmp_path):
        model = flow(NETWORKS[name]())
        model.save_pretrained(tmp_path)
        found = Model.from_pretrained(str(tmp_path))
        assert type(found.net) is type(model.net)
        assert found.net.config == model.net.config
        assert same_weights(found.net, model.net)
        assert not found.net.training

    def test_all_networks_are_among_them(self):
        built_in = {n for n in networks.names() if hasattr(networks, n)}
        assert set(NETWORKS) == built_in

    @pytest.mark.parametrize(
        "options",
        [
            {"time_input": "index", "time_dtype": torch.int64},
            {"time_input": "sigma", "dtype": torch.float64},
            {"time_input": "log_snr", "time_dtype": torch.float64, "reuses_output": True},
            {"sigma_data": 0.7, "learned_variance": True},
            {"shared": ("context", "a"), "per_sample": ("labels",)},
        ],
        ids=lambda options: "-".join(options),
    )
    def test_every_argument(self, options, tmp_path):
        model = Model(small(), SCHEDULES["DiscreteVP.linear"], "noise", **options)
        model.save_pretrained(tmp_path)
        assert facts(Model.from_pretrained(tmp_path)) == facts(model)

    @pytest.mark.parametrize(
        ("predicts", "options"),
        [
            ("data", {"data_at": 1}),
            ("score", {}),
            ("v", {}),
            ("edm", {"sigma_data": 0.3, "time_input": "edm"}),
            ("average_velocity", {"second_time": "step"}),
            ("velocity_and_score", {"score_scale": 0.25, "data_at": 1}),
        ],
    )
    def test_every_prediction(self, predicts, options, tmp_path):
        model = Model(small(), FLOW, predicts, **options)
        model.save_pretrained(tmp_path)
        assert facts(Model.from_pretrained(tmp_path)) == facts(model)

    def test_samples_have_the_same_bits(self, tmp_path):
        model = flow()
        plan = fastgen.plan("dpmpp_2m", FLOW, 5, timesteps="karras", clip=(-3.0, 3.0))
        model.save_pretrained(tmp_path, plan=plan)
        found = fastgen.Sampler(
            Model.from_pretrained(tmp_path), fastgen.Plan.from_pretrained(tmp_path)
        )
        assert torch.equal(
            found((8, 2), seed=4).clone(), fastgen.Sampler(model, plan)((8, 2), seed=4)
        )

    def test_a_second_save_is_the_same_and_drops_the_plan_that_is_not_given(self, tmp_path):
        model = flow()
        model.save_pretrained(tmp_path, plan=fastgen.plan("euler", FLOW, 3))
        first = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        assert set(first) == {"config.json", "model.safetensors", "plan.json", "README.md"}
        model.save_pretrained(tmp_path, plan=fastgen.plan("euler", FLOW, 3))
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == first
        model.save_pretrained(tmp_path)
        assert not (tmp_path / "plan.json").exists()
        with pytest.raises(PretrainedError, match=r"plan\.json: no such file; make one with"):
            fastgen.Plan.from_pretrained(tmp_path)

    def test_a_loaded_model_is_saved_again(self, tmp_path):
        flow().save_pretrained(tmp_path / "a")
        Model.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
        for name in ("config.json", "model.safetensors"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


class Tied(nn.Module):
    """Weights with two names, a buffer, and one that is not stored."""

    def __init__(self, width=4):
        super().__init__()
        self.inward = nn.Linear(2, width, bias=False)
        self.other = nn.Linear(2, width, bias=False)
        self.other.weight = self.inward.weight
        self.outward = nn.Linear(width, 2)
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("table", torch.arange(3.0), persistent=False)

    def forward(self, x, t):
        return self.outward(self.inward(x) + self.other(x)) * self.scale


class TestDtypesAndDevices:
    def test_the_dtype_of_the_file_is_kept(self, tmp_path):
        flow(small().bfloat16()).save_pretrained(tmp_path)
        found = Model.from_pretrained(tmp_path)
        assert {p.dtype for p in found.net.parameters()} == {torch.bfloat16}
        assert found.input_dtype(torch.float32) == torch.bfloat16

    def test_another_dtype_is_that_of_the_input_too(self, tmp_path):
        flow(dtype=torch.float32).save_pretrained(tmp_path)
        found = Model.from_pretrained(tmp_path, dtype=torch.float64)
        assert {p.dtype for p in found.net.parameters()} == {torch.float64}
        assert found.input_dtype(torch.float32) == torch.float64
        assert fastgen.sample(found, (2, 2), "euler", 2).isfinite().all()

    def test_a_given_module_keeps_its_dtype(self, tmp_path):
        flow().save_pretrained(tmp_path)
        own = small().double()
        found = Model.from_pretrained(tmp_path, net=own)
        assert found.net is own
        assert own.layers[0].weight.dtype == torch.float64

    def test_a_device(self, tmp_path):
        flow().save_pretrained(tmp_path)
        assert Model.from_pretrained(tmp_path, device="cpu").device.type == "cpu"
        found = Model.from_pretrained(tmp_path, device=torch.device("meta"))
        assert next(found.net.parameters()).is_meta
        with pytest.raises(ValueError, match="device='cuda:77'"):
            Model.from_pretrained(tmp_path, device="cuda:77")
        with pytest.raises(ValueError, match="dtype"):
            Model.from_pretrained(tmp_path, dtype=torch.int64)

    def test_loading_draws_no_random_numbers(self, tmp_path):
        flow().save_pretrained(tmp_path)
        torch.manual_seed(5)
        before = torch.get_rng_state()
        Model.from_pretrained(tmp_path)
        assert torch.equal(torch.get_rng_state(), before)

    def test_tied_weights_and_buffers(self, tmp_path):
        net = Tied().to(torch.bfloat16)
        net.scale.fill_(5.0)
        flow(net).save_pretrained(tmp_path, config={"width": 4})
        found = Model.from_pretrained(tmp_path, net=Tied).net
        assert found.inward.weight is found.other.weight
        assert same_weights(found, net)
        assert found.inward.weight.dtype == found.scale.dtype == torch.bfloat16
        assert found.table.tolist() == [0.0, 1.0, 2.0]

    def test_tied_weights_that_differ_are_refused(self, tmp_path):
        flow(Tied()).save_pretrained(tmp_path)
        tensors, metadata = contents(tmp_path)
        tensors["other.weight"] = tensors["other.weight"] + 1
        write_safetensors(tmp_path / "model.safetensors", tensors, metadata)
        with pytest.raises(PretrainedError, match="are one tensor of the network"):
            Model.from_pretrained(tmp_path, net=Tied())

    @pytest.mark.parametrize(
        "wrap",
        [
            torch.compile,
            nn.DataParallel,
            torch.optim.swa_utils.AveragedModel,
            lambda net: torch.compile(torch.optim.swa_utils.AveragedModel(net)),
        ],
        ids=["compile", "DataParallel", "AveragedModel", "both"],
    )
    def test_what_is_wrapped_is_saved(self, wrap, tmp_path):
        net = small()
        flow(wrap(net)).save_pretrained(tmp_path)
        assert same_weights(Model.from_pretrained(tmp_path).net, net)
        other = wrap(networks.MLP((2,), (8,)))
        assert Model.from_pretrained(tmp_path, net=other).net is other
        assert Model.from_pretrained(tmp_path).net.layers[0].weight.device.type == "cpu"


class Own(nn.Module):
    """A user's network, of a width."""

    def __init__(self, width=3, bias=True):
        super().__init__()
        self.inward, self.outward = nn.Linear(2, width, bias=bias), nn.Linear(width, 2)

    def forward(self, x, t):
        return self.outward(self.inward(x))


class TestOwnNetworks:
    def test_without_it_the_refusal_shows_what_to_write(self, tmp_path):
        flow(Own(5)).save_pretrained(tmp_path, config={"width": 5})
        with pytest.raises(PretrainedError) as caught:
            Model.from_pretrained(tmp_path)
        assert f"trusted=['{__name__}:Own']" in str(caught.value)
        assert "net=Own" in str(caught.value)

    @pytest.mark.parametrize("net", [Own, lambda: Own(5), lambda: 3], ids=["class", "f", "number"])
    def test_what_makes_it(self, net, tmp_path):
        model = flow(Own(5))
        model.save_pretrained(tmp_path, config={"width": 5})
        if net is not Own and not isinstance(net(), nn.Module):
            with pytest.raises(PretrainedError, match=r"expected it to make a torch\.nn\.Module"):
                Model.from_pretrained(tmp_path, net=net)
            return
        assert same_weights(Model.from_pretrained(tmp_path, net=net).net, model.net)

    def test_a_module(self, tmp_path):
        model, own = flow(Own()), Own()
        model.save_pretrained(tmp_path)
        assert Model.from_pretrained(tmp_path, net=own).net is own
        assert same_weights(own, model.net)

    def test_a_trusted_class_and_no_other(self, tmp_path, monkeypatch):
        module = types.ModuleType("pretrained_own")
        module.Own = Own
        monkeypatch.setitem(sys.modules, "pretrained_own", module)
        flow(Own(5)).save_pretrained(tmp_path, config={"width": 5})
        config = json.loads((tmp_path / "config.json").read_text())
        config["network"]["class"] = "pretrained_own:Own"
        (tmp_path / "config.json").write_text(json.dumps(config))
        found = Model.from_pretrained(tmp_path, trusted=["pretrained_own:Own"])
        assert found.net.inward.out_features == 5
        for trusted in ((), ["pretrained_own"], "pretrained_own:Own", ["other:Own"]):
            with pytest.raises(PretrainedError, match="of code that is not fastgen's"):
                Model.from_pretrained(tmp_path, trusted=trusted)
        config["network"]["class"] = "pretrained_own:Missing"
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(PretrainedError, match="cannot be imported"):
            Model.from_pretrained(tmp_path, trusted=["pretrained_own:Missing"])

    def test_nothing_is_imported_on_the_word_of_a_file(self, tmp_path, monkeypatch):
        (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
        monkeypatch.syspath_prepend(str(tmp_path))
        flow(Own()).save_pretrained(tmp_path / "m", config={})
        path = tmp_path / "m" / "config.json"
        config = json.loads(path.read_text())
        for called in ("evil_module:Net", "os:system", "torch.hub:load"):
            config["network"]["class"] = called
            path.write_text(json.dumps(config))
            with pytest.raises(PretrainedError, match="of code that is not fastgen's"):
                Model.from_pretrained(tmp_path / "m")
        assert "evil_module" not in sys.modules

    def test_a_registered_network_by_name(self, tmp_path, monkeypatch):
        registry = sys.modules["fastgen.networks.network"]._registry
        monkeypatch.setattr(sys.modules["fastgen.networks.network"], "_registry", dict(registry))

        @networks.register
        class Mine(networks.Network):
            def __init__(self, width=3):
                super().__init__()
                self.config = {"width": width}
                self.layer = nn.Linear(2, width)

        model = flow(Mine(7))
        model.save_pretrained(tmp_path)
        assert same_weights(Model.from_pretrained(tmp_path).net, model.net)
        monkeypatch.setattr(sys.modules["fastgen.networks.network"], "_registry", registry)
        with pytest.raises(PretrainedError, match="network 'Mine'"):
            Model.from_pretrained(tmp_path)

    def test_arguments_of_hub_mixins_are_found(self, tmp_path):
        hub = pytest.importorskip("huggingface_hub")

        class Mixed(nn.Module, hub.PyTorchModelHubMixin):
            def __init__(self, width=3):
                super().__init__()
                self.layer = nn.Linear(2, width)

        flow(Mixed(width=6)).save_pretrained(tmp_path)
        assert Model.from_pretrained(tmp_path, net=Mixed).net.layer.out_features == 6


class TestRefusedSaves:
    def refused(self, folder, error, match, model, **options):
        with pytest.raises(error, match=match):
            model.save_pretrained(folder, **options)
        assert not folder.exists(), "nothing is written"

    def test_functions(self, tmp_path):
        folder = tmp_path / "m"
        self.refused(
            folder, TypeError, "time_input=.*forward apply it", flow(time_input=lambda t: 1 - t)
        )
        own = schedules.UserSchedule(lambda t: 1 - t, lambda t: t)
        self.refused(folder, TypeError, "schedules.register", Model(small(), own, "noise"))
        net = small()
        self.refused(folder, TypeError, "only a torch.nn.Module", flow(lambda x, t: net(x, t)))

    def test_schedules_that_are_not_registered(self, tmp_path):
        class Half(schedules.LinearVP):
            pass

        self.refused(tmp_path / "m", TypeError, "register", Model(small(), Half(), "noise"))

    def test_weights(self, tmp_path):
        net = small()
        net.layers[0].weight.data[0, 0] = float("nan")
        self.refused(tmp_path / "m", PretrainedError, "NaN or infinity in layers.0", flow(net))
        net = small()
        net.layers[0] = nn.Linear(3, 9)
        self.refused(tmp_path / "m", PretrainedError, "2 of another shape", flow(net))

    def test_state_that_is_no_tensor(self, tmp_path):
        class Extra(Own):
            def get_extra_state(self):
                return {"a": 1}

        self.refused(tmp_path / "m", TypeError, "_extra_state is a dict", flow(Extra()))

    def test_arguments_that_json_does_not_hold(self, tmp_path):
        model = flow(Own())
        self.refused(tmp_path / "m", TypeError, "as JSON", model, config={"a": torch.ones(1)})

    def test_plans_and_pictures(self, tmp_path):
        folder = tmp_path / "m"
        plan = fastgen.plan("euler", schedules.CosineVP(), 3)
        self.refused(folder, ValueError, "plan: made for CosineVP", flow(), plan=plan)
        self.refused(folder, TypeError, "of push_to_hub", flow(), private=True)
        self.refused(folder, TypeError, "shape=3", flow(), shape=3)
        with pytest.raises(FileNotFoundError, match=r"pictures: .*none\.png"):
            Card(pictures={"a": tmp_path / "none.png"})


def contents(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        return tensors, {k: v for k, v in file.metadata().items() if k != "fastgen_crc32"}


def rewritten(**changes):
    """A change of config.json: of its top, or below for names with a double underscore."""

    def change(folder):
        path = folder / "config.json"
        config = json.loads(path.read_text())
        for name, value in changes.items():
            *above, last = name.split("__")
            target = config
            for part in above:
                target = target[part]
            if value is KeyError:
                target.pop(last)
            else:
                target[last] = value
        path.write_text(json.dumps(config))

    return change


def weights(**changes):
    def change(folder):
        tensors, metadata = contents(folder)
        for name, value in changes.items():
            name = name.replace("__", ".")
            if value is KeyError:
                tensors.pop(name)
            else:
                tensors[name] = value(tensors.get(name))
        write_safetensors(folder / "model.safetensors", tensors, metadata)

    return change


def cut(name, length):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


DAMAGE = {
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json: no such file; give"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"safetensors: no such file"),
    "cut config": (cut("config.json", 40), r"config\.json: not JSON"),
    "empty config": (cut("config.json", 0), "not JSON"),
    "cut weights": (cut("model.safetensors", -20), "not a whole safetensors file"),
    "cut head": (cut("model.safetensors", 20), "not a whole safetensors file"),
    "list": (lambda f: (f / "config.json").write_text("[1]"), "expected an object, got"),
    "nested": (lambda f: (f / "config.json").write_text("[" * 99999), "not JSON"),
    "not ours": (lambda f: (f / "config.json").write_text('{"a": 1}'), "not of a fastgen model"),
    "newer": (rewritten(fastgen_model=2), "of format 2, this fastgen .* install a newer"),
    "version text": (rewritten(fastgen_model="1"), "not of a fastgen model"),
    "unknown key": (rewritten(modle=1), "unknown key modle; did you mean 'model'"),
    "unknown argument": (rewritten(model__data_ta=1), "unknown key model.data_ta; did you mean"),
    "missing": (rewritten(network=KeyError), "network is missing; save the model again"),
    "missing argument": (rewritten(model__data_at=KeyError), "model.data_at is missing"),
    "true": (rewritten(model__data_at=True), "model.data_at: expected a whole number, got True"),
    "two": (rewritten(model__data_at=2), "data_at=2: expected 0 or 1"),
    "text": (rewritten(model__sigma_data="1"), "model.sigma_data: expected a number, got '1'"),
    "huge": (rewritten(model__sigma_data=10**400), r"config\.json: "),
    "nan": (rewritten(model__score_scale=float("nan")), "score_scale=nan"),
    "dtype": (rewritten(model__dtype="save"), "model.dtype: expected a dtype's name or null"),
    "time dtype": (rewritten(model__time_dtype=None), "model.time_dtype: expected a dtype"),
    "predicts": (rewritten(model__predicts="velocty"), "did you mean 'velocity'"),
    "time input": (rewritten(model__time_input="index"), "needs a DiscreteVP schedule"),
    "shared": (rewritten(model__shared="a"), "model.shared: expected a list of names"),
    "schedule": (rewritten(schedule__name="Rectifed"), "schedule: unknown schedule 'Rectifed'"),
    "its value": (rewritten(schedule__shift=-1), "shift = -1 is out of range"),
    "its kind": (rewritten(schedule=3), "schedule: expected an object, got 3"),
    "network": (rewritten(network__name="MPL"), "network 'MPL': did you mean 'MLP'"),
    "network key": (rewritten(network__width=3), r"config\.json: .*width"),
    "network kind": (rewritten(network={"class": 3, "arguments": {}}), "network: expected a class"),
    "network shape": (rewritten(network__widths=[9]), "of another shape"),
    "network size": (rewritten(network__widths=[10**12]), "of another shape"),
    "sample": (rewritten(shape=[2, 0]), "shape: expected positive whole numbers or null"),
    "save": (rewritten(save="00000000"), "of another save than config.json"),
    "weight missing": (weights(layers__0__bias=KeyError), "missing layers.0.bias"),
    "weight more": (weights(more=lambda x: torch.ones(1)), "unexpected more"),
    "weight nan": (weights(layers__0__bias=lambda x: x * float("nan")), "NaN or infinity in"),
    "weight shape": (weights(layers__0__bias=lambda x: x[:-1]), "1 of another shape"),
    "weight kind": (weights(layers__0__bias=lambda x: x.long()), "1 of another dtype"),
}


class TestDamagedFolders:
    @pytest.mark.parametrize("name", list(DAMAGE))
    def test_one_error_that_names_the_file(self, name, tmp_path):
        change, message = DAMAGE[name]
        flow().save_pretrained(tmp_path)
        change(tmp_path)
        with pytest.raises(PretrainedError, match=message) as caught:
            Model.from_pretrained(tmp_path)
        assert str(caught.value).startswith(str(tmp_path))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", [n for n in DAMAGE if not n.startswith("network")])
    def test_a_given_network_is_as_it_was(self, name, tmp_path):
        flow().save_pretrained(tmp_path)
        DAMAGE[name][0](tmp_path)
        own = networks.MLP((2,), (8,)).train()
        before = {k: v.clone() for k, v in own.state_dict().items()}
        with pytest.raises(PretrainedError):
            Model.from_pretrained(tmp_path, net=own, dtype=torch.float64)
        assert own.training
        assert all(torch.equal(v, before[k]) for k, v in own.state_dict().items())
        assert own.layers[0].weight.dtype == torch.float32

    def test_flipped_bits(self, tmp_path):
        flow().save_pretrained(tmp_path)
        path = tmp_path / "model.safetensors"
        whole = path.read_bytes()
        for place in range(0, len(whole), 41):
            if 0 <= place - whole.index(b"fastgen_crc32") < 13:
                continue
            broken = bytearray(whole)
            broken[place] ^= 4
            path.write_bytes(broken)
            with pytest.raises(PretrainedError, match=r"model\.safetensors: "):
                Model.from_pretrained(tmp_path)

    def test_weights_of_another_network(self, tmp_path):
        flow().save_pretrained(tmp_path)
        with pytest.raises(PretrainedError, match="give net= the network that was saved"):
            Model.from_pretrained(tmp_path, net=Own())
        with pytest.raises(TypeError, match="net=3: expected a module"):
            Model.from_pretrained(tmp_path, net=3)

    def test_a_class_of_ones_own_for_a_registered_network(self, tmp_path):
        class Mine(networks.MLP):
            pass

        model = flow()
        model.save_pretrained(tmp_path)
        found = Model.from_pretrained(tmp_path, net=Mine)
        assert type(found.net) is Mine
        assert same_weights(found.net, model.net)

    def test_plans(self, tmp_path):
        flow().save_pretrained(tmp_path, plan=fastgen.plan("euler", FLOW, 3))
        (tmp_path / "plan.json").write_text("{}")
        with pytest.raises(PretrainedError, match=r"plan\.json: text: expected a plan"):
            fastgen.Plan.from_pretrained(tmp_path)

    def test_what_was_killed_while_saving_over_another_save(self, tmp_path, monkeypatch):
        """Weights are the first file and config.json is the last."""
        flow().save_pretrained(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr("fastgen.model.folders._put", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                Model(small(), FLOW, "noise").save_pretrained(tmp_path)
        with pytest.raises(PretrainedError, match="of another save"):
            Model.from_pretrained(tmp_path)

    def test_weights_that_another_program_wrote(self, tmp_path):
        from safetensors.torch import save_file

        model = flow()
        model.save_pretrained(tmp_path)
        save_file(contents(tmp_path)[0], tmp_path / "model.safetensors")
        assert same_weights(Model.from_pretrained(tmp_path).net, model.net)


class TestArguments:
    def test_changes(self, tmp_path):
        flow().save_pretrained(tmp_path)
        own = schedules.UserSchedule(lambda t: 1 - t, lambda t: t)
        found = Model.from_pretrained(tmp_path, schedule=own, per_sample=("labels",))
        assert found.schedule is own
        assert found.declared.per_sample == {"labels"}
        with pytest.raises(TypeError, match="unexpected argument 'per_smaple'; did you mean"):
            Model.from_pretrained(tmp_path, per_smaple=("labels",))
        with pytest.raises(ValueError, match=r"^data_at=3"):
            Model.from_pretrained(tmp_path, data_at=3)

    def test_a_schedule_of_ones_own_that_is_not_there(self, tmp_path):
        flow().save_pretrained(tmp_path)
        rewritten(schedule={"name": "Mine"})(tmp_path)
        with pytest.raises(PretrainedError, match="give schedule="):
            Model.from_pretrained(tmp_path)
        assert Model.from_pretrained(tmp_path, schedule=FLOW).schedule is FLOW

    def test_places(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(PretrainedError, match=r"is a file, .*fastgen\.training\.load"):
            Model.from_pretrained(tmp_path / "file")
        with pytest.raises(PretrainedError, match="no such folder; from the Hub it is hf:ORG"):
            Model.from_pretrained(tmp_path / "none")
        (tmp_path / "m" / "config.json").mkdir(parents=True)
        with pytest.raises(IsADirectoryError):
            flow().save_pretrained(tmp_path / "m")

    def test_a_subclass_is_kept(self, tmp_path):
        class Mine(Model):
            pass

        flow().save_pretrained(tmp_path)
        assert type(Mine.from_pretrained(tmp_path)) is Mine


class TestCards:
    def test_what_it_says(self, tmp_path):
        picture = tmp_path / "some samples.png"
        picture.write_bytes(b"PNG")
        card = Card(
            "Moons",
            "Trained in a minute.",
            "mit",
            {"W2 | a": 0.25, "seconds": "3 to 4"},
            {"Sixteen samples": picture},
            ["2d"],
            ["moons"],
        )
        plan = fastgen.plan("heun", FLOW, 40)
        flow().save_pretrained(tmp_path / "m", plan=plan, shape=(2,), card=card)
        text = (tmp_path / "m" / "README.md").read_text()
        front = text.split("---")[1]
        yaml = pytest.importorskip("yaml")
        assert yaml.safe_load(front) == {
            "library_name": "fastgen",
            "tags": ["fastgen", "flow-matching", "2d"],
            "license": "mit",
            "datasets": ["moons"],
        }
        for part in (
            "# Moons",
            "Trained in a minute.",
            f"| network | MLP, {sum(p.numel() for p in small().parameters())} weights |",
            "| W2 \\| a | 0.25 |",
            "| seconds | 3 to 4 |",
            "heun on Rectified",
            "lines more",
            "![Sixteen samples](some%20samples.png)",
        ):
            assert part in text, part
        assert (tmp_path / "m" / "some samples.png").read_bytes() == b"PNG"

    @pytest.mark.parametrize("planned", [False, True])
    def test_its_code_runs(self, planned, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        model = flow(networks.MLP((2,), (8,), classes=2))
        plan = fastgen.plan("euler", FLOW, 3) if planned else None
        model.save_pretrained("m", plan=plan, shape=(2,))
        code = (tmp_path / "m" / "README.md").read_text().split("```python")[1].split("```")[0]
        names = {}
        exec(code, names)
        assert names["x"].shape == (16, 2)

    def test_images_are_found_as_such(self, tmp_path):
        flow(networks.UNet(1, 8, (1, 2))).save_pretrained(tmp_path, shape=(1, 8, 8))
        text = (tmp_path / "README.md").read_text()
        assert 'pipeline_tag: "unconditional-image-generation"' in text

    def test_ones_own_card_is_left(self, tmp_path):
        flow().save_pretrained(tmp_path)
        path = tmp_path / "README.md"
        changed = path.read_text().replace("# ", "# My ")
        path.write_text(changed)
        flow().save_pretrained(tmp_path)
        assert path.read_text() != changed, "the mark was there"
        path.write_text(changed.replace(MARK, ""))
        flow().save_pretrained(tmp_path)
        assert path.read_text() == changed.replace(MARK, "")


def test_a_network_loaded_in_inference_mode_can_be_trained(tmp_path):
    flow().save_pretrained(tmp_path)
    with torch.inference_mode():
        found = Model.from_pretrained(tmp_path).net
        own = Model.from_pretrained(tmp_path, net=small()).net  # made there, and stays there
    found(torch.ones(3, 2), torch.ones(3)).sum().backward()
    assert all(p.grad is not None and p.requires_grad for p in found.parameters())
    assert all(p.is_inference() for p in own.parameters())
    for a, b in zip(found.parameters(), own.parameters(), strict=True):
        assert torch.equal(a.detach(), b)
