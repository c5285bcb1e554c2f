"""Shards are written while the next ones are drawn: one at a time, and no error is lost."""

import threading
import tracemalloc

import pytest
import torch

import fastgen
from fastgen.generation import Features, Generated, Place
from fastgen.generation.folder import Folder
from tests.generation import sets

PATIENCE = 30


@pytest.fixture
def writing(monkeypatch):
    """What happened, in order; with functions to be called before a shard is written or drawn."""
    events, before = [], {}
    write, claim = Folder.write, Folder.claim

    def told(self, k, *rest):
        events.append(("writes", k))
        before.get("write", lambda k: None)(k)
        write(self, k, *rest)
        events.append(("wrote", k))

    def claimed(self, k):
        events.append(("draws", k))
        before.get("draw", lambda k: None)(k)
        claim(self, k)

    monkeypatch.setattr(Folder, "write", told)
    monkeypatch.setattr(Folder, "claim", claimed)
    return events, before


def test_a_shard_is_written_while_the_next_is_drawn_and_no_further(writing, tmp_path):
    events, before = writing
    drawing = {k: threading.Event() for k in range(4)}
    before["draw"] = lambda k: drawing[k].set()

    def held(k):
        """Until the next shard is begun; the one after that must wait for this."""
        if k < 3:
            assert drawing[k + 1].wait(PATIENCE)
        if k < 2:
            assert not drawing[k + 2].wait(0.2)

    before["write"] = held
    found = sets.generate(tmp_path, count=4 * sets.SHARD)
    assert [k for what, k in events if what == "draws"] == [0, 1, 2, 3]
    assert [k for what, k in events if what == "wrote"] == [0, 1, 2, 3]
    assert found.manifest["complete"]


@pytest.mark.parametrize("last", [False, True], ids=["in the middle", "the last one"])
def test_a_shard_that_cannot_be_written_is_the_error(last, writing, tmp_path):
    events, before = writing
    broken = 11 if last else 3

    def fails(k):
        if k == broken:
            raise OSError(28, "No space left on device")

    before["write"] = fails
    with pytest.raises(OSError, match="No space left"):
        sets.generate(tmp_path)
    assert [k for what, k in events if what == "wrote"] == list(range(broken))
    assert not Generated(tmp_path).manifest["complete"]
    before.clear()
    assert sets.generate(tmp_path, verify=1).samples().shape[0] == sets.COUNT


def test_a_full_disk_names_the_shard(monkeypatch, tmp_path):
    def full(self, folder, k, block):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fastgen.generation.formats.files.Npz.write", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*000000\.npz'"):
        sets.generate(tmp_path)


def test_what_is_being_written_is_finished_when_drawing_fails(writing, tmp_path):
    before = writing[1]
    drawing = threading.Event()
    before["write"] = lambda k: k == 1 and drawing.wait(PATIENCE)

    def interrupted(k):
        if k == 2:
            drawing.set()
            raise KeyboardInterrupt

    before["draw"] = interrupted
    with pytest.raises(KeyboardInterrupt):
        sets.generate(tmp_path)
    folder = Generated(tmp_path).folder
    assert [k for k in range(12) if not folder.missing(k, True)] == [0, 1]
    assert [p.name for p in tmp_path.rglob("*.part")] == []


def test_moments_have_the_threads_of_the_run(monkeypatch, tmp_path):
    seen = []
    of = fastgen.generation.statistics.Moments.of
    told = lambda x: seen.append(torch.get_num_threads()) or of(x)  # noqa: E731
    monkeypatch.setattr("fastgen.generation.folder.Moments.of", told)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        sets.generate(tmp_path, count=3 * sets.SHARD, features=Features(means))
    finally:
        torch.set_num_threads(before)
    assert seen == [3, 3, 3]


def means(x):
    return x.flatten(1)[:, :2].float()


def test_memory_is_that_of_three_shards(tmp_path):
    """Drawn, to be written, and in the order of the file; 16 MiB of which NumPy writes at once."""
    schedule = fastgen.schedules.Rectified()
    model = fastgen.Model(lambda x, t: -x, schedule, "velocity")
    sampler = fastgen.Sampler(model, fastgen.plan("euler", schedule, 1))
    shape, shard = (3, 128, 128), 256
    size = shard * 3 * 128 * 128
    options = {"count": 4 * shard, "shard": shard, "batch": 8, "place": Place()}
    fastgen.generate(sampler, shape, out=tmp_path / "a", **options)  # and what is imported for it
    tracemalloc.start()
    try:
        fastgen.generate(sampler, shape, out=tmp_path / "b", **options)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 2 * size < peak < 3.1 * size + (20 << 20)
