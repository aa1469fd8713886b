"""Textual inversions of every trainer, the words that they get, and the ids that a worker's tokenizer makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engines.errors import ModelRefused
from engines.model.additions import Embedding, find_embeddings
from engines.model.embedding import own_word, vectors_of
from engines.model.locate import find_weights
from engines.model.networks import load_network
from engines.model.tokenizer import save_tokenizer
from engines.model.words import Word
from engines.source import AdditionNames
from tests.engines.model.loras import tiny_network
from tests.models import tiny_model
from worker.image.tokens import Tokenizer

VOCABULARY, WIDTH = 914, 32
VECTORS = torch.arange(2.0 * WIDTH).reshape(2, WIDTH) / 100


def a1111(vectors: Tensor, param: Any = dict) -> dict[str, Any]:
    """What AUTOMATIC1111's trainer saves; the first trainer had a torch container for the vectors."""
    params = param({"*": nn.Parameter(vectors)})
    return {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": params, "name": "other", "step": 5000}


def saved(content: dict[str, Any], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: tensor.clone() for name, tensor in content.items()}, path)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("my-style.pt", a1111(VECTORS), "my-style"),
        ("my-style.pt", a1111(VECTORS, nn.ParameterDict), "my-style"),
        ("my-style.bin", a1111(VECTORS.half().float()), "my-style"),
        ("my.style.safetensors", {"emb_params": VECTORS}, "my.style"),
        ("x.safetensors", {"clip_l": VECTORS}, "x"),
        ("learned_embeds.bin", {"<cat-toy>": VECTORS}, "<cat-toy>"),
        ("learned_embeds.safetensors", {"<cat-toy>": VECTORS}, "<cat-toy>"),
        ("one.bin", {"<one>": VECTORS[0]}, "<one>"),
        ("half.safetensors", {"<one>": VECTORS[:1].bfloat16()}, "<one>"),
    ],
)
def test_every_trainers_file_is_read(tmp_path: Path, name: str, content: dict[str, Any], word: str) -> None:
    path = saved(content, tmp_path / name)
    assert own_word(path) == word
    vectors = vectors_of(Embedding(path, word), 75)
    assert vectors.dtype == torch.float32
    assert torch.allclose(vectors, VECTORS[: len(vectors)], atol=0.01)
    assert len(vectors) == (1 if name in ("one.bin", "half.safetensors") else 2)
    assert find_embeddings([str(path), f"{path}:other: one"], own_word)[1].word == "other: one"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"clip_l": VECTORS, "clip_g": VECTORS}, "is an embedding for SDXL (it has clip_g)"),
        (
            {"<a>": VECTORS, "<b>": VECTORS},
            "is not a textual inversion: it holds 2 tensors, not one; --embedding takes a file with one word's vectors",
        ),
        ({"lora_unet_x.lora_down.weight": VECTORS, "y": VECTORS}, "holds 2 tensors, not one; it looks like a LoRA"),
        ({"<a>": torch.ones(2, 2, 2)}, "<a> holds no vectors of floating-point numbers"),
        ({"<a>": torch.ones(2, 2, dtype=torch.int64)}, "<a> holds no vectors of floating-point numbers"),
        ({"<a>": torch.full((2, 2), torch.inf)}, "<a> is empty, or has values that are NaN or infinite"),
        ({"<a>": torch.ones(0, 2)}, "<a> is empty, or has values that are NaN or infinite"),
        ({"<a>": torch.ones(76, 2)}, "has 76 vectors, and a prompt has room for 75 tokens"),
    ],
)
def test_what_is_no_embedding_of_sd15_is_refused(tmp_path: Path, content: dict[str, Tensor], sentence: str) -> None:
    path = saved(content, tmp_path / "word.safetensors")
    with pytest.raises(ModelRefused) as refused:
        vectors_of(Embedding(path, "word"), 75)
    assert str(refused.value).startswith(f"{path} ")
    assert sentence in str(refused.value)


def test_a_pickle_of_several_words_is_refused(tmp_path: Path) -> None:
    content = {"string_to_param": {"a": VECTORS, "b": VECTORS}}
    with pytest.raises(ModelRefused, match="is a textual inversion of several words, or of no word"):
        own_word(saved(content, tmp_path / "words.pt"))


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="holds more than tensors, and loading that could run any code"):
        own_word(saved({"string_to_param": {"*": Embedding(tmp_path, "w")}}, tmp_path / "evil.pt"))


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["a.bin:Word", "b.bin:word"], "have the same word, 'word'; give one of them another: FILE:word"),
        (["a.bin: "], "'' cannot be a word in prompts; write FILE:word"),
        (["a.bin:a\nb"], "cannot be a word in prompts; write FILE:word"),
        (["c.bin"], "--embedding c.bin: no such file is here; write FILE or FILE:word"),
    ],
)
def test_words_that_cannot_be_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], sentence: str
) -> None:
    for name in ("a.bin", "b.bin"):
        saved({"<a>": VECTORS}, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelRefused) as refused:
        find_embeddings(names, own_word)
    assert sentence in str(refused.value)


def tokenizer(folder: Path, words: Sequence[Word]) -> Tokenizer:
    """As a worker reads the tokenizer.json of a set."""
    path = folder / "tokenizer.json"
    tokens = save_tokenizer(tiny_model() / "model" / "tokenizer", path, words)
    assert tokens.vocabulary == VOCABULARY + sum(word.vectors for word in words)
    ids = {"bos_token_id": tokens.bos, "eos_token_id": tokens.eos, "pad_token_id": tokens.pad}
    return Tokenizer(path, length=77, **ids)


def ids_of(tokens: np.ndarray) -> list[int]:
    """Those that are not the tiny vocabulary's own: begin, end, padding, and its pieces."""
    return [int(token) for token in tokens if token >= VOCABULARY]


def test_a_word_becomes_the_ids_of_its_vectors(tmp_path: Path) -> None:
    words = tokenizer(tmp_path, [Word("cat", 1), Word("<Cat-Toy>", 3), Word("my style", 2), Word("cat.v2", 1)])
    first = VOCABULARY
    for text, ids in (
        ("a cat and a CAT, (cat)", [first] * 3),
        ("category, bobcat, cat_2", []),
        ("a photo of<cat-toy>s", [first + 1, first + 2, first + 3]),
        ("in My   Style!", [first + 4, first + 5]),
        ("cat.v2 cat", [first + 6, first]),
    ):
        assert ids_of(words.encode(text).ids) == ids, text
    plain = tokenizer(tmp_path, [])
    text = "a photo of a dog, best quality"
    assert np.array_equal(words.encode(text).ids, plain.encode(text).ids)


def test_several_vectors_count_towards_the_length_of_a_prompt(tmp_path: Path) -> None:
    words = tokenizer(tmp_path, [Word("<toy>", 10)])
    whole = words.encode("<toy> " * 7 + "a a a a a")
    assert whole.cut == ""
    assert len(ids_of(whole.ids)) == 70
    cut = words.encode("<toy> " * 7 + "a a a a a dog")
    assert cut.cut == "dog"
    assert len(ids_of(words.encode("<toy> " * 8).ids)) == 75


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([Word("a  b", 1), Word("A b", 1)], "reads the word 'A b' as 'a b', which another embedding has"),
        ([Word(" ", 1)], "reads the word ' ' as '', which is not a word"),
        ([Word("<|endoftext|>", 1)], "'<|endoftext|>' is a token that the tokenizer has already; write FILE:word"),
    ],
)
def test_words_that_are_one_to_the_tokenizer_are_refused(tmp_path: Path, words: list[Word], sentence: str) -> None:
    with pytest.raises(ModelRefused) as refused:
        tokenizer(tmp_path, words)
    assert sentence in str(refused.value)


def test_the_text_encoder_learns_the_vectors_and_leaves_out_layers_as_diffusers_does(tmp_path: Path) -> None:
    path = saved({"emb_params": VECTORS}, tmp_path / "style.safetensors")
    plain = tiny_network("text_encoder")
    mine = tiny_network("text_encoder", AdditionNames(embeddings=(str(path),), clip_skip=2))
    assert mine.config.vocab_size == VOCABULARY + 2
    assert torch.equal(mine.get_input_embeddings().weight[VOCABULARY:], VECTORS)
    ids = torch.randint(0, VOCABULARY, (2, 77), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        states = plain(ids, output_hidden_states=True).hidden_states
        norm = getattr(plain, "text_model", plain).final_layer_norm
        assert torch.equal(mine(ids).last_hidden_state, norm(states[-2]))
        assert not torch.equal(mine(ids).last_hidden_state, plain(ids).last_hidden_state)


def test_vectors_that_half_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    path = saved({"emb_params": VECTORS * 1e6}, tmp_path / "style.safetensors")
    names = AdditionNames(embeddings=(str(path),))
    weights = find_weights(str(tiny_model() / "model"), str(tiny_model() / "controlnet"), additions=names)
    load_network("text_encoder", weights, torch.float32)
    with pytest.raises(ModelRefused, match=r"style.safetensors has values that are too large for float16: build with"):
        load_network("text_encoder", weights, torch.float16)


@pytest.mark.parametrize(
    ("additions", "sentence"),
    [
        ({"clip_skip": 3}, "the text encoder has 2 layers: --clip-skip takes 1 (its last layer) to 2"),
        ({"clip_skip": 0}, "--clip-skip 0: the text encoder's last layer is 1, the one before it 2"),
        ({"embeddings": ("wide.safetensors",)}, "its vectors are 64 wide, and those of this text encoder 32"),
    ],
)
def test_what_does_not_fit_the_text_encoder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, additions: dict[str, Any], sentence: str
) -> None:
    saved({"emb_params": torch.ones(1, 64)}, tmp_path / "wide.safetensors")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelRefused) as refused:
        tiny_network("text_encoder", AdditionNames(**additions))
    assert sentence in str(refused.value)
