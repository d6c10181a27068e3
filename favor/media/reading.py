"""One loading in progress: the file, what to call it, what is allowed, and what had to be left out."""

from __future__ import annotations

import io
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from favor.errors import MediaNotFoundError, UnreadableMediaError
from favor.media.limits import MediaLimits, MediaOptions, check_bytes, check_header_seconds, too_long
from favor.sync import STEP_S, TAIL_TOLERANCE_S

Source = bytes | str | Path
Progress = Callable[[float, float], None]


class ByteFile:
    """A file that can be read and nothing more: it has no name, so nobody downstream can learn where it lies."""

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read
        self.seek = file.seek
        self.tell = file.tell


@dataclass
class Reading:
    """Passed through the room while a clip is being loaded.

    Args:
        name: what errors call the clip.
        file: its bytes.
        skipped: sentences about what was left out, in the order it was met.
        header_s: how long the header says the clip is; 0 when it does not say.
    """

    name: str
    file: ByteFile
    options: MediaOptions
    limits: MediaLimits
    progress: Progress | None = None
    skipped: list[str] = field(default_factory=list)
    header_s: float = 0.0
    reported_s: float = 0.0

    @property
    def max_seconds(self) -> float:
        """The longest clip this loading keeps."""
        return min(self.options.max_seconds, self.limits.max_duration_s)

    def note(self, sentence: str) -> None:
        """Say once in the receipt that something was left out."""
        if sentence not in self.skipped:
            self.skipped.append(sentence)

    def read_header_length(self, seconds: float) -> None:
        """Remember and check the length that the header states."""
        check_header_seconds(self.name, seconds, options=self.options, limits=self.limits)
        self.header_s = seconds

    def is_past_the_end(self, seconds: float) -> bool:
        """Whether ``seconds`` lies beyond what is kept; raises MediaLimitError unless cutting was asked for."""
        if seconds <= self.max_seconds + TAIL_TOLERANCE_S:
            return False
        if self.options.when_too_long == "refuse":
            raise too_long(self.name, f"at least {seconds:,.1f} s", self.max_seconds)
        whole = f" of {self.header_s:,.1f} s" if self.header_s > self.max_seconds else ""
        self.note(f"everything after {self.max_seconds:,.1f} s{whole}: the clip was cut")
        return True

    def report(self, seconds: float) -> None:
        """Tell the caller how far we are, at most once a step."""
        if self.progress is not None and seconds >= self.reported_s + STEP_S:
            self.reported_s = seconds
            self.progress(seconds, max(seconds, min(self.header_s, self.max_seconds)))

    def damaged(self, what: str) -> UnreadableMediaError:
        return UnreadableMediaError(
            f"{self.name} is damaged: {what}",
            allowed="0 damaged places",
            advice="Send an intact copy, or ask for damaged places to be skipped",
        )


@contextmanager
def open_source(
    source: Source,
    *,
    name: str | None,
    options: MediaOptions,
    limits: MediaLimits,
    progress: Progress | None = None,
) -> Iterator[Reading]:
    """Open bytes or a path for reading.

    Raises:
        MediaNotFoundError: there is no such file, or it is not a regular file.
        UnreadableMediaError: the file is empty or may not be read.
        MediaLimitError: it is over ``limits.max_bytes``.
    """
    called = name or (_file_name(source) if not isinstance(source, bytes) else "clip")
    with _open_file(source, called) as file:
        num_bytes = file.seek(0, io.SEEK_END)
        check_bytes(called, num_bytes, limits)
        if num_bytes == 0:
            raise UnreadableMediaError(
                f"{called} is empty: 0 bytes",
                allowed="a video, sound or picture file of at least 1 byte",
                advice="Check that the upload or download was complete",
            )
        file.seek(0)
        yield Reading(called, ByteFile(file), options=options, limits=limits, progress=progress)


def _file_name(source: str | Path) -> str:
    return Path(source).name or "clip"


def _open_file(source: Source, name: str) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        # Looked at before opening: opening a named pipe would wait for its other end for ever.
        if not stat.S_ISREG(Path(source).stat().st_mode):
            raise _not_found(name, "is not a file")
        return Path(source).open("rb")
    except PermissionError as error:
        raise UnreadableMediaError(
            f"{name} may not be read", allowed="a file with read permission", advice="Give read permission on the file"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise _not_found(name, "does not exist") from error


def _not_found(name: str, what: str) -> MediaNotFoundError:
    return MediaNotFoundError(
        f"{name} {what}", allowed="1 existing, regular file", advice="Check the name and where the file lies"
    )
