"""The fields of a ControlNet's configuration: diffusers' ControlNetModel."""

from __future__ import annotations

from engines.model.fields import FOUR, MustBe, Rules, Used
from engines.model.rules.unet import ENCODER_RULES

_HINT = "pooled conditions or BGR hints are not supported"

CONTROLNET_RULES: Rules = {
    "_class_name": MustBe(("ControlNetModel", "FlaxControlNetModel"), "another network"),
    "conditioning_channels": MustBe((3,), "the hint is not an RGB picture"),
    "controlnet_conditioning_channel_order": MustBe(("rgb",), _HINT),
    "global_pool_conditions": MustBe((False,), _HINT),
    **ENCODER_RULES,
    "layers_per_block": MustBe((2,), "another number of controls than thirteen"),
    "conditioning_embedding_out_channels": Used("the widths of the hint's convolutions; four, as the VAE is x8", FOUR),
}
