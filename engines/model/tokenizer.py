"""A model's tokenizer: written as the one file that workers read, and held against the text encoder.

A tokenizer that is not CLIP's, or not this text encoder's, gives wrong pictures without a word, or a job that fails.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engines.errors import ModelRefused
from engines.model.fields import shown
from engines.model.json_file import read_json
from engines.model.libraries import library, quiet_libraries
from engines.model.words import Word, add_words

# tokenizer_config.json's tokenizer_class where it is CLIP's, or says nothing.
_CLASSES = (None, "CLIPTokenizer", "CLIPTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
_END_OF_WORD = "</w>"
_HINT = "name another one with --tokenizer"
# Longer than any prompt: what transformers says where a tokenizer names no length.
_NO_LENGTH = 10**6
# Ids that stand in configurations of CLIP and mean nothing: transformers wrote them for years whatever the tokenizer's
# were, and SD1.5's own text encoder has all three.
_PLACEHOLDERS = {"bos": (None, 0), "eos": (None, 2), "pad": (None, 1)}
_DEFAULTS = {"bos": 49406, "eos": 49407}
# These have to differ from one another, and need every kind of symbol.
_PROBES = ("a photo of a cat", "two dogs on a beach", "0123456789", "!#%&*+-./:;<=>?@[]_{|}~", "ÄÖÜ äöü ß é 猫 🐈")


class SpecialTokens(NamedTuple):
    """Ids of the tokens that begin, end and pad a prompt; how many ids there are; and the tokens of a prompt.

    `vocabulary` is 0 and `length` None where they are not known.
    """

    bos: int
    eos: int
    pad: int
    vocabulary: int = 0
    length: float | None = None


def save_tokenizer(folder: Path, path: Path, words: Sequence[Word] = ()) -> SpecialTokens:
    """Write the tokenizer of `folder` as one `tokenizer.json` for the tokenizers package; it learns `words`.

    Raises:
        ModelRefused: the tokenizer's files are missing or cannot be read, or it is not CLIP's.
    """
    tokenizer = _read(folder)
    length = tokenizer.model_max_length
    if not isinstance(length, int | float):
        raise ModelRefused(f"{folder}: the tokenizer's model_max_length is {shown(length)}, not a number")
    length = None if length >= _NO_LENGTH else length
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    for name, given in special.items():
        if not isinstance(given, int):
            raise ModelRefused(f"{folder}: the tokenizer has no {name} token; {_HINT}")
    backend = tokenizer.backend_tokenizer
    ids = backend.get_vocab(with_added_tokens=True)
    _check_ids(folder, ids)
    saved = backend.to_str()
    _check_pieces(folder, json.loads(saved), ids, special)
    _check_probes(folder, saved, special)
    add_words(backend, words)
    backend.save(str(path))
    return SpecialTokens(**special, vocabulary=backend.get_vocab_size(with_added_tokens=True), length=length)


def check_tokenizer(folder: Path, tokens: SpecialTokens, config: Any) -> None:
    """Hold a tokenizer (read from `folder`) against the text encoder's configuration, transformers' CLIPTextConfig.

    The number of ids, the tokens of a prompt and the special ids must agree. A configuration may hold CLIP's
    placeholders instead of special ids (begin 0, end 2, padding 1: SD1.5's own does), and the class's defaults where
    they are not in its vocabulary.

    Raises:
        ModelRefused: saying what both say.
    """
    if tokens.vocabulary != config.vocab_size:
        raise ModelRefused(
            f"{folder}: the tokenizer has {tokens.vocabulary} tokens, the text encoder's vocab_size is "
            f"{config.vocab_size}: they belong to different models; {_HINT}"
        )
    if tokens.length is not None and tokens.length != config.max_position_embeddings:
        raise ModelRefused(
            f"{folder}: the tokenizer's model_max_length is {tokens.length}, the text encoder's "
            f"max_position_embeddings is {config.max_position_embeddings}; {_HINT}"
        )
    for name in ("bos", "eos", "pad"):
        own, said = getattr(tokens, name), getattr(config, f"{name}_token_id", None)
        default = _DEFAULTS.get(name)
        is_default = default is not None and said == default and default >= config.vocab_size
        if said in (own, [own]) or said in _PLACEHOLDERS[name] or is_default:
            continue
        raise ModelRefused(
            f"{folder}: the tokenizer's {name}_token_id is {own}, the text encoder's is {shown(said)}: they belong to "
            f"different models; {_HINT}"
        )


def _read(folder: Path) -> Any:
    """transformers' tokenizer of a folder. Without files to read it would make one that knows no word."""
    named = _class_of(folder)
    if named not in _CLASSES:
        raise ModelRefused(f"{folder} holds the tokenizer {shown(named)}, which is not CLIP's; {_HINT}")
    has = {name for name in ("tokenizer.json", "vocab.json", "merges.txt") if (folder / name).is_file()}
    if "tokenizer.json" not in has and has != {"vocab.json", "merges.txt"}:
        raise ModelRefused(
            f"{folder} holds no CLIP tokenizer: it has neither tokenizer.json nor vocab.json with merges.txt; {_HINT}"
        )
    try:
        with quiet_libraries():
            return _tokenizer_class().from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers package raises Exception itself
        raise ModelRefused(f"{folder} cannot be read as a CLIP tokenizer: {error}") from error


def _class_of(folder: Path) -> object:
    path = folder / "tokenizer_config.json"
    config = read_json(path, missing="") if path.is_file() else {}
    return config.get("tokenizer_class")


def _tokenizer_class() -> Any:
    transformers = library("transformers")
    # transformers 4 has a slow CLIPTokenizer and a fast one; in 5 both names mean the fast one.
    return getattr(transformers, "CLIPTokenizerFast", transformers.CLIPTokenizer)


def _check_ids(folder: Path, ids: dict[str, int]) -> None:
    """Each id from 0 on stands for one token: otherwise some are outside of the text encoder's table."""
    given = sorted(ids.values())
    if given != list(range(len(ids))):
        wrong = next(found for expected, found in enumerate(given) if found != expected)
        raise ModelRefused(
            f"{folder}: the ids of the tokenizer's {len(ids)} tokens are not 0 to {len(ids) - 1}, each once: {wrong} "
            "is out of place"
        )


def _check_pieces(folder: Path, saved: dict[str, Any], ids: dict[str, int], special: dict[str, int]) -> None:
    """CLIP's vocabulary is 256 symbols for bytes, inside and at the end of a word, and what the merges make of them."""
    model = saved["model"]
    if model.get("type") != "BPE" or model.get("end_of_word_suffix") != _END_OF_WORD or model.get("dropout"):
        raise ModelRefused(f"{folder} holds a {model.get('type')} tokenizer, which is not CLIP's; {_HINT}")
    symbols = library("tokenizers.pre_tokenizers").ByteLevel.alphabet()
    alphabet = {*symbols, *(symbol + _END_OF_WORD for symbol in symbols)}
    if missing := alphabet - set(ids):
        raise ModelRefused(
            f"{folder} holds no CLIP tokenizer: {len(missing)} of the 512 symbols for bytes are not in its vocabulary, "
            f"such as {min(missing)!r}; {_HINT}"
        )
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    words = alphabet | {"".join(pair) for pair in pairs}
    _check_special(folder, ids, special, words)
    named = {token["content"] for token in saved["added_tokens"]} | {
        piece for piece, number in ids.items() if number in special.values()
    }
    if unmade := set(ids) - words - named:
        raise ModelRefused(
            f"{folder}: {len(unmade)} pieces of the tokenizer's vocabulary, such as {min(unmade)!r}, are neither "
            "special tokens nor made by a merge: prompts would be cut into other tokens"
        )


def _check_special(folder: Path, ids: dict[str, int], special: dict[str, int], words: set[str]) -> None:
    """Begin and end are two tokens that no text has."""
    pieces = {number: piece for piece, number in ids.items()}
    for name in ("bos", "eos"):
        if pieces[special[name]] in words:
            raise ModelRefused(
                f"{folder}: the tokenizer's {name} token is {pieces[special[name]]!r}, an ordinary piece; {_HINT}"
            )
    if special["bos"] == special["eos"]:
        raise ModelRefused(f"{folder}: the tokenizer has one id, {special['bos']}, for begin and end; {_HINT}")


def _check_probes(folder: Path, saved: str, special: dict[str, int]) -> None:
    """Different prompts have different ids, and no text is unknown. The file may ask for padding; workers pad."""
    backend = library("tokenizers").Tokenizer.from_str(saved)
    backend.no_truncation()
    backend.no_padding()
    seen: dict[tuple[int, ...], str] = {}
    for probe in _PROBES:
        ids = tuple(backend.encode(probe, add_special_tokens=False).ids)
        if ids in seen or not ids or {special["bos"], special["eos"]} & set(ids):
            other = f", as for {seen[ids]!r}" if ids in seen else ""
            raise ModelRefused(
                f"{folder}: the tokenizer does not tell prompts apart: {probe!r} has the ids "
                f"{shown(list(ids))}{other}; {_HINT}"
            )
        seen[ids] = probe
