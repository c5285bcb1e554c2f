"""The table of operations and backends: what it names is there, and can be called alike."""

import inspect

import pytest
import torch

from fastgen.kernels import dispatch
from tests.support.triton_device import defining_kernels

CPU = torch.device("cpu")


def implementation(operation, backend):
    if backend in dispatch.REQUIRED and dispatch.missing(backend) is not None:
        pytest.skip(f"{backend} is not there")
    with defining_kernels():
        return dispatch.load(operation, backend)


@pytest.mark.parametrize(("operation", "backend"), dispatch.TABLE)
def test_what_the_table_names_takes_what_the_reference_takes(operation, backend):
    found = implementation(operation, backend)
    reference = dispatch.load(operation, "reference")
    if reference is None:
        return
    wanted = list(inspect.signature(reference).parameters)
    assert list(inspect.signature(found).parameters)[: len(wanted)] == wanted


def test_a_backend_without_an_operation():
    assert dispatch.load("brownian_walker", "reference") is None
    assert dispatch.load("pairwise_sweep", "triton") is None
    assert dispatch.find("brownian_area", CPU) is dispatch.load("brownian_area", "reference")
    with pytest.raises(KeyError, match="brownian_walker on cpu"):
        dispatch.find("brownian_walker", CPU, "reference")
    for unknown in ("combined", "brownian.cpp"):
        with pytest.raises(KeyError, match=unknown):
            dispatch.load(unknown, "cpp")
