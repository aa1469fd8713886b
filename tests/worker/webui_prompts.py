"""How AUTOMATIC1111's web interface encodes a prompt, written from its documented rules and not from its code.

For prompts whose brackets are closed. Nothing of ours is imported here.
"""

from __future__ import annotations

import itertools
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOM = 75  # tokens of a chunk, between begin and end
NEAR = 20  # tokens: a comma that is so near to a full chunk's end ends it
Characters = list[tuple[str, float]]


class WebUiPrompts:
    """A model's tokenizer and text encoder, in float32."""

    def __init__(self, model: Path) -> None:
        """`model` is a folder in diffusers' layout."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries' remarks on each other
            from transformers import CLIPTextModel, CLIPTokenizer

        self._tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
        self.encoder = CLIPTextModel.from_pretrained(model / "text_encoder").eval()
        self._comma = self._tokenizer.convert_tokens_to_ids(",</w>")

    def encode(self, prompt: str, *, chunks: int = 1) -> Tensor:
        """[77 * k, width], with empty chunks at the end for at least so many."""
        laid_out = self._chunks(prompt)
        laid_out += [[]] * (chunks - len(laid_out))
        return torch.cat([self._encoded(chunk) for chunk in laid_out])

    def _chunks(self, prompt: str) -> list[list[tuple[int, float]]]:
        chunks = []
        for part in _between_breaks(_weighted(prompt)):
            tokens = [token for text, weight in _runs(part) for token in self._tokens(text, weight)]
            while len(tokens) > ROOM:
                end = self._end(tokens)
                chunks.append(tokens[:end])
                tokens = tokens[end:]
            chunks.append(tokens)
        return chunks

    def _tokens(self, text: str, weight: float) -> list[tuple[int, float]]:
        return [(id_, weight) for id_ in self._tokenizer(text, add_special_tokens=False).input_ids]

    def _end(self, tokens: list[tuple[int, float]]) -> int:
        commas = [place for place in range(ROOM) if tokens[place][0] == self._comma]
        moves = commas and ROOM - commas[-1] <= NEAR and tokens[ROOM][0] != self._comma
        return commas[-1] + 1 if moves else ROOM

    @torch.no_grad()
    def _encoded(self, chunk: list[tuple[int, float]]) -> Tensor:
        special: Any = self._tokenizer
        missing = ROOM - len(chunk)
        ids = [
            special.bos_token_id,
            *(id_ for id_, _ in chunk),
            special.eos_token_id,
            *[special.pad_token_id] * missing,
        ]
        weights = torch.tensor([1.0, *(weight for _, weight in chunk), *[1.0] * (missing + 1)])
        encoding: Tensor = self.encoder(torch.tensor([ids])).last_hidden_state[0]
        weighted = encoding * weights[:, None]
        return weighted * (encoding.mean() / weighted.mean())


def _weighted(prompt: str) -> Characters:
    """Each character with its weight; brackets, numbers and backslashes are gone."""
    characters, end, _ = _group(prompt, 0, "")
    assert end == len(prompt), prompt
    return characters


def _group(text: str, begin: int, closing: str) -> tuple[Characters, int, float]:
    """What stands up to `closing`, where that ends, and the factor that it says."""
    inside: Characters = []
    place = begin
    while place < len(text):
        sign = text[place]
        number = re.match(r":\s*([+-]?[\d.]+)\s*\)", text[place:]) if closing == ")" else None
        if sign == closing:
            return inside, place + 1, 1.1 if closing == ")" else 1 / 1.1
        if number:
            return inside, place + number.end(), float(number[1])
        if sign in "([":
            nested, place, factor = _group(text, place + 1, ")" if sign == "(" else "]")
            inside += [(character, weight * factor) for character, weight in nested]
            continue
        place += sign == "\\"
        inside.append((text[place], 1.0))
        place += 1
    return inside, place, 1.0


def _between_breaks(characters: Characters) -> list[Characters]:
    text = "".join(character for character, _ in characters)
    breaks = [match.span() for match in re.finditer(r"\s*\bBREAK\b\s*", text)]
    begins, ends = [0, *(end for _, end in breaks)], [*(begin for begin, _ in breaks), len(text)]
    return [characters[begin:end] for begin, end in zip(begins, ends, strict=True)]


def _runs(characters: Characters) -> list[tuple[str, float]]:
    groups = itertools.groupby(characters, key=lambda one: one[1])
    return [("".join(character for character, _ in group), weight) for weight, group in groups]
