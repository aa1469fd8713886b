"""The physical lines of a CSV, and what is wrong with single ones. Memory stays flat, whatever the file is."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import TextIO

from producer.table.problem import CsvMistakes, Problem, has_secrets, shown

LONGEST_LINE = 2**20  # characters of a line that is read; what follows in a longer one is left out
LONGEST_LEFT_OUT = 2**26  # characters; a larger "line" means that the file is not a CSV
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
ZIP_MARK = "PK\x03\x04"
SAVE_AS = "save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')"
UNDECODED = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of bytes that are not UTF-8


class Lines:
    """Iterates over physical lines with their line ends.

    A line that cannot be part of a CSV is given all the same, so that the next row begins where it does, and its
    problem is noted. `begin_record` forgets the lines of the record before. The file is to be opened with
    `errors="surrogateescape"` and `newline=""`.

    Raises:
        CsvMistakes: while iterating, if the file as a whole is not a CSV.
    """

    def __init__(self, file: TextIO) -> None:
        self.number = 0  # of the last line that was given
        self.of_record: list[str] = []
        self.damage: list[Problem] = []  # of the record's lines: they hold what no cell may hold
        self.undecoded: list[Problem] = []  # likewise: their bytes are not UTF-8
        self._file = file
        self._put_back: list[str] = []

    def begin_record(self) -> None:
        """Forget the lines of the record before."""
        self.of_record, self.damage, self.undecoded = [], [], []

    def put_back(self, line: str) -> None:
        """Give the last line once more."""
        self._put_back.append(line)
        self.number -= 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._put_back.pop() if self._put_back else self._read()
        self.number += 1
        self.of_record.append(line)
        if "\0" in line:
            self._damaged(self.number, "holds a NUL byte: this is a binary file or UTF-16 text")
        elif not line.isascii() and UNDECODED.search(line):
            message = undecodable(line.encode("utf-8", "surrogateescape"))
            self.undecoded.append(Problem(self.number, None, None, message))
        return line

    def _read(self) -> str:
        line = self._file.readline(LONGEST_LINE)
        if not line:
            raise StopIteration
        if self.number == 0:
            _check_first(line)
        if len(line) == LONGEST_LINE and line[-1] not in "\r\n":
            return self._shortened(line, self.number + 1)
        return line

    def _damaged(self, number: int, message: str) -> None:
        self.damage.append(Problem(number, None, None, message))

    def _shortened(self, line: str, number: int) -> str:
        """What stands for a line that is too long. Where its quotation marks are in pairs, the next row is known."""
        message = f"the line is longer than {LONGEST_LINE:,} characters: is this a CSV file?"
        quotes, left_out, piece = line.count('"'), 0, line
        while piece and piece[-1] not in "\r\n" and left_out < LONGEST_LEFT_OUT:
            piece = self._file.readline(LONGEST_LINE)
            quotes += piece.count('"')
            left_out += len(piece)
        if quotes % 2 or left_out >= LONGEST_LEFT_OUT or number == 1:
            raise CsvMistakes([Problem(number, None, None, message)])
        self._damaged(number, message)
        return shown(line).replace('"', "") + "\n"


def _check_first(line: str) -> None:
    message = None
    if line.encode("utf-8", "surrogateescape").startswith(UTF16_MARKS):
        message = f"the file is UTF-16 (a spreadsheet's 'Unicode text'); {SAVE_AS}"
    elif line.startswith(ZIP_MARK):
        message = "the file is a spreadsheet or zip archive, not a CSV; export it as CSV UTF-8"
    if message:
        raise CsvMistakes([Problem(1, None, None, message)])


def undecodable(line: bytes) -> str:
    """What is wrong with a line that is not UTF-8: the first such byte, and what it may have been."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = line[error.start]
        guess = line.decode("cp1252", errors="replace").strip()
        if has_secrets(guess):
            return f"byte 0x{byte:02X} is not UTF-8; {SAVE_AS}"
        around = guess[max(0, error.start - 20) : error.start + 20]
        return f"byte 0x{byte:02X} is not UTF-8; as Windows-1252 the text would be {around!r}; {SAVE_AS}"
    return f"the file is not UTF-8; {SAVE_AS}"
