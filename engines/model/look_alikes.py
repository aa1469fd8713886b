"""What a file looks like by the names in it, for sentences about files that are not the expected kind of model."""

from __future__ import annotations

from collections.abc import Iterable

from engines.model.families import WANTED

WORD = "a textual inversion (one word for prompts), no model: it is named with --embedding, beside a --model"
LORA = "a LoRA: it is named with --lora, beside a --model"
CHECKPOINT = "a checkpoint with a U-Net: it is named with --model"
_BLOCKS = ("joint_blocks.", "double_blocks.", "transformer_blocks.")
_TRANSFORMERS = (*_BLOCKS, *(f"model.diffusion_model.{blocks}" for blocks in _BLOCKS))
# The beginning or a part of a name, and what the file then looks like: the first line that fits is used.
_BY_PART = (
    (("lora_controlnet",), "a Control-LoRA, which is not supported; a whole ControlNet is needed"),
    (("lora_", "lora.", "hada_w1", "lokr_w"), LORA),
    (("ip_adapter.", "image_proj."), "an IP-Adapter, which is not supported: build without it"),
    (("motion_modules.",), "a motion module of AnimateDiff, which is not supported: build without it"),
)
_BY_BEGINNING = (
    (("string_to_param", "string_to_token", "emb_params"), WORD),
    (("conditioner.",), f"SDXL, which is not supported; {WANTED}"),
    (("cond_stage_model.model.",), f"SD 2 (its text encoder is OpenCLIP's), which is not supported; {WANTED}"),
    (_TRANSFORMERS, f"a transformer such as SD 3 or Flux, which is not supported; {WANTED}"),
    (("model.diffusion_model.",), CHECKPOINT),
    (("adapter.", "body."), "a T2I-Adapter, which is not supported; a ControlNet is needed"),
    (
        ("control_model.", "input_hint_block.", "zero_convs.", "controlnet_"),
        "a ControlNet: it is named with --controlnet, beside a --model",
    ),
    (
        ("down_blocks.", "up_blocks."),
        "a U-Net in diffusers' layout, saved by itself: name the folder of the whole model",
    ),
    (("input_blocks.", "output_blocks."), "a U-Net saved by itself: name the checkpoint of the whole model"),
    (
        ("encoder.down", "decoder.up", "first_stage_model."),
        "a VAE saved by itself: name the whole model, and this file with --vae",
    ),
    (
        ("text_model.", "vision_model.", "cond_stage_model.transformer."),
        "a CLIP text encoder saved by itself: name the whole model",
    ),
    (
        ("model_ema.",),
        "the averaged weights (EMA) of a checkpoint alone: name the checkpoint with the weights themselves",
    ),
)
_EMBEDDING = ("<", "clip_l", "clip_g", "emb")


def look_of(names: Iterable[str]) -> str | None:
    """'it looks like ...', or None where nothing is known about such names."""
    known = list(names)
    for parts, what in _BY_PART:
        if any(part in name for name in known for part in parts):
            return f"it looks like {what}"
    for beginnings, what in _BY_BEGINNING:
        if any(name.startswith(beginnings) for name in known):
            return f"it looks like {what}"
    if 0 < len(known) <= 2 and all(name.startswith(_EMBEDDING) for name in known):
        return f"it looks like {WORD}"
    return None
