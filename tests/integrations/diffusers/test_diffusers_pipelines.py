"""diffusers' own pipelines on our schedulers, from tiny random networks: the same pictures."""

import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
import diffusers

from tests.integrations.diffusers.scheduler_loops import drop_in

pytestmark = pytest.mark.filterwarnings("ignore")
BLOCKS = {
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
}


def unet():
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **BLOCKS,
    )


def stable_diffusion(kind):
    """A pipeline with a text embedding of 8 and no text encoder: prompts come as embeddings."""
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    channels = 9 if "Legacy" in kind else 4
    net = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **BLOCKS,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True
    )
    # SD's pipelines look at the text encoder's dtype and at the tokenizer only for prompts.
    pipeline = getattr(diffusers, kind)(
        vae, None, None, net, scheduler, None, None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def embeddings():
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(1, 7, 8, generator=generator)
        for name in ("prompt_embeds", "negative_prompt_embeds")
    }


def picture(seed=2, size=16):
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
def test_unconditional(kind):
    images = []
    for swap in (lambda p: p, drop_in.accelerate):
        scheduler = getattr(diffusers, f"{kind}Scheduler")()
        pipeline = swap(getattr(diffusers, f"{kind}Pipeline")(unet(), scheduler))
        pipeline.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(s) for s in (3, 4)]
        options = {"eta": 0.5} if kind == "DDIM" else {}
        result = pipeline(
            batch_size=2,
            generator=generators,
            num_inference_steps=4,
            output_type="np",
            **options,
        )
        images.append(result.images)
    assert type(pipeline.scheduler) is getattr(drop_in, f"{kind}Scheduler")
    np.testing.assert_allclose(images[1], images[0], atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "PNDMScheduler",
        "DDIMScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "LMSDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        "LCMScheduler",
    ],
)
def test_stable_diffusion(name):
    """Text to image with guidance, the scheduler changed as users change it."""
    images = []
    pipeline = stable_diffusion("StableDiffusionPipeline")
    config = pipeline.scheduler.config
    for module in (diffusers, drop_in):
        pipeline.scheduler = getattr(module, name).from_config(config)
        result = pipeline(
            **embeddings(),
            num_inference_steps=4,
            generator=torch.Generator().manual_seed(5),
            height=16,
            width=16,
            output_type="np",
        )
        images.append(result.images)
    np.testing.assert_allclose(images[1], images[0], atol=2e-5)


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "PNDMScheduler"])
@pytest.mark.parametrize("kind", ["Img2Img", "Inpaint"])
def test_image_to_image_and_inpainting(kind, name):
    images = []
    pipeline = stable_diffusion(f"StableDiffusion{kind}Pipeline")
    config = pipeline.scheduler.config
    extra = {"mask_image": torch.ones(1, 1, 16, 16)} if kind == "Inpaint" else {}
    if extra:
        extra["mask_image"][..., :8] = 0
        extra |= {"height": 16, "width": 16}
    for module in (diffusers, drop_in):
        pipeline.scheduler = getattr(module, name).from_config(config)
        result = pipeline(
            **embeddings(),
            image=picture(),
            strength=0.6,
            num_inference_steps=6,
            generator=torch.Generator().manual_seed(5),
            output_type="np",
            **extra,
        )
        images.append(result.images)
    np.testing.assert_allclose(images[1], images[0], atol=2e-5)


def test_flux():
    """FluxPipeline's way through: sigmas and mu passed, v at t / 1000, no scale_model_input."""
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    net = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=[4, 4, 8],
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4,),
        norm_num_groups=1,
        latent_channels=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    pipeline = diffusers.FluxPipeline(scheduler, vae, None, None, None, None, net)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(1)
    prompts = {
        "prompt_embeds": torch.randn(1, 5, 8, generator=generator),
        "pooled_prompt_embeds": torch.randn(1, 8, generator=generator),
    }
    images = []
    for _ in range(2):
        result = pipeline(
            **prompts,
            height=8,
            width=8,
            num_inference_steps=4,
            guidance_scale=0.0,
            generator=torch.Generator().manual_seed(5),
            output_type="latent",
        )
        images.append(result.images)
        drop_in.accelerate(pipeline)
    torch.testing.assert_close(images[1], images[0], atol=1e-5, rtol=1e-5)


def test_training():
    """DreamBooth-like: a few optimiser steps on noisy images, for noise and for v."""
    for target in ("noise", "velocity"):
        losses = []
        for module in (diffusers, drop_in):
            scheduler, net = module.DDPMScheduler(), unet()
            optimiser = torch.optim.SGD(net.parameters(), lr=1e-2)
            torch.manual_seed(7)
            for _ in range(3):
                clean, z = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
                times = torch.randint(0, scheduler.config.num_train_timesteps, (2,))
                noisy = scheduler.add_noise(clean, z, times)
                goal = z if target == "noise" else scheduler.get_velocity(clean, z, times)
                loss = (net(noisy, times).sample - goal).square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            losses.append(loss.item())
        assert losses[0] == losses[1]


def test_saved_pipelines_are_diffusers_own(tmp_path):
    """A pipeline with our scheduler loads where fastgen is not installed."""
    pipeline = drop_in.accelerate(diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.save_pretrained(tmp_path)
        loaded = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    assert type(loaded.scheduler) is diffusers.DDPMScheduler
    kept = {k: v for k, v in pipeline.scheduler.config.items() if not k.startswith("_")}
    assert kept.items() <= dict(loaded.scheduler.config).items()


def test_accelerate_keeps_the_state():
    """Swapped in the middle of nothing: grid and configuration stay, whatever holds it."""

    class Policy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.noise_scheduler = diffusers.DDIMScheduler(num_train_timesteps=50)

    policy = Policy()
    policy.noise_scheduler.set_timesteps(10)
    expected = policy.noise_scheduler.timesteps
    assert drop_in.accelerate(policy, noise="contract", seed=3) is policy
    assert type(policy.noise_scheduler) is drop_in.DDIMScheduler
    assert policy.noise_scheduler.timesteps is expected
    assert policy.noise_scheduler.config.num_train_timesteps == 50
    again = drop_in.accelerate(policy.noise_scheduler)
    assert again is policy.noise_scheduler


def test_accelerate_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="holds no diffusers scheduler"):
        drop_in.accelerate(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="there is no AmusedScheduler here"):
        drop_in.accelerate(diffusers.AmusedScheduler(0))

    class DDIMScheduler(diffusers.DDIMScheduler):
        """A user's own, under the same name."""

    mine = drop_in.accelerate(diffusers.DDIMScheduler())
    assert type(mine) is drop_in.DDIMScheduler
    with pytest.raises(ValueError, match="DDIMScheduler"):
        drop_in.accelerate(DDIMScheduler())
