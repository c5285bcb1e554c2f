"""Forked processes: OpenMP's threads do not follow, and would be waited for without end."""

from __future__ import annotations

import os

import torch

_TASKS = "/proc/self/task"
_threads_before = 1


def _count() -> None:
    global _threads_before
    try:
        _threads_before = len(os.listdir(_TASKS))
    except OSError:  # not Linux: as if there were some
        _threads_before = 2


def _stay_alone() -> None:
    if _threads_before > 1:
        torch.set_num_threads(1)


def keep_children_alone() -> None:
    """From now on, a child forked by a process that has threads uses one for torch and kernels.

    GNU's OpenMP hangs in such a child at the first work that it shares out, torch's own included.
    `torch.utils.data.DataLoader` does the same to its workers. Children of a process that never
    had threads are left as they are, and so are those that are spawned.
    """
    os.register_at_fork(before=_count, after_in_child=_stay_alone)
