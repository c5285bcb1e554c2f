"""Same seeds, same pictures: whole loops of every scheduler against diffusers' own, in float32."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("diffusers")
pytest.importorskip("torchsde")
from tests.integrations.diffusers.scheduler_loops import OPTIONS, compare

pytestmark = pytest.mark.filterwarnings("ignore")


# What a step to sigma = 0 does not go with.
TO_SIGMA_MIN = {
    ("algorithm_type", "dpmsolver"),
    ("algorithm_type", "sde-dpmsolver"),
    ("predict_x0", "False"),
    ("solver_type", "bh1"),
    ("lower_order_final", "False"),
    ("final_sigmas_type", "sigma_min"),
}


def fixed(options):
    """Options that always have their only value."""
    return {k: v[0] for k, v in options.items() if len(v) == 1}


@pytest.mark.parametrize("name", OPTIONS)
def test_defaults(name):
    config, _ = OPTIONS[name]
    assert compare(name, fixed(config), steps=6)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_once(name):
    """One option away from the defaults, all in turn; each has some value that runs."""
    config, step = OPTIONS[name]
    for target, options in ((0, config), (1, step)):
        for option, values in options.items():
            ran = []
            for value in values[1:]:
                chosen = [fixed(config), {}]
                chosen[target][option] = value
                if (option, str(value)) in TO_SIGMA_MIN and "final_sigmas_type" in config:
                    chosen[0]["final_sigmas_type"] = "sigma_min"
                if option == "shift_terminal" and "use_flow_sigmas" in config:
                    chosen[0]["use_flow_sigmas"] = True
                if option.startswith("rescale"):
                    chosen[0]["prediction_type"] = "v_prediction"
                ran.append(compare(name, *chosen, steps=5))
            assert any(ran) or len(values) == 1, option


@st.composite
def cases(draw):
    name = draw(st.sampled_from(sorted(OPTIONS)))
    config, step = OPTIONS[name]
    chosen = fixed(config)
    for option in draw(st.lists(st.sampled_from(sorted(config) or ["none"]), max_size=5)):
        if option in config:
            chosen[option] = draw(st.sampled_from(config[option]))
    steps = {option: draw(st.sampled_from(values)) for option, values in step.items()}
    return name, chosen, steps, draw(st.sampled_from([4, 6, 8]))


@given(cases())
@settings(max_examples=25, deadline=None)
def test_combinations(case):
    compare(*case)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_many_combinations(name):
    """Combinations drawn at random: with 80 each pair of values meets with near certainty."""
    chosen = random.Random(name)
    config, step = OPTIONS[name]
    ran = 0
    for _ in range(80):
        some = {k: v for k, v in config.items() if chosen.random() < 0.35}
        options = fixed(config) | {k: chosen.choice(v) for k, v in some.items()}
        steps = {k: chosen.choice(v) for k, v in step.items()}
        few = name in ("LCMScheduler", "TCDScheduler")
        ran += compare(name, options, steps, chosen.choice([4, 6, 8] if few else [5, 8, 12, 20]))
    assert ran >= 20
