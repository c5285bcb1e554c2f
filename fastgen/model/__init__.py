"""A network and what it means: its prediction, its schedule, how it is told the time, guidance."""

from fastgen.common.hub import PretrainedError
from fastgen.model.card import Card
from fastgen.model.guidance import Guidance, dynamic_threshold
from fastgen.model.model import Model
from fastgen.model.permuted import Permuted

__all__ = ["Card", "Guidance", "Model", "Permuted", "PretrainedError", "dynamic_threshold"]
