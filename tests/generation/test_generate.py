"""Sets of samples in folders: their bits, their formats, and what is refused."""

import json
import os
import resource
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import fastgen
from fastgen.generation import Features, Generated, Place
from fastgen.generation.progress import Progress, clock
from fastgen.generation.run import usual_batch
from fastgen.generation.task import stored_as
from tests.generation import sets

pytest.importorskip("safetensors")

HAS = {"png": "PIL", "webdataset": "PIL", "zarr": "zarr"}
FORMATS = [pytest.param(name, id=name) for name in fastgen.generation.FORMATS]


@pytest.fixture(params=FORMATS)
def kind(request):
    pytest.importorskip(HAS.get(request.param, "numpy"))
    return request.param


class TestBits:
    def test_a_set_is_what_plain_calls_give(self, kind, tmp_path):
        found = sets.generate(tmp_path, format=kind, verify=3)
        expected = sets.by_hand()
        if found.manifest["dtype"] == "uint8":
            expected = stored_as(expected, "uint8", (-1.0, 1.0))
        else:
            assert kind in ("safetensors", "zarr")
        assert torch.equal(found.samples(), expected)
        assert found.labels().tolist() == sets.LABELS
        assert [block.first for block in found] == list(range(0, sets.COUNT, sets.SHARD))

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_dtypes(self, dtype, tmp_path):
        given = sets.sampler()
        found = sets.generate(tmp_path, given, dtype=dtype, count=30, labels=None, net_kwargs={
            "labels": torch.zeros(sets.BATCH, dtype=torch.int64)})  # fmt: skip
        zeros = torch.zeros(sets.BATCH, dtype=torch.int64)
        ids = range(20, 28)
        alone = given((8, *sets.SHAPE), seed=sets.SEED, sample_ids=ids, labels=zeros)
        assert torch.equal(found.samples()[20:28], alone.to(getattr(torch, dtype)))
        assert found.labels() is None

    def test_arguments_by_sample_id(self, tmp_path):
        labels = np.array(sets.LABELS + [0] * sets.BATCH)
        by_id = lambda ids: {"labels": torch.from_numpy(labels[ids.numpy()])}  # noqa: E731
        a = sets.generate(tmp_path / "a", dtype="float32")
        b = sets.generate(tmp_path / "b", dtype="float32", labels=None, net_kwargs=by_id)
        assert torch.equal(a.samples(), b.samples())

    def test_guidance_and_decoding(self, tmp_path):
        null = torch.zeros(sets.BATCH, dtype=torch.int64)
        guided = sets.sampler(guidance=fastgen.Guidance(3.0, {"labels": null}))
        found = sets.generate(
            tmp_path, guided, dtype="float32", decode=lambda x: x.flatten(1) * 2 + 1
        )
        assert torch.equal(found.samples(), sets.by_hand(guided).flatten(1) * 2 + 1)

    def test_whole_numbers_are_the_nearest(self):
        x = torch.tensor([-1.5, -1.0, -1 + 1.01 / 255, 0.0, 1 - 0.99 / 255, 1.0, 7.0])
        assert stored_as(x, "uint8", (-1.0, 1.0)).tolist() == [0, 0, 1, 128, 255, 255, 255]
        y = torch.arange(256) / 255
        assert stored_as(y, "uint8", (0.0, 1.0)).tolist() == list(range(256))

    def test_the_order_of_the_shards_is_that_of_statistics(self, tmp_path):
        """Moments of features that are kept, or not, merged by shard: the same to rounding."""
        features = Features(lambda x: x.flatten(1)[:, :3].double(), "three pixels")
        found = sets.generate(tmp_path, dtype="float32", features=features)
        x = found.samples().flatten(1)[:, :3].double()
        with np.load(tmp_path / "statistics.npz") as file:
            np.testing.assert_allclose(file["mu"], x.mean(0).numpy(), rtol=1e-12)
            np.testing.assert_allclose(file["sigma"], torch.cov(x.T).numpy(), rtol=1e-12)
        assert found.statistics == {"count": sets.COUNT, "features": "three pixels"}

    def test_distances_to_stored_statistics_and_real_features(self, tmp_path):
        kept = Features(keep=True)
        first = sets.generate(tmp_path / "a", features=kept)
        real = first.samples().flatten(1).float()
        again = sets.generate(
            tmp_path / "b", features=kept, real=real, against=tmp_path / "a" / "statistics.npz"
        )
        numbers = again.statistics
        # Of pixels up to 255: sums of squares are of size 1e5, their rounding errors 1e-11 times
        # what two square roots of matrices leave of the digits.
        assert 0 <= numbers["frechet"] < 1e-3
        assert (numbers["precision"], numbers["recall"]) == (1.0, 1.0)

    def test_one_file_as_evaluators_read_it(self, tmp_path):
        found = sets.generate(tmp_path / "a")
        found.join(tmp_path / "all.npz")
        with np.load(tmp_path / "all.npz") as file:
            assert file["arr_0"].shape == (sets.COUNT, 4, 4, 1)
            assert file["arr_0"].dtype == np.uint8
            assert (np.moveaxis(file["arr_0"], -1, 1) == found.samples().numpy()).all()
            assert file["arr_1"].tolist() == sets.LABELS

    def test_names_in_a_tar_are_those_of_webdataset(self, tmp_path):
        pytest.importorskip("PIL")
        sets.generate(tmp_path, format="webdataset", count=22)
        with tarfile.open(tmp_path / "000001.tar") as tar:
            names = tar.getnames()
            facts = json.loads(tar.extractfile("000000000021.json").read())
        assert names == [f"0000000000{i}.{k}" for i in (20, 21) for k in ("png", "cls", "json")]
        assert facts == {"id": 21, "label": 0}


class TestGoingOn:
    def test_a_whole_set_is_left_alone(self, kind, tmp_path):
        sets.generate(tmp_path, format=kind)
        before = {p: p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("*")) if p.is_file()}
        sets.generate(tmp_path, format=kind)
        after = {p: p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("*")) if p.is_file()}
        assert {p for p in before if before[p] != after[p]} == {tmp_path / "manifest.json"}

    def test_what_is_cut_or_changed_is_drawn_again(self, kind, tmp_path, capsys):
        sets.generate(tmp_path / "a", format=kind, features=Features())
        expected = sets.checksums(tmp_path / "a")
        files = [p for p in sorted((tmp_path / "a").rglob("*")) if p.is_file()]
        shards = [p for p in files if p.suffix not in (".json",) and "records" not in str(p)]
        cut, flipped = [p for p in shards if p.name != "statistics.npz"][2:4]
        content = cut.read_bytes()
        cut.write_bytes(content[: len(content) // 2])
        content = bytearray(flipped.read_bytes())
        content[len(content) // 2] ^= 1
        flipped.write_bytes(content)
        (tmp_path / "a" / "records" / "000007.safetensors").unlink()
        sets.generate(tmp_path / "a", format=kind, features=Features(), verify=2)
        assert sets.checksums(tmp_path / "a") == expected
        said = capsys.readouterr().err
        assert "drawn again" in said
        assert "its statistics are missing" in said

    def test_more_samples_of_the_same_seed(self, kind, tmp_path):
        sets.generate(tmp_path / "a", format=kind, count=90, features=Features())
        sets.generate(tmp_path / "a", format=kind, features=Features())
        sets.generate(tmp_path / "b", format=kind, features=Features())
        assert sets.checksums(tmp_path / "a") == sets.checksums(tmp_path / "b")
        with pytest.raises(ValueError, match=r"230 samples there, count=90 here"):
            sets.generate(tmp_path / "a", format=kind, count=90, features=Features())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"seed": 6}, "another seed: 5 there, 6 here"),
            ({"batch": 4}, "another batch: 8 there, 4 here"),
            ({"shard": 40}, "another shard: 20 there, 40 here"),
            ({"dtype": "float32"}, "another dtype: uint8 there, float32 here"),
            ({"limits": (0, 1)}, "another limits"),
            ({"format": "safetensors", "dtype": "uint8"}, "format 'npz' there, 'safetensors' here"),
            ({"labels": None, "net_kwargs": {"labels": torch.zeros(8).long()}}, "another labels"),
            ({"labels": [1] * 230}, "other labels there"),
            ({"features": Features()}, "another features of the statistics"),
            ({"decode": torch.tanh}, "another decode"),
            ({"given": lambda: sets.sampler(seed=1)}, "another model"),
            ({"given": lambda: sets.sampler(solver="heun")}, "another plan"),
            ({"given": lambda: sets.sampler(eta=0.5)}, "another plan"),
            (
                {"given": lambda: sets.sampler(guidance=fastgen.Guidance(2.0, {}))},
                "another guidance",
            ),
        ],
        ids=lambda v: None if isinstance(v, str) else "-".join(v),
    )
    def test_another_run_is_refused_by_name(self, change, message, tmp_path):
        sets.generate(tmp_path)
        before = (tmp_path / "manifest.json").read_bytes()
        given = change["given"]() if "given" in change else None
        change = {k: v for k, v in change.items() if k != "given"}
        with pytest.raises(ValueError, match=message):
            sets.generate(tmp_path, given, **change)
        assert (tmp_path / "manifest.json").read_bytes() == before

    def test_other_bits_are_found(self, tmp_path):
        sets.generate(tmp_path, dtype="float32")
        with np.load(tmp_path / "000003.npz") as file:
            arrays = [file["arr_0"].copy(), file["arr_1"]]
        arrays[0][:] += np.float32(1e-3)
        block = fastgen.generation.Block(60, np.moveaxis(arrays[0], -1, 1), arrays[1])
        folder = Generated(tmp_path).folder
        folder.write(3, block, None, False, "cpu of old")
        with pytest.raises(ValueError, match=r"000003\.npz: other bits .* drawn on cpu of old"):
            sets.generate(tmp_path, dtype="float32", verify=1)

    def test_a_full_disk_keeps_what_is_whole(self, tmp_path):
        """A limit on files, which is below a shard's size from the 1st shard on."""
        sets.generate(tmp_path / "a")
        small, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                sets.generate(tmp_path / "b", dtype="float64", format="safetensors")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (small, hard))
        left = [p.name for p in (tmp_path / "b").rglob("*") if p.is_file()]
        assert [name for name in left if name.endswith(".part")] == []
        assert "000000.safetensors" not in left
        whole = sets.generate(tmp_path / "b", dtype="float64", format="safetensors", verify=1)
        assert whole.manifest["complete"]

    @pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
    def test_a_small_file_system(self, tmp_path):
        small = tmp_path / "small"
        small.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("no mounts here")
        try:
            with pytest.raises(OSError, match="No space left"):
                sets.generate(small / "a", dtype="float32")
            records = sorted(p.stem for p in (small / "a" / "records").glob("*.json"))
            assert 0 < len(records) < 12
            folder = Generated(small / "a").folder
            assert [k for k in range(12) if not folder.missing(k, True)] == list(map(int, records))
            more = ["mount", "-o", "remount,size=4m", str(small)]
            subprocess.run(more, check=True, capture_output=True)
            sets.generate(small / "a", dtype="float32", verify=2)
        finally:
            subprocess.run(["umount", str(small)], check=True)

    def test_nan_is_named_and_nothing_is_written(self, tmp_path):
        given = sets.sampler()
        net = given.model.net
        given.model.net = lambda x, t, labels: torch.where(
            labels[:, None, None, None] == 2, torch.nan, net(x, t, labels=labels)
        )
        labels = [0] * 47 + [2] + [0] * (sets.COUNT - 48)
        with pytest.raises(FloatingPointError, match="sample 47: NaN or infinity"):
            sets.generate(tmp_path, given, labels=labels)
        assert not (tmp_path / "000002.npz").exists()
        assert (tmp_path / "000001.npz").exists()


class TestArguments:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"count": 0}, "count=0"),
            ({"shard": 0}, "shard=0"),
            ({"batch": 0}, "batch=0"),
            ({"batch": 24}, "would draw 4 states for nothing; give shard=24 or more"),
            ({"seed": -1}, "seed=-1"),
            ({"format": "nzp"}, "did you mean 'npz'"),
            ({"dtype": "int8"}, "dtype='int8'"),
            ({"dtype": "float32", "format": "png"}, "pictures .* use 'webdataset'"),
            ({"limits": (1, -1)}, "expected low < high"),
            ({"labels": [0, 1]}, "expected 230, one for each sample, got 2"),
            ({"labels": [0.5] * 230}, "labels"),
            ({"verify": -1}, "verify=-1"),
            ({"against": "x.npz"}, "say of which features"),
            ({"features": Features(), "real": torch.zeros(9, 16)}, r"Features\(keep=True\)"),
            ({"decode": lambda x: [x]}, "decode: expected a function"),
        ],
        ids=lambda v: None if isinstance(v, str) else "-".join(v),
    )
    def test_refusals(self, change, message, tmp_path):
        with pytest.raises((ValueError, TypeError), match=message):
            sets.generate(tmp_path / "x", **change)
        assert not (tmp_path / "x").exists()

    def test_the_usual_batch_throws_next_to_nothing_away(self, tmp_path):
        batches = {1: 1, 20: 20, 64: 64, 65: 33, 1000: 63, 1024: 64, 100_000: 64}
        assert {shard: usual_batch(shard) for shard in batches} == batches
        for shard in range(1, 3000):
            calls = -(-shard // usual_batch(shard))
            assert calls == -(-shard // 64)
            assert calls * usual_batch(shard) - shard < calls
        found = sets.generate(tmp_path, batch=None, shard=100, count=100)
        assert found.manifest["batch"] == 50

    def test_a_folder_of_something_else(self, tmp_path):
        (tmp_path / "manifest.json").write_text("{}")
        with pytest.raises(ValueError, match=r"not of fastgen\.generate"):
            sets.generate(tmp_path)
        with pytest.raises(FileNotFoundError):
            Generated(tmp_path / "nowhere")

    def test_a_lost_manifest_is_not_made_up(self, tmp_path):
        sets.generate(tmp_path)
        (tmp_path / "manifest.json").unlink()
        with pytest.raises(ValueError, match=r"manifest\.json: missing, though there are shards"):
            sets.generate(tmp_path)

    def test_a_set_that_is_not_whole_is_not_joined(self, tmp_path):
        sets.generate(tmp_path, place=Place())
        path = tmp_path / "manifest.json"
        path.write_text(path.read_text().replace('"complete": true', '"complete": false'))
        with pytest.raises(ValueError, match="not complete"):
            Generated(tmp_path).join(tmp_path / "x.npz")

    def test_threads_are_those_of_the_first_run(self, tmp_path):
        before = torch.get_num_threads()
        SEEN.clear()
        options = {"labels": None, "net_kwargs": _seen}
        torch.set_num_threads(2)
        try:
            sets.generate(tmp_path, count=20, **options)
            torch.set_num_threads(1)
            sets.generate(tmp_path, count=40, **options)
            assert torch.get_num_threads() == 1
        finally:
            torch.set_num_threads(before)
        assert set(SEEN) == {2}


SEEN = []  # a global: what a function has closed over counts as part of it


def _seen(ids):
    SEEN.append(torch.get_num_threads())
    return {"labels": torch.zeros(len(ids), dtype=torch.int64)}


class TestProgress:
    def test_rate_and_time_left(self, capsys):
        done = iter([100, 400, 1000])
        report = Progress(1000, lambda: next(done))
        assert report.line(400, 10.0) == "400 of 1000 samples, 30 a second, 00:20 left"
        report.shown()  # too early
        report._every = 0
        report.shown()
        report.shown(last=True)
        said = capsys.readouterr().err.splitlines()
        assert said[0] == "100 of 1000 samples are there"
        assert said[1].startswith("400 of 1000 samples, ")
        assert said[2].startswith("1000 of 1000 samples, ")
        assert "left" not in said[2]

    def test_clock(self):
        assert [clock(s) for s in (0.4, 61, 3661)] == ["00:00", "01:01", "1:01:01"]


def test_a_folder_that_is_written_by_two_at_once(tmp_path):
    """The slower of two processes with the same shard leaves it whole, and nothing else."""
    from fastgen.common.files import replacing_folder

    target = tmp_path / "000000"
    with replacing_folder(target) as a:
        (a / "x").write_text("a")
        with replacing_folder(target) as b:
            (b / "x").write_text("b")
        assert (target / "x").read_text() == "b"
        assert a.exists()
    assert (target / "x").read_text() == "a"
    left = tmp_path / ".000000.0123456789abcdef.part"
    left.mkdir()
    with pytest.raises(RuntimeError), replacing_folder(target):
        raise RuntimeError
    assert [p.name for p in Path(tmp_path).iterdir()] == ["000000"]
