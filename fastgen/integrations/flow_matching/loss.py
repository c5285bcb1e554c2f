"""`flow_matching.loss`, which is of discrete flow matching alone."""

from fastgen.integrations.common.names import Refused
from fastgen.integrations.flow_matching.common import DISCRETE

__all__: list[str] = []

__getattr__ = Refused(__name__, {"MixturePathGeneralizedKL": DISCRETE})
