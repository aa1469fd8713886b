"""A rendered picture's texts as a row that renders it once more.

Ours name their source and all parameters. Infotext names no source: there the picture itself is the input, its prompt
is the whole one, and what this program does not do is counted and left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.infotext import Infotext, read_unit
from jobs.prompt_kinds import EMPTY
from jobs.prompt_weights import is_text_alone
from jobs.secrets import MARKS

MARK = re.escape(MARKS[0])
# Where jobs.redaction puts its mark: a URL's user, port, parameter or fragment. The path of a URL keeps what it has.
TAKEN_OUT = re.compile(
    rf"https?://[^/?#]*{MARK}|https?://[^?#]*[?#].*{MARK}|s3://[^/]*{MARK}|s3://.*[=]{MARK}", re.DOTALL
)
# A picture of ours leaves these defaults out. They are given here, so that an option of the command does not change how
# it is rendered. The command chooses its container and its model.
LEFT_OUT = {"control": "canny", "long_prompts": "cut", "prompt_syntax": "literal"}
NOT_PARAMETERS = ("job", "seed")  # what the JSON has beside them; its seed is the sample's
NO_EMPHASIS = "None"  # how web interfaces call it that brackets are text
UNIT = re.compile(r"ControlNet(?: \d+)?")
OLDER_GUIDANCE = re.compile(r"starting/ending: \((\d+(?:\.\d+)?), (\d+(?:\.\d+)?)\)")  # shares of the steps
OLDER_THRESHOLDS = re.compile(r"\((\d+), (\d+(?:\.\d+)?), (\d+(?:\.\d+)?)\)")  # resolution, low, high
# By the texts of the web interface, and as its API writes them.
MORE_IMPORTANT = ("controlnet is more important", "controlmode.control")
PROMPT_MORE_IMPORTANT = ("my prompt is more important", "controlmode.prompt")
SECRET_IS_AWAY = (
    "is a URL whose password or signature was taken out when the picture was written; render it from its CSV, or from "
    "a copy of the picture"
)
NO_SETTINGS = "its text `parameters` has no line of settings with Steps, as web interfaces write it"
EMPHASIS_NOT_DONE = ("Ignore", "No norm")  # brackets weigh nothing; weights are not evened out
# Settings whose meaning is lost here, whatever their value.
NOT_DONE = (
    *("Denoising strength", "Hires upscale", "Hires resize", "Refiner", "Mask blur", "Variation seed", "Hypernet"),
    *("Seed resize from", "Face restoration", "Tiling", "ADetailer model", "VAE", "Token merging ratio"),
)
OFF = ("False", "None")


@dataclass(frozen=True)
class MadePicture:
    """Values by column, what is wrong (column and sentence), and what of the picture's making is not done here."""

    values: Mapping[str, Any]
    problems: tuple[tuple[str | None, str], ...] = ()
    not_done: tuple[str, ...] = ()
    model: str = ""


def ours(record: Mapping[str, Any]) -> MadePicture:
    """The row of one sample: its own seed, and no others beside it."""
    said = {name: _said(name, value) for name, value in record.items() if name not in NOT_PARAMETERS}
    values = LEFT_OUT | said
    values |= {"seed": record["seed"], "num_samples": 1}
    problems = [
        (name, SECRET_IS_AWAY)
        for name in ("image", "control_image")
        if isinstance(values.get(name), str) and TAKEN_OUT.match(values[name])
    ]
    return MadePicture(values, tuple(problems))


def of_infotext(info: Infotext, *, image: str, given: Collection[str] = ()) -> MadePicture:
    """The row of a picture of other tools, whose URI is `image`. `given`: columns that options say."""
    settings = info.settings
    if "Steps" not in settings:
        return MadePicture({}, ((None, NO_SETTINGS),))
    unit = next((_unit(value) for name, value in settings.items() if UNIT.fullmatch(name)), {})
    values: dict[str, Any] = {
        "image": image,
        "prompt": _said("prompt", info.prompt),
        "a_prompt": EMPTY,
        "n_prompt": _said("n_prompt", info.negative),
        "ddim_steps": settings["Steps"],
        "scale": settings.get("CFG scale"),
        "seed": settings.get("Seed"),
        "eta": settings.get("Eta DDIM"),
        "image_resolution": _resolution(info.size),
    }
    is_literal = settings.get("Emphasis") == NO_EMPHASIS or all(map(is_text_alone, (info.prompt, info.negative)))
    if "prompt_syntax" not in given and not is_literal:
        values["prompt_syntax"] = "weighted"  # to the web interface, all prompts are
    return MadePicture(
        values | _control(unit), not_done=_not_done(settings, unit), model=settings.get("Model", "").strip()
    )


def _said(name: str, value: Any) -> Any:
    """An empty prompt as a cell says it: a blank cell would take the default."""
    is_blank = name in ("prompt", "a_prompt", "n_prompt") and isinstance(value, str) and not value.strip()
    return EMPTY if is_blank else value


def _resolution(size: tuple[int, int] | None) -> int | None:
    """The short side, as a multiple of 64."""
    return None if size is None else max(64, round(min(size) / 64) * 64)


def _control(unit: Mapping[str, str]) -> dict[str, Any]:
    """Strength, guess mode and thresholds of a ControlNet unit that draws edges; the defaults for all others."""
    if _module(unit) != "canny":
        return {}
    is_guess = _mode(unit) in MORE_IMPORTANT
    low, high = unit.get("threshold a"), unit.get("threshold b")
    if _number(low, 0.0) > _number(high, math.inf):  # OpenCV swaps them
        low, high = high, low
    values = {"strength": unit.get("weight"), "low_threshold": low, "high_threshold": high}
    return values | ({"guess_mode": True} if is_guess else {})


def _unit(text: str) -> dict[str, str]:
    """A ControlNet unit's fields. Older ones have `preprocessor params: (512, 100, 200)`, with commas in it."""
    thresholds, guidance = OLDER_THRESHOLDS.search(text), OLDER_GUIDANCE.search(text)
    older = {"threshold a": thresholds[2], "threshold b": thresholds[3]} if thresholds else {}
    older |= {"guidance start": guidance[1], "guidance end": guidance[2]} if guidance else {}
    return older | read_unit(text)


def _module(unit: Mapping[str, str]) -> str:
    return (unit.get("module") or unit.get("preprocessor") or "").lower()


def _not_done(settings: Mapping[str, str], unit: Mapping[str, str]) -> tuple[str, ...]:
    sampler, skip = settings.get("Sampler", "DDIM"), settings.get("Clip skip", "1")
    not_done = [name for name in NOT_DONE if settings.get(name, "None") not in OFF]
    not_done += [f"sampler {sampler}"] if sampler != "DDIM" else []
    not_done += [f"Clip skip {skip}"] if skip != "1" else []
    not_done += [f"Emphasis {settings['Emphasis']}"] if settings.get("Emphasis") in EMPHASIS_NOT_DONE else []
    not_done += _not_done_of(unit) if unit else []
    units = sum(1 for name in settings if UNIT.fullmatch(name))
    return (*not_done, *(["more than one ControlNet"] if units > 1 else []))


def _not_done_of(unit: Mapping[str, str]) -> list[str]:
    """Of a ControlNet unit: another preprocessor, a part of the steps, a mode that is not here."""
    if _module(unit) != "canny":
        return [f"ControlNet {_module(unit)}"]
    part = [_number(unit.get("guidance start"), 0.0), _number(unit.get("guidance end"), 1.0)]
    not_done = ["ControlNet for a part of the steps"] if part != [0.0, 1.0] else []
    return not_done + (["ControlNet: prompt more important"] if _mode(unit) in PROMPT_MORE_IMPORTANT else [])


def _mode(unit: Mapping[str, str]) -> str:
    return unit.get("control mode", "").lower()


def _number(text: str | None, default: float) -> float:
    """A number's value; the default's where there is none."""
    try:
        return default if text is None else float(text)
    except ValueError:
        return default
