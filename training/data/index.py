"""Where each record of a file begins: random access to JSON lines and to JSON arrays, at 8 or 16 bytes a record.

The file is read once, front to back, and never held in memory; its SHA-256 is taken on the way.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import weakref
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.data.manifest import ManifestError

_BLOCK = 1 << 22
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]', re.DOTALL)
_BOM = b"\xef\xbb\xbf"


class RecordIndex:
    """The records of one JSON-lines file, or of one file that holds a JSON array.

    Args:
        path: the file.

    ``len(index)`` counts the records (blank lines are none), ``sha256`` is the file's.

    Raises:
        ManifestError: no such file, or nothing in it.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise _unusable(f"{path.name} cannot be opened ({error.strerror})") from None
        self.close = weakref.finalize(self, os.close, self._fd)
        """Closes the file; later reading fails."""
        self.is_array = self._head().startswith(b"[")
        self._starts, self._ends, self._lines, self.sha256 = self._scan_array() if self.is_array else self._scan_lines()
        if not len(self):
            raise _unusable(f"{path.name}:1: the file is empty")

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def num_bytes(self) -> int:
        """Memory that the index takes."""
        return sum(column.nbytes for column in (self._starts, self._ends, self._lines) if column is not None)

    def read(self, number: int) -> object:
        """Record ``number``, from 0, as JSON gives it. Safe in forked processes.

        Raises:
            ManifestError: it is not UTF-8, or not JSON; says file and line.
        """
        start, end = int(self._starts[number]), self._end(number)
        content = os.pread(self._fd, end - start, start)
        try:
            return json.loads(content.removeprefix(_BOM).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ManifestError(
                "not_utf8",
                f"{self.place(number)}: byte {error.start + 1} of the line is not UTF-8",
                allowed="UTF-8",
                advice="Convert the file",
            ) from None
        except (json.JSONDecodeError, RecursionError) as error:
            raise ManifestError(
                "malformed_line",
                f"{self.place(number)}: not JSON ({error})",
                allowed="one JSON object per line, or one JSON array",
                advice="Correct the line",
            ) from None

    def line(self, number: int) -> int:
        """Line of the file, from 1, on which record ``number`` begins. Counted where it is not known."""
        if self._lines is not None:
            return int(self._lines[number])
        if not self.is_array:
            return number + 1
        start, end = int(self._starts[number]), self._end(number)
        content = os.pread(self._fd, end - start, start)
        start += len(content) - len(content.lstrip())
        return 1 + sum(block.count(b"\n") for block in self._blocks(start))

    def place(self, number: int) -> str:
        """File and line, for people; for an array also which item it is."""
        item = f" (item {number + 1})" if self.is_array else ""
        return f"{self.name}:{self.line(number)}{item}"

    def key(self, number: int) -> str:
        """Stable name of a record without an "id": ``file:line``, or ``file#item`` in an array."""
        return f"{self.name}#{number + 1}" if self.is_array else f"{self.name}:{self.line(number)}"

    def _head(self) -> bytes:
        return os.pread(self._fd, 4096, 0).removeprefix(_BOM).lstrip()

    def _end(self, number: int) -> int:
        if self._ends is not None:
            return int(self._ends[number])
        return int(self._starts[number + 1]) if number + 1 < len(self) else os.fstat(self._fd).st_size

    def _blocks(self, stop: int | None = None) -> Iterator[bytes]:
        size = os.fstat(self._fd).st_size if stop is None else stop
        for offset in range(0, size, _BLOCK):
            yield os.pread(self._fd, min(_BLOCK, size - offset), offset)

    def _scan_lines(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, str]:
        """Starts of all lines that are not blank; ends only where blank lines lie between."""
        digest, breaks, offset = hashlib.sha256(), [], 0
        for block in self._blocks():
            digest.update(block)
            breaks.append(np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n")) + offset)
            offset += len(block)
        ends = np.concatenate([*breaks, [offset]]).astype(np.int64)
        starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
        is_record = np.ones(len(starts), dtype=bool)
        for short in np.flatnonzero(ends - starts <= 1):
            is_record[short] = bool(os.pread(self._fd, int(ends[short] - starts[short]), int(starts[short])).strip())
        records = np.flatnonzero(is_record)
        if len(records) and records[-1] == len(records) - 1:
            return starts[records], None, None, digest.hexdigest()
        return starts[records], ends[records], records + 1, digest.hexdigest()

    def _scan_array(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, str]:
        """Starts and ends of the array's items, found by their brackets and commas outside of strings."""
        digest = hashlib.sha256()
        for block in self._blocks():
            digest.update(block)
        starts, ends = array("q"), array("q")
        depth = 0
        with mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ) as content:
            for token in _TOKEN.finditer(content):
                mark = content[token.start() : token.start() + 1]
                if depth == 1 and mark in b",]":
                    ends.append(token.start())
                    if mark == b",":
                        starts.append(token.end())
                if mark in b"[{":
                    depth += 1
                    if depth == 1:
                        starts.append(token.end())
                elif mark in b"]}":
                    depth -= 1
                if depth == 0:
                    break
            if len(ends) == 1 and not content[starts[0] : ends[0]].strip():
                del starts[:], ends[:]
        if depth:
            raise _unusable(f"{self.name}: the JSON array is not closed")
        return np.array(starts, np.int64), np.array(ends, np.int64), None, digest.hexdigest()


def _unusable(given: str) -> ManifestError:
    return ManifestError(
        "unusable_file",
        given,
        allowed="a file of JSON lines, or of one JSON array, with a record in it",
        advice="Check it",
    )
