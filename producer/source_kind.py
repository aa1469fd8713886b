"""What kind of source rows come from: by the option --input-format, by the file's ending, and what its bytes betray."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from producer.exits import CommandFailed, Exit
from producer.table.folder import is_picture_name

FileFormat = Literal["csv", "tsv", "jsonl", "parquet"]
Kind = Literal["csv", "tsv", "jsonl", "parquet", "folder", "again"]
FORMATS: tuple[FileFormat, ...] = get_args(FileFormat)
NAMES = {"csv": "CSV", "tsv": "TSV", "jsonl": "JSON Lines", "parquet": "Parquet"}
# A file of any other ending is read as CSV.
ENDINGS: dict[str, FileFormat] = {
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
HEAD_BYTES = 64  # that tell what a file is
BLANK = b" \t\r\n"
UTF8_MARK = b"\xef\xbb\xbf"
# How files begin that are pictures, not tables of rows.
PICTURES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def kind_of(file: Path, *, is_folder: bool, input_format: str | None, again: bool) -> Kind:
    """The kind of a file or folder.

    Raises:
        CommandFailed: options that do not go together, or a picture that stands for a table.
    """
    if again:
        if input_format is not None:
            raise CommandFailed(Exit.USAGE, "--input-format is about a file of rows; --again reads pictures")
        if not is_folder:
            raise CommandFailed(
                Exit.USAGE, f"--again reads the pictures of a folder, and {file} is not a folder; name one"
            )
        return "again"
    if is_folder:
        if input_format is not None:
            raise CommandFailed(Exit.USAGE, f"--input-format is about a file, and {file} is a folder")
        return "folder"
    if input_format is not None:
        word = input_format.strip().lower()
        for known in FORMATS:
            if word == known:
                return known
        raise CommandFailed(Exit.USAGE, f"--input-format {input_format!r}: allowed: {', '.join(FORMATS)}")
    if is_picture_name(file.name):
        advice = "name its folder, with --prompt or --again, or a table of pictures (CSV, TSV, JSON Lines, Parquet)"
        raise CommandFailed(Exit.USAGE, f"{file} is a picture by its name; {advice}")
    return ENDINGS.get(file.suffix.lower(), "csv")


def why_not(head: bytes, kind: Kind) -> str | None:
    """What is wrong with a file of which the first bytes are of another kind than its name says; None: nothing.

    The reader of CSV says itself what is wrong with a spreadsheet and with UTF-16.
    """
    is_text = kind != "parquet"
    begin = head.removeprefix(UTF8_MARK).lstrip(BLANK)
    if head.startswith(b"\x1f\x8b"):
        return f"the file is compressed by gzip; unpack it: gunzip --stdout FILE | producer submit - {_format(kind)}"
    if head.startswith(PICTURES):
        return "the file is a picture; name a table of pictures, or a folder with --prompt or --again"
    if is_text and head.startswith(b"PAR1"):
        return f"the file is Parquet, not {NAMES[kind]}; give --input-format parquet, or call it .parquet"
    if kind in ("csv", "tsv") and begin.startswith(b"{"):
        return f"the file is JSON, not {NAMES[kind]}; give --input-format jsonl, or call it .jsonl, one object a line"
    return _no_json_lines(head, begin) if kind == "jsonl" else None


def _no_json_lines(head: bytes, begin: bytes) -> str | None:
    if head.startswith(b"PK\x03\x04"):
        return "the file is a spreadsheet or zip archive, not JSON Lines; export it as CSV UTF-8"
    if head.startswith(UTF16_MARKS):
        return "the file is UTF-16; save it as UTF-8"
    if begin.startswith(b"["):
        return "the file is one JSON array; write one object a line: jq --compact-output '.[]' FILE > jobs.jsonl"
    return None


def _format(kind: Kind) -> str:
    return f"--input-format {kind} --batch nightly"
