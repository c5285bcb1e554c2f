"""Where diffusers' own float32 is further off than 1e-5: against its formulas in float64.

Its sigmas are float32 numbers; told that they are float64, its steps compute in float64. Ours run
in float32 as always.
"""

import pytest
import torch

pytest.importorskip("diffusers")
import diffusers

from tests.integrations.diffusers.scheduler_loops import drop_in, relative, run

pytestmark = pytest.mark.filterwarnings("ignore")
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
FLOW_SAMPLE = {
    "use_flow_sigmas": True,
    "prediction_type": "sample",
    "algorithm_type": "noise_prediction",
}
ORDERS = {"predictor_order": 3, "corrector_order": 4}


def calm(t):
    """No noise: drawn in float64 it would be another."""
    return 0


def in_float64(name, config):
    peer = getattr(diffusers, name)

    class Doubled(peer):
        def set_timesteps(self, *args, **kwargs):
            super().set_timesteps(*args, **kwargs)
            self.sigmas = self.sigmas.double()

    return Doubled(**config)


@pytest.mark.parametrize("steps", [8, 25])
@pytest.mark.parametrize(
    ("name", "config", "tolerance"),
    [
        # Of the states, the first is 20000 times the last: their float32 is what is left.
        ("LMSDiscreteScheduler", COSINE, 1e-4),
        ("LMSDiscreteScheduler", COSINE | {"prediction_type": "sample"}, 2e-4),
        ("HeunDiscreteScheduler", COSINE | {"prediction_type": "sample"}, 2e-4),
        ("DEISMultistepScheduler", FLOW, 1e-5),
        ("DEISMultistepScheduler", FLOW | {"prediction_type": "v_prediction"}, 1e-5),
        ("DEISMultistepScheduler", FLOW | {"solver_order": 3}, 1e-5),
        ("DEISMultistepScheduler", {"use_beta_sigmas": True, "solver_order": 3}, 1e-5),
        ("DPMSolverMultistepInverseScheduler", {"use_beta_sigmas": True}, 1e-6),
        ("EulerDiscreteScheduler", ZERO_SNR, 1e-5),
        ("EulerDiscreteScheduler", ZERO_SNR | {"timestep_spacing": "trailing"}, 1e-5),
        ("UniPCMultistepScheduler", {"solver_order": 4}, 1e-5),
        ("UniPCMultistepScheduler", {"solver_order": 3, "use_beta_sigmas": True}, 1e-5),
        ("SASolverScheduler", ORDERS | {"tau_func": calm}, 1e-5),
        ("SASolverScheduler", FLOW_SAMPLE | {"tau_func": calm}, 5e-5),
        (
            "SASolverScheduler",
            ORDERS | {"tau_func": calm, "algorithm_type": "noise_prediction"},
            1e-5,
        ),
    ],
)
def test_float64(name, config, tolerance, steps):
    expected = run(in_float64(name, config), steps, dtype=torch.float64)[0][-1]
    found = run(getattr(drop_in, name)(**config), steps)[0][-1]
    assert relative(found, expected) < tolerance
