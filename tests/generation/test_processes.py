"""Several processes with one set: killed at random, started by torchrun, in other numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastgen.generation import Features, Generated, Place
from fastgen.generation.world import shards
from tests.generation import kills, sets

pytest.importorskip("safetensors")
ROOT = Path(__file__).parents[2]


class Disk:
    """Shards that are there; one that is asked for closely is looked at once."""

    def __init__(self, *done):
        self.done, self.looked, self.claimed = set(done), [], set()

    def missing(self, k, closely):
        self.looked += [k] if closely else []
        return k not in self.done

    def begun(self, k):
        return k in self.claimed


class Counter:
    """A store's counter; from some value on the store is gone."""

    def __init__(self, last=10**9):
        self.values, self.last = {}, last

    def add(self, key, amount):
        self.values[key] = self.values.get(key, 0) + amount
        if self.values[key] > self.last:
            raise RuntimeError("Broken pipe")
        return self.values[key]


def draw(disk, place, count, most=10**9, sleep=lambda seconds: None):
    """Draw up to so many shards; which these were."""
    drawn = []
    for k in shards(place, count, disk.missing, disk.begun, sleep=sleep):
        disk.done.add(k)
        drawn.append(k)
        if len(drawn) == most:
            break
    return drawn


class TestOrder:
    @pytest.mark.parametrize("store", [None, Counter()], ids=["folder", "store"])
    def test_one_process_draws_all_in_order_and_looks_at_each_once(self, store):
        disk = Disk(3)
        assert draw(disk, Place(store=store), 6) == [0, 1, 2, 4, 5]
        assert disk.looked == list(range(6))

    def test_parts_without_a_store_begin_apart_and_end_with_the_others(self):
        disk = Disk()
        assert draw(disk, Place(1, 3), 9, most=3) == [3, 4, 5]
        assert draw(disk, Place(2, 3), 9) == [6, 7, 8, 2, 1, 0]
        assert draw(Disk(), Place(0, 3), 9) == [0, 1, 2, 5, 4, 3, 8, 7, 6]

    def test_what_another_has_begun_comes_last(self):
        disk = Disk()
        disk.claimed = {1, 4}
        assert draw(disk, Place(0, 2), 6) == [0, 2, 5, 3, 1, 4]
        disk = Disk()
        disk.claimed = {0}  # by the process that this one takes the place of
        assert draw(disk, Place(), 2) == [0, 1]

    def test_more_processes_than_shards(self):
        for rank in range(5):
            assert sorted(draw(Disk(), Place(rank, 5), 2)) == [0, 1]

    def test_with_a_store_who_is_slow_takes_fewer(self):
        disk, store = Disk(), Counter()
        slow = shards(Place(0, 2, store=store), 6, disk.missing, disk.begun)
        assert next(slow) == 0
        sleep = lambda seconds: disk.done.add(0)  # noqa: E731
        fast = shards(Place(1, 2, store=store), 6, disk.missing, disk.begun, sleep=sleep)
        drawn = []
        for k in fast:
            disk.done.add(k)
            drawn.append(k)
        assert drawn == [1, 2, 3, 4, 5]  # and 0 came while it waited
        assert next(slow, None) is None

    def test_what_a_lost_process_had_in_hand_is_drawn_by_another(self):
        disk, store = Disk(), Counter()
        assert next(shards(Place(0, 2, store=store), 4, disk.missing, disk.begun)) == 0
        assert draw(disk, Place(1, 2, store=store), 4) == [1, 2, 3, 0]

    def test_counters_of_an_earlier_run_stop_nothing(self):
        store = Counter()
        assert draw(Disk(), Place(store=store), 4) == [0, 1, 2, 3]
        assert sorted(draw(Disk(), Place(store=store), 4)) == [0, 1, 2, 3]

    def test_without_its_store_a_process_goes_on(self):
        disk = Disk()
        assert draw(disk, Place(0, 2, store=Counter(2)), 5) == [0, 1, 4, 3, 2]


class TestPlace:
    def test_launchers(self):
        assert Place.found({}) == Place()
        slurm = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}
        assert Place.found(slurm) == Place(5, 8, 1)
        torchrun = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
        assert Place.found(slurm | torchrun) == Place(1, 2, 0)
        # A batch script of one task, in which somebody starts the command by hand.
        assert Place.found({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) == Place()

    def test_what_is_no_place(self):
        with pytest.raises(ValueError, match="RANK='x' in the environment"):
            Place.found({"RANK": "x", "WORLD_SIZE": "2"})
        with pytest.raises(ValueError, match="rank 2 of 2"):
            Place(2, 2)


def killed(folder, count, seed):
    """A set made by processes of which many were killed; how many that were."""
    whole = sets.generate(folder / "a", format=kills.FORMAT, features=Features())
    command = [sys.executable, "-m", "tests.generation.kills", folder / "b", str(count), str(seed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert sets.checksums(folder / "b") == sets.checksums(folder / "a")
    assert Generated(folder / "b").samples().equal(whole.samples())
    left = [p.name for p in (folder / "b").rglob("*") if p.suffix in (".part", ".begun")]
    assert left == []
    said = json.loads(done.stdout)
    assert [said[key] for key in ("samples with other bits", "lost", "doubled")] == [0, 0, 0]
    return said["kills"]


def test_ten_kills_leave_no_bit_other_and_no_sample_twice(tmp_path):
    assert killed(tmp_path, 10, 0) >= 10


@pytest.mark.slow
def test_a_hundred_kills(tmp_path):
    assert killed(tmp_path, 100, 1) >= 100


NETS = """
import os, signal, sys
import fastgen
from tests.generation import sets

def model():
    made = sets.model()
    calls = []
    def dies(*_):
        calls.append(0)
        if len(calls) == 12 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get("RANK") == "1":
        made.net.register_forward_pre_hook(dies)
    return made
"""


LINE = (
    f"generate nets:model --shape 1,4,4 --count {sets.COUNT} --solver euler --steps 4 "
    f"--option start=0.99 --seed {sets.SEED} --shard {sets.SHARD} --batch {sets.BATCH} "
    "--labels 0,1,2 --out b --verify 1"
).split()


def command(folder, *launcher, **more):
    """`fastgen generate` of the small set into ``b``, as a process; ``a`` is what must come out."""
    if not (folder / "a").exists():
        sampler = sets.sampler(solver="euler")
        sets.generate(folder / "a", sampler, labels=[i % 3 for i in range(sets.COUNT)])
        (folder / "nets.py").write_text(NETS)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | more
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, *LINE], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(run):
    """What a process that went well said on stderr."""
    _, said = run.communicate(timeout=300)
    assert run.returncode == 0, said[-3000:]
    return said


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_torchrun_starts_a_killed_process_again(world, tmp_path):
    launcher = ["torch.distributed.run", "--nproc-per-node", str(world), "--max-restarts", "2"]
    said = ended(command(tmp_path, *launcher, "-m", "fastgen"))
    assert "Signal 9 (SIGKILL)" in said or "exitcode: -9" in said
    assert sets.checksums(tmp_path / "b") == sets.checksums(tmp_path / "a")


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_as_srun_starts_them(world, tmp_path):
    """With its variables, on two nodes; only the first says how far all are."""
    runs = []
    for rank in range(world):
        own = {"SLURM_PROCID": rank, "SLURM_NTASKS": world, "SLURM_LOCALID": rank % (world // 2)}
        own |= {"SLURM_NODEID": rank // (world // 2), "SLURM_JOB_ID": 7}
        own = {name: str(value) for name, value in own.items()}
        runs.append(command(tmp_path, "fastgen", **own))
    said = [ended(run) for run in runs]
    assert "230 of 230 samples" in said[0]
    assert not any("of 230 samples" in text for text in said[1:])
    assert sets.checksums(tmp_path / "b") == sets.checksums(tmp_path / "a")
