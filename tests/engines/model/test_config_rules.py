"""Every field of every configuration is used, has the one value that is built here, or changes nothing."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from engines.errors import ModelRefused
from engines.model.config_rules import PARTS, check_config, check_original, defaults_of
from engines.model.fields import Ignored, MustBe, Used
from engines.model.rules.original import ORIGINAL_RULES
from tests.engines.model.real_configs import CLDM_V15_YAML, REAL, TEXT_ENCODER, V1_INFERENCE_YAML, WHOLE_CLIP
from tests.engines.original import CONFIG

PATH = Path("model") / "config.json"
SD2_UNET = {"attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "use_linear_projection": True}
SDXL_UNET = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
}
BERT = {"architectures": ["BertModel"], "model_type": "bert", "type_vocab_size": 2, "hidden_act": "gelu"}


@pytest.mark.parametrize(("part", "config"), [(part, config) for part, configs in REAL.items() for config in configs])
def test_configurations_that_were_published_with_sd15_pass(part: str, config: dict[str, Any]) -> None:
    check_config(part, PATH, config)


@pytest.mark.parametrize(
    ("part", "change", "sentence"),
    [
        ("unet", SD2_UNET, "use_linear_projection True (SD2 and SDXL have linear projections"),
        ("unet", SDXL_UNET, "addition_embed_type 'text_time' (a second condition beside the prompt, as in SDXL)"),
        ("unet", {"time_cond_proj_dim": 256}, "time_cond_proj_dim 256 (the guidance is an input, as in LCM"),
        ("unet", {"class_embed_type": "timestep"}, "class_embed_type 'timestep'"),
        ("unet", {"num_class_embeds": 1000}, "num_class_embeds 1000"),
        ("unet", {"encoder_hid_dim_type": "ip_image_proj"}, "encoder_hid_dim_type 'ip_image_proj'"),
        ("unet", {"only_cross_attention": [True, True, True, False]}, "only_cross_attention [True, True, True, False]"),
        ("unet", {"attention_type": "gated"}, "attention_type 'gated' (another attention, such as GLIGEN's gated one)"),
        ("unet", {"layers_per_block": [2, 2, 2, 1]}, "layers_per_block [2, 2, 2, 1]"),
        ("unet", {"mid_block_type": None}, "mid_block_type None"),
        ("unet", {"_class_name": "UNetMotionModel"}, "_class_name 'UNetMotionModel' (another network)"),
        ("unet", {"in_channels": "four"}, "in_channels 'four', not a positive whole number"),
        ("unet", {"in_channels": True}, "in_channels True, not a positive whole number"),
        ("unet", {"norm_eps": float("nan")}, "norm_eps nan, not a positive number"),
        ("unet", {"norm_eps": 10**400}, "not a positive number"),
        ("unet", {"norm_eps": 10**5000}, "norm_eps a number of thousands of digits, not a positive number"),
        ("unet", {"norm_eps": float("inf")}, "norm_eps inf, not a positive number"),
        ("vae", {"layers_per_block": 10**9}, "not a whole number from 1 to 1000"),
        ("text_encoder", {"num_hidden_layers": 0}, "not a whole number from 1 to 1000"),
        ("text_encoder", {"num_hidden_layers": 10**9}, "not a whole number from 1 to 1000"),
        ("unet", {"norm_num_groups": None}, "norm_num_groups None, not a positive whole number"),
        ("unet", {"norm_num_groups": 48}, "320 cannot be divided by its norm_num_groups, 48"),
        ("unet", {"attention_head_dim": 7}, "320 cannot be divided by its attention_head_dim, 7"),
        ("unet", {"block_out_channels": [320, 640, 1280]}, "not a list of four positive whole numbers"),
        ("unet", {"a_new_field": False}, "has the field 'a_new_field' (False), which this version does not know"),
        ("controlnet", {"conditioning_channels": 6}, "conditioning_channels 6 (the hint is not an RGB picture)"),
        ("controlnet", {"global_pool_conditions": True}, "pooled conditions or BGR hints are not supported"),
        ("controlnet", {"controlnet_conditioning_channel_order": "bgr"}, "BGR hints are not supported"),
        ("controlnet", {"conditioning_embedding_out_channels": [16, 32]}, "not a list of four positive whole numbers"),
        ("controlnet", {"num_attention_heads": 4}, "num_attention_heads 4"),
        ("controlnet", {"_class_name": "ControlNetUnionModel"}, "_class_name 'ControlNetUnionModel'"),
        ("vae", {"up_block_types": ["AttnUpDecoderBlock2D"] * 4}, "up_block_types ['AttnUpDecoderBlock2D'"),
        ("vae", {"use_post_quant_conv": False}, "use_post_quant_conv False (latents go to the decoder without"),
        ("vae", {"mid_block_add_attention": False}, "mid_block_add_attention False"),
        ("vae", {"shift_factor": 0.1159}, "shift_factor 0.1159 (latents are shifted, as in SD3)"),
        ("vae", {"latents_mean": [0.0] * 4}, "latents_mean [0.0, 0.0, 0.0, 0.0]"),
        ("vae", {"scaling_factor": 0}, "scaling_factor 0, not a positive number"),
        ("vae", {"_class_name": "AutoencoderTiny"}, "_class_name 'AutoencoderTiny'"),
        ("text_encoder", {"hidden_act": "gelu"}, "hidden_act 'gelu' (the text encoders of SD2 and SDXL's second one"),
        ("text_encoder", {"architectures": ["CLIPTextModelWithProjection"]}, "or one with a projection, as in SDXL"),
        ("text_encoder", {"model_type": "t5"}, "model_type 't5' (another text encoder)"),
        ("text_encoder", BERT, "model_type 'bert' (another text encoder)"),
        ("text_encoder", {"num_attention_heads": 7}, "768 cannot be divided by its num_attention_heads, 7"),
        ("text_encoder", {"pruned_heads": {"0": [1]}}, "pruned_heads {'0': [1]} (attention heads are left out)"),
        ("text_encoder", {"quantization_config": {"bits": 4}}, "quantization_config {'bits': 4} (quantized weights)"),
    ],
)
def test_another_graph_is_refused_by_the_fields_name(part: str, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelRefused) as refused:
        check_config(part, PATH, REAL[part][0] | change)
    assert str(refused.value).startswith(f"{PATH} has ")
    assert sentence in str(refused.value)


def test_the_text_encoder_of_a_whole_clip_is_held_against_the_rules() -> None:
    whole = WHOLE_CLIP | {"text_config": TEXT_ENCODER | {"hidden_act": "gelu"}}
    with pytest.raises(ModelRefused, match=r"config.json: text_config has hidden_act 'gelu'"):
        check_config("text_encoder", PATH, whole)
    with pytest.raises(ModelRefused, match=r"text_config is 'text', where names and values of fields are due"):
        check_config("text_encoder", PATH, WHOLE_CLIP | {"text_config": "text"})


@pytest.mark.parametrize("part", PARTS)
def test_each_field_that_must_have_one_value_is_refused_with_another(part: str) -> None:
    for name, rule in PARTS[part][2].items():
        if isinstance(rule, MustBe):
            with pytest.raises(ModelRefused, match=rf"{name} .*; only .* is rendered here"):
                check_config(part, PATH, REAL[part][0] | {name: "something else"})


@pytest.mark.parametrize("part", PARTS)
def test_a_field_that_changes_nothing_may_have_any_value(part: str) -> None:
    config = dict(REAL[part][0])
    config |= {name: ["anything"] for name, rule in PARTS[part][2].items() if isinstance(rule, Ignored)}
    check_config(part, PATH, config)


def test_what_a_configuration_does_not_name_has_the_librarys_default() -> None:
    """AutoencoderKL's own default is one level."""
    config = {name: value for name, value in REAL["vae"][0].items() if name != "up_block_types"}
    with pytest.raises(ModelRefused, match=r"does not name up_block_types, which then is \('UpDecoderBlock2D',\)"):
        check_config("vae", PATH, config)


@pytest.mark.parametrize("config", [[], "text", None, 3])
def test_a_configuration_that_is_no_mapping_is_refused(config: Any) -> None:
    with pytest.raises(ModelRefused, match=r"config.json is .*, where names and values of fields are due"):
        check_config("unet", PATH, config)


@pytest.mark.parametrize("part", PARTS)
def test_the_rules_know_every_field_of_the_installed_library(part: str) -> None:
    """A field that a new version adds has to be put into a table before it can change a picture."""
    assert set(defaults_of(part)) - set(PARTS[part][2]) == set()


OF_FLAX = {"split_head_dim", "use_memory_efficient_attention"}
# Fields that the tables keep for files which older or newer versions than the tested one wrote.
OF_OTHER_VERSIONS = {
    "unet": {
        "_class_name",
        "collected_params",
        "decay",
        "inv_gamma",
        "min_decay",
        "optimization_step",
        "power",
        "update_after_step",
        "use_ema_warmup",
        *OF_FLAX,
    },
    "controlnet": {"_class_name", "dropout", "sample_size", "time_cond_proj_dim", *OF_FLAX},
    "vae": {"_class_name"},
}


@pytest.mark.parametrize("part", OF_OTHER_VERSIONS)
def test_a_table_names_no_other_field_than_the_librarys_without_need(part: str) -> None:
    """Fields that an older library does not have yet are no fault: the library that is installed may be older."""
    assert OF_OTHER_VERSIONS[part] <= set(PARTS[part][2])
    newest = set(REAL[part][2]) | {"num_attention_heads", "sample_size", "dropout"}
    assert set(PARTS[part][2]) - OF_OTHER_VERSIONS[part] - newest - set(defaults_of(part)) == set()


def _original(text: str) -> dict[str, Any]:
    model: dict[str, Any] = yaml.safe_load(text)["model"]
    return model


@pytest.mark.parametrize("text", [CLDM_V15_YAML, V1_INFERENCE_YAML])
def test_the_yaml_files_that_were_published_pass(text: str) -> None:
    check_original(Path("a.yaml"), _original(text))
    check_original(Path("a.yaml"), {"model": _original(text)})


def test_the_yaml_of_the_tests_passes() -> None:
    check_original(Path("a.yaml"), CONFIG["model"])


# The arguments of ldm's and cldm's classes, as their code has them; ldm takes sequential_crossattn from beside them.
ARGUMENTS = {
    "params": """unet_config timesteps beta_schedule loss_type ckpt_path ignore_keys load_only_unet monitor use_ema
        first_stage_key image_size channels log_every_t clip_denoised linear_start linear_end cosine_s given_betas
        original_elbo_weight v_posterior l_simple_weight conditioning_key parameterization scheduler_config
        use_positional_encodings learn_logvar logvar_init make_it_fit ucg_training reset_ema reset_num_ema_updates
        first_stage_config cond_stage_config num_timesteps_cond cond_stage_key cond_stage_trainable concat_mode
        cond_stage_forward scale_factor scale_by_std force_null_conditioning control_stage_config control_key
        only_mid_control""",
    "params.unet_config.params": """image_size in_channels model_channels out_channels num_res_blocks
        attention_resolutions dropout channel_mult conv_resample dims num_classes use_checkpoint use_fp16 use_bf16
        num_heads num_head_channels num_heads_upsample use_scale_shift_norm resblock_updown use_new_attention_order
        use_spatial_transformer transformer_depth context_dim n_embed legacy disable_self_attentions
        num_attention_blocks disable_middle_self_attn use_linear_in_transformer adm_in_channels""",
    "params.unet_config": "target params sequential_crossattn",
    "params.control_stage_config.params": """image_size in_channels model_channels hint_channels num_res_blocks
        attention_resolutions dropout channel_mult conv_resample dims use_checkpoint use_fp16 num_heads
        num_head_channels num_heads_upsample use_scale_shift_norm resblock_updown use_new_attention_order
        use_spatial_transformer transformer_depth context_dim n_embed legacy disable_self_attentions
        num_attention_blocks disable_middle_self_attn use_linear_in_transformer""",
    "params.first_stage_config.params": """ddconfig lossconfig embed_dim ckpt_path ignore_keys image_key
        colorize_nlabels monitor ema_decay learn_logvar""",
    "params.first_stage_config.params.ddconfig": """ch out_ch ch_mult num_res_blocks attn_resolutions dropout
        resamp_with_conv in_channels resolution z_channels give_pre_end tanh_out use_linear_attn attn_type double_z""",
    "params.cond_stage_config.params": "version device max_length freeze layer layer_idx",
}


@pytest.mark.parametrize("where", ARGUMENTS)
def test_the_rules_know_every_argument_of_the_original_classes(where: str) -> None:
    for name in ARGUMENTS[where].split():
        dotted = f"model.{where}.{name}"
        assert dotted in ORIGINAL_RULES or any(rule.startswith(f"{dotted}.") for rule in ORIGINAL_RULES), dotted


def _changed(name: str, value: Any) -> dict[str, Any]:
    """cldm_v15.yaml with one field, which is named with dots, set to another value."""
    config = {"model": deepcopy(_original(CLDM_V15_YAML))}
    inner: Any = config
    *way, last = name.split(".")
    for step in way:
        if not isinstance(inner.get(step), dict):
            inner[step] = {}
        inner = inner[step]
    inner[last] = value
    return config["model"]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("model.params.only_mid_control", True, "(only the middle's control is used)"),
        ("model.target", "ldm.models.diffusion.ddpm.LatentInpaintDiffusion", "(another kind of model)"),
        ("model.params.conditioning_key", "hybrid", "(other inputs, as of inpainting and depth models)"),
        ("model.params.cond_stage_config.params.layer", "hidden", "(prompts are taken from another layer"),
        ("model.params.cond_stage_config.params.layer", "pooled", "only 'last' is rendered here"),
        (
            "model.params.cond_stage_config.target",
            "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder",
            "(another text encoder, such as SD2's)",
        ),
        ("model.params.cond_stage_config.params.version", "laion/CLIP-ViT-H-14", "(which CLIP: others have another"),
        ("model.params.cond_stage_config.params.max_length", 154, "only 77 is rendered here"),
        ("model.params.unet_config.params.use_linear_in_transformer", True, "linear projections"),
        ("model.params.unet_config.params.num_heads", -1, "not a positive whole number"),
        ("model.params.unet_config.params.num_head_channels", 64, "only -1 is rendered here"),
        ("model.params.unet_config.params.num_classes", "sequential", "only None is rendered here"),
        ("model.params.unet_config.params.transformer_depth", [1, 2, 10], "only 1 is rendered here"),
        ("model.params.unet_config.params.attention_resolutions", [4, 2], "(attention at other levels)"),
        ("model.params.unet_config.params.channel_mult", [1, 2, 4], "not a list of four positive whole numbers"),
        ("model.params.unet_config.target", "somebody.UNet", "(another network)"),
        ("model.params.control_stage_config.params.hint_channels", 1, "(the hint is not an RGB picture)"),
        ("model.params.control_stage_config.params.disable_middle_self_attn", True, "only False is rendered here"),
        ("model.params.first_stage_config.target", "ldm.models.autoencoder.VQModelInterface", "(another network)"),
        ("model.params.first_stage_config.params.ddconfig.attn_resolutions", [16], "(attention at further levels)"),
        ("model.params.first_stage_config.params.ddconfig.tanh_out", True, "only False is rendered here"),
        ("model.params.first_stage_config.params.ddconfig", [1], "where names and values of fields are due"),
        ("model.params.scale_factor", "0.18", "'0.18', not a positive number"),
        ("model.params.scale_by_std", True, "only False is rendered here"),
        ("model.params.unet_config", "text", "where names and values of fields are due"),
        ("model.params.cond_stage_config", "__is_unconditional__", "where names and values of fields are due"),
        ("model.params.unet_config.params.a_new_field", 1, "which this version does not know"),
        ("model.params.another_config", {"target": "x"}, "which this version does not know"),
        ("model.other", 1, "which this version does not know"),
    ],
)
def test_a_yaml_of_another_model_is_refused_by_the_fields_name(name: str, value: Any, sentence: str) -> None:
    with pytest.raises(ModelRefused) as refused:
        check_original(Path("a.yaml"), _changed(name, value))
    assert str(refused.value).startswith("a.yaml")
    assert name in str(refused.value)
    assert sentence in str(refused.value)


def test_each_field_of_a_yaml_that_must_have_one_value_is_refused_with_another() -> None:
    for name, rule in ORIGINAL_RULES.items():
        if isinstance(rule, MustBe):
            with pytest.raises(ModelRefused, match=rf"has {name} 'something else' .*; only .* is rendered here"):
                check_original(Path("a.yaml"), _changed(name, "something else"))


def test_a_yaml_without_a_scale_factor_is_refused() -> None:
    """ldm takes 1.0 for it, diffusers SD1.5's."""
    config = _original(V1_INFERENCE_YAML)
    del config["params"]["scale_factor"]
    with pytest.raises(ModelRefused, match=r"does not name model\.params\.scale_factor, which then is 1\.0"):
        check_original(Path("a.yaml"), config)


@pytest.mark.parametrize("section", ["unet_config", "control_stage_config", "first_stage_config"])
def test_a_yaml_need_not_describe_every_network(section: str) -> None:
    """v1-inference.yaml has no ControlNet, and a ControlNet's own file goes with any model."""
    config = _original(CLDM_V15_YAML)
    del config["params"][section]
    check_original(Path("a.yaml"), config)


@pytest.mark.parametrize(
    "config", [{"target": "cldm.cldm.ControlLDM"}, {"params": None}, {"model": None}, {"params": []}]
)
def test_a_yaml_without_parameters_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ModelRefused, match=r"a.yaml: model.params is .*, where names and values of fields are due"):
        check_original(Path("a.yaml"), config)


def test_a_vae_whose_latents_are_projected_to_other_channels_is_refused() -> None:
    with pytest.raises(ModelRefused, match="embed_dim 8 and z_channels 4; here they are equal"):
        check_original(Path("a.yaml"), _changed("model.params.first_stage_config.params.embed_dim", 8))


def test_a_yaml_that_holds_itself_is_refused() -> None:
    config = _original("model: {target: &a [*a]}")
    with pytest.raises(ModelRefused, match=r"model.target \[\[\[\[\.\.\.\]\]\]\]"):
        check_original(Path("a.yaml"), config)


def test_every_rule_says_something() -> None:
    for rules in (*(rules for _, _, rules in PARTS.values()), ORIGINAL_RULES):
        for name, rule in rules.items():
            text = rule.what if isinstance(rule, Used | MustBe) else rule.why
            assert text, name
