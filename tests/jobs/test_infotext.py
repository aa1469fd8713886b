"""The grammar of `parameters`: read as AUTOMATIC1111's web interface reads it, and what we write read back by it."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from jobs.infotext import Infotext, quoted, read_infotext, read_unit, unquoted, write_infotext
from tests.worker import webui

SETTINGS = {"Steps": "20", "Sampler": "DDIM", "CFG scale": "9", "Seed": "6", "Size": "192x128"}
# Pieces that mean something to the grammar, put together in any order.
PIECES = st.lists(
    st.sampled_from(
        [
            *("Negative prompt:", "Steps: 20", "Steps: 20, Sampler: DDIM, Seed: 1", "a cat", "Size: 8x8", "name"),
            *(",", ":", '"', "\\", "\n", " ", "\r", "(", ")", "-", "/", "_", ": ", ', "', '":', "é", "²", "\x1f", "x"),
        ]
    ),
    max_size=14,
).map("".join)


def stripped(text: str) -> str:
    """What the format keeps of a prompt: its lines without the spaces around them, and no empty ones in front."""
    return "\n".join(map(str.strip, text.strip().split("\n")))


def same_to_clip(text: str) -> str:
    """The text as CLIP's tokenizer sees it: it makes letters small."""
    return stripped(text).lower()


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat, a dog: two animals",
        'he said "hello, Steps: 20", then: nothing',
        "a\nSteps: 20, Sampler: DDIM, Seed: 1, Size: 1x1",
        "Steps: 20",
        "Negative prompt: dogs",
        "a cat\nNegative prompt: dogs",
        "a cat\n  Negative prompt: dogs\n\nNegative prompt:birds",
        "a cat Negative prompt: dogs",
        '"a, b", c: "d',
        '{"Steps": 20}',
        "back\\slash, \\(cat\\), tab\there",
        "öl, 猫: 🦊",
        "",
    ],
)
@pytest.mark.parametrize("negative", ["", "dull, grey: all", "Negative prompt: x\nSteps: 5, Seed: 1, Size: 1x1\nlast"])
def test_a_prompt_with_the_format_s_own_signs_is_read_back(prompt: str, negative: str) -> None:
    text = write_infotext(Infotext(prompt, negative, SETTINGS))
    read = read_infotext(text)
    assert same_to_clip(read.prompt) == same_to_clip(prompt)
    assert same_to_clip(read.negative) == same_to_clip(negative)
    assert (read.settings, read.size) == (SETTINGS, (192, 128))
    if "Negative prompt:" not in prompt:
        assert read.prompt == stripped(prompt)


@given(PIECES, PIECES)
@settings(deadline=None, max_examples=100)
@example("a\nNegative prompt: b", "\nNegative prompt: c")
def test_any_prompts_are_read_back_by_us_and_by_the_web_interface_s_rules(prompt: str, negative: str) -> None:
    text = write_infotext(Infotext(prompt, negative, SETTINGS))
    read, theirs = read_infotext(text), webui.read_infotext(text)
    assert same_to_clip(read.prompt) == same_to_clip(prompt)
    assert same_to_clip(read.negative) == same_to_clip(negative)
    assert read.settings == SETTINGS
    assert (theirs["Prompt"].lstrip("\n"), theirs["Negative prompt"].lstrip("\n")) == (read.prompt, read.negative)


@given(PIECES)
@settings(deadline=None, max_examples=150)
@example("ab: cd: ef, gh: 1, ij: 2")
@example('a: "x, Seed: 5", Steps: 3, Sampler: "DDIM"x, Size: 4x4')
@example('Steps: "20", Sampler: "a\\", b", Seed: "1')
def test_any_text_is_read_as_the_web_interface_reads_it(text: str) -> None:
    """Its reader is written after the original's expression; ours finds the same in linear time."""
    theirs = webui.read_infotext(text)
    ours = read_infotext(text)
    assume("Negative prompt" not in ours.settings)  # in theirs, it would overwrite the prompt
    settings = {name: value for name, value in ours.settings.items() if not webui.SIZE.match(value)}
    assert theirs.pop("Prompt").lstrip("\n") == ours.prompt
    assert theirs.pop("Negative prompt").lstrip("\n") == ours.negative
    assert {name: value for name, value in theirs.items() if not name.endswith(("-1", "-2"))} == settings


@given(st.text(max_size=60))
@settings(deadline=None, max_examples=60)
def test_any_value_is_quoted_so_that_it_is_read_back(value: str) -> None:
    line = f"Steps: 20, Model: {quoted(value)}, Seed: 1, Size: 8x8"
    read = read_infotext(f"a cat\n{line}")
    assert read.settings["Seed"] == "1"
    if value == value.strip():
        assert read.settings["Model"] == value


def test_a_setting_without_a_value_is_left_out() -> None:
    assert write_infotext(Infotext("a", "", {"Steps": "1", "Model": ""})) == "a\nSteps: 1"


def test_fewer_than_three_settings_are_part_of_the_prompt() -> None:
    assert read_infotext("a cat\nSteps: 20, Seed: 5") == Infotext("a cat\nSteps: 20, Seed: 5", "", {})


def test_a_text_of_the_web_interface_itself() -> None:
    read = read_infotext(
        "girl with an artist's beret, ((eyeshadow)), [blurry], <lora:x:0.8>\n"
        "Negative prompt: ugly, (extra_limb)\n"
        "Steps: 20, Sampler: Euler a, Schedule type: Karras, CFG scale: 7, Seed: 965400086, Size: 512x768, "
        'Model hash: 45dee52b, Model: some_model, Lora hashes: "x: 1a2b, y: 3c4d", Version: v1.10.1'
    )
    assert read.prompt == "girl with an artist's beret, ((eyeshadow)), [blurry], <lora:x:0.8>"
    assert (read.negative, read.size) == ("ugly, (extra_limb)", (512, 768))
    assert (read.settings["Sampler"], read.settings["Lora hashes"]) == ("Euler a", "x: 1a2b, y: 3c4d")


def test_a_controlnet_unit_is_read_in_both_spellings() -> None:
    assert read_unit("Module: canny, Weight: 0.8, Control Mode: Balanced") == {
        "module": "canny",
        "weight": "0.8",
        "control mode": "Balanced",
    }
    assert read_unit("preprocessor: canny, model: control_canny [1a2b], weight: 1")["preprocessor"] == "canny"


@pytest.mark.parametrize("text", ["a" * 200_000, "ab: " * 50_000, '"' * 100_000, 'ab: "' * 40_000, "\n" * 200_000])
def test_a_hostile_text_is_read_in_linear_time(text: str) -> None:
    """The original's expression would take minutes here, which ends the test by its time limit."""
    read_infotext(text)


@pytest.mark.parametrize("value", ['"', '"a', '"a\\"', '""', "plain", ""])
def test_what_is_no_json_string_stays(value: str) -> None:
    assert unquoted(value) == ("" if value == '""' else value)
