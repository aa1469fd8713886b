"""A picture's own account of how it was made: infotext, which Stable Diffusion web interfaces read, and JSON.

The names are those of AUTOMATIC1111's web interface (modules/processing.py, create_infotext) and of its ControlNet
extension (internal_controlnet/args.py, ControlNetUnit.serialize); jobs/infotext.py has the form of the text. Two of the
web interface's fields are left out: `Version`, which it takes for its own version and adapts its sampling to, and
`Schedule type`, which it does not write for DDIM.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jobs.infotext import Infotext, write_infotext
from jobs.job import RenderJob, RenderParameters
from jobs.prompt_weights import is_text_alone
from worker.image.encode import encode_picture
from worker.image.png import as_json
from worker.prepare import Prepared, full_prompt

if TYPE_CHECKING:
    from engines.source import Source

HASH_DIGITS = 10  # of a model's hash, as web interfaces show it
SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt", ".bin")
CACHED = "models--"  # how huggingface_hub's cache begins the folder of `org/name`: models--org--name
BETWEEN_FOLDERS = re.compile(r"[/\\]+")
NOT_IN_A_UNIT = re.compile(r"[,:\x00-\x1f\x7f]")  # a ControlNet unit is quoted as a whole, its fields cannot be


@dataclass(frozen=True)
class ModelLabel:
    """What pictures say of the networks that drew them: names without folders, and the digest of the weights.

    `clip_skip` counts as web interfaces do: 1 is the last layer.
    """

    model: str
    controlnet: str
    weights: str | None = None
    vae: str = ""
    clip_skip: int = 1
    quantized: bool = False

    @classmethod
    def of(cls, source: Source, *, quantized: bool = False) -> ModelLabel:
        """From what a set was built from. Without a ControlNet of its own, the model brought one."""
        controlnet = source.model if source.controlnet is None else source.controlnet
        vae = "" if source.vae is None else short_name(source.vae.file)
        return cls(short_name(source.model), short_name(controlnet), source.weights, vae, source.clip_skip, quantized)


def short_name(source: str) -> str:
    """The last part of a path or a hub id, without a weight file's suffix: folders are this machine's business."""
    parts = [part for part in BETWEEN_FOLDERS.split(source) if part]
    cached = [part.rsplit("--", 1)[-1] for part in parts if part.startswith(CACHED)]
    name = (cached or parts or [""])[-1].encode(errors="replace").decode()  # a file's name need not be text
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)].strip()


def encode_sample(job: RenderJob, prepared: Prepared, sample: int, pixels: np.ndarray, *, label: ModelLabel) -> bytes:
    """The file of one sample, uint8 [H, W, 3], with its parameters: as image tools read them, and as JSON."""
    seed = job.seed + sample
    # A signed URL would let everyone who gets the picture read the input.
    parameters = job.parameters.without_secrets()
    texts = {
        "parameters": infotext(job, seed=seed, width=prepared.width, height=prepared.height, label=label),
        "render": as_json(parameters.model_dump() | {"job": job.id, "seed": seed}),
    }
    return encode_picture(pixels, texts, format=parameters.format, quality=parameters.quality)


def infotext(job: RenderJob, *, seed: int, width: int, height: int, label: ModelLabel) -> str:
    """Prompt, negative prompt, and one line of settings. `width` and `height` are the picture's, in pixels."""
    parameters = job.parameters
    settings = {
        "Steps": str(parameters.ddim_steps),
        "Sampler": "DDIM",
        "CFG scale": _number(parameters.scale),
        "Seed": str(seed),
        "Size": f"{width}x{height}",
        "Model hash": (label.weights or "")[:HASH_DIGITS],
        "Model": label.model,
        "VAE": label.vae,
        "Clip skip": str(label.clip_skip) if label.clip_skip > 1 else "",
        "FP8 weight": "Enable" if label.quantized else "",  # the web interface's field for models in fp8
        # How web interfaces call it that brackets are text. Read as weights, these prompts would say something else.
        "Emphasis": "None" if _has_literal_brackets(parameters) else "",
        # The shorter of the two prompts ends with empty chunks; theirs does so only if it is told to.
        "Pad conds": "True" if parameters.long_prompts == "chunk" else "",
        "RNG": "CPU",  # where the noise is drawn, one generator a sample: theirs draws the same then
        "ControlNet 0": _controlnet_unit(parameters, label),
        "Eta DDIM": _number(parameters.eta) if parameters.eta else "",
    }
    return write_infotext(Infotext(full_prompt(parameters), parameters.n_prompt, settings))


def _has_literal_brackets(parameters: RenderParameters) -> bool:
    """Whether a prompt is rendered as it is written, and would be read otherwise with weights."""
    if parameters.prompt_syntax == "weighted":
        return False
    return not (is_text_alone(full_prompt(parameters)) and is_text_alone(parameters.n_prompt))


def _controlnet_unit(parameters: RenderParameters, label: ModelLabel) -> str:
    """ControlNet's settings by the extension's names.

    Guess mode is the extension's `ControlNet is more important`: there too, the control's scales fall by 0.825 from
    block to block, and the unconditional half gets no control.
    """
    fields = {
        "Module": parameters.control,
        "Model": NOT_IN_A_UNIT.sub("_", label.controlnet) or "None",
        "Weight": _number(parameters.strength),
        "Resize Mode": "Just Resize",
        "Processor Res": str(parameters.image_resolution),
        "Threshold A": str(parameters.low_threshold),
        "Threshold B": str(parameters.high_threshold),
        "Guidance Start": "0",
        "Guidance End": "1",
        "Pixel Perfect": "False",
        "Control Mode": "ControlNet is more important" if parameters.guess_mode else "Balanced",
    }
    return ", ".join(f"{name}: {value}" for name, value in fields.items())


def _number(value: float) -> str:
    """`9`, `7.5`: every digit that is needed to read the same number back."""
    return repr(float(value)).removesuffix(".0")
