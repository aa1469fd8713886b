"""A tokenizer is CLIP's, whole, and the text encoder's; everything else is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import CLIPTextConfig

from engines.errors import ModelRefused
from engines.model.tokenizer import SpecialTokens, check_tokenizer, save_tokenizer
from tests.models import tiny_model

TOKENS = SpecialTokens(912, 913, 913, 914, 77)
SD15 = SpecialTokens(49406, 49407, 49407, 49408, 77)


def files() -> dict[str, Any]:
    """The tiny model's tokenizer as vocab.json and merges.txt."""
    saved = json.loads((tiny_model() / "model" / "tokenizer" / "tokenizer.json").read_text())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in saved["merges"]]
    return {"vocab.json": saved["vocab"], "merges.txt": "\n".join(["#version: 0.2", *merges, ""])}


def write(folder: Path, contents: dict[str, Any]) -> Path:
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_the_tiny_models_tokenizer_is_its_text_encoders(tmp_path: Path) -> None:
    model = tiny_model() / "model"
    tokens = save_tokenizer(model / "tokenizer", tmp_path / "tokenizer.json")
    assert tokens == TOKENS
    check_tokenizer(model / "tokenizer", tokens, CLIPTextConfig.from_pretrained(model / "text_encoder"))


def test_a_file_that_asks_for_padding_and_cutting_is_a_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers 5.17 keeps what tokenizer.json asks for, and 5.24 does not."""
    backend = Tokenizer.from_file(str(tiny_model() / "model" / "tokenizer" / "tokenizer.json"))
    backend.enable_padding(pad_id=913, pad_token="<|endoftext|>", length=77)
    backend.enable_truncation(77)
    fast = SimpleNamespace(
        backend_tokenizer=backend, model_max_length=77, bos_token_id=912, eos_token_id=913, pad_token_id=913
    )
    monkeypatch.setattr("engines.model.tokenizer._read", lambda _: fast)
    assert save_tokenizer(tmp_path, tmp_path / "tokenizer.json") == TOKENS


@pytest.mark.parametrize("with_length", [True, False])
def test_vocab_and_merges_alone_are_a_tokenizer(tmp_path: Path, with_length: bool) -> None:
    """openai's original layout; a tokenizer without a length takes the text encoder's."""
    config = {"tokenizer_config.json": {"model_max_length": 77}} if with_length else {}
    folder = write(tmp_path / "tokenizer", files() | config)
    tokens = save_tokenizer(folder, tmp_path / "tokenizer.json")
    assert tokens == TOKENS._replace(length=77 if with_length else None)
    ids = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("a cat", add_special_tokens=False).ids
    vocabulary = files()["vocab.json"]
    assert ids == [vocabulary["a</w>"], vocabulary["cat</w>"]]


def _config(**fields: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda contents: contents | {"tokenizer_config.json": fields}


def _vocabulary(change: Callable[[dict[str, int]], dict[str, int]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda contents: contents | {"vocab.json": change(contents["vocab.json"])}


def _whole(tokenizer: Tokenizer) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda contents: {"tokenizer.json": json.loads(tokenizer.to_str())}


WORD_PIECE = Tokenizer(models.WordPiece({"[UNK]": 0, "[CLS]": 1, "cat": 2}, unk_token="[UNK]"))
UNIGRAM = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁a", -1.0)], 0))
BYTE_LEVEL = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3, "<|startoftext|>": 4}, [("a", "b")]))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda contents: {}, "it has neither tokenizer.json nor vocab.json with merges.txt; name another one with"),
        (lambda contents: {"vocab.json": contents["vocab.json"]}, "it has neither tokenizer.json nor vocab.json with"),
        (lambda contents: {"merges.txt": contents["merges.txt"]}, "it has neither tokenizer.json nor vocab.json with"),
        (
            lambda contents: {"tokenizer_config.json": {}},
            "it has neither tokenizer.json nor vocab.json with merges.txt",
        ),
        (_config(tokenizer_class="BertTokenizer"), "holds the tokenizer 'BertTokenizer', which is not CLIP's"),
        (
            lambda contents: {"spiece.model": "x", "tokenizer_config.json": {"tokenizer_class": "T5Tokenizer"}},
            "T5Token",
        ),
        (_whole(WORD_PIECE), "CLIP tokenizer"),
        (_whole(UNIGRAM), "CLIP tokenizer"),
        (_whole(BYTE_LEVEL), "510 of the 512 symbols for bytes are not in its vocabulary, such as '!'"),
        (
            lambda contents: contents | {"merges.txt": "#version: 0.2\n"},
            "400 pieces of the tokenizer's vocabulary, such",
        ),
        (
            lambda contents: contents | {"merges.txt": contents["merges.txt"][:500]},
            "are neither special tokens nor made",
        ),
        (lambda contents: contents | {"merges.txt": contents["merges.txt"] + "q q\n"}, "Token `qq` out of vocabulary"),
        (lambda contents: contents | {"vocab.json": "{"}, "cannot be read as a CLIP tokenizer"),
        (lambda contents: contents | {"vocab.json": "[1, 2]"}, "cannot be read as a CLIP tokenizer"),
        (lambda contents: contents | {"tokenizer_config.json": "["}, "tokenizer_config.json is not JSON"),
        (lambda contents: contents | {"tokenizer_config.json": "[" * 100_000}, "tokenizer_config.json is not JSON"),
        (lambda contents: contents | {"tokenizer_config.json": []}, "it holds list, no fields by name"),
        (
            _vocabulary(lambda ids: ids | {"cat</w>": 5000}),
            "914 tokens are not 0 to 913, each once: 690 is out of place",
        ),
        (_vocabulary(lambda ids: ids | {"cat</w>": ids["dog</w>"]}), "not 0 to"),
        (_config(model_max_length="long"), "the tokenizer's model_max_length is 'long', not a number"),
        (_config(pad_token=None), "the tokenizer has no pad token"),
        (_config(bos_token=None), "tokenizer"),
        (_config(bos_token=5), "cannot be read as a CLIP tokenizer"),
        (_config(bos_token="<|endoftext|>"), "the tokenizer has one id, 913, for begin and end"),
        (
            _config(eos_token="cat</w>", unk_token="cat</w>"),
            "the tokenizer's eos token is 'cat</w>', an ordinary piece",
        ),
    ],
)
def test_another_tokenizer_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], sentence: str
) -> None:
    folder = write(tmp_path / "tokenizer", change(files()))
    with pytest.raises(ModelRefused) as refused:
        save_tokenizer(folder, tmp_path / "tokenizer.json")
    assert str(folder) in str(refused.value)
    assert sentence in str(refused.value)
    assert not (tmp_path / "tokenizer.json").exists()


def encoder(**fields: Any) -> SimpleNamespace:
    return SimpleNamespace(
        **{
            "vocab_size": 49408,
            "max_position_embeddings": 77,
            "bos_token_id": 49406,
            "eos_token_id": 49407,
            "pad_token_id": 1,
        }
        | fields
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"pad_token_id": 49407},
        {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1},  # SD1.5's own
        {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None},
        {"eos_token_id": [49407]},
    ],
)
def test_a_text_encoder_may_hold_the_tokenizers_ids_or_the_old_placeholders(fields: dict[str, Any]) -> None:
    check_tokenizer(Path("tokenizer"), SD15, encoder(**fields))


def test_the_class_defaults_count_only_inside_of_the_vocabulary() -> None:
    """A small text encoder whose file names no special ids; transformers takes 49406 and 49407 for them."""
    check_tokenizer(Path("tokenizer"), TOKENS, CLIPTextConfig(vocab_size=914))
    swapped = SD15._replace(bos=49407, eos=49406)
    with pytest.raises(ModelRefused, match="bos_token_id is 49407, the text encoder's is 49406"):
        check_tokenizer(Path("tokenizer"), swapped, CLIPTextConfig())


@pytest.mark.parametrize(
    ("tokens", "fields", "sentence"),
    [
        (SD15._replace(vocabulary=49409), {}, "has 49409 tokens, the text encoder's vocab_size is 49408"),
        (SD15._replace(vocabulary=30522), {}, "has 30522 tokens, the text encoder's vocab_size is 49408"),
        (SD15._replace(length=512), {}, "model_max_length is 512, the text encoder's max_position_embeddings is 77"),
        (SD15._replace(length=64), {}, "model_max_length is 64, the text encoder's max_position_embeddings is 77"),
        (SD15, {"bos_token_id": 5}, "bos_token_id is 49406, the text encoder's is 5"),
        (SD15, {"eos_token_id": 49406}, "eos_token_id is 49407, the text encoder's is 49406"),
        (SD15, {"eos_token_id": 60000}, "eos_token_id is 49407, the text encoder's is 60000"),
        (SD15, {"pad_token_id": 7}, "pad_token_id is 49407, the text encoder's is 7"),
    ],
)
def test_sizes_and_special_ids_must_be_the_text_encoders(
    tokens: SpecialTokens, fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelRefused) as refused:
        check_tokenizer(Path("tokenizer"), tokens, encoder(**fields))
    assert str(refused.value).startswith("tokenizer: the tokenizer")
    assert sentence in str(refused.value)


def test_a_tokenizer_is_read_without_the_hub(tmp_path: Path) -> None:
    """The folder is copied: nothing but its files is needed."""
    folder = Path(shutil.copytree(tiny_model() / "model" / "tokenizer", tmp_path / "copy"))
    assert save_tokenizer(folder, tmp_path / "tokenizer.json") == TOKENS
