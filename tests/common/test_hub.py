"""The Hub, with a client that keeps repositories in folders instead of a network."""

import shutil
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fastgen
from fastgen.common.hub import PretrainedError, folder_of, split_name
from fastgen.model import Model

hub = pytest.importorskip("huggingface_hub")
pytest.importorskip("safetensors")


def model(seed=0):
    torch.manual_seed(seed)
    return Model(fastgen.networks.MLP((2,), (4,)), fastgen.schedules.Rectified(), "velocity")


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """Repositories as folders of ``remote.root``; ``remote.calls`` keeps what was asked."""
    found = SimpleNamespace(root=tmp_path / "remote", calls=[])

    def place(name, revision=None):
        return found.root / name / (revision or "main")

    class Api:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, repo_id, *, private=None, exist_ok=False):
            full = repo_id if "/" in repo_id else f"me/{repo_id}"
            found.calls.append(("create", full, private, self.token))
            assert exist_ok
            place(full).mkdir(parents=True, exist_ok=True)
            return SimpleNamespace(repo_id=full)

        def upload_folder(self, *, repo_id, folder_path, revision, ignore_patterns=None, **more):
            found.calls.append(("upload", repo_id, {**more, "revision": revision}))
            target = place(repo_id, revision)
            target.mkdir(parents=True, exist_ok=True)
            for path in Path(folder_path).iterdir():
                if not (ignore_patterns and fnmatch(path.name, ignore_patterns)):
                    shutil.copy(path, target)
            return f"https://huggingface.co/{repo_id}/commit/1"

    def snapshot_download(repo_id, *, revision, allow_patterns, **more):
        found.calls.append(("download", repo_id, {**more, "revision": revision}))
        source = place(repo_id, revision)
        if not source.is_dir():
            raise hub.errors.LocalEntryNotFoundError(f"{repo_id} is not there\nmore")
        target = tmp_path / "cache" / repo_id / (revision or "main")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for path in source.iterdir():
            if any(fnmatch(path.name, p) for p in allow_patterns):
                shutil.copy(path, target)
        return str(target)

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    return found


def test_there_and_back(remote):
    sent = model()
    plan = fastgen.plan("euler", sent.schedule, 3)
    url = sent.push_to_hub("me/moons", plan=plan, private=True, token="t", commit_message="first")
    assert url == "https://huggingface.co/me/moons/commit/1"
    for name in ("me/moons", "hf:me/moons", "hf:me/moons@main"):
        found = Model.from_pretrained(name)
        assert torch.equal(found.net.layers[0].weight, sent.net.layers[0].weight)
        assert fastgen.Plan.from_pretrained(name).nfe == 3
    create, upload = remote.calls[:2]
    assert create == ("create", "me/moons", True, "t")
    assert upload[1] == "me/moons"
    assert upload[2]["commit_message"] == "first"
    assert upload[2]["repo_type"] == "model"
    assert (
        'from_pretrained("me/moons")'
        in (remote.root / "me" / "moons" / "main" / "README.md").read_text()
    )


def test_a_name_without_owner_is_made_whole_on_the_card(remote):
    model().push_to_hub("moons")
    card = (remote.root / "me" / "moons" / "main" / "README.md").read_text()
    assert 'from_pretrained("me/moons")' in card
    assert "fastgen sample hf:me/moons " in card


def test_save_and_push(remote, tmp_path):
    assert model().save_pretrained(tmp_path / "moons") is None
    assert remote.calls == []
    url = model().save_pretrained(tmp_path / "moons", push_to_hub=True, branch="next")
    assert url.endswith("me/moons/commit/1")
    assert Model.from_pretrained("hf:me/moons", revision="next").predicts == "velocity"
    assert remote.calls[-1] == (
        "download",
        "me/moons",
        {
            "revision": "next",
            "token": None,
            "cache_dir": None,
            "local_files_only": False,
            "force_download": False,
        },
    )


def test_options_are_handed_on(remote):
    model().push_to_hub("me/moons", ignore_patterns="README.md", create_pr=True)
    assert not (remote.root / "me" / "moons" / "main" / "README.md").exists()
    assert remote.calls[-1][2]["create_pr"] is True
    Model.from_pretrained(
        "hf:me/moons", token="t", cache_dir="c", local_files_only=True, force_download=True
    )
    assert remote.calls[-1][2] == {
        "revision": None,
        "token": "t",
        "cache_dir": "c",
        "local_files_only": True,
        "force_download": True,
    }


def test_only_data_is_downloaded(remote):
    model().push_to_hub("me/moons")
    for name in ("evil.py", "pytorch_model.bin", "weights.pt"):
        (remote.root / "me" / "moons" / "main" / name).write_bytes(b"")
    names = {path.name for path in folder_of("hf:me/moons").iterdir()}
    assert names == {"config.json", "model.safetensors"}


def test_a_folder_comes_first_unless_the_hub_is_meant(remote, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model(1).push_to_hub("me/moons")
    model(2).save_pretrained("me/moons")
    here, there = Model.from_pretrained("me/moons"), Model.from_pretrained("hf:me/moons")
    assert torch.equal(here.net.layers[0].weight, model(2).net.layers[0].weight)
    assert torch.equal(there.net.layers[0].weight, model(1).net.layers[0].weight)


def test_errors_name_the_repository_and_the_remedy(remote):
    with pytest.raises(PretrainedError, match=r"hf:me/none: .*me/none is not there.*auth login"):
        Model.from_pretrained("hf:me/none")
    with pytest.raises(PretrainedError, match="me/none: no such folder, and not from the Hub"):
        Model.from_pretrained("me/none")
    with pytest.raises(PretrainedError, match="another one; give one of them"):
        Model.from_pretrained("hf:me/moons@a", revision="b")
    for name in ("hf:moons", "hf:a/b/c", "hf:", "hf:/b", "hf:../b", "hf:a/b c"):
        with pytest.raises(PretrainedError, match="expected a repository, such as hf:ORG/NAME"):
            Model.from_pretrained(name)


def test_a_model_that_cannot_be_saved_makes_no_repository(remote):
    broken = model()
    broken.net.layers[0].weight.data.fill_(float("inf"))
    with pytest.raises(PretrainedError, match="NaN or infinity"):
        broken.push_to_hub("me/moons")
    assert remote.calls == []


def test_a_latent_model(remote):
    torch.manual_seed(0)
    latent = fastgen.Latent.of(fastgen.networks.VAE(1, 2, 8)).fit(torch.randn(8, 1, 4, 4))
    net = fastgen.networks.ModulatedMLP((2, 2, 2), 8, 1)
    prior = Model(net, fastgen.schedules.Rectified(), "velocity")
    prior.push_to_hub("me/latents", shape=latent.shape)
    latent.push_to_hub("me/latents", private=True)
    found = fastgen.Latent.from_pretrained("hf:me/latents")
    z = torch.randn(3, *latent.shape)
    assert torch.equal(found.decode(z), latent.decode(z))
    assert found.shape == latent.shape
    assert {p.name for p in folder_of("hf:me/latents").iterdir()} == {
        "config.json",
        "model.safetensors",
        "latent.safetensors",
    }
    model().push_to_hub("me/moons")
    with pytest.raises(PretrainedError, match=r"latent\.safetensors: no such file; the model"):
        fastgen.Latent.from_pretrained("me/moons")


def test_names():
    assert split_name("hf:a/b") == ("a/b", None)
    assert split_name("a/b@v1.0") == ("a/b", "v1.0")


@pytest.mark.parametrize("missing", ["huggingface_hub", "safetensors"])
def test_what_is_missing_is_named(missing, tmp_path, monkeypatch):
    model().save_pretrained(tmp_path / "m")
    for name in (missing, f"{missing}.torch", f"{missing}.errors"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    call = {
        "huggingface_hub": lambda: Model.from_pretrained("hf:me/moons"),
        "safetensors": lambda: Model.from_pretrained(tmp_path / "m"),
    }[missing]
    with pytest.raises(ImportError, match=rf"{missing} is needed: pip install 'fastgen-torch\[hub"):
        call()
    if missing == "safetensors":
        with pytest.raises(ImportError, match="safetensors is needed"):
            model().save_pretrained(tmp_path / "other")
    else:
        assert Model.from_pretrained(tmp_path / "m").predicts == "velocity"
