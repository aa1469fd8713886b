"""Pictures as tools write them: with our texts, with AUTOMATIC1111's, and with none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

USER_COMMENT, EXIF_PART = 0x9286, 0x8769
INFOTEXT = (
    "a cat, red\n"
    "Negative prompt: ugly\n"
    "Steps: 28, Sampler: DDIM, CFG scale: 7, Seed: 965400086, Size: 512x768, Model hash: 45dee52b, Model: dream_8, "
    'ControlNet 0: "Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 0.8, Threshold A: 90, '
    'Threshold B: 180.0, Control Mode: ControlNet is more important", Version: v1.10.1'
)
OURS: dict[str, Any] = {
    **{"image": "s3://photos/a.png", "prompt": "a house", "a_prompt": "", "n_prompt": "dull", "num_samples": 2},
    **{"image_resolution": 128, "ddim_steps": 5, "guess_mode": True, "strength": 0.9, "scale": 7.5, "eta": 0.0},
    **{"low_threshold": 0, "high_threshold": 200, "job": "0" * 20, "seed": 41},
}


def picture(path: Path, texts: Mapping[str, str] | None = None) -> Path:
    """A small picture; a PNG with text chunks, a JPEG or WebP with `parameters` in EXIF as piexif writes it."""
    image = Image.new("RGB", (8, 8))
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        for name, text in (texts or {}).items():
            info.add_text(name, text)
        image.save(path, pnginfo=info)
        return path
    exif = Image.Exif()
    if texts:
        comment = b"UNICODE\0" + texts["parameters"].encode("utf-16-be")
        exif.get_ifd(EXIF_PART)[USER_COMMENT] = comment
        if "render" in texts:
            exif[0x010E] = texts["render"]
    image.save(path, exif=exif)
    return path


def rendered(path: Path, **changes: Any) -> Path:
    """One of our samples."""
    return picture(path, {"render": json.dumps(OURS | changes), "parameters": "a house\nSteps: 5, Seed: 41, Size: 8x8"})
