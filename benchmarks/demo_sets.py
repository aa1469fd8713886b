"""Three engine sets for the CPU: the demo model as it is, and with two LoRAs of random weights."""

from __future__ import annotations

from pathlib import Path

from benchmarks import random_lora
from engines.build.builder import BuildRequest, build_set
from engines.source import AdditionNames
from engines.spec import Profile
from tools import ROOT

WEIGHTS = ROOT / "examples" / "demo-model" / "weights"
UNET = WEIGHTS / "model" / random_lora.UNET


def are_here() -> bool:
    """Whether the demo model's weights are part of this copy of the repository."""
    return UNET.is_file()


def build_demo_sets(names: tuple[str, str, str], folder: Path, *, profile: Profile) -> None:
    """Build the sets, or what has changed of them, below `folder`. What they share is taken over from the first."""
    first = folder / names[0]
    for seed, name in enumerate(names):
        loras: tuple[str, ...] = ()
        if seed > 0:
            loras = (str(random_lora.write_random_lora(UNET, folder / f"{name}.safetensors", seed=seed)),)
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
