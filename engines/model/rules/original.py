"""The fields of an original .yaml: the arguments of ldm's and cldm's classes (v1-inference.yaml, cldm_v15.yaml).

Names are dotted, from the top of the file. A network whose class is not named is taken for SD1.5's.
"""

from __future__ import annotations

from typing import Any

from engines.model.fields import FEW, FOUR, POSITIVE, WHOLE, Ignored, Kind, MustBe, Rules, Used

_TRAINING = Ignored("for training")
_PRECISION = Ignored("a precision, or a use of memory; --precision decides here")
_USUAL_CLIP = "clip-vit-large-patch14"


def _usual_clip(value: Any) -> bool:
    return isinstance(value, str) and value.rstrip("/").endswith(_USUAL_CLIP)


_CLIP = Kind(f"openai/{_USUAL_CLIP}, or a path to it", _usual_clip)

MODEL_RULES: Rules = {
    "target": MustBe(("cldm.cldm.ControlLDM", "ldm.models.diffusion.ddpm.LatentDiffusion"), "another kind of model"),
    "base_learning_rate": _TRAINING,
    "params.only_mid_control": MustBe((False,), "only the middle's control is used"),
    "params.global_average_pooling": MustBe((False,), "controls are averaged over the picture"),
    "params.conditioning_key": MustBe(("crossattn",), "other inputs, as of inpainting and depth models"),
    "params.parameterization": Used("what the U-Net predicts: eps, v or x0"),
    "params.timesteps": Used("the number of training steps"),
    "params.beta_schedule": Used("how betas grow between linear_start and linear_end"),
    "params.linear_start": Used("the first beta"),
    "params.linear_end": Used("the last beta"),
    "params.cosine_s": Used("the offset of a cosine schedule"),
    "params.given_betas": Used("all betas, instead of the four above"),
    "params.scale_factor": Used("latents are divided by it before they are decoded", POSITIVE),
    "params.scale_by_std": MustBe((False,), "the factor of the latents is in the checkpoint"),
    "params.cond_stage_forward": MustBe((None,), "prompts are encoded by another function"),
    "params.force_null_conditioning": MustBe((False,), "a model without prompts"),
    "params.use_ema": Ignored("if a file has EMA weights beside the others, the others are used"),
    "params.concat_mode": Ignored("read only without conditioning_key"),
    "params.clip_denoised": Ignored("LatentDiffusion never clips"),
    "params.v_posterior": Ignored("of DDPM's sampler"),
    "params.channels": Ignored("the VAE's z_channels decide"),
    "params.image_size": Ignored("a usual size; the shapes of the set decide"),
    **dict.fromkeys(
        ("params.first_stage_key", "params.cond_stage_key", "params.control_key"), Ignored("names in training data")
    ),
    **dict.fromkeys(
        (
            "params.num_timesteps_cond",
            "params.log_every_t",
            "params.cond_stage_trainable",
            "params.monitor",
            "params.scheduler_config",
            "params.loss_type",
            "params.ckpt_path",
            "params.ignore_keys",
            "params.load_only_unet",
            "params.original_elbo_weight",
            "params.l_simple_weight",
            "params.learn_logvar",
            "params.logvar_init",
            "params.make_it_fit",
            "params.ucg_training",
            "params.reset_ema",
            "params.reset_num_ema_updates",
            "params.use_positional_encodings",
            "params.personalization_config",
            "params.unfreeze_model",
            "params.model_lr",
            "params.embedding_reg_weight",
            "params.sd_locked",
        ),
        _TRAINING,
    ),
}

# UNetModel's arguments; cldm's ControlNet takes them, too.
_ENCODER_RULES: Rules = {
    "use_linear_in_transformer": MustBe((False,), "SD2 and SDXL have linear projections around their transformers"),
    "num_classes": MustBe((None,), "a class, a noise level or a picture is an input"),
    "adm_in_channels": MustBe((None,), "a further condition is an input"),
    "use_spatial_transformer": MustBe((True,), "a graph without prompts"),
    "transformer_depth": MustBe((1,), "other depths of the transformers"),
    "num_head_channels": MustBe((-1,), "the number of heads differs by level, as in SD2"),
    "num_heads_upsample": MustBe((-1,), "other heads on the way up"),
    "num_heads": Used("the number of attention heads", WHOLE),
    "in_channels": Used("the latents' channels, which must be the VAE's: nine belong to an inpainting model", WHOLE),
    "model_channels": Used("the width of the first level", WHOLE),
    "channel_mult": Used("the levels' widths, as multiples of the first", FOUR),
    "context_dim": Used("the prompt's width, which must be the text encoder's", WHOLE),
    "num_res_blocks": MustBe((2,), "another number of controls than thirteen"),
    "attention_resolutions": MustBe(((4, 2, 1), (1, 2, 4)), "attention at other levels"),
    "conv_resample": MustBe((True,), "levels without convolutions between them"),
    "dims": MustBe((2,), "not pictures"),
    "use_scale_shift_norm": MustBe((False,), "the timestep scales features"),
    "resblock_updown": MustBe((False,), "another way between the levels"),
    "n_embed": MustBe((None,), "the prediction is a number in a codebook"),
    "disable_self_attentions": MustBe((None, (False,) * 4), "transformers without self-attention"),
    "num_attention_blocks": MustBe((None,), "resnets without a transformer"),
    "disable_middle_self_attn": MustBe((False,), "a middle without self-attention"),
    "use_new_attention_order": Ignored("of attention without transformers"),
    "legacy": Ignored("read only with num_head_channels"),
    "image_size": Ignored("a usual size; the shapes of the set decide"),
    "dropout": _TRAINING,
    **dict.fromkeys(("use_checkpoint", "use_fp16", "use_bf16"), _PRECISION),
}
UNET_RULES: Rules = {
    "target": MustBe(
        ("cldm.cldm.ControlledUnetModel", "ldm.modules.diffusionmodules.openaimodel.UNetModel"), "another network"
    ),
    **{f"params.{name}": rule for name, rule in _ENCODER_RULES.items()},
    "sequential_crossattn": MustBe((False,), "several prompts, one after the other"),
    "params.out_channels": Used("the prediction's channels, which must be as many as the latents'", WHOLE),
}
CONTROL_RULES: Rules = {
    "target": MustBe(("cldm.cldm.ControlNet",), "another network"),
    "params.hint_channels": MustBe((3,), "the hint is not an RGB picture"),
    **{f"params.{name}": rule for name, rule in _ENCODER_RULES.items()},
}
VAE_RULES: Rules = {
    "target": MustBe(("ldm.models.autoencoder.AutoencoderKL",), "another network"),
    "params.embed_dim": Used("the latents' channels, which must be z_channels", WHOLE),
    **dict.fromkeys(
        (
            "params.monitor",
            "params.lossconfig",
            "params.ckpt_path",
            "params.ignore_keys",
            "params.image_key",
            "params.colorize_nlabels",
            "params.ema_decay",
            "params.learn_logvar",
        ),
        _TRAINING,
    ),
    "params.ddconfig.double_z": MustBe((True,), "another encoder"),
    "params.ddconfig.z_channels": Used("the latents' channels, which must be the U-Net's", WHOLE),
    "params.ddconfig.in_channels": MustBe((3,), "not RGB pictures"),
    "params.ddconfig.out_ch": MustBe((3,), "not RGB pictures"),
    "params.ddconfig.ch": Used("the width of the first level", WHOLE),
    "params.ddconfig.ch_mult": Used("the levels' widths, as multiples of the first", FOUR),
    "params.ddconfig.num_res_blocks": Used("the number of resnets a level", FEW),
    "params.ddconfig.attn_resolutions": MustBe(((),), "attention at further levels"),
    "params.ddconfig.attn_type": MustBe(("vanilla", "vanilla-xformers"), "another attention"),
    "params.ddconfig.use_linear_attn": MustBe((False,), "another attention"),
    "params.ddconfig.resamp_with_conv": MustBe((True,), "levels without convolutions between them"),
    "params.ddconfig.tanh_out": MustBe((False,), "pixels go through a further function"),
    "params.ddconfig.give_pre_end": MustBe((False,), "the last convolution is left out"),
    "params.ddconfig.resolution": Ignored("a usual size; the shapes of the set decide"),
    "params.ddconfig.dropout": _TRAINING,
}
CLIP_RULES: Rules = {
    "target": MustBe(("ldm.modules.encoders.modules.FrozenCLIPEmbedder",), "another text encoder, such as SD2's"),
    "params.layer": MustBe(("last",), "prompts are taken from another layer, as with 'clip skip'"),
    "params.layer_idx": Ignored("read only with layer: hidden"),
    "params.version": Used("which CLIP: others have another activation", _CLIP),
    "params.max_length": MustBe((77,), "another number of tokens"),
    "params.freeze": _TRAINING,
    "params.device": Ignored("where it ran"),
}


def _below(prefix: str, rules: Rules) -> Rules:
    return {f"{prefix}.{name}": rule for name, rule in rules.items()}


ORIGINAL_RULES: Rules = {
    **_below("model", MODEL_RULES),
    **_below("model.params.cond_stage_config", CLIP_RULES),
    **_below("model.params.unet_config", UNET_RULES),
    **_below("model.params.control_stage_config", CONTROL_RULES),
    **_below("model.params.first_stage_config", VAE_RULES),
}
