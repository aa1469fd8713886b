"""What is done with every configuration field of the networks: used, must have one value, or changes nothing.

What no table here names is refused. docs/engines.md shows the tables; tools/fields.py writes them there.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engines.errors import ModelRefused
from engines.model.fields import Rules, check_fields, check_mapping, flattened, shown
from engines.model.libraries import library, quiet_libraries
from engines.model.rules import original
from engines.model.rules.controlnet import CONTROLNET_RULES
from engines.model.rules.scheduler import SCHEDULER_RULES
from engines.model.rules.text_encoder import TEXT_ENCODER_RULES, WHOLE_CLIP_RULES
from engines.model.rules.unet import UNET_RULES
from engines.model.rules.vae import VAE_RULES

# Part -> the library and class that its configuration belongs to, and its rules.
PARTS: dict[str, tuple[str, str, Rules]] = {
    "unet": ("diffusers", "UNet2DConditionModel", UNET_RULES),
    "vae": ("diffusers", "AutoencoderKL", VAE_RULES),
    "controlnet": ("diffusers", "ControlNetModel", CONTROLNET_RULES),
    "text_encoder": ("transformers", "CLIPTextConfig", TEXT_ENCODER_RULES),
}
_VAE = "model.params.first_stage_config.params"
# Title -> rules: what docs/engines.md shows.
TABLES: dict[str, Rules] = {
    "U-Net: `unet/config.json`": UNET_RULES,
    "ControlNet: `config.json`": CONTROLNET_RULES,
    "VAE: `vae/config.json`": VAE_RULES,
    "Text encoder: `text_encoder/config.json`": TEXT_ENCODER_RULES,
    "Scheduler: `scheduler/scheduler_config.json`": SCHEDULER_RULES,
    'Text encoder in a whole CLIP: `"model_type": "clip"`': WHOLE_CLIP_RULES,
    "Original `.yaml`: `model`": original.MODEL_RULES,
    "Original `.yaml`: `model.params.unet_config`": original.UNET_RULES,
    "Original `.yaml`: `model.params.control_stage_config`": original.CONTROL_RULES,
    "Original `.yaml`: `model.params.first_stage_config`": original.VAE_RULES,
    "Original `.yaml`: `model.params.cond_stage_config`": original.CLIP_RULES,
}


def check_config(part: str, path: Path, config: Mapping[str, Any]) -> None:
    """Hold the configuration of "unet", "vae", "controlnet" or "text_encoder" against its rules; `path` is its file.

    What it does not name has the default of the installed library, which is held against the rules as well.

    Raises:
        ModelRefused: naming the first field that is not known, or whose value is not built here.
    """
    check_mapping(str(path), config)
    where, given = str(path), config
    if part == "text_encoder" and config.get("model_type") == "clip":
        check_fields(where, config, WHOLE_CLIP_RULES)
        where, given = f"{path}: text_config", config.get("text_config", {})
    defaults = defaults_of(part)
    check_fields(where, given, PARTS[part][2], defaults=defaults)
    _check_divisors(part, where, {**defaults, **given})


def _check_divisors(part: str, where: str, config: Mapping[str, Any]) -> None:
    """Heads and groups divide the widths: libraries would build a network with other widths, or fail."""
    if part == "text_encoder":
        _check_divides(where, config, "hidden_size", "num_attention_heads")
        return
    _check_divides(where, config, "block_out_channels", "norm_num_groups")
    if part != "vae":
        _check_divides(where, config, "block_out_channels", "attention_head_dim")


def _check_divides(where: str, config: Mapping[str, Any], name: str, divisor_name: str) -> None:
    widths, divisors = (_listed(config[field]) for field in (name, divisor_name))
    divisors = divisors * len(widths) if len(divisors) == 1 else divisors
    for width, divisor in zip(widths, divisors, strict=True):
        if width % divisor:
            raise ModelRefused(
                f"{where} has {name} {shown(config[name])}, and {width} cannot be divided by its {divisor_name}, "
                f"{divisor}"
            )


def _listed(value: int | Sequence[int]) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


def check_original(path: Path, config: Mapping[str, Any]) -> None:
    """Hold an original .yaml, whole or its "model" entry alone, against its rules.

    What it does not name is taken for what is built here, and the schedule's fields have the defaults of ldm's classes.
    Whether it names all sizes shows when networks are made from it.

    Raises:
        ModelRefused: naming the first field that is not known, or whose value is not built here.
    """
    check_mapping(str(path), config)
    model = config["model"] if set(config) == {"model"} else config
    whole = {"model": model}
    check_fields(str(path), whole, original.ORIGINAL_RULES)
    params: Any = (model or {}).get("params")
    check_mapping(f"{path}: model.params", params)
    named = flattened(str(path), whole, original.ORIGINAL_RULES)
    if "first_stage_config" in params and "model.params.scale_factor" not in named:
        raise ModelRefused(
            f"{path} does not name model.params.scale_factor, which then is 1.0; SD1.5's is 0.18215: add the right one"
        )
    embedded, given = (named.get(f"{_VAE}.{name}") for name in ("embed_dim", "ddconfig.z_channels"))
    if None not in (embedded, given) and embedded != given:
        raise ModelRefused(f"{path} has a VAE with embed_dim {embedded} and z_channels {given}; here they are equal")


def defaults_of(part: str) -> dict[str, Any]:
    """The fields of a part's class in the installed library, with their defaults: what it takes for absent ones."""
    module, name, _ = PARTS[part]
    return class_defaults(module, name)


def class_defaults(module: str, name: str) -> dict[str, Any]:
    """The arguments of a class in an installed library that have defaults, with these."""
    with quiet_libraries():
        signature = inspect.signature(getattr(library(module), name).__init__)
    given = (parameter for parameter in signature.parameters.values() if parameter.default is not parameter.empty)
    return {parameter.name: parameter.default for parameter in given}
