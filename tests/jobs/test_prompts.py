"""Prompts that other tools would interpret, and values that are none, are found; plain text is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.job import DEFAULT_A_PROMPT, DEFAULT_N_PROMPT, RenderParameters
from jobs.prompt_kinds import KINDS
from jobs.prompts import LONGEST_EXAMPLE, prompt_remarks, prompt_warnings

# Kind -> prompts of that kind, with what is shown of each.
FOUND: dict[str, dict[str, str]] = {
    "prompt weights": {
        "a (cat:1.3) on a mat": "(cat:1.3)",
        "(red hair:1), dog": "(red hair:1)",
        "( cat : 1.3 )": "( cat : 1.3 )",
        "(cat:.5)": "(cat:.5)",
        "(cat:-1)": "(cat:-1)",
        "(1girl:1.2)": "(1girl:1.2)",
        "(zoom:2.5)": "(zoom:2.5)",
        "(cat :1.2)": "(cat :1.2)",
        "a (cat:1.3": "(cat:1.3",
        "(cat:1.3, a (big) dog": "(cat:1.3",
    },
    "emphasis brackets": {
        "((cat))": "((cat))",
        "(((best quality))), a cat": "(((best quality)))",
        "((a cat), sharp)": "((a cat), sharp)",
        "a [cat] on a mat": "[cat]",
        "[cat": "[cat",
        "a dog, [cat on a mat": "[cat on a mat",
        "((masterpiece, a cat": "((masterpiece, a cat",
    },
    "prompt schedules": {"[cat:dog:0.5]": "[cat:dog:0.5]", "[cat:10]": "[cat:10]", "a [cat|dog]": "[cat|dog]",
                         "[[cat]:dog:0.5]": "[[cat]:dog:0.5]", "a [b [c]|d] e]": "[b [c]|d]"},
    "extra networks": {"a <lora:x:0.8> b": "<lora:x:0.8>", "<hypernet:x>": "<hypernet:x>", "<lyco:y:1>": "<lyco:y:1>",
                       "a <lora:x:0.8, b": "<lora:x:0.8"},
    "embeddings": {"embedding:easy, bad": "embedding:easy"} | {text: text for text in (
        "EasyNegative", "badhandv4", "easynegative", "EasyNegativeV2", "NG_DeepNegative_V1_75T",
        "ng_deepnegative_v1_75t", "FastNegativeV2", "verybadimagenegative_v1.3", "bad-hands-5", "bad_prompt_version2",
        "bad-artist", "BadDream", "bad-picture-chill-75v", "negative_hand", "ac_neg1", "-neg", "epiCNegative",
    )},
    "words in angle brackets": {"a <cat-toy>": "<cat-toy>", "<b>bold</b>": "<b>", "a cat, <empty>": "<empty>",
                                "text</b>": "</b>", "one<br>two": "<br>"},
    "keywords": {"a cat AND a dog": "AND", "1girl BREAK red hair": "BREAK", "best quality, 8K, BREAK, a cat": "BREAK"},
    "braces": {"{red|blue} cat": "{red|blue}", "a photo of {subject}": "{subject}", "{{cat}}": "{cat}"},
    "wildcards": {"a __animal__": "__animal__", "__scenes/night__": "__scenes/night__"},
    "weights of compel": {"cat++ here": "cat++", "(a cat)1.3": "cat)1.3", "(cats)++": "(cats)++", "x, dog--": "dog--",
                          "dog--, x": "dog--", "a b.swap(c)": "b.swap("},
    "parameters of other programs": {
        "a cat --ar 16:9": "--ar 16:9", "--no text": "--no text", "cat::2 dog": "cat::2", "a 1.3::cat::": "1.3::",
        "a cat --no dogs": "--no dogs", "a cat --v 5": "--v 5", "a cat --tile": "--tile", "a cat –ar 16:9": "–ar 16:9",
        "a cat\nNegative prompt: dog": "cat\nNegative prompt:", "a cat Steps: 20, Sampler: Euler": "Steps: 20,",
    },
    "escaped brackets": {r"saber \(fate\)": r"\(fate\)"},
    "values": {text: text for text in (
        "nan", "NaN", "#NAME?", "#REF!", "#N/A", "#VALUE!", "#DIV/0!", "#NUM!", "#NULL!", "#SPILL!", "#BEZUG!", "None",
        "none", "null", "NULL", "undefined", "N/A", "NA", "TRUE", "false", "-", "0", "#####", "Err:502", "<NA>",
        "[object Object]", "inf", "-inf", "[]", "{}", "1", "1.0", "2", "nan nan", "None None", "nan nan nan", "#¡REF!",
        "#NV", "#NOM?", "#ERROR!",
    )} | {"nan, oil painting": "nan", "a photo of #REF!, red": "#REF!", "oil painting, None": "None", " nan ": "nan",
    "a photo of nan": "nan", "a photo of None": "None", "a photo of nan, oil painting": "nan", "a red None": "None",
    "a cat and a dog in undefined": "undefined", "by null, sharp": "null", "a cat, nan, a dog": "nan",
    "a None cat": "None", "a photo of NaN in the rain": "NaN"},
    "formulas": {"=A1&B1": "=A1&B1", "=CONCAT(A1,B1)": "=CONCAT(A1,B1)", "='x'!A1": "='x'!A1",
                 "=-A1": "=-A1", "=(A1&B1)": "=(A1&B1)", '="007"': '="007"', "=Sheet1!A1": "=Sheet1!A1"},
}  # fmt: skip

PLAIN = (
    "a cat (sitting)", "a cat (sitting, happy). A dog", "a photo (16:9)", "the gospel (John 3:16)", "at noon (12:30)",
    "a sign that says SALT AND PEPPER", "COFFEE BREAK sign", "the words 'AND' and \"BREAK\"", "a CAT AND DOG shop",
    "a C++ book", "happy, :3)", "a sad cat :(( ", "see [1]", "I <3 cats", "5 < 6 > 4", "a cat -- sitting",
    "snake_case_name", "fill in ____", "a banana", "None of them is red", "a nun, null and void", "undefined shapes",
    "(ISO:100)", "wide shot (ratio 2.35:1)", "R&B", "a painting: oil on canvas", "a man (age: 5)", "18+",
    "Disney+", "50% off", "a $5 bill", "naïve café", "東京の猫", "a hand and a bandana", "close-up", "#cat", "#1 fan",
    "=^.^= cat", "f/1.8", "f(x)", "5'10\"", "AND1 shoes", "true love", "a negative space", "x", "", " ", "the number 0",
    # signs and hashtags
    "a #SALE! sign", "#METOO!", "#WOW! a dog", "#50 OFF!", "#NAMEDAY?", "no #REFUNDS!",
    # dashes and plus signs of people and of names
    "waiting--", "wow---", "café--", "he was waiting--", "Google++", "Notepad++ icon", "a libstdc++ logo", "grade A++",
    "(2)1.5", "level (3)2.0", "he said --no", "--no parking", "a cat --no, wait", "do not enter --stop", "version --v",
    # less and greater, names of programs, blanks of a form
    "x<y and y>z", "vector<int>", "std::vector<int>", "__init__", "__init__.py", "name: __________", "a_b__c_d__e",
    "__ and __", "8::30", "at 8::30", "10::20", "2001:db8::1", "Steps: 10, stairs",
    "Steps: 5, Size of feet", "negative space", "a fast negative film", "bad-tempered",
    # numbers that are measured
    "(f: 1.8)", "(f:1.8)", "(aspect ratio: 1.85)", "(Ratio: 2.39)", "(EV: +0.7)", "(he is tall: 1.85)",
    # capitals
    "R2-D2 AND C-3PO", "100% COTTON AND 5% WOOL", "DAY 1 AND DAY 2", "“PEACE AND LOVE” graffiti",
    "THE GOOD AND THE BAD",
    # words
    "nan, bread", "nan bread", "nan, an Indian grandmother", "curry with nan", "an old nan", "my nan, smiling",
    "none, cat", "null hypothesis, undefined, math", "null hypothesis", "And Then There Were None",
    "a sign that says None", "1984", "007", "the lives of None of them", "Nan Goldin", "a nan from Delhi",
    "Infinity", "text: None",
    # faces and drawings
    "=(", "=-)", "=)", "=D", "=P", "=3", "='hi'", "=sum of parts", "=(cat)", "{^_^}", "\\(^o^)/", "smile :-] and [:",
    "C:\\path\\(x)", ":((so sad",
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "text", "example"),
    [(kind, text, example) for kind, texts in FOUND.items() for text, example in texts.items()],
)
def test_what_other_tools_and_spreadsheets_write_is_found(kind: str, text: str, example: str) -> None:
    assert (kind, repr(example)) in [(remark.kind.name, remark.example) for remark in prompt_remarks(text)]


def test_every_kind_has_examples() -> None:
    assert {kind.name for kind in KINDS} == set(FOUND)


@pytest.mark.parametrize("text", PLAIN)
def test_plain_text_is_left_alone(text: str) -> None:
    assert prompt_remarks(text) == ()


PIECES = (
    [text for texts in FOUND.values() for text in texts] + list(PLAIN) + list("()[]{}<>|:;,.+-_#=\\ \n") + ["AND", "é"]
)


@given(st.lists(st.sampled_from(PIECES), max_size=8), st.sampled_from(["", " ", ", "]))
def test_the_quick_look_passes_over_nothing_that_a_kind_finds(pieces: list[str], between: str) -> None:
    text = between.join(pieces)
    slowly = {kind.name for kind in KINDS if kind.find(text) is not None}
    assert {remark.kind.name for remark in prompt_remarks(text)} == slowly


def test_a_prompt_made_to_be_slow_is_searched_in_steps_that_grow_with_its_length() -> None:
    for piece in (*PIECES, "(a:1.3,", "[a", "((a", "{a", "<a ", "__a", "a++", ", nan", "\\(a"):
        for text in ((piece * 4000)[:4000], f"{piece} " * (4000 // (len(piece) + 1))):
            prompt_remarks(text)  # the suite's time limit would end a search that is not


def test_each_prompt_of_a_row_is_looked_at_and_named() -> None:
    row = RenderParameters(image="file:///a", prompt="(cat:1.3)", a_prompt="[sharp]", n_prompt="None")
    assert prompt_warnings(row) == (
        "prompt has prompt weights such as '(cat:1.3)', which are taken literally: write the words alone, "
        "or set prompt_syntax to weighted",
        "a_prompt has emphasis brackets such as '[sharp]', which are taken literally: write the words alone, "
        "or set prompt_syntax to weighted",
        "n_prompt has values such as 'None', which programs write for an error or for nothing, and which are rendered "
        "as words: correct it, or write <empty> for an empty prompt",
    )


def test_the_defaults_and_empty_prompts_are_not_warned_of() -> None:
    assert prompt_remarks(DEFAULT_A_PROMPT) == prompt_remarks(DEFAULT_N_PROMPT) == ()
    assert prompt_warnings(RenderParameters(image="file:///a", prompt=" ", a_prompt="", n_prompt="")) == ()


def test_a_long_example_is_cut_and_control_characters_are_not_shown() -> None:
    (remark,) = prompt_remarks(f"(\x1b[2J{'cat ' * 50}:1.3)")
    assert "\x1b" not in remark.example
    assert len(remark.example) < LONGEST_EXAMPLE + 10
