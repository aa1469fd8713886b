"""A job and its pictures -> what to draw. Pure: no storage, no engines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engines.spec import CONTROLS
from jobs.job import RenderJob, RenderParameters
from jobs.prompts import prompt_warnings
from worker.image.decode_budget import DecodeBudget
from worker.image.hint import HintMaker
from worker.image.png import as_json, encode_png
from worker.image.tokens import Tokenizer
from worker.prompt_pair import PromptPair, encode_prompts
from worker.render.request import ImageSpec

# ControlNet's guess mode: controls of deeper blocks count more, those of the first blocks least.
GUESS_DECAY = 0.825


@dataclass(frozen=True, eq=False)
class Prepared:
    """What to draw for a job, one spec a sample, and its hint as a file: edges, or the picture that is the hint."""

    specs: tuple[ImageSpec, ...]
    canny_png: bytes
    warnings: tuple[str, ...]
    width: int  # of the rendered pictures, in pixels
    height: int


def prepare(
    job: RenderJob,
    data: bytes,
    *,
    tokenizer: Tokenizer,
    max_pixels: int,
    budget: DecodeBudget | None = None,
    control_data: bytes | None = None,
) -> Prepared:
    """Decode, resize, find edges and tokenise. `budget` is the process's: it bounds what is decoded at once.

    `data` is the file of `image`, and `control_data` that of `control_image`, where the job has one: the hint is made
    from it then, at the size that `image` gives.

    Raises:
        NotAnImage, SourceTooLarge: the picture cannot be used; the sentence says why.
        Requeued: the worker began to stop while the job waited for the budget.
    """
    parameters = job.parameters
    hint, notes = HintMaker(max_pixels, budget or DecodeBudget()).hint(parameters, data, control_data)
    prompts = encode_prompts(tokenizer, parameters, prompt=full_prompt(parameters))
    return Prepared(
        specs=_specs(job, hint, prompts),
        canny_png=encode_png(hint, {"render": as_json({"job": job.id, "canny": parameters.control == "canny"})}),
        warnings=notes + prompt_warnings(parameters) + prompts.warnings,
        width=int(hint.shape[1]),
        height=int(hint.shape[0]),
    )


def full_prompt(parameters: RenderParameters) -> str:
    """`prompt, a_prompt`; one that is empty adds nothing, where canny2image would keep the comma."""
    return ", ".join(part for part in (parameters.prompt, parameters.a_prompt) if part.strip())


def control_scales(parameters: RenderParameters) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Thirteen scales for the unconditional and for the conditional half.

    In guess mode the unconditional half gets no control at all; its scales are zero, so one engine serves both modes.
    """
    strength = parameters.strength
    if not parameters.guess_mode:
        return (strength,) * CONTROLS, (strength,) * CONTROLS
    return (0.0,) * CONTROLS, tuple(strength * GUESS_DECAY ** (CONTROLS - 1 - i) for i in range(CONTROLS))


def _specs(job: RenderJob, hint: np.ndarray, prompts: PromptPair) -> tuple[ImageSpec, ...]:
    parameters = job.parameters
    unconditional, conditional = control_scales(parameters)
    return tuple(
        ImageSpec(
            job_id=job.id,
            sample=sample,
            edges=hint,
            cond_ids=prompts.cond.ids,
            uncond_ids=prompts.uncond.ids,
            cond_weights=prompts.cond.weights,
            uncond_weights=prompts.uncond.weights,
            chunks=prompts.cond.chunks,
            seed=job.seed + sample,
            steps=parameters.ddim_steps,
            eta=parameters.eta,
            scale=parameters.scale,
            cond_control_scales=conditional,
            uncond_control_scales=unconditional,
        )
        for sample in range(parameters.num_samples)
    )
