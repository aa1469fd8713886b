"""Prompts -> token ids, equal to those of Stable Diffusion's CLIP tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as FastTokenizer


@dataclass(frozen=True, eq=False)
class Tokens:
    """int64 [77] with begin, end and padding; `cut` is the text that did not fit, or ''."""

    ids: np.ndarray
    cut: str


class Tokenizer:
    """The tokenizer.json of an engine set. Safe to use from many threads."""

    def __init__(self, path: Path, *, length: int, bos_token_id: int, eos_token_id: int, pad_token_id: int) -> None:
        self._tokenizer = FastTokenizer.from_file(str(path))
        # Cutting and padding happen in `encode`, which can tell what was cut; the file may or may not ask for either.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._length = length
        self._bos, self._eos, self._pad = bos_token_id, eos_token_id, pad_token_id

    def encode(self, text: str) -> Tokens:
        """Tokenise. Text that is too long is cut so that the begin and end tokens fit."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        room = self._length - 2
        kept = encoding.ids[:room]
        cut = text[encoding.offsets[room][0] :] if len(encoding.ids) > room else ""
        padding = [self._pad] * (room - len(kept))
        ids = np.array([self._bos, *kept, self._eos, *padding], dtype=np.int64)
        return Tokens(ids, cut)
