"""k-diffusion's samplers."""

from __future__ import annotations

import importlib.util
import sys
import types
from functools import cache
from pathlib import Path


@cache
def sampling() -> types.ModuleType | None:
    """k_diffusion.sampling without the packages that its other modules import."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or not spec.submodule_search_locations:
        return None
    for needed in ("scipy", "torchdiffeq", "torchsde", "tqdm"):
        if importlib.util.find_spec(needed) is None:
            return None
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations)
    utils = types.ModuleType("k_diffusion.utils")
    utils.append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]  # type: ignore[attr-defined]
    sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
    package.utils = utils  # type: ignore[attr-defined]
    path = Path(package.__path__[0]) / "sampling.py"
    module_spec = importlib.util.spec_from_file_location("k_diffusion.sampling", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module
