"""The CSV's columns, taken from RenderParameters: how a cell becomes a value, and what is allowed in it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from jobs.job import EMPTY_PROMPT, RenderParameters
from jobs.prompt_kinds import EMPTY

Value = str | int | float | bool

BOOLEANS = dict.fromkeys(("true", "1", "1.0", "yes"), True) | dict.fromkeys(("false", "0", "0.0", "no"), False)

# `20.0` is a whole number: spreadsheets and pandas write integers like that. `4.29E+09` is not: the spreadsheet has
# dropped digits, and rendering with another seed than the one typed would be silent damage.
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+(\.0*)?", re.ASCII)
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+", re.ASCII)
REMEMBERED_CELLS = 1024  # most cells of a column are alike
LONGEST_NUMBER = 40  # characters; Python itself refuses to read integers of thousands of digits

# What other tools call these columns.
OTHER_NAMES = {
    "negative": "n_prompt",
    "negative_prompt": "n_prompt",
    "positive_prompt": "prompt",
    "text": "prompt",
    "caption": "prompt",
    "file": "image",
    "filename": "image",
    "path": "image",
    "uri": "image",
    "url": "image",
    "image_file": "image",
    "file_name": "image",
    "picture": "image",
    "src": "image",
    "source": "image",
    "negativeprompt": "n_prompt",
    "steps": "ddim_steps",
    "num_inference_steps": "ddim_steps",
    "cfg": "scale",
    "cfg_scale": "scale",
    "guidance": "scale",
    "guidance_scale": "scale",
    "controlnet_conditioning_scale": "strength",
    "controlnet_scale": "strength",
    "control_weight": "strength",
    "controlnet_weight": "strength",
    "threshold_a": "low_threshold",
    "threshold_b": "high_threshold",
    "resolution": "image_resolution",
    "samples": "num_samples",
    "num_images": "num_samples",
    "num_images_per_prompt": "num_samples",
    "n_iter": "num_samples",
    "batch_size": "num_samples",
    "checkpoint": "model",
    "sd_model": "model",
    "preprocessor": "control",
    "hint": "control_image",
    "conditioning_image": "control_image",
    "file_format": "format",
    "output_format": "format",
}

REJECTED = "it is of a file of rejected rows; correct those of the file that was submitted, and submit that again"
# Columns that have no counterpart here -> what to know of each. The spelling of some is close to one of ours.
NO_COLUMNS = {
    **dict.fromkeys(("sampler", "sampler_name", "scheduler", "schedule_type"), "all rows are sampled by DDIM"),
    **dict.fromkeys(
        ("width", "height", "size"), "image_resolution is the short side, and the picture gives the proportions"
    ),
    **dict.fromkeys(("denoising_strength", "denoise"), "every row begins with noise alone, and strength is the hint's"),
    **dict.fromkeys(("clip_skip", "lora", "loras", "vae"), "an engine set is built with it, and model names a set"),
    **dict.fromkeys(("subseed", "variation_seed", "subseed_strength"), "a row has one seed"),
    **dict.fromkeys(("style", "styles"), "a_prompt is appended to the prompt"),
    **dict.fromkeys(("line", "reason"), REJECTED),
}

# What a cell may say for a choice, beside its own name.
OTHER_CHOICES = {"jpg": "jpeg"}


@dataclass(frozen=True, slots=True)
class Column:
    """One column: `parse` turns a cell that is not blank into a value, or raises ValueError with what is wrong."""

    name: str
    required: bool
    parse: Callable[[str], Value]
    allowed: str


@lru_cache(REMEMBERED_CELLS)
def parse_whole_number(cell: str) -> int:
    """'20', ' 20 ' and '20.0' -> 20."""
    text = _number_text(cell)
    if not WHOLE_NUMBER.fullmatch(text):
        if NUMBER.fullmatch(text) and "e" in text.lower():
            raise ValueError("is in the short form that spreadsheets give long numbers; format the column as a number")
        raise ValueError("is not a whole number")
    return int(text.partition(".")[0])


@lru_cache(REMEMBERED_CELLS)
def parse_number(cell: str) -> float:
    """'9', '9.0' and '9e0' -> 9.0; a decimal comma is explained."""
    text = _number_text(cell)
    if not NUMBER.fullmatch(text):
        if DECIMAL_COMMA.fullmatch(text):
            raise ValueError(f"has a decimal comma; write {text.replace(',', '.')}")
        raise ValueError("is not a number")
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("is too large a number")
    return number


@lru_cache(REMEMBERED_CELLS)
def parse_boolean(cell: str) -> bool:
    """true/false, 1/0 and yes/no, in any case; and 1.0/0.0, which pandas writes."""
    value = BOOLEANS.get(cell.strip().lower())
    if value is None:
        raise ValueError("is neither true nor false")
    return value


def parse_text(cell: str) -> str:
    """The cell as it is."""
    return cell


def parse_prompt(cell: str) -> str:
    """The cell as it is; `<empty>`, in any case and with spaces around it, -> ''."""
    return "" if "<" in cell and cell.strip().lower() == EMPTY else cell


def parse_main_prompt(cell: str) -> str:
    """As `parse_prompt`; an empty one as a job holds it."""
    return parse_prompt(cell) or EMPTY_PROMPT


def choice_parser(choices: Sequence[str]) -> Callable[[str], Value]:
    """One of a few words, in any case and with spaces around it."""

    def parse(cell: str) -> str:
        word = cell.strip().lower()
        word = OTHER_CHOICES.get(word, word)
        if word not in choices:
            raise ValueError("is not one of them")
        return word

    return parse


def parse_name(cell: str) -> str:
    """A name, without the spaces around it."""
    return cell.strip()


PARSERS: dict[Any, Callable[[str], Value]] = {
    str: parse_text,
    int: parse_whole_number,
    float: parse_number,
    bool: parse_boolean,
}
OTHER_PARSERS = {
    "prompt": parse_main_prompt,
    "a_prompt": parse_prompt,
    "n_prompt": parse_prompt,
    "model": parse_name,
}


def meant(name: str, likeness: float = 0.45) -> str | None:
    """The known column that `name` most likely means; None if no column is at least this similar (0 to 1)."""
    wanted = _plain(name)
    if wanted in OTHER_NAMES or wanted in NO_COLUMNS:
        return OTHER_NAMES.get(wanted)
    matches = get_close_matches(wanted, COLUMNS, n=1, cutoff=likeness)
    return matches[0] if matches else None


def without_column(name: str) -> str | None:
    """What to know of a column that has no counterpart here; None if `name` is not one of these."""
    return NO_COLUMNS.get(_plain(name))


def closest(name: str) -> str:
    """The known column with the most similar spelling, however different."""
    return get_close_matches(name.strip().lower(), COLUMNS, n=1, cutoff=0.0)[0]


def _plain(name: str) -> str:
    """`CFG Scale` and `cfg-scale` are `cfg_scale`."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _number_text(cell: str) -> str:
    text = cell.strip()
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"has {len(text):,} characters, too many for a number")
    return text


def _kind(field: FieldInfo) -> tuple[Any, dict[str, Any]]:
    """The type of a field's values, None left out, and its constraints: ge, le, multiple_of, pattern and so on."""
    kind, metadata = field.annotation, list(field.metadata)
    if get_origin(kind) in (Union, UnionType):
        (annotated,) = (each for each in get_args(kind) if each is not type(None))
        kind, *more = get_args(annotated)
        metadata += [limit for each in more for limit in each.metadata]
    names = ("ge", "le", "multiple_of", "min_length", "max_length", "pattern")
    found = ((name, getattr(limit, name, None)) for limit in metadata for name in names)
    limits = {name: limit for name, limit in found if limit is not None}
    return kind, limits


def _allowed(kind: Any, limits: dict[str, Any]) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    if kind is bool:
        return "true or false (also 1, 0, yes, no)"
    if kind is str and "pattern" in limits:
        return "a name of up to 100 letters, digits, dots, dashes and underscores"
    if kind is str:
        return f"text of at most {limits['max_length']:,} characters"
    number = "a whole number" if kind is int else "a number"
    multiple = f", a multiple of {limits['multiple_of']}" if "multiple_of" in limits else ""
    return f"{number} from {limits['ge']:g} to {limits['le']:.12g}{multiple}"


def _column(name: str, field: FieldInfo) -> Column:
    kind, limits = _kind(field)
    parse = choice_parser(get_args(kind)) if get_origin(kind) is Literal else PARSERS.get(kind, parse_text)
    return Column(name, field.is_required(), OTHER_PARSERS.get(name, parse), _allowed(kind, limits))


COLUMNS: dict[str, Column] = {name: _column(name, field) for name, field in RenderParameters.model_fields.items()}
REQUIRED = tuple(column.name for column in COLUMNS.values() if column.required)
