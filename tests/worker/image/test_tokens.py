"""Token ids equal those of transformers' CLIPTokenizer."""

from __future__ import annotations

import functools
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.manifest import load_manifest
from engines.model.tokenizer import save_tokenizer
from engines.model.words import Word
from jobs.job import EMPTY_PROMPT
from tests.models import tiny_engine_set, tiny_model
from worker.image.embedding_words import embedding_words
from worker.image.tokens import Tokenizer

LENGTH = 77
WORDS = st.lists(st.sampled_from(["a", "an", "cat", "picture", "best", "blue,", "(red:1.2)", "ünïcødé", "12345", "!?"]))


@functools.cache
def ours() -> Tokenizer:
    engines = tiny_engine_set()
    geometry = load_manifest(engines).geometry
    return Tokenizer(
        engines / "tokenizer.json",
        length=geometry.context_length,
        bos_token_id=geometry.bos_token_id,
        eos_token_id=geometry.eos_token_id,
        pad_token_id=geometry.pad_token_id,
    )


@functools.cache
def reference() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' remarks on each other
        from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(tiny_model() / "model" / "tokenizer")


def reference_ids(text: str) -> list[int]:
    ids: list[int] = reference()(text, padding="max_length", max_length=LENGTH, truncation=True).input_ids
    return ids


TEXTS = ["", "a", "a photo of a cat", "  spaces\tand\nlines  ", "ÜBER Größe", "猫 🐈", "a" * 3000]


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_transformers(text: str) -> None:
    ids = ours().encode(text).ids
    assert ids.dtype == np.int64
    assert ids.tolist() == reference_ids(text)


def test_the_empty_prompt_that_a_job_holds_has_the_tokens_of_no_text() -> None:
    assert ours().encode(EMPTY_PROMPT).ids.tolist() == ours().encode("").ids.tolist() == reference_ids("")


@given(WORDS.map(" ".join) | st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), max_size=120))
@settings(deadline=None, max_examples=80)
def test_ids_are_those_of_transformers_for_any_text(text: str) -> None:
    tokens = ours().encode(text)
    assert tokens.ids.tolist() == reference_ids(text)
    assert text.endswith(tokens.cut)


@pytest.mark.parametrize(
    ("written", "cleaned"),
    [
        ("the cat\u2019s \u201cbest\u201d hat", 'the cat\'s "best" hat'),
        ("\uff23\uff41\uff54\uff0c blue", "Cat, blue"),
        ("salt &amp; pepper", "salt & pepper"),
        ("&lt;b&gt; &quot;x&quot;", '<b> "x"'),
        ("\ufb01re", "fire"),
        ("caf\u00c3\u00a9", "caf\u00e9"),
    ],
    ids=["curly quotes", "full width", "ampersand", "entities", "ligature", "wrong decoding"],
)
def test_text_is_not_cleaned_as_ftfy_would(written: str, cleaned: str) -> None:
    """transformers 5 and the fast tokenizers of 4 do not clean; the original's tokenizer and open_clip do."""
    assert ours().encode(written).ids.tolist() == reference_ids(written)
    assert ours().encode(written).ids.tolist() != reference_ids(cleaned)


@pytest.mark.parametrize(
    ("written", "same"), [("cafe\u0301", "caf\u00e9"), ("a\u00a0cat\u3000b", "a cat b"), ("A CAT", "a cat")]
)
def test_composition_white_space_and_case_are_normalised(written: str, same: str) -> None:
    assert ours().encode(written).ids.tolist() == ours().encode(same).ids.tolist()


def test_what_does_not_fit_between_begin_and_end_is_cut_and_named() -> None:
    words = [f"{'cat' if n % 2 else 'dog'}" for n in range(100)]
    tokens = ours().encode(" ".join(words))
    assert len(tokens.ids) == LENGTH
    assert tokens.cut == " ".join(words[LENGTH - 2 :])
    assert tokens.ids[-1] == reference().eos_token_id


def test_a_text_that_just_fits_is_not_cut() -> None:
    tokens = ours().encode(" ".join(["cat"] * (LENGTH - 2)))
    assert tokens.cut == ""
    assert tokens.ids[-1] == reference().eos_token_id
    assert ours().encode(" ".join(["cat"] * (LENGTH - 1))).cut == "cat"


def test_many_threads_may_share_a_tokenizer() -> None:
    texts = [f"a painting of thing number {n}" for n in range(60)]
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(ours().encode, texts))
    for text, tokens in zip(texts, results, strict=True):
        assert tokens.ids.tolist() == reference_ids(text)


def test_padding_is_the_models_own_token() -> None:
    """Stable Diffusion 2 pads with 0 where 1.5 repeats the end."""
    path = tiny_engine_set() / "tokenizer.json"
    tokenizer = Tokenizer(path, length=LENGTH, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    ids = tokenizer.encode("").ids
    assert ids.tolist() == [1, 2] + [0] * (LENGTH - 2)


def test_what_the_file_says_about_cutting_and_padding_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    content = json.loads((tiny_engine_set() / "tokenizer.json").read_text())
    cutting = {"max_length": 5, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    path.write_text(json.dumps(content | {"truncation": cutting, "padding": None}))
    eos = reference().eos_token_id
    tokenizer = Tokenizer(
        path, length=LENGTH, bos_token_id=reference().bos_token_id, eos_token_id=eos, pad_token_id=eos
    )
    text = "a photo of a cat " * 30
    assert tokenizer.encode(text).ids.tolist() == reference_ids(text)
    assert tokenizer.encode(text).cut == ours().encode(text).cut != ""


def test_text_that_is_too_long_fills_more_chunks_each_with_begin_end_and_padding() -> None:
    text = " ".join(["cat"] * 100)
    tokens = ours().encode(text, chunk=True)
    assert (tokens.chunks, len(tokens.ids), tokens.cut, tokens.weights) == (2, 2 * LENGTH, "", None)
    assert tokens.ids[:LENGTH].tolist() == reference_ids(text)
    assert tokens.ids[LENGTH:].tolist() == reference_ids(" ".join(["cat"] * 25))


@pytest.mark.parametrize("text", TEXTS[:-1])
def test_a_short_text_is_the_same_in_chunks_and_with_weights_that_it_does_not_have(text: str) -> None:
    for values in ({"chunk": True}, {"weighted": True}, {"chunk": True, "weighted": True}):
        tokens = ours().encode(text, **values)
        assert tokens.ids.tolist() == reference_ids(text)
        assert (tokens.chunks, tokens.weights) == (1, None)


def test_the_comma_at_which_a_chunk_ends_is_the_tokenizer_s() -> None:
    tokens = ours().encode(" ".join(["cat"] * 60) + ", " + " ".join(["dog"] * 30), chunk=True)
    assert tokens.ids[LENGTH:].tolist() == reference_ids(" ".join(["dog"] * 30))


def test_an_embedding_s_word_is_known_from_the_tokenizer_s_file_and_stays_in_one_chunk(tmp_path: Path) -> None:
    path, words = tmp_path / "tokenizer.json", [Word("toy", 4), Word("my style", 1), Word("<ink>", 2)]
    special = save_tokenizer(tiny_model() / "model" / "tokenizer", path, words)
    ids = {"bos_token_id": special.bos, "eos_token_id": special.eos, "pad_token_id": special.pad}
    first = special.vocabulary - 7
    assert embedding_words(path.read_text()) == {first: 4, first + 4: 1, first + 5: 2}
    assert embedding_words((tiny_engine_set() / "tokenizer.json").read_text()) == {}
    tokenizer = Tokenizer(path, length=LENGTH, **ids)
    chunks = tokenizer.encode(" ".join(["cat"] * 73) + " (toy:1.2) toy", chunk=True, weighted=True)
    toy = list(range(first, first + 4))
    assert chunks.ids[LENGTH : LENGTH + 9].tolist() == [special.bos, *toy, *toy]
    assert chunks.weights is not None
    assert chunks.weights[LENGTH + 1 : LENGTH + 6].tolist() == [*[np.float32(1.2)] * 4, 1.0]
    assert chunks.ids[74:LENGTH].tolist() == [special.eos, *[special.pad] * 2]


def test_weights_stand_beside_their_tokens() -> None:
    tokens = ours().encode("a (cat:1.5) [dog]", weighted=True)
    assert tokens.ids.tolist() == reference_ids("a cat dog")
    assert tokens.weights is not None
    assert tokens.weights.dtype == np.float32
    plain = [
        len(reference_ids(part)) - reference_ids(part).count(reference().eos_token_id) - 1 for part in ("a", "cat")
    ]
    first = 1 + plain[0]
    assert tokens.weights[first : first + plain[1]].tolist() == [1.5] * plain[1]
    assert tokens.weights[0] == tokens.weights[-1] == 1.0


def test_what_is_cut_is_named_without_its_brackets() -> None:
    words = " ".join(["cat"] * 74)
    tokens = ours().encode(f"{words} (dog cat:1.2) BREAK [dog]", weighted=True)
    assert tokens.cut == "cat dog"
    assert tokens.weights is not None
    assert tokens.weights[LENGTH - 2] == np.float32(1.2)


def test_a_shorter_prompt_is_lengthened_by_empty_chunks() -> None:
    for text in ("", "a (cat:1.5)"):
        short = ours().encode(text, chunk=True, weighted=True)
        longer = ours().lengthened(short, 3)
        assert (longer.chunks, len(longer.ids)) == (3, 3 * LENGTH)
        assert longer.ids.tolist() == short.ids.tolist() + 2 * reference_ids("")
        if short.weights is None:
            assert longer.weights is None
        else:
            assert longer.weights is not None
            assert longer.weights.tolist() == short.weights.tolist() + [1.0] * 2 * LENGTH
    assert ours().lengthened(short, 1) is short


def test_every_chunk_is_padded_with_the_models_own_token() -> None:
    path = tiny_engine_set() / "tokenizer.json"
    tokenizer = Tokenizer(path, length=LENGTH, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    ids = tokenizer.encode("BREAK", chunk=True, weighted=True).ids
    assert ids.tolist() == [1, 2] + [0] * (LENGTH - 2)
    assert tokenizer.encode("BREAK BREAK", chunk=True, weighted=True).ids.tolist() == 2 * ([1, 2] + [0] * (LENGTH - 2))
