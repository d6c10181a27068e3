"""The four doors: what kind of media it is, and a video, a sound or a picture loaded as a clip."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import numpy as np

from favor.errors import MissingStreamError, UnreadableMediaError
from favor.media.clip import SAMPLE_RATE_HZ, AudioReceipt, Clip, Receipt, VideoReceipt
from favor.media.container import (
    check_whole_matroska,
    not_media,
    note_unused_streams,
    open_container,
    picture_stream,
    sound_stream,
)
from favor.media.frames import Picture, load_frames
from favor.media.limits import MediaLimits, MediaOptions
from favor.media.picture import is_still_picture, load_picture
from favor.media.reading import Progress, Reading, Source, open_source
from favor.media.sound import Sound, load_sound, silent_track

_OPTIONS = MediaOptions()
_LIMITS = MediaLimits()


def sniff_kind(
    source: Source, *, name: str | None = None, limits: MediaLimits = _LIMITS
) -> Literal["image", "audio", "video"]:
    """What the content is, whatever the file is called. An animated gif is a video.

    Raises:
        MediaNotFoundError, UnreadableMediaError, MediaLimitError.
    """
    options = MediaOptions(max_seconds=limits.max_duration_s)
    with open_source(source, name=name, options=options, limits=limits) as reading:
        if is_still_picture(reading):
            return "image"
        with open_container(reading) as container:
            if picture_stream(container) is not None:
                return "video"
            if sound_stream(container) is not None:
                return "audio"
    raise not_media(reading.name)


def load_video(
    source: Source,
    *,
    sound: Source | None = None,
    use_audio: bool = True,
    name: str | None = None,
    options: MediaOptions = _OPTIONS,
    limits: MediaLimits = _LIMITS,
    progress: Progress | None = None,
) -> Clip:
    """Load a video with its own sound.

    Args:
        source: bytes or a path.
        sound: a separate sound file in place of the video's own; both begin at the clip's zero.
        use_audio: False leaves the sound out.
        name: what errors and the receipt call the clip; the path's file name, or "clip", when None.
        progress: called with (seconds done, seconds in all) while frames are decoded.

    Returns:
        A clip whose zero is the earlier beginning of picture and sound. Without sound its waveform is empty.

    Raises:
        MediaNotFoundError: no such file.
        UnreadableMediaError: not a video, damaged, or a codec that cannot be decoded.
        MediaLimitError: over a limit or the maximum length.
        MissingStreamError: no picture in the file.
    """
    with open_source(source, name=name, options=options, limits=limits, progress=progress) as reading:
        if is_still_picture(reading):
            raise UnreadableMediaError(
                f"{reading.name} is 1 still picture", allowed="a video", advice="Send it as an image"
            )
        heard = _own_sound(reading, use_own=use_audio and sound is None)
        own_start = heard.start if heard is not None else None
        picture = _picture(reading, own_sound=heard)
        if use_audio and sound is not None:
            heard = _separate_sound(sound, reading)
        delay = Fraction(0) if own_start is None or heard is None else own_start - picture.zero
        return _clip(reading, picture=picture, heard=heard, delay=delay)


def load_audio(
    source: Source, *, name: str | None = None, options: MediaOptions = _OPTIONS, limits: MediaLimits = _LIMITS
) -> Clip:
    """Load sound alone: a sound file, or the sound of a video. The clip's zero is the first sample.

    Raises:
        MediaNotFoundError, UnreadableMediaError, MediaLimitError; MissingStreamError when there is no sound track.
    """
    with open_source(source, name=name, options=options, limits=limits) as reading:
        return _clip(reading, picture=None, heard=_sound_alone(reading), delay=Fraction(0))


def load_image(
    source: Source,
    *,
    sound: Source | None = None,
    name: str | None = None,
    options: MediaOptions = _OPTIONS,
    limits: MediaLimits = _LIMITS,
) -> Clip:
    """Load a still picture: one frame, upright by its EXIF orientation, transparency on white.

    Args:
        sound: a sound file during which the picture is shown.

    Raises:
        MediaNotFoundError, UnreadableMediaError, MediaLimitError; MissingStreamError when ``sound`` has no sound track.
    """
    with open_source(source, name=name, options=options, limits=limits) as reading:
        frame, codec, (width, height) = load_picture(reading)
        heard = None if sound is None else _separate_sound(sound, reading)
        waveform, audio = _placed(heard, delay=Fraction(0), reading=reading)
    video = VideoReceipt(codec, width, height, 0, num_frames=1, times_s=(0.0,), frame_rule="still")
    return Clip(
        frames=frame[None],  # (H, W, 3) -> (1, H, W, 3)
        times_s=np.zeros(1, dtype=np.float64),
        waveform=waveform,
        is_image=True,
        receipt=Receipt(reading.name, waveform.size / SAMPLE_RATE_HZ, video, audio, tuple(reading.skipped)),
    )


def _own_sound(reading: Reading, *, use_own: bool) -> Sound | None:
    """The video's own sound track; also writes down which streams are left aside."""
    with open_container(reading) as container:
        picture, track = picture_stream(container), sound_stream(container)
        if picture is None and track is None:
            raise not_media(reading.name)
        if picture is None:
            raise _missing("picture", reading.name, advice="Send it as sound")
        used = {picture.index} | ({track.index} if use_own and track is not None else set())
        note_unused_streams(container, used, reading=reading)
        if not use_own or track is None:
            return None
        heard = load_sound(container, track, reading=reading)
        if heard is None:
            reading.note(f"stream {track.index} (audio, {track.codec_context.name}): it holds 0 samples")
        return heard


def _picture(reading: Reading, *, own_sound: Sound | None) -> Picture:
    # A second pass over the file: the sound's beginning decides the clip's zero, and holding the frames until it is
    # known would cost memory without bound.
    with open_container(reading) as container:
        stream = picture_stream(container)
        assert stream is not None, "the first pass found a picture"
        start = None if own_sound is None else own_sound.start
        picture = load_frames(container, stream, sound_start=start, reading=reading)
        sound_end_s = 0.0 if own_sound is None else float(own_sound.start) + own_sound.seconds
        end_s = max(float(picture.zero) + picture.end_s, sound_end_s)
        check_whole_matroska(container, end_s=end_s, reading=reading)
        return picture


def _sound_alone(reading: Reading) -> Sound:
    if is_still_picture(reading):
        raise _missing("sound", reading.name, advice="Send it as an image")
    with open_container(reading) as container:
        track = sound_stream(container)
        if track is None and picture_stream(container) is None:
            raise not_media(reading.name)
        if track is None:
            raise _missing("sound", reading.name, advice="Send it as a video without sound, or add a sound track")
        note_unused_streams(container, {track.index}, reading=reading)
        heard = load_sound(container, track, reading=reading)
    if heard is None:
        raise silent_track(reading.name)
    return heard


def _separate_sound(sound: Source, reading: Reading) -> Sound:
    name = f"the sound of {reading.name}" if isinstance(sound, bytes) else None
    with open_source(sound, name=name, options=reading.options, limits=reading.limits) as other:
        heard = _sound_alone(other)
    for sentence in other.skipped:
        reading.note(f"{other.name}: {sentence}")
    return heard


def _missing(what: str, name: str, *, advice: str) -> MissingStreamError:
    return MissingStreamError(
        f"{name} has 0 {what} streams", allowed=f"a file with at least 1 {what} stream", advice=advice
    )


def _clip(reading: Reading, *, picture: Picture | None, heard: Sound | None, delay: Fraction) -> Clip:
    waveform, audio = _placed(heard, delay=delay, reading=reading)
    size = reading.options.frame_size
    seconds = max(0.0 if picture is None else picture.end_s, waveform.size / SAMPLE_RATE_HZ)
    if reading.progress is not None:
        reading.progress(seconds, seconds)
    return Clip(
        frames=np.zeros((0, size, size, 3), dtype=np.uint8) if picture is None else picture.frames,
        times_s=np.zeros(0, dtype=np.float64) if picture is None else picture.times_s,
        waveform=waveform,
        is_image=False,
        receipt=Receipt(reading.name, seconds, _video_receipt(picture, reading), audio, tuple(reading.skipped)),
    )


def _placed(heard: Sound | None, *, delay: Fraction, reading: Reading) -> tuple[np.ndarray, AudioReceipt | None]:
    """The waveform with ``delay`` seconds of silence before it, no longer than the clip may be, and its receipt."""
    nothing = np.zeros(0, dtype=np.float32)
    if heard is None:
        return nothing, None
    lead, room = round(delay * SAMPLE_RATE_HZ), round(reading.max_seconds * SAMPLE_RATE_HZ)
    is_cut = reading.is_past_the_end(float(delay) + heard.seconds)
    if is_cut and lead >= room:
        return nothing, None
    waveform = np.concatenate([np.zeros(lead, dtype=np.float32), heard.waveform])
    if reading.options.when_too_long == "cut":
        waveform = waveform[:room]
    return waveform, AudioReceipt(
        heard.codec,
        heard.sample_rate_hz,
        heard.num_channels,
        seconds=(waveform.size - lead) / SAMPLE_RATE_HZ,
        start_s=float(delay),
    )


def _video_receipt(picture: Picture | None, reading: Reading) -> VideoReceipt | None:
    if picture is None:
        return None
    return VideoReceipt(
        picture.codec,
        picture.width,
        picture.height,
        picture.rotation_deg,
        num_frames=picture.frames.shape[0],
        times_s=tuple(picture.times_s.tolist()),
        frame_rule=reading.options.frame_rule,
        start_s=picture.start_s,
        duration_s=picture.end_s,
    )
