"""Weights are read by the rules that AUTOMATIC1111's web interface documents (its wiki: Attention/emphasis)."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import InvalidJob
from jobs.job import RenderJob, RenderParameters
from jobs.prompt_weights import BREAK, is_text_alone, weighted_pieces
from jobs.prompts import prompt_warnings


def read(prompt: str) -> list[tuple[str, float]]:
    return [(text, round(weight, 6)) for text, weight in weighted_pieces(prompt)]


# The examples of the original's docstring, and of its wiki.
DOCUMENTED: dict[str, list[tuple[str, float]]] = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    r"\(literal\]": [("(literal]", 1.0)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0),
        ("house", 1.573),
        (" ", 1.1),
        ("on", 1.0),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.4641),
        (".", 1.1),
    ],
    "((word))": [("word", 1.21)],
    "[word]": [("word", 0.909091)],
    "(word:0.25)": [("word", 0.25)],
    "a BREAK b": [("a", 1.0), ("BREAK", -1.0), ("b", 1.0)],
}
OTHERS: dict[str, list[tuple[str, float]]] = {
    "": [("", 1.0)],
    "()": [("", 1.0)],
    "closed) first]": [("closed) first]", 1.0)],
    "cat:1.3)": [("cat:1.3)", 1.0)],
    "[cat:0.5)": [("cat:0.5)", 0.909091)],  # a weight needs a round bracket
    "(cat:-1)": [("cat", -1.0)],
    "(cat:+.5) (dog:2.)": [("cat", 0.5), (" ", 1.0), ("dog", 2.0)],
    "(cat:1.2.3)": [("cat:1.2.3", 1.1)],  # the original ends with an error
    "(cat: 1.3) (dog :.5 )": [("cat", 1.3), (" ", 1.0), ("dog ", 0.5)],
    "(cat:\n1.3\n)": [("cat", 1.3)],
    "(cat: 1 3)": [("cat: 1 3", 1.1)],
    "cat: 1.3 )": [("cat: 1.3 )", 1.0)],
    "(cat:1,3)": [("cat:1,3", 1.1)],
    "(cat:٢)": [("cat", 2.0)],
    r"C:\path \\ \x": [(r"C:path \ x", 1.0)],
    r"(a \(b\) c:1.5)": [("a (b) c", 1.5)],
    "(a [b) c]": [("a ", 1.1), ("b", 1.0), (" c", 0.909091)],
    "BREAKFAST": [("BREAKFAST", 1.0)],
    "BREAK a": [("", 1.0), ("BREAK", -1.0), ("a", 1.0)],
    "(a BREAK b)": [("a", 1.1), ("BREAK", -1.1), ("b", 1.1)],
}


@pytest.mark.parametrize(("prompt", "pieces"), [*DOCUMENTED.items(), *OTHERS.items()])
def test_prompts_are_read_as_documented(prompt: str, pieces: list[tuple[str, float]]) -> None:
    assert read(prompt) == pieces


def test_only_a_break_outside_of_brackets_begins_another_chunk() -> None:
    assert [piece.is_break for piece in weighted_pieces("a BREAK b")] == [False, True, False]
    assert not any(piece.is_break for piece in weighted_pieces("(a BREAK b) (BREAK:-1)"))
    assert BREAK.is_break


SIGNS = st.sampled_from([*"()[]:,. \\", "cat", "a dog", ":1.3)", "((", "]]", ":0.5)", r"\(", r"\]", "é"])


@given(st.lists(SIGNS, max_size=16).map("".join))
def test_no_text_is_lost_or_added_but_brackets_weights_and_backslashes(prompt: str) -> None:
    letters = "".join(re.findall(r"[^\W\d_]", prompt))
    pieces = weighted_pieces(prompt)
    assert "".join(re.findall(r"[^\W\d_]", "".join(piece.text for piece in pieces))) == letters
    assert all(one.weight != other.weight for one, other in pairwise(pieces))


@pytest.mark.parametrize("text", [" " * 200_000, ":" + "1" * 200_000, ":1" + " " * 200_000, "a" + " " * 200_000])
def test_a_text_as_long_as_a_picture_may_have_is_read_before_the_test_ends(text: str) -> None:
    """`--again` reads texts of other programs whose length nobody has checked."""
    assert is_text_alone(text)


@given(st.text(st.characters(exclude_characters="()[]\\", exclude_categories=["Cs"]), max_size=60))
def test_escaped_brackets_are_text(text: str) -> None:
    prompt = f"({text})[{text}]\\".replace("\\", "\\\\").translate({ord(sign): f"\\{sign}" for sign in "()[]"})
    pieces = [piece for piece in weighted_pieces(prompt) if not piece.is_break]
    assert {piece.weight for piece in pieces} == {1.0}
    if "BREAK" not in text:
        assert pieces[0].text == f"({text})[{text}]\\"


def parameters(**values: Any) -> RenderParameters:
    return RenderParameters(**{"image": "file:///a", "prompt": "a cat", "prompt_syntax": "weighted"} | values)


@pytest.mark.parametrize(
    ("column", "prompt", "reason"),
    [
        ("prompt", "(cat:101)", "prompt gives 'cat' the weight 101; allowed with prompt_syntax weighted: -100 to 100"),
        ("prompt", "(cat:-100.5)", "prompt gives 'cat' the weight -100.5"),
        ("n_prompt", f"({'9' * 400}:{'9' * 400})", "n_prompt gives '9{40}' the weight inf"),
        ("n_prompt", "(" * 50 + "cat", "n_prompt gives 'cat' the weight 117"),
        ("prompt", "(" * 4000, "prompt nests brackets more than 100 deep; write a weight instead"),
        ("a_prompt", "[" * 4000, "prompt nests brackets more than 100 deep"),
    ],
)
def test_a_weight_that_engines_cannot_hold_is_an_error_of_the_row(column: str, prompt: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parameters(**{column: prompt})
    assert parameters(**{column: prompt, "prompt_syntax": "literal"})
    job = RenderJob.create(parameters(), batch="b", row=1, output="file:///o").model_dump_json()
    with pytest.raises(InvalidJob, match=r"gives|nests"):
        RenderJob.from_json(job.replace('"prompt":"a cat"', f'"prompt":"{prompt}"'))


def test_weights_that_are_applied_are_not_warned_of() -> None:
    row = {"prompt": r"(cat:1.3) (dog: 1.2 ) \(x\)", "a_prompt": "[sharp]", "n_prompt": "((bad))"}
    assert len(prompt_warnings(parameters(**row, prompt_syntax="literal"))) == 4
    assert prompt_warnings(parameters(**row)) == ()
    assert prompt_warnings(parameters(**row, long_prompts="chunk")) == ()


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        (
            "a [cat:dog:0.5]",
            "prompt has prompt schedules such as '[cat:dog:0.5]', which are read as words in brackets, at",
        ),
        ("a <lora:x:0.8> cat", "prompt has extra networks such as '<lora:x:0.8>', which are not loaded: merge them"),
        (
            "a cat AND a dog",
            "prompt has keywords such as 'AND', which are taken literally: write one prompt without AND",
        ),
        ("nan", "prompt has values such as 'nan'"),
        (
            "a (cat: 1,3)",
            "prompt has numbers that are no weights such as '(cat: 1,3)', which are rendered as words: write",
        ),
        ("a (cat:1,3)", "prompt has numbers that are no weights such as '(cat:1,3)'"),
        (
            "a (cat, dog",
            "prompt has brackets that are not closed such as '(cat, dog', which reach to the end of the prompt",
        ),
        ("[cat", "prompt has brackets that are not closed such as '[cat'"),
        ("a [[cat]:dog:0.5]", "prompt has prompt schedules such as '[[cat]:dog:0.5]'"),
        ("a cat # a dog\non a mat", "prompt has comments such as '# a dog', which are rendered as words: remove them"),
        ("(a BREAK b)", "prompt has BREAK within brackets such as 'BREAK', where it is a word with a negative weight"),
    ],
)
def test_what_is_not_applied_is_still_warned_of(prompt: str, sentence: str) -> None:
    warnings = prompt_warnings(parameters(prompt=prompt, long_prompts="chunk"))
    assert [warning[: len(sentence)] for warning in warnings] == [sentence]


def test_break_without_chunks_is_left_out_with_a_warning() -> None:
    (warning,) = prompt_warnings(parameters(prompt="a BREAK b"))
    assert warning == (
        "prompt has BREAK such as 'BREAK', which begins another chunk with long_prompts chunk only, and is left out "
        "here: take long_prompts chunk, or remove it"
    )
    assert prompt_warnings(parameters(prompt="a BREAK b", long_prompts="chunk")) == ()
    (literal,) = prompt_warnings(parameters(prompt="a BREAK b", long_prompts="chunk", prompt_syntax="literal"))
    assert literal.startswith("prompt has keywords such as 'BREAK', which are taken literally")
