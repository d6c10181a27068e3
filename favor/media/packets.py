"""From a container to decoded frames, one at a time, with damage either refused or marked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import av.error

from favor.media.container import check_codec, is_in_family, read_only
from favor.media.limits import check_pixels, refused_pixels, too_many_pixels
from favor.media.reading import Reading

_THREADS = 4
"""Frame threads of the picture's decoder: each holds a frame of full size, so not one for every core."""


@dataclass
class Damage:
    """The damaged packets of one stream."""

    count: int = 0
    first_s: float = 0.0


def decode_frames(
    container: av.container.InputContainer, stream: av.VideoStream | av.AudioStream, reading: Reading
) -> Iterator[av.VideoFrame | av.AudioFrame | None]:
    """Frames in display order; None stands where a packet was damaged and left out.

    Raises:
        UnreadableMediaError: no decoder, or a damaged packet when damage is refused.
    """
    check_codec(stream, reading)
    _prepare(stream, reading)
    read_only(container, stream)
    damage = Damage()
    has_begun = False
    # MPEG-TS calls whole packets corrupt where recordings were joined, and plain samples need no whole packet: a wav
    # that came through a pipe states no length, so its last packet always looks cut. There the decoder is the judge.
    trusts_decoder = is_in_family(container, "mpegts", "wav", "w64", "aiff", "au")
    for packet in _packets(container, stream, reading):
        frames = None if packet.is_corrupt and not trusts_decoder else _decode(packet, reading)
        if frames is None:
            # A recording may begin between two key frames; what comes before the first one was never decodable.
            if has_begun or packet.is_keyframe:
                _mark(damage, packet, reading)
            yield None
            continue
        has_begun = has_begun or bool(frames)
        for frame in frames:
            if frame.is_corrupt:
                _mark(damage, packet, reading)
            yield None if frame.is_corrupt else frame
    if damage.count:
        remedy = "the frame before is shown longer" if stream.type == "video" else "silence stands in their place"
        reading.note(
            f"{damage.count} damaged packets of stream {stream.index} ({stream.type}), "
            f"the first at {damage.first_s:.2f} s: {remedy}"
        )


def _prepare(stream: av.VideoStream | av.AudioStream, reading: Reading) -> None:
    if stream.type == "video":
        context = stream.codec_context
        # With frame threads an error surfaces a few packets late, and on flushing it hides good frames behind it: no
        # harm where the first error ends the loading, wrong where damage is skipped.
        context.thread_type = "AUTO" if reading.options.when_damaged == "refuse" else "SLICE"
        context.thread_count = _THREADS
        context.options = {"max_pixels": str(refused_pixels(reading.limits))}


def _packets(
    container: av.container.InputContainer, stream: av.VideoStream | av.AudioStream, reading: Reading
) -> Iterator[av.Packet[Any]]:
    try:
        yield from container.demux(stream)
    except IndexError:
        # Streams that show up in the middle of a file trip PyAV's own end of reading; by then ours has been read.
        reading.note("streams that begin in the middle of the file")
    except (av.error.FFmpegError, OSError) as error:
        if reading.options.when_damaged == "refuse":
            raise reading.damaged(f"stream {stream.index} ({stream.type}) breaks off") from error
        reading.note(f"the rest of stream {stream.index} ({stream.type}): the file is damaged there")


def _decode(packet: av.Packet[Any], reading: Reading) -> list[av.VideoFrame | av.AudioFrame] | None:
    """The frames of a packet, or None when it is damaged."""
    if packet.size == 0 and packet.buffer_ptr:
        return []  # Theora's way of showing a frame again; FFmpeg would take it for the end
    try:
        return list(packet.decode())
    except av.error.EOFError:
        return []
    except av.error.FFmpegError:
        _check_size(packet, reading)
        return None


def _check_size(packet: av.Packet[Any], reading: Reading) -> None:
    """Raises MediaLimitError when the packet was not decoded because its picture is too large."""
    context = packet.stream.codec_context
    if not isinstance(context, av.VideoCodecContext):
        return
    if context.width * context.height > reading.limits.max_pixels:
        check_pixels(reading.name, context.width, context.height, reading.limits)
    if packet.is_keyframe and context.width * context.height == 0:  # FFmpeg forgets a size that it refuses
        raise too_many_pixels(reading.name, refused_pixels(reading.limits), reading.limits)


def _mark(damage: Damage, packet: av.Packet[Any], reading: Reading) -> None:
    at_s = 0.0 if packet.pts is None or packet.time_base is None else float(packet.pts * packet.time_base)
    if reading.options.when_damaged == "refuse":
        raise reading.damaged(f"a packet of stream {packet.stream.index} ({packet.stream.type}) near {at_s:.2f} s")
    if damage.count == 0:
        damage.first_s = at_s
    damage.count += 1
