"""A sampler whose first process ends in the middle of its work; a module that actors can import."""

import os
from pathlib import Path

from tests.generation import sets


def sampler():
    made = sets.sampler()
    mark = Path(os.environ["FASTGEN_TEST_MARK"])
    calls = []

    def dies(*_):
        calls.append(0)
        if len(calls) == 9 and not mark.exists():
            mark.touch()
            os._exit(1)

    made.model.net.register_forward_pre_hook(dies)
    return made
