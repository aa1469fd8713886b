"""Three engine sets for the CPU: the demo model as it is, and with two LoRAs of random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from engines.build.builder import BuildRequest, build_set
from engines.source import AdditionNames
from engines.spec import Profile
from tools import ROOT

WEIGHTS = ROOT / "examples" / "demo-model" / "weights"
UNET = WEIGHTS / "model" / "unet" / "diffusion_pytorch_model.safetensors"
LAYERS = (".attn1.to_q.weight", ".attn1.to_v.weight", ".attn2.to_v.weight")
RANK = 4
STRENGTH = 0.05  # of a weight's own spread: the pictures change and stay pictures


def are_here() -> bool:
    """Whether the demo model's weights are part of this copy of the repository."""
    return UNET.is_file()


def build_demo_sets(names: tuple[str, str, str], folder: Path, *, profile: Profile) -> None:
    """Build the sets, or what has changed of them, below `folder`. What they share is taken over from the first."""
    first = folder / names[0]
    for seed, name in enumerate(names):
        loras = () if seed == 0 else (str(_lora(folder / f"{name}.safetensors", seed=seed)),)
        build_set(
            BuildRequest(
                model=str(WEIGHTS / "model"),
                controlnet=str(WEIGHTS / "controlnet"),
                out=folder / name,
                backend="onnxruntime",
                precision="fp32",
                profiles=(profile,),
                additions=AdditionNames(loras=loras),
                reuse=() if seed == 0 else (first,),
            )
        )


def _lora(path: Path, *, seed: int) -> Path:
    """A LoRA in diffusers' naming for the U-Net's attention, the same for the same seed."""
    random = torch.Generator().manual_seed(seed)
    pairs: dict[str, torch.Tensor] = {}
    with safe_open(UNET, framework="pt") as unet:
        for name in (name for name in unet.keys() if name.endswith(LAYERS)):  # noqa: SIM118 (no dictionary)
            weight = unet.get_tensor(name).float()
            layer, (rows, columns) = f"unet.{name.removesuffix('.weight')}", weight.shape
            spread = STRENGTH * float(weight.std()) / RANK**0.5
            pairs[f"{layer}.lora_A.weight"] = torch.randn(RANK, columns, generator=random) * spread
            pairs[f"{layer}.lora_B.weight"] = torch.randn(rows, RANK, generator=random)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(pairs, path)
    return path
