"""Digests of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from engines import files
from engines.files import file_sha256, write_whole


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1000], ids=lambda size: f"{size} bytes")
def test_a_files_digest_is_sha256sums_whatever_the_pieces(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "HASH_BYTES", 64)
    content = bytes(number % 251 for number in range(size))
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "one")
    write_whole(path, b"two")
    assert path.read_text() == "two"
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write_whole(tmp_path / "folder", "three")
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "folder"]
