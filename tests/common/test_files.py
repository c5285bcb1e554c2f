"""Files written at once or not at all, and weights that are read strictly."""

import os
import signal
import stat
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn

from fastgen.common.files import (
    check_weights,
    load_strictly,
    read_object,
    read_safetensors,
    replacing,
    write_safetensors,
)


def write(path, text):
    with replacing(path) as file:
        file.write(text.encode())


class TestReplacing:
    def test_a_failed_write_leaves_the_old_file_and_nothing_else(self, tmp_path):
        path = tmp_path / "file"
        path.write_text("old")

        def fail(error):
            with replacing(path) as file:
                file.write(b"half")
                raise error

        for error in (OSError("disk full"), KeyboardInterrupt()):
            with pytest.raises(type(error)):
                fail(error)
            assert path.read_text() == "old"
            assert list(tmp_path.iterdir()) == [path]

    def test_permissions_are_those_of_new_files_or_of_the_old_one(self, tmp_path):
        path = tmp_path / "file"
        before = os.umask(0o027)
        try:
            write(path, "a")
            assert stat.S_IMODE(path.stat().st_mode) == 0o640
            path.chmod(0o600)
            write(path, "b")
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        finally:
            os.umask(before)
        assert path.read_text() == "b"

    def test_links_are_replaced_and_not_followed(self, tmp_path):
        other, path = tmp_path / "other", tmp_path / "link"
        other.write_text("mine")
        path.symlink_to(other)
        (tmp_path / f".link.{os.getpid()}.part").symlink_to(other)
        write(path, "new")
        assert (path.read_text(), other.read_text()) == ("new", "mine")
        assert not path.is_symlink()

    def test_file_and_folder_are_put_on_the_disk(self, tmp_path, monkeypatch):
        synced = []
        real = os.fsync

        def fsync(descriptor):
            synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
            assert (tmp_path / "file").exists() == synced[-1]  # the file before it has its name
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        write(tmp_path / "file", "a")
        assert synced == [False, True]

    def test_what_a_killed_process_left_is_removed_by_the_next_write(self, tmp_path):
        path = tmp_path / "file"
        program = (
            "import os, pathlib, signal, sys\n"
            "from fastgen.common.files import replacing\n"
            "with replacing(pathlib.Path(sys.argv[1])) as file:\n"
            "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
        assert done.returncode == -signal.SIGKILL
        (left,) = tmp_path.iterdir()
        assert left.name.startswith(".file.")
        assert left.name.endswith(".part")
        foreign = tmp_path / ".file.backup.part"
        foreign.write_text("of the user")
        with replacing(path) as file:  # and what is being written is not
            file.write(b"first")
            write(path, "second")
            assert path.read_text() == "second"
        assert path.read_text() == "first"
        assert sorted(tmp_path.iterdir()) == sorted([path, foreign])

    def test_many_writers_of_one_file_leave_one_of_their_files_whole(self, tmp_path):
        path = tmp_path / "file"
        texts = [str(k) * 100_000 for k in range(8)]
        errors = []

        def work(text):
            try:
                for _ in range(5):
                    write(path, text)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(text,)) for text in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert path.read_text() in texts
        assert list(tmp_path.iterdir()) == [path]

    def test_names_as_long_as_the_file_system_allows(self, tmp_path):
        path = tmp_path / ("é" * 127)
        write(path, "a")
        assert path.read_text() == "a"

    def test_a_folder_is_refused(self, tmp_path):
        with pytest.raises(IsADirectoryError, match="is a folder; give the name of a file"):
            write(tmp_path, "a")


class TestSafetensors:
    pytest.importorskip("safetensors")

    def test_round_trip_of_dtypes_views_and_shared_memory(self, tmp_path):
        path, x = tmp_path / "x.safetensors", torch.arange(6.0).reshape(2, 3)
        tensors = {"a": x, "b": x, "t": x.T, "h": x.bfloat16(), "n": torch.tensor(3), "e": x[:0]}
        write_safetensors(path, tensors, {"k": "v"})
        found, metadata = read_safetensors(path)
        assert metadata == {"k": "v"}
        assert found.keys() == tensors.keys()
        assert all(
            torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in tensors.items()
        )

    def test_a_flipped_bit_is_found(self, tmp_path):
        path = tmp_path / "x.safetensors"
        write_safetensors(path, {"a": torch.ones(100)}, {"step": "3"})
        whole = path.read_bytes()
        for place in (whole.index(b'"step":"3"') + 8, len(whole) - 1, len(whole) - 400):
            broken = bytearray(whole)
            broken[place] ^= 1
            path.write_bytes(broken)
            with pytest.raises(ValueError, match=f"{path}: damaged, its checksum does not fit"):
                read_safetensors(path)
        path.write_bytes(whole[:-1])
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            read_safetensors(path)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (None, "facts is missing"),
            ("{", "facts: "),
            ("[1]", "facts: expected an object, got list"),
            ("null", "facts: expected an object, got NoneType"),
            ("[" * 100_000, "facts: "),
        ],
    )
    def test_metadata_of_another_kind_are_refused(self, tmp_path, text, message):
        metadata = {} if text is None else {"facts": text}
        with pytest.raises(ValueError, match=f"damaged metadata .{message}"):
            read_object(tmp_path, metadata, "facts")


class TestWeights:
    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            ({"gain": torch.zeros(1)}, "missing bias, weight; unexpected gain"),
            ({"bias": torch.zeros(3), "weight": torch.zeros(2, 3)}, "1 of another shape .weight"),
            ({"bias": torch.zeros(3).int(), "weight": torch.zeros(3, 2)}, "1 of another dtype"),
            (
                {"bias": torch.tensor([0, float("nan"), 0]), "weight": torch.zeros(3, 2)},
                "NaN or infinity in bias",
            ),
            (
                {"bias": torch.zeros(3), "weight": torch.full((3, 2), 1e300, dtype=torch.float64)},
                "NaN or infinity in weight",
            ),
        ],
    )
    def test_what_does_not_fit_changes_nothing(self, tmp_path, weights, message):
        net = nn.Linear(2, 3)
        before = {k: v.clone() for k, v in net.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            load_strictly(net, weights, tmp_path)
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())

    def test_half_precision_is_converted_unless_it_must_be_exact(self, tmp_path):
        net = nn.Linear(2, 3)
        weights = {"bias": torch.ones(3).half(), "weight": torch.ones(3, 2).half()}
        load_strictly(net, weights, tmp_path)
        assert net.bias.tolist() == [1, 1, 1]
        with pytest.raises(ValueError, match="2 of another dtype"):
            check_weights(net, weights, tmp_path, exact=True)

    def test_masks_of_infinities_are_buffers_like_others(self, tmp_path):
        net = nn.Module()
        net.register_buffer("mask", torch.full((2,), -torch.inf))
        load_strictly(net, {"mask": torch.tensor([0.0, -torch.inf])}, tmp_path)
        with pytest.raises(ValueError, match="NaN or infinity in mask"):
            load_strictly(net, {"mask": torch.full((2,), torch.nan)}, tmp_path)
