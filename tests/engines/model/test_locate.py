"""Digests of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from engines.model import locate as weights
from engines.model.locate import file_sha256


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1000], ids=lambda size: f"{size} bytes")
def test_a_files_digest_is_sha256sums_whatever_the_pieces(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "HASH_BYTES", 64)
    content = bytes(number % 251 for number in range(size))
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
