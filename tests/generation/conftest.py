"""Folders in memory: every shard is forced to the disk, which on a busy one takes its time."""

import tempfile
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture
def tmp_path(tmp_path):
    if not MEMORY.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="fastgen-test-") as folder:
        yield Path(folder)
