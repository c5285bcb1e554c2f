"""lerobot's DiffusionPolicy with its scheduler swapped: the same actions from the same seeds."""

import copy

import pytest
import torch

pytest.importorskip("diffusers")
modeling = pytest.importorskip("lerobot.policies.diffusion.modeling_diffusion")
types = pytest.importorskip("lerobot.configs.types")
configuration = pytest.importorskip("lerobot.policies.diffusion.configuration_diffusion")
drop_in = pytest.importorskip("fastgen.integrations.diffusers")

STATE, ENVIRONMENT, ACTION = "observation.state", "observation.environment_state", "action"


def policy(**options):
    """A small policy with random weights, on states alone."""
    config = configuration.DiffusionConfig(
        input_features={
            STATE: types.PolicyFeature(types.FeatureType.STATE, (3,)),
            ENVIRONMENT: types.PolicyFeature(types.FeatureType.ENV, (4,)),
        },
        output_features={ACTION: types.PolicyFeature(types.FeatureType.ACTION, (2,))},
        horizon=8,
        n_action_steps=4,
        down_dims=(16, 32),
        n_groups=4,
        diffusion_step_embed_dim=16,
        device="cpu",
        **options,
    )
    torch.manual_seed(0)
    return modeling.DiffusionPolicy(config).eval()


def actions(owner, count=9, rows=2):
    """A roll-out: the policy plans anew every four actions."""
    owner.reset()
    torch.manual_seed(5)
    generator = torch.Generator().manual_seed(6)
    result = []
    for _ in range(count):
        seen = {
            STATE: torch.randn(rows, 3, generator=generator),
            ENVIRONMENT: torch.randn(rows, 4, generator=generator),
        }
        result.append(owner.select_action(seen))
    return torch.stack(result)


@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_actions(kind, prediction):
    """The policy's network returns transposed views, and its steps return objects."""
    options = {} if kind == "DDPM" else {"num_inference_steps": 10}
    theirs = policy(noise_scheduler_type=kind, prediction_type=prediction, **options)
    mine = copy.deepcopy(theirs)
    assert drop_in.accelerate(mine) is mine
    assert type(mine.diffusion.noise_scheduler) is getattr(drop_in, f"{kind}Scheduler")
    expected = actions(theirs)
    assert torch.allclose(actions(mine), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_training_loss():
    theirs = policy()
    mine = copy.deepcopy(theirs)
    drop_in.accelerate(mine)
    batch = {
        STATE: torch.randn(3, 2, 3),
        ENVIRONMENT: torch.randn(3, 2, 4),
        ACTION: torch.randn(3, 8, 2),
        "action_is_pad": torch.zeros(3, 8, dtype=torch.bool),
    }
    losses = []
    for owner in (theirs, mine):
        torch.manual_seed(1)
        loss, _ = owner.forward(dict(batch))
        loss.backward()
        losses.append(loss.detach())
    assert torch.equal(*losses)


def test_a_run_made_again():
    """Contract noise: the run's seed alone decides, with the policy's own start."""
    owner = policy()
    drop_in.accelerate(owner, noise="contract", seed=3)
    first = actions(owner)
    assert torch.equal(actions(owner), first)
