"""Every public name of peers' documented modules is in its drop-in, or refused with a reason."""

import ast
import importlib
import importlib.util
import inspect
import pathlib
import sys
import warnings
from types import ModuleType

import pytest

from fastgen.integrations.common.names import Refused

ROOM = "fastgen.integrations."
MODULES = (
    "diffusers.schedulers",
    "flow_matching.loss",
    "flow_matching.path",
    "flow_matching.path.scheduler",
    "flow_matching.solver",
    "flow_matching.utils",
    "flow_matching.utils.manifolds",
    "torchcfm",
    "torchcfm.conditional_flow_matching",
    "torchcfm.models",
    "torchcfm.models.models",
    "torchcfm.models.unet",
    "torchcfm.optimal_transport",
    "torchdiffeq",
    "torchsde",
    "torchsde.settings",
    "torchsde.types",
)


def public(module):
    """Names without underscores that the peer itself defines; no modules."""
    peer = module.__name__.split(".")[0]
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in dir(module):
            value = None if name.startswith("_") else getattr(module, name, None)
            home = getattr(value, "__module__", None) or peer
            own = home.startswith(peer) or module.__name__ == "torchsde.types"  # of typing's
            if value is not None and not inspect.ismodule(value) and own:
                found.append(name)
    return found


def missing(names, ours):
    """Those that are neither there nor refused."""
    hook = vars(ours).get("__getattr__")
    refused = hook.reasons if isinstance(hook, Refused) else {}
    assert all(len(reason.split()) > 4 for reason in refused.values())
    return [name for name in names if name not in dir(ours) and name not in refused]


@pytest.mark.parametrize("name", MODULES)
def test_names(name):
    pytest.importorskip(name.split(".")[0])
    theirs = importlib.import_module(name)
    ours = importlib.import_module(ROOM + name.replace("diffusers.schedulers", "diffusers"))
    names = public(theirs)
    assert missing(names, ours) == []


@pytest.mark.parametrize("name", ["external", "sampling", "utils"])
def test_names_of_k_diffusion(name):
    """It imports more than a test may ask for: its source is read."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        pytest.skip("k_diffusion is not installed")
    path = pathlib.Path(spec.submodule_search_locations[0]) / f"{name}.py"
    defined = [
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    assert len(defined) > 5
    assert missing(defined, importlib.import_module(f"{ROOM}k_diffusion.{name}")) == []


def test_names_of_edm():
    """EDM and EDM2 are repositories of files, not packages: what their generate files define."""
    names = ["edm_sampler", "ablation_sampler", "StackedRandomGenerator", "parse_int_list", "main"]
    names += ["generate_images"]  # of EDM2's generate_images.py
    assert missing(names, importlib.import_module(f"{ROOM}edm")) == []


def test_refused_names_are_errors_that_say_why():
    hook = Refused("a.module", {"Old": "it was taken out; take New"})
    with pytest.raises(AttributeError, match=r"a\.module has no Old: it was taken out; take New"):
        hook("Old")
    module = ModuleType("refusing_some_names")
    module.__getattr__ = Refused("refusing_some_names", {"Old": "it was taken out; take New"})
    sys.modules["refusing_some_names"] = module
    try:
        assert not hasattr(module, "Old")
        with pytest.raises(ImportError, match="has no Old: it was taken out; take New"):
            exec("from refusing_some_names import Old")
        with pytest.raises(ImportError, match="cannot import name 'Other'"):
            exec("from refusing_some_names import Other")
    finally:
        del sys.modules["refusing_some_names"]
    with pytest.raises(AttributeError, match=r"'a\.module' has no attribute 'Other'"):
        hook("Other")
