"""What a file looks like by the names in it, for sentences about files that are no model of the expected kind."""

from __future__ import annotations

from collections.abc import Iterable

CHECKPOINT = "a checkpoint with a U-Net: it is named with --model"
_BLOCKS = ("joint_blocks.", "double_blocks.", "transformer_blocks.")
_TRANSFORMERS = (*_BLOCKS, *(f"model.diffusion_model.{blocks}" for blocks in _BLOCKS))
# A name that begins so, or has this in it, and what the file then looks like: the first line that fits is said.
_BY_PART = (
    (("lora_", "lora.", "hada_w1", "lokr_w"), "a LoRA: it is merged into a model before a set is built"),
    (("ip_adapter.", "image_proj."), "an IP-Adapter, which is not supported"),
    (("motion_modules.",), "a motion module of AnimateDiff, which is not supported"),
)
_BY_BEGINNING = (
    (("string_to_param", "string_to_token", "emb_params"), "a textual inversion (one word for prompts), no model"),
    (("conditioner.",), "SDXL, which is not supported"),
    (("cond_stage_model.model.",), "SD 2 (its text encoder is OpenCLIP's), which is not supported"),
    (_TRANSFORMERS, "a transformer such as SD 3 or Flux, which is not supported"),
    (("model.diffusion_model.",), CHECKPOINT),
    (("adapter.", "body."), "a T2I-Adapter, which is not supported"),
    (
        ("control_model.", "input_hint_block.", "zero_convs.", "controlnet_"),
        "a ControlNet: it is named with --controlnet, beside a --model",
    ),
    (
        ("down_blocks.", "up_blocks."),
        "a U-Net in diffusers' layout, saved by itself: name the folder of the whole model",
    ),
    (("input_blocks.", "output_blocks."), "a U-Net saved by itself: name the checkpoint of the whole model"),
    (("encoder.down", "decoder.up", "first_stage_model."), "a VAE saved by itself: name the whole model"),
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
        return "it looks like a textual inversion (one word for prompts), no model"
    return None
