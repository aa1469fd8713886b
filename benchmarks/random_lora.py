"""A LoRA of random weights for a model's U-Net, for benchmarks: how fast a set is built or run needs no trained one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.command import run

EPILOG = """
Examples:

  python -m benchmarks.random_lora sd15-sized/model style-1.safetensors --seed 1

  engines build --backend triton --model sd15-sized/model --controlnet sd15-sized/controlnet --shape 512x512
  --max-batch 8 --lora style-1.safetensors --reuse models/default --out models/second
"""
HELP = "Write a LoRA of random weights for the attention of a model's U-Net, in diffusers' naming, in float32."
UNET = Path("unet", "diffusion_pytorch_model.safetensors")
LAYERS = (".attn1.to_q.weight", ".attn1.to_v.weight", ".attn2.to_v.weight")
RANK = 4
STRENGTH = 0.05  # of a weight's own spread: the pictures change and stay pictures


def write_random_lora(unet: Path, path: Path, *, seed: int) -> Path:
    """Write the LoRA for a U-Net's safetensors file; the same seed gives the same file. Returns `path`."""
    random = torch.Generator().manual_seed(seed)
    pairs: dict[str, torch.Tensor] = {}
    with safe_open(unet, framework="pt") as tensors:
        for name in (name for name in tensors.keys() if name.endswith(LAYERS)):  # noqa: SIM118 (no dictionary)
            weight = tensors.get_tensor(name).float()
            layer, (rows, columns) = f"unet.{name.removesuffix('.weight')}", weight.shape
            spread = STRENGTH * float(weight.std()) / RANK**0.5
            pairs[f"{layer}.lora_A.weight"] = torch.randn(RANK, columns, generator=random) * spread
            pairs[f"{layer}.lora_B.weight"] = torch.randn(rows, RANK, generator=random)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(pairs, path)
    return path


def main(
    model: Annotated[Path, typer.Argument(help="Folder of a model in diffusers' layout, with safetensors.")],
    out: Annotated[Path, typer.Argument(help="The file to write.")],
    seed: Annotated[int, typer.Option(help="Another number gives another LoRA.")] = 1,
) -> None:
    """Parse and write."""
    if not (model / UNET).is_file():
        raise typer.BadParameter(f"{model / UNET} is not a file; name a model in diffusers' layout")
    write_random_lora(model / UNET, out, seed=seed)


if __name__ == "__main__":
    run(main, help=HELP, epilog=EPILOG)
