"""Tensors of a file that have no place in the network: which are harmless, and which say that it is another model."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from engines.errors import ModelRefused

log = logging.getLogger("engines")
_LISTED = 5
# Part -> tensors that are often there and never used: what the last hidden state or the decoder does not depend on.
_HARMLESS = {
    # CLIPTextModelWithProjection and a whole CLIP: the projection comes after the last hidden state, the vision tower
    # beside it. Positions are counted here, as transformers does.
    "text_encoder": r"(text_model\.)?embeddings\.position_ids|text_projection(\.weight)?|logit_scale|vision_model\..*"
    r"|visual_projection\.weight",
    # The discriminator and the averages of training.
    "vae": r"loss\..*|model_ema\..*",
}
# Beside a checkpoint's parts: the schedule's buffers and marks, which are read elsewhere, averages, training's state.
_BESIDE = re.compile(
    r"betas|alphas_cumprod(_prev)?|sqrt_.*|log_one_minus_.*|posterior_.*|logvar|lvlb_weights|scale_factor|denoiser\..*"
    r"|v_pred|ztsnr|edm_.*|model_ema\..*|cond_stage_model\.(logit_scale|text_projection)|epoch|global_step|optimizer.*"
    r"|lr_schedulers|callbacks|loops|hparams.*|pytorch-lightning_version|state_dict"
)
_POSITIONS = re.compile(r"(.*\.)?embeddings\.position_ids")
# Found anywhere in a name: the network that such tensors belong to.
_OTHER_KINDS = (
    (r"lora_controlnet", "a Control-LoRA's layers: a whole ControlNet is needed"),
    (r"lora[_.]|lora$|hada_w|lokr_|\.base_layer\.", "a LoRA's layers: merge it into the model first"),
    (
        r"motion_modules|temp_conv|temp_attention|temporal|transformer_in\.|time_stack|time_mix",
        "a video model's layers",
    ),
    (
        r"absmax|quant_map|quant_state|\.SCB$|scale_weight|weight_scale|scaled_fp8|zero_point|qweight",
        "quantised weights",
    ),
    (r"cond_proj", "an embedding of the guidance scale, as LCM models have"),
    (r"task_embedding|control_add_embedding|transformer_layes|spatial_ch_projs", "a ControlNet for several conditions"),
    (r"add_embedding|add_time", "conditions that SDXL adds"),
    (r"class_embedding|label_emb", "an embedding of classes, or of sizes as in SDXL"),
    (r"to_[kv]_ip|ip_adapter|image_proj|encoder_hid_proj|ip_layers", "an IP-Adapter's layers"),
    (r"position_net|\.fuser\.", "GLIGEN's layers"),
    (r"attn\d?\.processor", "attention layers of another kind"),
    (r"quantize\.|\.embed_prob", "a quantised latent space (a VQ-VAE)"),
)


def refuse_other_kinds(part: str, path: Path, names: Collection[str]) -> None:
    """Refuse surplus tensors that say which other kind of model this is.

    Raises:
        ModelRefused: naming the first of them.
    """
    for pattern, what in _OTHER_KINDS:
        found = sorted(name for name in names if re.search(pattern, name) and not is_harmless(part, name))
        if found:
            raise ModelRefused(f"{path} is not SD1.5's {part}: {_some(found, 1)} says that it has {what}")


def is_harmless(part: str, name: str) -> bool:
    """Whether a tensor, by its name inside the part, is known to change nothing."""
    return re.fullmatch(_HARMLESS.get(part, "(?!)"), name) is not None


def list_surplus(part: str, path: Path, surplus: Mapping[str, Tensor]) -> None:
    """Log one warning with the names of tensors that are not used.

    position_ids, which every older file has, are named only where they are not 0, 1, 2, ...
    """
    positions = {name: tensor for name, tensor in surplus.items() if _POSITIONS.fullmatch(name)}
    if other := sorted(set(surplus) - set(positions)):
        log.warning("%s has tensors that SD1.5's %s does not use: %s", path, part, _some(other, _LISTED))
    for name, tensor in positions.items():
        counted = torch.arange(tensor.numel())
        if not torch.equal(tensor.flatten().to(torch.float64), counted.to(torch.float64)):
            log.warning("%s has %s other than 0, 1, 2, ...: they are counted here, as diffusers does", path, name)


def check_beside(path: Path, names: Collection[str], parts: tuple[str, ...]) -> None:
    """Look at what a checkpoint has beside its parts (`parts`: how their names begin): one warning lists it.

    Raises:
        ModelRefused: a name says that this is another kind of model, such as one with a LoRA that is not merged.
    """
    others = sorted(name for name in names if not name.startswith(parts) and not _BESIDE.fullmatch(name))
    refuse_other_kinds("checkpoint", path, others)
    if others:
        log.warning("%s has tensors that are in no part of SD1.5: %s", path, _some(others, _LISTED))


def _some(names: list[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
