"""The files of a mixture, opened: random access to their samples."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from training import recipe
from training.data.importers import Format, as_messages
from training.data.index import RecordIndex
from training.data.manifest import ManifestError, Sample, read_sample


class Source:
    """One data file.

    Args:
        path: JSON lines or a JSON array.
        format: of its records.
        media_root: where relative paths begin; the file's folder when None.
        name: what samples, logs and counts call it; the file's name when None.
        weight: its share of the samples relative to the other sources.

    Raises:
        ManifestError: no such file, or nothing in it.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        format: Format = "messages",
        media_root: str | Path | None = None,
        name: str | None = None,
        weight: float = 1.0,
    ) -> None:
        self.index = RecordIndex(Path(path))
        self.format = format
        self.folder = Path(path).parent if media_root is None else Path(media_root)
        self.weight = weight
        self.index.name = self.name = name or Path(path).name

    def __len__(self) -> int:
        return len(self.index)

    def read(self, number: int) -> Sample:
        """Sample ``number``, from 0.

        Raises:
            ManifestError: the record is no sample; says file and line.
        """
        record = self.index.read(number)
        try:
            record = as_messages(record, self.format)
        except ManifestError as error:
            given = f"{self.index.place(number)}: {error.given}"
            raise ManifestError(error.kind, given, allowed=error.allowed, advice=error.advice) from None
        return read_sample(
            record,
            place=_Lazy(self.index, number),
            key=self.index.key(number),
            source=self.name,
            folder=self.folder,
        )

    def close(self) -> None:
        self.index.close()


class _Lazy:
    """Place of a record, worked out only when an error shows it: in a JSON array lines must be counted."""

    def __init__(self, index: RecordIndex, number: int) -> None:
        self._index, self._number = index, number

    def __str__(self) -> str:
        return self._index.place(self._number)


def open_sources(sources: Sequence[recipe.Source]) -> list[Source]:
    """All files of a mixture; files of one name in different folders are told apart by their folders' names."""
    paths = [Path(source.path) for source in sources]
    shared = {name for name, number in Counter(path.name for path in paths).items() if number > 1}
    return [
        Source(
            path,
            format=source.format,
            media_root=source.media_root,
            name=f"{path.parent.name}/{path.name}" if path.name in shared else path.name,
            weight=source.weight,
        )
        for path, source in zip(paths, sources, strict=True)
    ]


def fingerprint(sources: Sequence[Source], *settings: object) -> str:
    """SHA-256 of what decides which samples come when: the files' contents, formats and weights, and ``settings``.
    Where the files lie does not matter.
    """
    digest = hashlib.sha256()
    for source in sources:
        digest.update(f"{source.index.sha256} {source.format} {source.weight!r}\n".encode())
    digest.update(repr(settings).encode())
    return digest.hexdigest()
