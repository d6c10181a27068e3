"""Every error FAVOR raises on purpose.

    FavorError
    ├── MediaError                a clip that cannot be used as given
    │   ├── MediaNotFoundError    no file there, or a directory
    │   ├── UnreadableMediaError  not media, damaged, or a codec we cannot decode
    │   ├── MediaLimitError       over a limit: bytes, pixels, seconds, streams
    │   └── MissingStreamError    the asked-for stream (picture or sound) is not in the file
    ├── MessageError              a conversation the model cannot be asked
    ├── PlaceholderError          soft tokens and placeholders do not match in number
    ├── ConfigurationError        an unknown or impossible setting
    ├── CheckpointError           a checkpoint that is not what it should be
    └── MissingDependencyError    an optional package is not installed (also an ImportError)

A caller may branch on the class or on ``code``. The text always has three parts: what was given, what is allowed, and
what to do about it. It never holds a path: the clip is called by the name its caller gave it.
"""

from __future__ import annotations

from typing import Any


class FavorError(Exception):
    """Base of all deliberate errors.

    Args:
        given: what we got, in words with the numbers in it.
        allowed: what we would have accepted.
        advice: what the caller can do now.

    ``subject`` is the name of the media part that the error is about, where there is one.
    """

    code = "favor_error"
    subject: str | None = None

    def __init__(self, given: str, *, allowed: str, advice: str) -> None:
        self.given = given
        self.allowed = allowed
        self.advice = advice
        super().__init__(f"{given}. Allowed: {allowed}. {advice}.")

    def __reduce__(self) -> tuple[Any, ...]:
        """So that an error of a worker process arrives as it was raised."""
        return _rebuilt, (type(self), self.args, self.__dict__)


class MediaError(FavorError):
    code = "media_error"


class MediaNotFoundError(MediaError):
    code = "media_not_found"


class UnreadableMediaError(MediaError):
    code = "unreadable_media"


class MediaLimitError(MediaError):
    code = "media_limit_exceeded"


class MissingStreamError(MediaError):
    code = "missing_stream"


class MessageError(FavorError):
    code = "invalid_message"


class PlaceholderError(FavorError):
    code = "placeholder_mismatch"


class ConfigurationError(FavorError):
    code = "invalid_configuration"


class CheckpointError(FavorError):
    code = "invalid_checkpoint"


class MissingDependencyError(FavorError, ImportError):
    code = "missing_dependency"


def _rebuilt(kind: type[FavorError], args: tuple[Any, ...], attributes: dict[str, Any]) -> FavorError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error
