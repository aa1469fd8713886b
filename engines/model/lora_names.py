"""The names in a LoRA's file: which layer a tensor belongs to, and which kinds of files cannot be merged here.

Files name a layer in one of these ways; all but the first and the last are diffusers':
    lora_unet_down_blocks_0_attentions_0_..._to_q.lora_down.weight    kohya's trainer, and what reads its files
    unet.down_blocks.0.attentions.0.....attn1.to_q.lora_A.weight      diffusers with peft, lora_B beside it
    unet.down_blocks.0.attentions.0.....attn1.to_q.lora.down.weight   diffusers before peft
    down_blocks.0.attentions.0.....attn1.processor.to_q_lora.down.weight    diffusers' first files
    lora_unet_input_blocks_1_1_..._to_q.lora_down.weight              with the original code's blocks
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Half = Literal["down", "up", "alpha"]

_NAME = re.compile(
    r"(?P<layer>.+?)(?:"
    r"\.lora_(?P<kohya>down|up)\.weight"
    r"|\.lora_(?P<peft>A|B)(?:\.default(?:_\d+)?)?\.weight"
    r"|[._]lora\.(?P<old>down|up)\.weight"
    r"|\.lora_linear_layer\.(?P<linear>down|up)\.weight"
    r"|(?:[._]lora)?\.(?P<alpha>alpha))"
)
_HALVES: dict[str, Half] = {"A": "down", "B": "up", "down": "down", "up": "up", "alpha": "alpha"}
_PREFIXES = (
    ("lora_unet_", "unet"),
    ("unet.", "unet"),
    ("diffusion_model.", "unet"),
    ("lora_te_", "text_encoder"),
    ("lora_te1_", "text_encoder"),
    ("text_encoder.", "text_encoder"),
)
# How layers begin in diffusers' first files, which have the U-Net alone.
_BARE_UNET = ("down_blocks.", "mid_block.", "up_blocks.")
_BLOCK = re.compile(r"(input_blocks|output_blocks)_(\d+)_1_(.+)|middle_block_1_(.+)")
_BLOCKS = {"input_blocks": ("down_blocks", 1), "output_blocks": ("up_blocks", 0)}
_LEVEL = 3  # of the original's blocks, of which each level has as many
# The last word of a layer in older files -> what it is called in networks.
_LAST = {
    "unet": {"_to_out": "_to_out_0"},
    "text_encoder": {"_to_q": "_q_proj", "_to_k": "_k_proj", "_to_v": "_v_proj", "_to_out": "_out_proj"},
}
_TEXT_LEVEL = "text_model_"  # transformers 5 has no such level
_OTHER_MODELS, _CONTROL_LORA = "a LoRA for ", "a Control-LoRA"  # kinds that no program merges into SD1.5
# Anywhere in a name -> what a file with it is.
_OTHER_KINDS = (
    (r"(^|[._])hada_", "a LoHa"),
    (r"(^|[._])lokr_", "a LoKr"),
    (r"dora_scale|lora_magnitude_vector", "a DoRA"),
    (r"lora_mid|lora_tucker", "a LoCon (with a third factor)"),
    (r"(^|[._])b?oft_", "an OFT"),
    (r"\.[ab][12]\.weight$", "a GLoRA"),
    (r"\.diff(_b)?$|\.set_weight$", "a file of whole differences"),
    (r"\.[wb]_norm$|\.on_input$", "a LyCORIS that changes norms or activations"),
    (r"\.lora_[AB]\.bias$|\.lora_(down|up)\.bias$", "a LoRA with biases"),
    (r"^lora_controlnet$|^lora_control", "a Control-LoRA, a small ControlNet"),
    (r"^lora_te2_|^text_encoder_2\.|^lora_te3_", "a LoRA for a model with further text encoders, such as SDXL"),
    (r"^lora_transformer_|^transformer\.|double_blocks|joint_blocks", "a LoRA for a transformer such as Flux or SD 3"),
    (r"_blocks?[._].*transformer_blocks[._][1-9]", "a LoRA for SDXL, whose attentions have several blocks"),
    (r"^bundle_emb\.", "a LoRA with embeddings in it"),
    (r"^base_model\.model\.", "a LoRA as peft saves one network, without its alpha"),
)
ADVICE = (
    "only plain LoRAs of the attention and linear layers of SD1.5 are merged here; merge it into the model with the "
    "program that it was made for, and build the set from the merged model"
)


class Place(NamedTuple):
    """Where a tensor of a LoRA belongs: the network, the layer's words joined by '_', and which half of the pair."""

    part: str
    layer: str
    half: Half


def place_of(name: str) -> Place | None:
    """The place of a tensor by its name; None for a name that no LoRA of this kind has."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    half = next(_HALVES[value] for kind, value in match.groupdict().items() if kind != "layer" and value is not None)
    layer = match["layer"]
    for prefix, part in _PREFIXES:
        if layer.startswith(prefix):
            return Place(part, _words(part, layer.removeprefix(prefix)), half)
    return Place("unet", _words("unet", layer), half) if layer.startswith(_BARE_UNET) else None


def _words(part: str, layer: str) -> str:
    words = layer.replace(".processor", "").replace(".", "_").removeprefix(_TEXT_LEVEL)
    if part == "unet" and (match := _BLOCK.fullmatch(words)):
        words = _diffusers_block(match)
    old = next((end for end in _LAST[part] if words.endswith(end)), None)
    return words if old is None else words.removesuffix(old) + _LAST[part][old]


def _diffusers_block(match: re.Match[str]) -> str:
    """'input_blocks_4_1_proj_in' -> 'down_blocks_1_attentions_0_proj_in'."""
    if match[4] is not None:
        return f"mid_block_attentions_0_{match[4]}"
    blocks, first = _BLOCKS[match[1]]
    level, number = divmod(int(match[2]) - first, _LEVEL)
    return f"{blocks}_{level}_attentions_{number}_{match[3]}"


def layer_words(module: str) -> str:
    """A network's module as a Place calls its layer."""
    return module.replace(".", "_").removeprefix(_TEXT_LEVEL)


def other_kind(name: str) -> str | None:
    """What a file is that has a tensor of this name, if it is not a plain LoRA for SD1.5; else None."""
    return next((what for pattern, what in _OTHER_KINDS if re.search(pattern, name)), None)


def advice_on(kind: str) -> str:
    """The end of a sentence about a file of another kind: what would help."""
    if kind.startswith(_OTHER_MODELS):
        return "it fits no model of SD1.5: get one that was trained for SD1.5"
    if kind.startswith(_CONTROL_LORA):
        return "a whole ControlNet is needed: name one with --controlnet"
    return ADVICE
