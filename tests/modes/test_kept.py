"""What is kept between calls is plain memory, in whatever mode the first call was made."""

import contextlib
import gc
import sys
import types
import warnings
from multiprocessing import get_context

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from tests.modes.entries import ENTRIES
from tests.modes.modes import plain, states

LEAVES = (str, bytes, int, float, complex, type(None), torch.dtype, torch.device)


def fake(run):
    with FakeTensorMode(allow_non_fake_inputs=True):
        run(states())


def inference(run):
    with torch.inference_mode():
        run(states())


def functionalize(run):
    torch.func.functionalize(run)(states())


def vmap(run):
    torch.func.vmap(run)(torch.stack([states()] * 2))


def default_device(run):
    x = states()
    with torch.device("meta"):
        run(x)


FIRST_CALLS = {f.__name__: f for f in (default_device, fake, functionalize, inference, vmap)}


def foreign(x):
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(x)
    return isinstance(x, FakeTensor) or wrapped or x.is_inference() or x.is_meta


def parts(owner, path):
    """What an object holds, with the way there."""
    own = {}
    if isinstance(owner, types.ModuleType | type):
        name = owner.__name__ if isinstance(owner, types.ModuleType) else owner.__module__
        own = dict(vars(owner)) if name.startswith("fastgen") else {}
    elif isinstance(owner, dict):
        own = {str(k)[:30]: v for k, v in owner.items()}
    elif isinstance(owner, list | tuple | set | frozenset):
        own = dict(enumerate(owner))
    elif isinstance(owner, types.FunctionType):
        cells = [c.cell_contents for c in owner.__closure__ or () if c != types.CellType()]
        own = dict(enumerate(cells))
    elif type(owner).__name__ == "_lru_cache_wrapper":
        own = dict(enumerate(gc.get_referents(owner)))
    else:
        own = dict(getattr(owner, "__dict__", None) or {})
        for name in getattr(type(owner), "__slots__", ()):
            if isinstance(name, str) and hasattr(owner, name):
                own[name] = getattr(owner, name)
    return [(f"{path}.{name}", part) for name, part in own.items()]


def kept_tensors():
    """Ways to all tensors that fastgen's modules reach and that are not plain memory."""
    modules = [m for name, m in list(sys.modules.items()) if name.startswith("fastgen")]
    left, seen, found = [(m.__name__, m) for m in modules], set(), []
    while left:
        path, owner = left.pop()
        if id(owner) in seen or isinstance(owner, LEAVES) or len(path) > 400:
            continue
        seen.add(id(owner))
        if isinstance(owner, torch.Tensor):
            found += [path] if foreign(owner) else []
        else:
            left += parts(owner, path)
    return found


def in_child(mode):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    wrong = []
    for name, entry in ENTRIES.items():
        with contextlib.suppress(Exception):  # refused there: tests/modes/listed.py says what
            FIRST_CALLS[mode](entry.run)
        try:
            plain(entry, states())
        except Exception as error:
            wrong.append(f"{name}: {error}")
    return wrong, kept_tensors()


MODES = [
    pytest.param(
        mode, marks=[] if mode in ("default_device", "fake", "inference") else [pytest.mark.slow]
    )
    for mode in FIRST_CALLS
]


@pytest.mark.parametrize("mode", MODES)
def test_the_first_call_in_a_mode_leaves_nothing_of_it(mode):
    with get_context("spawn").Pool(1) as pool:
        wrong, kept = pool.apply_async(in_child, (mode,)).get(timeout=300)
    assert wrong == []
    assert kept == []


def test_what_is_kept_is_found():
    module = types.ModuleType("fastgen_of_a_test")
    with torch.inference_mode():
        tensor = torch.ones(2)
    module.held = {"some": [(lambda: tensor)]}
    sys.modules[module.__name__] = module
    try:
        assert kept_tensors() == ["fastgen_of_a_test.held.some.0.0"]
    finally:
        del sys.modules[module.__name__]
