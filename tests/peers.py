"""What tests need of peer libraries: pieces of k-diffusion without the packages it imports."""

import ast
import importlib.util
import math
import pathlib
import types

import pytest
import torch


def k_diffusion(*prefixes):
    """The functions of k_diffusion.sampling whose names begin so, by name.

    The module itself imports torchsde, torchdiffeq and more; its samplers need none of them.
    """
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        pytest.skip("k_diffusion is not installed")
    path = pathlib.Path(spec.submodule_search_locations[0]) / "sampling.py"
    keep = [
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith(prefixes)
    ]
    names = {
        "torch": torch,
        "math": math,
        "trange": lambda count, disable=None: range(count),
        "utils": types.SimpleNamespace(append_dims=lambda x, n: x[(...,) + (None,) * (n - x.ndim)]),
    }
    exec(compile(ast.Module(keep, []), str(path), "exec"), names)
    return names
