"""Make a small, seeded, random model with SD1.5's module graph: DIR/model and DIR/controlnet, in diffusers layout.

    python examples/random-model/make.py --out DIR [--widths 32,64,96,96 | --full-size] [--seed 0]

It renders noise, not pictures: it exists so that every part of the system, from tokenizer to decoder, runs and is
compared with diffusers on weights that anyone can make in seconds. `--full-size` has SD1.5's own widths, in float16
(3.5 GB of memory on the way): speed does not depend on what weights say. Made again only when the recipe changed.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers.models import AutoencoderKL, ControlNetModel, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

RECIPE_VERSION = 2
FULL_SIZE = (320, 640, 1280, 1280)
MERGES = 400
WORDS = """a an the of in on at and with without over under by to for from is are photo picture image painting drawing
sketch portrait landscape best quality extremely detailed longbody lowres bad anatomy hands missing fingers masterpiece
realistic cinematic lighting soft light dark bright night day morning evening sunset sunrise sky cloud sea ocean river
lake mountain forest tree flower garden house castle city street road bridge tower room window door table chair cup
coffee bread fruit apple orange red green blue yellow purple pink brown black white grey golden silver cat dog horse
bird fish fox lion bear robot astronaut rocket moon star planet space man woman person face hair eyes smile girl boy
child king queen knight old young small large tall round square circle triangle glass metal wood stone paper oil
watercolor ink pencil digital art style render studio macro close up wide angle motion blur color colorful winter
summer autumn spring snow rain wind fire water motorcycle car train boat plane bicycle page text retina brick wall"""


def main() -> None:
    """Read the command line and make the two folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder that gets model/ and controlnet/")
    parser.add_argument("--widths", default="32,64,96,96", help="channels of the four levels")
    parser.add_argument("--full-size", action="store_true", help="SD1.5's own widths, float16; for measuring speed")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    widths = FULL_SIZE if args.full_size else tuple(int(width) for width in args.widths.split(","))
    if len(widths) != 4 or any(width <= 0 or width % 16 for width in widths):
        parser.error("--widths takes four positive multiples of 16")
    made = make(args.out, widths=widths, seed=args.seed)
    print(f"{args.out}: {'made' if made else 'up to date'}", file=sys.stderr)


def make(out: Path, *, widths: tuple[int, ...] = (32, 64, 96, 96), seed: int = 0) -> bool:
    """Make out/model and out/controlnet unless this recipe made them already; True when it had to."""
    recipe = {"version": RECIPE_VERSION, "widths": list(widths), "seed": seed, "source": _digest(Path(__file__))}
    mark = out / "recipe.json"
    if mark.is_file() and json.loads(mark.read_text()) == recipe:
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    # Another process may be making the same folder: each works in its own, and the last rename wins whole.
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _save(scratch, widths, seed)
        (scratch / "recipe.json").write_text(json.dumps(recipe))
        shutil.rmtree(out, ignore_errors=True)
        scratch.chmod(0o755)
        scratch.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return True


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _save(folder: Path, widths: tuple[int, ...], seed: int) -> None:
    # Imported here: argparse's errors and the up-to-date case need no torch.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from diffusers.models import ControlNetModel
    from transformers.utils import logging

    logging.disable_progress_bar()

    torch.manual_seed(seed)
    full = widths == FULL_SIZE
    groups = 32 if all(width % 32 == 0 for width in widths) else 8
    unet = _unet(widths, groups)
    _wake_prompts(unet)
    hint_widths = (16, 32, 96, 256) if full else (8, 16, 32, widths[0])
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=hint_widths)
    _wake_controls(controlnet)
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        num_train_timesteps=1000,
        prediction_type="epsilon",
        set_alpha_to_one=False,
        steps_offset=1,
    )
    tokenizer = _tokenizer(folder / "tokenizer")
    pipeline: Any = StableDiffusionPipeline(
        vae=_vae((128, 256, 512, 512) if full else tuple(width // 2 for width in widths)),
        text_encoder=_text_encoder(_context_width(widths), len(tokenizer), layers=12 if full else 2),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    _calibrate(pipeline)
    if full:
        pipeline.to(dtype=torch.float16)
        controlnet.half()
    pipeline.save_pretrained(folder / "model")
    shutil.rmtree(folder / "tokenizer")
    controlnet.save_pretrained(folder / "controlnet")


def _unet(widths: tuple[int, ...], groups: int) -> UNet2DConditionModel:
    from diffusers.models import UNet2DConditionModel

    unet: UNet2DConditionModel = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=widths,
        layers_per_block=2,
        norm_num_groups=groups,
        cross_attention_dim=_context_width(widths),
        # The number of heads: diffusers keeps SD1.5's old, misleading name.
        attention_head_dim=8 if widths == FULL_SIZE else 4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )
    return unet


def _vae(widths: tuple[int, ...]) -> AutoencoderKL:
    from diffusers.models import AutoencoderKL

    vae: AutoencoderKL = AutoencoderKL(
        block_out_channels=widths,
        layers_per_block=2,
        norm_num_groups=32 if widths[0] == 128 else 8,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=256,
        scaling_factor=0.18215,
    )
    return vae


def _context_width(widths: tuple[int, ...]) -> int:
    return 768 if widths == FULL_SIZE else 2 * widths[0]


def _text_encoder(width: int, vocabulary: int, *, layers: int) -> CLIPTextModel:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=12 if layers == 12 else 4,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    model: CLIPTextModel = CLIPTextModel(config).eval()
    for name, parameter in model.named_parameters():
        if "embedding" in name:
            parameter.data.normal_(0, 1)  # the usual 0.02 would make all prompts alike
    return model


def _wake_prompts(unet: UNet2DConditionModel) -> None:
    """Random attention averages all tokens away; sharper queries and louder values let a prompt change the picture."""
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            for layer in (module.to_q, module.to_k, module.to_v, module.to_out[0]):
                layer.weight.data *= 3


def _wake_controls(controlnet: ControlNetModel) -> None:
    """Zero convolutions are zero only before training; left so, the ControlNet would change nothing."""
    zero = [*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block]
    for layer in [*zero, controlnet.controlnet_cond_embedding.conv_out]:
        fan_in = layer.weight[0].numel()
        layer.weight.data.normal_(0, 1 / fan_in**0.5)


def _calibrate(pipeline: Any) -> None:
    """Scale the last layers so that noise predictions and pixels have the spread that trained ones have."""
    import torch

    with torch.no_grad():
        latents = torch.randn(2, 4, 16, 16)
        context = torch.randn(2, 77, pipeline.unet.config.cross_attention_dim)
        noise = pipeline.unet(latents, torch.tensor(500), encoder_hidden_states=context).sample
        pipeline.unet.conv_out.weight.data /= noise.std()
        image = pipeline.vae.decode(latents * 5).sample
        pipeline.vae.decoder.conv_out.weight.data *= 0.4 / image.std()
        pipeline.vae.decoder.conv_out.bias.data.zero_()


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's tokenizer with a vocabulary learned from WORDS: 512 byte symbols, the merges, start and end."""
    from transformers import CLIPTokenizer

    alphabet = _byte_symbols()
    merges = _learn_merges(WORDS.split())
    pieces = [*alphabet, *(symbol + "</w>" for symbol in alphabet), *("".join(pair) for pair in merges)]
    pieces = list(dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"]))
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges), ""]))
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    return tokenizer


def _byte_symbols() -> list[str]:
    """One printable character for each byte, as byte-level BPE writes them: printable Latin-1 stays, others move up."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    moved = iter(range(256, 512))
    return [chr(byte if byte in printable else next(moved)) for byte in range(256)]


def _learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding: merge the most frequent neighbours, ties by spelling, until MERGES are learned."""
    counts = Counter((*word[:-1], word[-1] + "</w>") for word in words)
    merges: list[tuple[str, str]] = []
    while len(merges) < MERGES:
        pairs = Counter[tuple[str, str]]()
        for pieces, count in counts.items():
            for pair in itertools.pairwise(pieces):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        counts = Counter({_merged(pieces, best): count for pieces, count in counts.items()})
    return merges


def _merged(pieces: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for piece in pieces:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return tuple(out)


if __name__ == "__main__":
    main()
