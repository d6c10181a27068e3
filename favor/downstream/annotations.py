"""Strict reading of annotation files: every complaint begins with file and line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from favor.errors import FavorError


class AnnotationError(FavorError):
    """A file that is not what its task's official format says. The text begins with file and line, or record."""

    code = "invalid_annotation"


@dataclass(frozen=True)
class Place:
    """Where something stands: the file's name (never its folder) and a 1-based number of line or record."""

    file: str
    number: int | None = None
    unit: str = "line"

    def __str__(self) -> str:
        return self.file if self.number is None else f"{self.file}, {self.unit} {self.number}"

    def error(self, given: str, *, allowed: str, advice: str = "Correct the file") -> AnnotationError:
        return AnnotationError(f"{self}: {given}", allowed=allowed, advice=advice)


@dataclass(frozen=True)
class Row:
    """One line of a table: column -> text, without surrounding blanks."""

    place: Place
    fields: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.fields[column]

    def whole_number(self, column: str, *, most: int) -> int:
        """The column as a whole number from 0 to ``most``."""
        text = self.fields[column]
        if not is_whole_number(text) or int(text) > most:
            raise self.place.error(f"{column} is {text!r}", allowed=f"a whole number from 0 to {most}")
        return int(text)


def is_whole_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def read_text(path: str | Path) -> str:
    """The file's text: UTF-8, with or without a byte order mark, any line ends."""
    path = Path(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Place(path.name).error(f"byte {error.start} is not UTF-8", allowed="UTF-8 text") from None
    except OSError as error:
        raise Place(path.name).error(
            f"cannot be read ({error.strerror})", allowed="a readable file", advice="Give the annotation file's path"
        ) from None


def read_lines(path: str | Path) -> list[tuple[Place, str]]:
    """Every line that is not blank, with its place; blank lines count, so that numbers match an editor's."""
    name = Path(path).name
    lines = [(Place(name, number), line) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    if not lines:
        raise Place(name).error("the file is empty", allowed="at least one line")
    return lines


def split_row(place: Place, line: str, *, delimiter: str, columns: Sequence[str]) -> Row:
    """A line cut at every ``delimiter``; none of its fields may be empty."""
    fields = [field.strip() for field in line.split(delimiter)]
    written = {"\t": "tabs"}.get(delimiter, f"{delimiter!r}")
    if len(fields) != len(columns):
        raise place.error(
            f"{len(fields)} fields, parted by {written}: {line.strip()[:80]!r}",
            allowed=f"{len(columns)} fields: {', '.join(columns)}",
        )
    for column, field in zip(columns, fields):
        if not field:
            raise place.error(f"{column} is empty", allowed="text")
    return Row(place, dict(zip(columns, fields)))


def read_table(path: str | Path, *, delimiter: str, columns: Sequence[str]) -> list[Row]:
    """The rows of a table whose first line must name exactly these columns, in this order."""
    (place, header), *lines = read_lines(path)
    named = [name.strip() for name in header.split(delimiter)]
    if named != list(columns):
        raise place.error(f"the header names {', '.join(named)[:120]}", allowed=", ".join(columns))
    return [split_row(place, line, delimiter=delimiter, columns=columns) for place, line in lines]


def read_json(path: str | Path) -> Any:
    """What the file holds; an empty or cut-off file is named with its line."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise Place(Path(path).name, error.lineno).error(f"not JSON: {error.msg}", allowed="one JSON value") from None


def one_of(place: Place, what: str, given: str, allowed: Iterable[str]) -> str:
    """``given``, which must be one of ``allowed``."""
    choices = list(allowed)
    if given not in choices:
        raise place.error(f"{what} is {given!r}", allowed=", ".join(choices))
    return given
