"""The scales of layers' inputs as a quantized component's file has them."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

from engines.backends.triton.parameters import INPUT_SCALE


def scales_in(path: Path) -> dict[str, float]:
    """Layer -> what its input is divided by."""
    suffix = f".{INPUT_SCALE}"
    with safe_open(path, framework="pt", device="cpu") as file:
        names = [name for name in file.keys() if name.endswith(suffix)]  # noqa: SIM118
        return {name.removesuffix(suffix): float(file.get_tensor(name)) for name in sorted(names)}
