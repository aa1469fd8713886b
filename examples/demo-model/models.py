"""The networks: SD1.5's graph at a seventieth of its size, in diffusers' classes and folder layout."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.models import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SCALING = 0.18215  # the pipeline divides latents by this before decoding, whatever the model
CONTEXT = 128
WIDTHS = (64, 96, 128, 128)


def make_vae(widths: tuple[int, ...] = (32, 64, 96, 96)) -> AutoencoderKL:
    """x8, 4 latent channels."""
    vae: AutoencoderKL = AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=256,
        scaling_factor=SCALING,
    )
    return vae


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIP's causal transformer, three layers of 128."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=CONTEXT,
            intermediate_size=4 * CONTEXT,
            projection_dim=CONTEXT,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_unet(widths: tuple[int, ...] = WIDTHS) -> UNet2DConditionModel:
    """Four levels, two layers a block; two attention heads, since many thin heads are slow on a CPU."""
    unet: UNet2DConditionModel = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=widths,
        layers_per_block=2,
        cross_attention_dim=CONTEXT,
        attention_head_dim=2,  # diffusers' name for the number of heads
        norm_num_groups=16,
    )
    return unet


def make_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """A copy of the U-Net's encoder, with a small encoder for the edges."""
    controlnet: ControlNetModel = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 64, 96))
    return controlnet


def make_scheduler() -> DDIMScheduler:
    """SD1.5's: 1000 steps, scaled-linear, epsilon, offset 1, final alpha of step 0."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def encode(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """The encoder's output for pictures in [-1, 1]: float [N, 8, h, w], four means, then four log-variances."""
    assert vae.quant_conv is not None  # there by default
    moments: torch.Tensor = vae.quant_conv(vae.encoder(pictures))
    return moments


def normalise_latents(vae: AutoencoderKL, moments: torch.Tensor) -> None:
    """Scales and shifts latents so that latent * SCALING has no mean and unit variance; pictures decode as before.

    moments is what `encode` gave for many pictures, float [N, 8, h, w].
    """
    mean = moments[:, :4].float().mean((0, 2, 3))
    noise = moments[:, 4:].float().clamp(-30, 20).exp().mean((0, 2, 3))
    scale_latents(vae, mean, 1 / (SCALING * (moments[:, :4].float().var((0, 2, 3)) + noise).sqrt()))


def natural_latents(vae: AutoencoderKL) -> None:
    """Takes SCALING out again, so that the divergence from a unit normal means what it should while training."""
    zero = torch.zeros(4, device=vae.device)
    scale_latents(vae, zero, zero + SCALING)


@torch.no_grad()
def scale_latents(vae: AutoencoderKL, mean: torch.Tensor, scale: torch.Tensor) -> None:
    """Folds (latent - mean) * scale into the 1x1 convolutions about the latent, and its inverse; both float [4]."""
    # diffusers' annotations say that these may be missing, and their biases too; make_vae's are there.
    quant: Any = vae.quant_conv
    post: Any = vae.post_quant_conv
    quant.weight[:4] *= scale[:, None, None, None]
    quant.bias[:4] = (quant.bias[:4] - mean) * scale
    quant.bias[4:] += 2 * scale.log()
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight /= scale[None, :, None, None]


def save(folder: Path, *, tokenizer: CLIPTokenizer, **networks: Any) -> None:
    """Writes float16 safetensors: folder/model holds the pipeline, folder/controlnet the control network."""
    half = {name: network.half() for name, network in networks.items()}
    control = half.pop("controlnet")
    control.save_pretrained(folder / "controlnet")
    pipeline: Any = StableDiffusionPipeline(
        **half,
        tokenizer=tokenizer,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "model")
