"""A network and what it means: its prediction, its schedule, how it is told the time, guidance."""

from fastgen.model.guidance import Guidance, dynamic_threshold
from fastgen.model.model import Model
from fastgen.model.permuted import Permuted

__all__ = ["Guidance", "Model", "Permuted", "dynamic_threshold"]
