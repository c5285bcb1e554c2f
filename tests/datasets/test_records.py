"""Sets on a disk: what is read is what was stored, in little memory, and faults are named."""

import io
import pickle
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch

from fastgen import networks
from fastgen.datasets import Arrays, Images, Items, Shards, stored
from fastgen.training import Flow, Scaling, Settings, Trainer
from fastgen.training.feed import Feed

DATA = np.random.default_rng(0).normal(size=(23, 3, 4)).astype(np.float32)


class Chunks:
    """An array as h5py's: sorted, distinct numbers only."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, numbers):
        assert (np.diff(numbers) > 0).all()
        return self.array[numbers]


def arrays(tmp_path, kind):
    np.save(tmp_path / "x.npy", DATA)
    if kind == "mapped":
        return Arrays.open(tmp_path / "x.npy")
    if kind == "sent to another process":
        return pickle.loads(pickle.dumps(Arrays.open(tmp_path / "x.npy")))
    if kind == "zarr":
        zarr = pytest.importorskip("zarr")
        array = zarr.create_array(
            str(tmp_path / "x.zarr"), shape=DATA.shape, dtype="f4", chunks=(4, 3, 4)
        )
        array[:] = DATA
        return stored(tmp_path / "x.zarr")
    if kind == "chunks":
        return Arrays(Chunks(DATA))
    if kind == "items":
        return Items([torch.from_numpy(x) for x in DATA])
    if kind == "columns":
        return Items([{"a": x, "b": 1} for x in DATA], "a")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for k, x in enumerate(DATA):
            held = io.BytesIO()
            np.save(held, x)
            for suffix, body in ((".npy", held.getvalue()), (".cls", str(k % 3).encode())):
                info = tarfile.TarInfo(f"set/{k:03d}{suffix}")
                info.size = len(body)
                archive.addfile(info, io.BytesIO(body))
    return stored(tmp_path / "*.tar")


KINDS = ["mapped", "sent to another process", "zarr", "chunks", "items", "columns", "tar"]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_what_was_stored(tmp_path, kind):
    found = arrays(tmp_path, kind)
    assert (len(found), found.shape) == (23, (3, 4))
    numbers = [5, 2, 2, 22, 0]
    assert torch.equal(found.rows(numbers), torch.from_numpy(DATA[numbers]))
    assert found.rows([]).shape == (0, 3, 4)
    if kind == "tar":
        assert found.labels.tolist() == [k % 3 for k in range(23)]
    elif kind != "items":
        assert repr(found).startswith(type(found).__name__)


def test_images_are_read_one_by_one(tmp_path):
    image = pytest.importorskip("matplotlib.image")
    for k, name in enumerate(("cat", "cat", "dog")):
        (tmp_path / name).mkdir(exist_ok=True)
        image.imsave(tmp_path / name / f"{k}.png", np.full((4, 6, 3), 100 * k, np.uint8))
    found = stored(tmp_path)
    assert isinstance(found, Images)
    assert found.labels.tolist() == [0, 0, 1]
    assert found.rows([2, 0])[:, 0, 0, 0].tolist() == pytest.approx([200 / 127.5 - 1, -1])
    from PIL import Image

    opened = Items([Image.open(f).convert("RGB") for f in found.files])
    assert torch.equal(opened.rows([0, 1, 2]), found.rows([0, 1, 2]))


def test_a_run_from_the_disk_is_that_from_memory(tmp_path):
    from fastgen import networks

    losses, archive = [], arrays(tmp_path, "tar")
    archive.labels = None  # the network knows no classes
    for data in (torch.from_numpy(DATA), arrays(tmp_path, "mapped"), archive):
        torch.manual_seed(0)
        network = networks.ModulatedMLP((3, 4), 8, 1)
        settings = Settings(steps=8, batch=6, seed=2, flip=True)
        trainer = Trainer(network, Flow().loss, data, settings, workers=0)
        losses.append(trainer.run(3) + trainer.run())
    assert losses[0] == losses[1] == losses[2]


def test_workers_read_ahead_and_a_run_begins_in_the_middle(tmp_path):
    feed = Feed(arrays(tmp_path, "mapped"), None, Settings(batch=5, seed=1), workers=2)
    whole = Feed(torch.from_numpy(DATA), None, Settings(batch=5, seed=1))
    for step in (40, 41, 42, 43, 7, 8):
        assert torch.equal(feed(step)[0], whole(step)[0])
    share = Feed(torch.from_numpy(DATA), None, Settings(batch=6, seed=1), rank=1, processes=3)
    assert torch.equal(share(4)[0], Feed(share.data, None, Settings(batch=6, seed=1))(4)[0][2:4])


class Broken:
    """Every item but those that are damaged."""

    shape, labels = (2,), torch.arange(10)

    def __init__(self, damaged):
        self.damaged = damaged

    def __len__(self):
        return 10

    def rows(self, numbers):
        for k in numbers:
            if self.damaged.get(k) == "unreadable":
                raise OSError(f"item {k} cannot be read")
        return torch.tensor(
            [[float(k), np.nan if self.damaged.get(k) == "nan" else 0.0] for k in numbers]
        )


def test_corrupt_samples_are_named_and_skipped_only_when_asked():
    damaged = {3: "unreadable", 4: "nan", 9: "unreadable"}
    settings = Settings(batch=5, seed=1)
    with pytest.raises(ValueError, match=r"sample [349]: .*on_corrupt='skip'"):
        [Feed(Broken(damaged), None, settings)(step) for step in range(2)]
    feed = Feed(Broken(damaged), None, settings, on_corrupt="skip", workers=1)
    with pytest.warns(UserWarning, match="is left out") as said:
        rows = [feed(step) for step in range(4)]
    data, labels = (torch.cat(parts) for parts in zip(*rows, strict=True))
    assert sorted(data[:10, 0].tolist()) == [0, 0, 1, 2, 5, 5, 5, 6, 7, 8]
    assert torch.equal(data[:, 0].long(), labels), "labels are those of what took the place"
    assert set(feed.corrupt) == {3, 4, 9}
    told = [w for w in said if "is left out" in str(w.message)]  # others' warnings may come too
    assert len(told) == 3, "each is told once"
    everything = Broken(dict.fromkeys(range(10), "nan"))
    with pytest.raises(ValueError, match="are all corrupt: NaN"):
        Feed(everything, None, settings, on_corrupt="skip")(0)


def test_a_trainer_and_a_scaling_skip_what_the_feed_does():
    """Which look at the data before the first step."""
    data = Broken({3: "unreadable", 4: "nan"})
    parts = (
        networks.MLP((2,), (4,), classes=10),
        Flow().loss,
        data,
        Settings(steps=2, batch=5, seed=1),
    )
    for make in (lambda: Trainer(*parts), lambda: Scaling.of(data)):
        with pytest.raises(ValueError, match=r"sample 3: .*on_corrupt='skip'"):
            make()
    trainer = Trainer(*parts, on_corrupt="skip")
    with pytest.warns(UserWarning, match="is left out"):
        assert np.isfinite(trainer.run()).all()
    # The numbers are 0, 1, 2, 5, 5, 5, 6, 7, 8, 9.
    scaling = Scaling.of(data, on_corrupt="skip")
    assert scaling.mean.tolist() == [4.8, 0.0]
    with pytest.raises(ValueError, match="sample 7; leave"):
        Scaling.of(torch.tensor([[1.0]] * 7 + [[torch.inf]]))
    with pytest.raises(ValueError, match="did you mean 'skip'"):
        Scaling.of(data, on_corrupt="skp")


MAPPED = """
import sys
from pathlib import Path
import numpy as np, torch
from fastgen.datasets import Arrays
from fastgen.training.feed import Feed
from fastgen.training import Settings

records = Arrays.open(sys.argv[1])
feed = Feed(records, None, Settings(batch=256, seed=0))
total = 0
for step in range(int(sys.argv[2])):
    total += feed(step)[0].numel() * 4
peak = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
print(total >> 20, int(peak.split()[1]) >> 10)
"""


def sparse(path, gigabytes):
    """A set of that size, of zeros that take no room on the disk."""
    rows = (gigabytes << 30) // (4 * 3 * 64 * 64)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (rows, 3, 64, 64)}
    )
    with path.open("wb") as file:
        file.write(header.getvalue())
        file.truncate(len(header.getvalue()) + rows * 4 * 3 * 64 * 64)


@pytest.mark.skipif(sys.platform != "linux", reason="counts resident memory as Linux does")
def test_20_gigabytes_take_less_than_500_megabytes(tmp_path):
    sparse(tmp_path / "large.npy", 20)
    run = subprocess.run(
        [sys.executable, "-c", MAPPED, str(tmp_path / "large.npy"), "60"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    read, held = map(int, run.stdout.split())
    assert read > 700
    assert held < 500


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: Arrays(np.zeros(3)), "expected numbers"),
        (lambda p: Arrays(np.zeros((3, 2), "U1")), "expected numbers"),
        (lambda p: Arrays(DATA, labels=[1, 2]), "one for each of 23 samples"),
        (lambda p: Arrays(DATA, labels=[-1] * 23), "whole numbers >= 0"),
        (lambda p: Arrays.open(p / "damaged.npy"), "not a whole .npy file"),
        (lambda p: Shards([p / "damaged.npy"]), "not a whole tar archive"),
        (lambda p: Items([]), "at least one"),
        (lambda p: Items([{"image": DATA[0]}], "imag"), "did you mean 'image'"),
        (lambda p: Items([1, 2]), "expected floating numbers or an image"),
        (lambda p: stored("moons"), "is not read by number"),
    ],
)
def test_errors_are_clear(make, message, tmp_path):
    (tmp_path / "damaged.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr'")
    with pytest.raises(ValueError, match=message):
        make(tmp_path)


def test_streams_and_other_things_are_refused():
    with pytest.raises(TypeError, match="a stream has no order"):
        Items(iter([1]))
    with pytest.raises(TypeError, match="or a set that is read by number"):
        Feed([1.0], None, Settings())
    with pytest.raises(ValueError, match="balanced=True: the data have no labels"):
        Feed(torch.ones(3, 2), None, Settings(balanced=True))
