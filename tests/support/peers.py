"""What tests need of peer libraries: pieces of k-diffusion without the packages it imports."""

import ast
import importlib.util
import math
import pathlib
import types

import pytest
import torch


class NoBar:
    """tqdm, without a bar."""

    def __init__(self, total=None, disable=None):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def update(self):
        pass


def k_diffusion(*prefixes, module="sampling", **given):
    """The functions and classes of k_diffusion.sampling whose names begin so, by name.

    The module itself imports torchsde, torchdiffeq and more; its samplers need none of them.
    given: other names that they use.
    """
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        pytest.skip("k_diffusion is not installed")
    path = pathlib.Path(spec.submodule_search_locations[0]) / f"{module}.py"
    keep = [
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name.startswith(prefixes)
    ]
    names = {
        "torch": torch,
        "math": math,
        "nn": torch.nn,
        "tqdm": NoBar,
        "trange": lambda count, disable=None: range(count),
        "utils": types.SimpleNamespace(append_dims=lambda x, n: x[(...,) + (None,) * (n - x.ndim)]),
        **given,
    }
    exec(compile(ast.Module(keep, []), str(path), "exec"), names)
    return names
