"""Containers: opening one without letting FFmpeg open anything else, and choosing its streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import av
import av.container
import av.error
from av.stream import Discard, Disposition

from favor.errors import UnreadableMediaError
from favor.media.limits import check_streams, refused_pixels
from favor.media.reading import Reading

# Demuxers that read one file and nothing else. Left out on purpose: playlists and scripts (hls, dash, concat, sdp),
# image sequences (image2), network and device inputs, text renderers, and raw formats that accept any bytes.
_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,rm,swf,ivf,nut,mxf,"
    "wav,w64,aiff,au,caf,flac,mp3,aac,ac3,eac3,amr,ape,wv,tta,gif,apng"
)
_SAFE_OPENING = {"format_whitelist": _FORMATS, "protocol_whitelist": "none"}

# Their headers hold a real length. The others are measured by FFmpeg from the bit rate, which may be far off.
_FORMATS_WITH_LENGTH = {"mov", "matroska", "avi", "flac", "wav", "w64", "aiff", "ogg", "asf", "gif", "caf"}

_MISSING_S = 0.5
_MISSING_SHARE = 0.02
"""Headers are a little off in honest files; more than this is a file that was cut off."""

_STREAMS_LOOKED_AT = 4
"""Times the limit: enough to say how many there are, too few to hurt."""

_BUFFER_BYTES = 2**17


def is_in_family(container: av.container.InputContainer, *names: str) -> bool:
    """Whether the container is of one of the named formats (FFmpeg names a family 'mov,mp4,m4a,...')."""
    return not set(container.format.name.split(",")).isdisjoint(names)


def _refuse_to_open(url: str, flags: int, options: dict[str, str]) -> None:
    raise PermissionError("a clip may not open other files")


@contextmanager
def open_container(reading: Reading) -> Iterator[av.container.InputContainer]:
    """The container of the clip, with its header checked against the limits.

    Raises:
        UnreadableMediaError: not a format we read, or its header is damaged.
        MediaLimitError: too many streams, or too long.
    """
    reading.file.seek(0)
    try:
        container = av.open(
            reading.file,
            "r",
            options={"max_pixels": str(refused_pixels(reading.limits))},
            container_options={**_SAFE_OPENING, "max_streams": str(_STREAMS_LOOKED_AT * reading.limits.max_streams)},
            metadata_errors="replace",
            buffer_size=_BUFFER_BYTES,
            io_open=_refuse_to_open,
        )
    except (av.error.FFmpegError, OSError) as error:
        raise not_media(reading.name) from error
    with container:
        check_streams(reading.name, len(container.streams), reading.limits)
        if is_in_family(container, *_FORMATS_WITH_LENGTH):
            reading.read_header_length(_header_seconds(container))
        yield container


def not_media(name: str) -> UnreadableMediaError:
    return UnreadableMediaError(
        f"{name} is not a video or sound file that can be read, or it is cut off (0 streams found)",
        allowed="mp4, mov, mkv, webm, avi, mpeg, flv, wmv, gif; wav, mp3, flac, ogg, opus, m4a, aac, aiff",
        advice="Check that the file is complete, or convert it to mp4 with H.264 and AAC",
    )


def _header_seconds(container: av.container.InputContainer) -> float:
    stated = [float(stream_seconds(stream) or 0) for stream in container.streams]
    return max([(container.duration or 0) / av.time_base, *stated])


def stream_seconds(stream: av.stream.Stream) -> Fraction | None:
    """How long the stream is by its own header, if that says so."""
    if stream.duration is None or stream.time_base is None or stream.duration <= 0:
        return None
    return stream.duration * stream.time_base


def check_whole(
    container: av.container.InputContainer, stream: av.stream.Stream, *, seconds: Fraction, reading: Reading
) -> None:
    """Notice a stream that was cut off: its header promises clearly more than the ``seconds`` that came out.

    Raises:
        UnreadableMediaError: when damage is refused; otherwise it is noted.
    """
    stated = stream_seconds(stream)
    if stated is not None and is_in_family(container, *_FORMATS_WITH_LENGTH):
        _compare(
            f"stream {stream.index} ({stream.type})", seconds=float(seconds), stated=float(stated), reading=reading
        )


def check_whole_matroska(container: av.container.InputContainer, *, end_s: float, reading: Reading) -> None:
    """The same for Matroska and WebM, which state one length for all streams: until when the last of them lasts.

    Args:
        end_s: the end of the last used stream, on the file's clock.
    """
    if is_in_family(container, "matroska") and container.duration and not reading.skipped:
        _compare("the file", seconds=end_s, stated=container.duration / av.time_base, reading=reading)


def _compare(what: str, *, seconds: float, stated: float, reading: Reading) -> None:
    if seconds >= stated - max(_MISSING_S, _MISSING_SHARE * stated):
        return
    ending = f"{what} ends at {seconds:.2f} s of {stated:.2f} s"
    if reading.options.when_damaged == "refuse":
        raise reading.damaged(ending)
    reading.note(f"what is missing: {ending}")


def picture_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The default picture, or the first; never a cover or a thumbnail attached to a sound."""
    stills = Disposition.attached_pic | Disposition.timed_thumbnails
    moving = [stream for stream in container.streams.video if not stream.disposition & stills]
    return next((stream for stream in moving if stream.disposition & Disposition.default), next(iter(moving), None))


def sound_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """The default sound track, or the first."""
    tracks = container.streams.audio
    return next((stream for stream in tracks if stream.disposition & Disposition.default), next(iter(tracks), None))


def note_unused_streams(container: av.container.InputContainer, used: set[int], *, reading: Reading) -> None:
    """List in the receipt every stream whose number is not in ``used``."""
    for stream in container.streams:
        if stream.index in used:
            continue
        kind = "cover picture" if stream.disposition & Disposition.attached_pic else stream.type
        reading.note(f"stream {stream.index} ({kind}, {codec_name(stream)})")


def read_only(container: av.container.InputContainer, stream: av.stream.Stream) -> None:
    """Let the demuxer pass over every other stream."""
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all


def codec_name(stream: av.stream.Stream) -> str:
    return stream.codec_context.name if stream.codec_context is not None else "unknown codec"


def check_codec(stream: av.stream.Stream, reading: Reading) -> None:
    """Raises UnreadableMediaError when there is no decoder for the stream."""
    if stream.codec_context is None:
        raise UnreadableMediaError(
            f"{reading.name} has a {stream.type} stream (number {stream.index}) in a codec that cannot be decoded",
            allowed="a codec such as H.264, H.265, VP9 or AV1 for the picture, AAC, MP3, Opus or PCM for the sound",
            advice="Convert the file to mp4 with H.264 and AAC",
        )
