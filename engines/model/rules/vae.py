"""The fields of a VAE's configuration: diffusers' AutoencoderKL. Only its decoder runs here."""

from __future__ import annotations

from engines.model.fields import FEW, FOUR, POSITIVE, WHOLE, Ignored, MustBe, Rules, Used
from engines.model.rules.unet import SILU

VAE_RULES: Rules = {
    "_class_name": MustBe(("AutoencoderKL", "FlaxAutoencoderKL"), "another network"),
    "down_block_types": MustBe((("DownEncoderBlock2D",) * 4,), "another graph, or another size than x8"),
    "up_block_types": MustBe((("UpDecoderBlock2D",) * 4,), "another graph, or another size than x8"),
    "act_fn": MustBe(SILU, "another activation"),
    "mid_block_add_attention": MustBe((True,), "a middle without attention"),
    "use_post_quant_conv": MustBe((True,), "latents go to the decoder without a convolution"),
    "shift_factor": MustBe((None,), "latents are shifted, as in SD3"),
    "latents_mean": MustBe((None,), "latents are normalised by channel"),
    "latents_std": MustBe((None,), "latents are normalised by channel"),
    "in_channels": MustBe((3,), "not RGB pictures"),
    "out_channels": MustBe((3,), "not RGB pictures"),
    "block_out_channels": Used("the widths of the four levels", FOUR),
    "layers_per_block": Used("the number of resnets a level", FEW),
    "latent_channels": Used("the latents' channels, which must be the U-Net's", WHOLE),
    "norm_num_groups": Used("the groups of GroupNorm", WHOLE),
    "scaling_factor": Used("latents are divided by it before they are decoded", POSITIVE),
    "use_quant_conv": Ignored("the encoder's"),
    "force_upcast": Ignored("a precision, which diffusers reads for SDXL only; --precision decides here"),
    "sample_size": Ignored("a usual size; the shapes of the set decide"),
}
