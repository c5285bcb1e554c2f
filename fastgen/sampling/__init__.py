"""Running plans: samplers, whole runs as graphs, continuous batching, inversion."""

from fastgen.sampling.controlled_editing import rf_inversion
from fastgen.sampling.flow_editing import flow_edit
from fastgen.sampling.inversion import Inversion, invert
from fastgen.sampling.observation import Step
from fastgen.sampling.parallel import Parallel, ParallelReport
from fastgen.sampling.sample import sample
from fastgen.sampling.sampler import Sampler

__all__ = [
    "Inversion",
    "Parallel",
    "ParallelReport",
    "Sampler",
    "Step",
    "flow_edit",
    "invert",
    "rf_inversion",
    "sample",
]
