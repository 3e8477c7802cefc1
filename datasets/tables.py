"""CSV tables as people write them: prompts, and lists of finished videos.

Commas, semicolons or tabs; UTF-8 or UTF-16, with or without a byte order mark; headers in any case; empty
rows and columns as spreadsheets leave them.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.errors import InputError, nearest
from datasets.media.video import VIDEO_SUFFIXES

DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Row:
    """One row: its line in the file, its cells by column, and how it looks, for messages.

    Cells are stripped; a column that the table lacks, or an empty cell, is ``""``.
    """

    line: int
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")

    def __str__(self) -> str:
        return f"line {self.line}: {','.join(self.cells.values())}"


def read_table(path: Path, required: Sequence[str], optional: Sequence[str], key: str = "") -> list[Row]:
    """The rows of a CSV file that are not empty.

    Columns that are neither ``required`` nor ``optional`` are not read. Raises InputError, which begins with
    ``key`` (of the configuration) if one is given: a file that cannot be read or lacks a required column, a
    column that looks like a misspelt one, cells beyond the last column.
    """
    where = f"{key}: {path}" if key else str(path)
    text = _text(path, where)
    wanted = [*required, *optional]
    lines = text.splitlines() or [""]
    delimiter = max(DELIMITERS, key=lambda mark: len(set(_header(lines[0], mark)) & set(wanted)))
    try:
        table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        found = [(table.line_num, [_plain(cell) for cell in cells]) for cells in table]
    except csv.Error as error:
        raise InputError(f"{where}: cannot be read ({error}); write it as UTF-8 CSV") from error
    columns = _header(lines[0], delimiter)
    _check(columns, required, optional, where, lines[0])
    rows = []
    for line, cells in found[1:]:
        if not any(cells):
            continue
        beyond = [
            cell for place, cell in enumerate(cells) if cell and not "".join(columns[place : place + 1])
        ]
        if beyond:
            raise InputError(
                f"{where}, line {line}: more cells than columns, in {delimiter.join(cells)!r}; "
                'write texts with commas in quotes: "a dog, running"'
            )
        rows.append(Row(line, {column: cell for column, cell in zip(columns, cells, strict=False) if column}))
    return rows


def _text(path: Path, where: str) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror}); name a CSV file") from error
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: cannot be read ({error}); write it as UTF-8 CSV") from error
    if "\0" in text:
        raise InputError(f"{where}: cannot be read (it holds zero bytes); write it as UTF-8 CSV")
    return text


def _header(line: str, delimiter: str) -> list[str]:
    cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    return [_plain(cell).casefold() for cell in cells]


def _check(
    columns: Sequence[str], required: Sequence[str], optional: Sequence[str], where: str, line: str
) -> None:
    wanted = [*required, *optional]
    header = f"begin it with {','.join(required)}" + (
        f" and, if wanted, {','.join(optional)}" if optional else ""
    )
    missing = [column for column in required if column not in columns]
    if missing:
        raise InputError(
            f"{where}: its first line, {line.strip()!r}, names no {', '.join(missing)}; {header}"
        )
    for column in columns:
        if columns.count(column) > 1 and column in wanted:
            raise InputError(f"{where}: its first line names {column} twice; keep one")
        hint = nearest(column, [one for one in wanted if one not in columns])
        if column and column not in wanted and hint.startswith("did you mean"):
            raise InputError(f"{where}: column {column} is not known; {hint}")


def _plain(cell: str) -> str:
    return unicodedata.normalize("NFC", cell).strip()


def clip_name(text: str) -> str:
    """What a clip is called: the last part of a path of any system, without a video's suffix.

    In Unicode's composed form: file systems keep names in several.
    """
    last = unicodedata.normalize("NFC", text).replace("\\", "/").rstrip("/").rpartition("/")[2].strip()
    stem, dot, suffix = last.rpartition(".")
    return stem if stem and (dot + suffix).lower() in VIDEO_SUFFIXES else last


def same_text(text: str) -> str:
    """A prompt to compare: in Unicode's composed form, with single spaces."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip()


def find_file(folder: Path, text: str) -> Path:
    """The file that a cell names, relative to ``folder`` or with ``~``; backslashes separate folders too.

    A name in another Unicode form is the same name. Of a file that is not there, the path as it was meant.
    """
    path = folder / text
    if path.exists():
        return path
    path = Path(text.replace("\\", "/"))
    # A name may begin with ~ and be nobody's home.
    path = folder / (path.expanduser() if path.parts[:1] == ("~",) else path)
    if path.exists() or not path.parent.is_dir():
        return path
    named = unicodedata.normalize("NFC", path.name)
    return next(
        (one for one in path.parent.iterdir() if unicodedata.normalize("NFC", one.name) == named), path
    )


__all__ = ["Row", "clip_name", "find_file", "read_table", "same_text"]
