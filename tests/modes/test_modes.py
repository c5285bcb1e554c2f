"""Every public entry point in every mode: the right number, or an error that is on the list."""

import copy
import gc
import io
import pickle
import re
from functools import partial
from multiprocessing import get_context

import pytest
import torch

from tests.modes.__main__ import PAGE, page
from tests.modes.entries import ENTRIES
from tests.modes.listed import LISTED
from tests.modes.modes import MODES, in_child
from tests.modes.objects import OBJECTS, SLOW

# torch.compile traces each entry anew, some for seconds.
CASES = [
    pytest.param(name, mode, marks=[pytest.mark.slow] if mode == "compiled" or own.slow else [])
    for name, own in ENTRIES.items()
    for mode in MODES
]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_an_entry_in_a_mode(name, mode):
    check = partial(MODES[mode], ENTRIES[name])
    listed = LISTED.get((name, mode))
    if listed is None:
        check()
        return
    with pytest.raises(listed.error) as caught:
        check()
    assert not isinstance(caught.value, AssertionError)
    assert re.search(listed.says, str(caught.value)), str(caught.value)


def test_spawned_processes_give_the_same():
    names = [name for name, own in ENTRIES.items() if not own.slow]
    with get_context("spawn").Pool(1) as pool:
        found = pool.map_async(in_child, names).get(timeout=300)
    for name, values in zip(names, found, strict=True):
        assert values == in_child(name), name


def saved(thing):
    """Through torch.save, as checkpoints go."""
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "save": saved,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in OBJECTS],
)
def test_copies_of_used_objects_are_their_own(name, how):
    make, use = OBJECTS[name]
    listed = LISTED.get((name, how))
    if listed is not None:
        with pytest.raises(listed.error, match=listed.says):
            COPIES[how](make())
        return
    expected = use(make())
    original = make()
    first, second = COPIES[how](original), COPIES[how](original)
    if how != "copy":
        assert torch.equal(use(first), expected)
    assert torch.equal(use(original), expected)
    del original, first
    gc.collect()
    garbage = [torch.full((3, 6), float("nan")) for _ in range(64)]
    if how != "copy":
        assert torch.equal(use(second), expected)
    del garbage


def test_the_list_names_what_there_is():
    known = {(n, m) for n in ENTRIES for m in MODES} | {(n, c) for n in OBJECTS for c in COPIES}
    assert set(LISTED) <= known


def test_the_page_says_what_the_list_says():
    assert PAGE.read_text() == page()
