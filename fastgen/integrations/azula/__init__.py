"""A denoiser of azula (github.com/probabilists/azula) as a `fastgen.Model`.

from fastgen.integrations.azula import as_model
x = fastgen.sample(as_model(denoiser), shape, "dpmpp_2m", steps=12, seed=7)
"""

from fastgen.integrations.azula.denoiser import PosteriorMean, as_model
from fastgen.integrations.azula.schedule import AzulaSchedule

__all__ = ["AzulaSchedule", "PosteriorMean", "as_model"]
