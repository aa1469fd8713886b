"""The fields of a U-Net's configuration: diffusers' UNet2DConditionModel."""

from __future__ import annotations

from engines.model.fields import FOUR, ONE_OR_FOUR, POSITIVE, WHOLE, Ignored, MustBe, Rules, Used

DOWN_BLOCKS = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
UP_BLOCKS = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
SILU = ("silu", "swish")  # two names of one function

# U-Net and ControlNet share these: a ControlNet is a copy of the U-Net's way down.
ENCODER_RULES: Rules = {
    "time_cond_proj_dim": MustBe((None,), "the guidance is an input, as in LCM and other distilled models"),
    "addition_embed_type": MustBe((None,), "a second condition beside the prompt, as in SDXL"),
    "class_embed_type": MustBe((None,), "a class, a noise level or a picture is an input"),
    "num_class_embeds": MustBe((None,), "a class is an input"),
    "projection_class_embeddings_input_dim": MustBe((None,), "a further condition is an input"),
    "encoder_hid_dim": MustBe((None,), "prompts are projected before they are used"),
    "encoder_hid_dim_type": MustBe((None,), "prompts or pictures are projected before they are used"),
    "use_linear_projection": MustBe((False, None), "SD2 and SDXL have linear projections around their transformers"),
    "transformer_layers_per_block": MustBe((1, (1, 1, 1, 1)), "other depths of the transformers, as in SDXL"),
    "down_block_types": MustBe((DOWN_BLOCKS,), "another graph"),
    "mid_block_type": MustBe(("UNetMidBlock2DCrossAttn",), "another middle"),
    "only_cross_attention": MustBe((False, (False,) * 4), "transformers without self-attention"),
    "num_attention_heads": MustBe((None,), "diffusers takes the number of heads from attention_head_dim"),
    "resnet_time_scale_shift": MustBe(("default",), "the timestep scales features"),
    "flip_sin_to_cos": MustBe((True,), "another embedding of the timestep"),
    "freq_shift": MustBe((0,), "another embedding of the timestep"),
    "downsample_padding": MustBe((1,), "another padding on the way down"),
    "mid_block_scale_factor": MustBe((1,), "the middle's output is scaled"),
    "act_fn": MustBe(SILU, "another activation"),
    "in_channels": Used("the latents' channels, which must be the VAE's: nine belong to an inpainting model", WHOLE),
    "block_out_channels": Used("the widths of the four levels", FOUR),
    "cross_attention_dim": Used("the prompt's width, which must be the text encoder's", WHOLE),
    "attention_head_dim": Used("the number of attention heads: diffusers keeps a misleading name", ONE_OR_FOUR),
    "norm_num_groups": Used("the groups of GroupNorm", WHOLE),
    "norm_eps": Used("what GroupNorm adds to the variance", POSITIVE),
    "addition_time_embed_dim": MustBe((None,), "picture sizes are an input, as in SDXL"),
    "addition_embed_type_num_heads": Ignored("read only with addition_embed_type"),
    "upcast_attention": Ignored("a precision, which diffusers' attention does not read either with torch 2"),
    "dropout": Ignored("for training"),
    **dict.fromkeys(("split_head_dim", "use_memory_efficient_attention"), Ignored("how Flax computes attention")),
    "sample_size": Ignored("a usual size; the shapes of the set decide"),
}

UNET_RULES: Rules = {
    "_class_name": MustBe(("UNet2DConditionModel", "FlaxUNet2DConditionModel"), "another network"),
    **ENCODER_RULES,
    "layers_per_block": MustBe((2, (2, 2, 2, 2)), "another number of controls than thirteen"),
    "up_block_types": MustBe((UP_BLOCKS,), "another graph"),
    "reverse_transformer_layers_per_block": MustBe((None, (1, 1, 1, 1)), "other depths of the transformers"),
    "dual_cross_attention": MustBe((False,), "two prompts are inputs"),
    "attention_type": MustBe(("default",), "another attention, such as GLIGEN's gated one"),
    "mid_block_only_cross_attention": MustBe((None, False), "a middle without self-attention"),
    "cross_attention_norm": MustBe((None,), "prompts are normalised"),
    "center_input_sample": MustBe((False,), "latents are shifted"),
    "time_embedding_type": MustBe(("positional",), "another embedding of the timestep"),
    "time_embedding_dim": MustBe((None,), "another width of the timestep's embedding"),
    "time_embedding_act_fn": MustBe((None,), "another embedding of the timestep"),
    "timestep_post_act": MustBe((None,), "another embedding of the timestep"),
    "class_embeddings_concat": MustBe((False,), "a class is an input"),
    "resnet_skip_time_act": MustBe((False,), "resnets without an activation of the timestep"),
    "resnet_out_scale_factor": MustBe((1,), "the resnets' outputs are scaled"),
    "conv_in_kernel": MustBe((3,), "another first convolution"),
    "conv_out_kernel": MustBe((3,), "another last convolution"),
    "out_channels": Used("the prediction's channels, which must be as many as the latents'", WHOLE),
    # EMAModel.save_pretrained writes its own state into the U-Net's configuration.
    **dict.fromkeys(
        (
            "collected_params",
            "decay",
            "inv_gamma",
            "min_decay",
            "optimization_step",
            "power",
            "update_after_step",
            "use_ema_warmup",
        ),
        Ignored("a note of the training that averaged the weights"),
    ),
}
