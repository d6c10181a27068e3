"""Files that are wrong, each in its own way, made on the spot; and what must be said about them."""

from __future__ import annotations

import io
import os
import pickle
import struct
import wave
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from favor.errors import MediaError, MediaLimitError, MediaNotFoundError, MissingStreamError, UnreadableMediaError
from favor.media import MediaLimits, MediaOptions
from tests import clips

Kind = Literal["video", "audio", "image"]
HOURS_10 = 36_000


@dataclass(frozen=True)
class BadClip:
    """One wrong input: how it is made (in a folder of its own), how it is loaded, and the error it must give."""

    what: str
    make: Callable[[Path], bytes | str | Path]
    load: Kind
    error: type[MediaError]
    says: tuple[str, ...]
    arguments: dict[str, Any] = field(default_factory=dict)


def good_clip(**shape) -> bytes:
    return clips.clip(seconds=2, at=(0.75,), **shape)


def png(width: int = 64, height: int = 48) -> bytes:
    return _saved(Image.fromarray(clips.corners(width, height)), "PNG")


def _saved(picture: Image.Image, format_name: str) -> bytes:
    target = io.BytesIO()
    picture.save(target, format_name)
    return target.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A small png whose header states another size, with a right checksum."""
    data = png()
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def avi_that_claims_size(width: int, height: int) -> bytes:
    """Plain pixels in an avi: the size stands in the header alone, where nothing contradicts it."""
    data = clips.silent_clip(container="avi", video_codec="rawvideo", pix_fmt="bgr24", size=(16, 16))
    place = data.index(b"strf") + 8
    return clips.overwrite(data, place + 4, struct.pack("<ii", width, height))


def jpeg_film_that_claims_size(width: int, height: int) -> bytes:
    """Motion jpeg whose every frame states another size than it has."""
    data = clips.silent_clip(container="avi", video_codec="mjpeg", pix_fmt="yuvj420p")
    stated = b"\x08" + struct.pack(">HH", 72, 96)
    assert stated in data
    return data.replace(stated, b"\x08" + struct.pack(">HH", height, width))


def mkv_that_claims_seconds(seconds: float) -> bytes:
    """A 2 s mkv whose header states another length."""
    data = good_clip(container="matroska")
    place = data.index(b"\x44\x89\x88") + 3
    return clips.overwrite(data, place, struct.pack(">d", seconds * 1000))


def mp4_that_claims_seconds(seconds: int) -> bytes:
    """A 2 s mp4 in which the movie, its tracks and their edit lists state another length."""
    data = good_clip()
    for box, unit_at, length_at in ((b"mvhd", 16, 20), (b"mdhd", 16, 20), (b"tkhd", None, 24), (b"elst", None, 12)):
        place = data.find(box)
        while place >= 0:
            unit = 1000 if unit_at is None else struct.unpack(">I", data[place + unit_at : place + unit_at + 4])[0]
            data = clips.overwrite(data, place + length_at, struct.pack(">I", unit * seconds))
            place = data.find(box, place + 1)
    return data


def with_broken_packets(kind: str, *, number: int = 20) -> bytes:
    data = good_clip()
    position, size = clips.packets_of(data, kind)[number]
    return clips.overwrite(data, position, b"\xff" * size)


def mp4_cut_in_its_data() -> bytes:
    """The header comes first and is whole; half of what it describes is missing."""
    data = good_clip(container_options={"movflags": "faststart"})
    begin = data.index(b"mdat")
    return data[: begin + (len(data) - begin) // 2]


def mp4_without_frames() -> bytes:
    """An mp4 whose picture track lists no samples."""
    data = clips.silent_clip()
    place = data.index(b"stsz") + 4
    return clips.overwrite(data, place, struct.pack(">III", 0, 0, 0))


def avi_at_0_fps() -> bytes:
    """An avi whose header says 0 frames a second, everywhere that it says so."""
    data = clips.silent_clip(container="avi", video_codec="mpeg4")
    main, stream = data.index(b"avih") + 8, data.index(b"strh") + 8
    data = clips.overwrite(data, main, struct.pack("<I", 0))
    return clips.overwrite(data, stream + 20, struct.pack("<II", 0, 0))


def wav(samples: np.ndarray, *, rate_hz: int = 16_000, format_tag: int = 1) -> bytes:
    """A wav written by hand, so that its header can say anything; format tag 3 is float."""
    width = samples.dtype.itemsize
    form = struct.pack("<HHIIHH", format_tag, 1, rate_hz, rate_hz * width, width, 8 * width)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", samples.nbytes)
    return b"RIFF" + struct.pack("<I", len(body) + samples.nbytes) + body + samples.tobytes()


def wav_with(value: float) -> bytes:
    samples = clips.beeps(1.0, at=(0.5,), rate_hz=16_000)
    samples[8_000] = value
    return wav(samples, format_tag=3)


def empty_wav() -> bytes:
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
    return target.getvalue()


def many_streams() -> bytes:
    track = clips.Track(clips.beeps(0.2), codec="pcm_s16le")
    return clips.encode(container="matroska", tracks=[track] * 17)


def playlist_of(folder: Path) -> bytes:
    """An HLS playlist that names a good clip beside it."""
    target = folder / "secret.mp4"
    target.write_bytes(good_clip())
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{target}\n#EXT-X-ENDLIST\n".encode()


def concat_script_of(folder: Path) -> bytes:
    target = folder / "secret.mp4"
    target.write_bytes(good_clip())
    return f"ffconcat version 1.0\nfile '{target}'\n".encode()


def dash_manifest_of(folder: Path) -> bytes:
    target = folder / "secret.mp4"
    target.write_bytes(good_clip())
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
        f'<Representation id="1"><BaseURL>file://{target}</BaseURL></Representation></AdaptationSet></Period></MPD>'
    ).encode()


def image_pattern(folder: Path) -> Path:
    """The name of a sequence of pictures that FFmpeg would expand."""
    for number in range(3):
        (folder / f"shot{number}.png").write_bytes(png())
    return folder / "shot%d.png"


def zipped() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        file.writestr("clip.mp4", good_clip())
    return target.getvalue()


def on_disk(name: str, data: bytes = b"") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data)
        return path

    return make


def unreadable(folder: Path) -> Path:
    path = on_disk("locked.mp4", good_clip())(folder)
    path.chmod(0)
    return path


def named_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.mp4")
    return folder / "pipe.mp4"


def made(data: Callable[[], bytes]) -> Callable[[Path], bytes]:
    return lambda folder: data()


def same(data: bytes) -> Callable[[Path], bytes]:
    return lambda folder: data


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><image href="file:///etc/hostname"/></svg>'
HTML = b"<!DOCTYPE html><html><body><video src='clip.mp4'></video></body></html>" * 20
TEXT = b"Dear reader, this is not a film. " * 100

BAD_CLIPS = [
    BadClip("an empty file", on_disk("empty.mp4"), "video", UnreadableMediaError, ("empty.mp4", "0 bytes")),
    BadClip("no bytes at all", same(b""), "audio", UnreadableMediaError, ("clip is empty", "0 bytes")),
    BadClip("an empty picture", same(b""), "image", UnreadableMediaError, ("0 bytes",)),
    BadClip("text renamed mp4", on_disk("letter.mp4", TEXT), "video", UnreadableMediaError, ("letter.mp4 is not",)),
    BadClip("text renamed wav", on_disk("letter.wav", TEXT), "audio", UnreadableMediaError, ("letter.wav is not",)),
    BadClip("text renamed png", on_disk("letter.png", TEXT), "image", UnreadableMediaError, ("letter.png is not",)),
    BadClip("random bytes", made(lambda: np.random.default_rng(0).bytes(5000)), "video", UnreadableMediaError, ()),
    BadClip("an mp4 without its end", made(lambda: good_clip()[:3000]), "video", UnreadableMediaError, ("cut off",)),
    BadClip("an mp4 cut in its data", made(mp4_cut_in_its_data), "video", UnreadableMediaError, ("damaged",)),
    BadClip("an mp4 with zero frames", made(mp4_without_frames), "video", UnreadableMediaError, ("0 frames",)),
    BadClip(
        "a video of 4 x 4 pixels",
        made(lambda: clips.silent_clip(size=(4, 4))),
        "video",
        MediaLimitError,
        ("4 x 4", "8 x 8"),
    ),
    BadClip("a picture of 1 x 1 pixels", made(lambda: png(1, 1)), "image", MediaLimitError, ("1 x 1", "8 x 8")),
    BadClip("a silent video given as sound", made(clips.silent_clip), "audio", MissingStreamError, ("0 sound",)),
    BadClip("a sound given as video", made(clips.sound_file), "video", MissingStreamError, ("0 picture",)),
    BadClip("a picture given as sound", made(png), "audio", MissingStreamError, ("0 sound",)),
    BadClip("a picture given as video", made(png), "video", UnreadableMediaError, ("1 still picture", "as an image")),
    BadClip("a video given as picture", made(good_clip), "image", UnreadableMediaError, ("not a picture",)),
    BadClip("a sound given as picture", made(clips.sound_file), "image", UnreadableMediaError, ("not a picture",)),
    BadClip(
        "a silent video given as the sound of a video",
        made(good_clip),
        "video",
        MissingStreamError,
        ("the sound of clip", "0 sound"),
        {"sound": clips.silent_clip()},
    ),
    BadClip(
        "text given as the sound of a picture",
        made(png),
        "image",
        UnreadableMediaError,
        ("the sound of clip is not",),
        {"sound": TEXT},
    ),
    BadClip(
        "a corrupt sound packet",
        made(lambda: with_broken_packets("audio")),
        "video",
        UnreadableMediaError,
        ("damaged", "(audio) near 0.4"),
    ),
    BadClip(
        "a corrupt video packet",
        made(lambda: with_broken_packets("video")),
        "video",
        UnreadableMediaError,
        ("damaged", "(video) near 0.9"),
    ),
    BadClip(
        "an avi that claims a huge picture",
        made(lambda: avi_that_claims_size(8_000, 8_000)),
        "video",
        MediaLimitError,
        ("8000 x 8000 = 64,000,000", "33,177,600"),
    ),
    BadClip(
        "an avi that claims an enormous picture",
        made(lambda: avi_that_claims_size(65_000, 32_000)),
        "video",
        MediaLimitError,
        ("66,355,200", "33,177,600"),
    ),
    BadClip(
        "a jpeg film that claims a huge picture",
        made(lambda: jpeg_film_that_claims_size(65_000, 32_000)),
        "video",
        UnreadableMediaError,
        ("damaged",),
    ),
    BadClip(
        "a png that claims a huge picture",
        made(lambda: png_that_claims(12_000, 7_000)),
        "image",
        MediaLimitError,
        ("12000 x 7000 = 84,000,000", "33,177,600"),
    ),
    BadClip(
        "a decompression bomb",
        made(lambda: png_that_claims(60_000, 60_000)),
        "image",
        MediaLimitError,
        ("178,956,970", "33,177,600"),
    ),
    BadClip(
        "an mkv that claims 10 hours",
        made(lambda: mkv_that_claims_seconds(HOURS_10)),
        "video",
        MediaLimitError,
        ("36,000.0 s", "14,400.0 s"),
    ),
    BadClip(
        "an mkv that claims 10 minutes",
        made(lambda: mkv_that_claims_seconds(600)),
        "video",
        MediaLimitError,
        ("600.0 s", "300.0 s"),
    ),
    BadClip(
        "3 frames in 10 hours",
        made(lambda: clips.clip(times_s=[0.0, 1.0, HOURS_10], audio_seconds=0, container="matroska")),
        "video",
        MediaLimitError,
        ("36,000.0 s", "14,400.0 s"),
    ),
    BadClip(
        "3 frames in 10 hours and no header",
        made(lambda: clips.clip(times_s=[0.0, 1.0, HOURS_10], audio_seconds=0, container="mpegts")),
        "video",
        MediaLimitError,
        ("at least 36,0", "300.0 s"),
    ),
    BadClip(
        "a header that claims less than there is",
        made(lambda: clips.clip(seconds=3, container="mpegts")),
        "video",
        MediaLimitError,
        ("at least 1.", "1.0 s"),
        {"options": MediaOptions(max_seconds=1.0)},
    ),
    BadClip(
        "a sound that is too long",
        made(lambda: clips.sound_file(3.0)),
        "audio",
        MediaLimitError,
        ("3.0 s", "2.0 s"),
        {"options": MediaOptions(max_seconds=2.0)},
    ),
    BadClip("too many streams", made(many_streams), "audio", MediaLimitError, ("17 streams", "16 streams")),
    BadClip(
        "a file with too many bytes",
        made(good_clip),
        "video",
        MediaLimitError,
        ("bytes", "1,000 bytes"),
        {"limits": MediaLimits(max_bytes=1000)},
    ),
    BadClip(
        "samples that are not numbers",
        made(lambda: wav_with(float("nan"))),
        "audio",
        UnreadableMediaError,
        ("1 samples", "not numbers"),
    ),
    BadClip(
        "infinite samples",
        made(lambda: wav_with(float("inf"))),
        "audio",
        UnreadableMediaError,
        ("1 samples", "not numbers"),
    ),
    BadClip("a wav of zero length", made(empty_wav), "audio", UnreadableMediaError, ("0 samples",)),
    BadClip(
        "a wav at 0 samples a second",
        made(lambda: wav(np.zeros(1000, dtype=np.int16), rate_hz=0)),
        "audio",
        UnreadableMediaError,
        (),
    ),
    BadClip(
        "a wav at 2 samples a second",
        made(lambda: wav(np.zeros(100, dtype=np.int16), rate_hz=2)),
        "audio",
        MediaLimitError,
        ("2 samples a second", "1,000"),
    ),
    BadClip(
        "an unknown picture codec",
        made(lambda: good_clip().replace(b"avc1", b"zzzz")),
        "video",
        UnreadableMediaError,
        ("cannot be decoded", "video stream"),
    ),
    BadClip(
        "an unknown sound codec",
        made(lambda: clips.clip(seconds=1, container="matroska").replace(b"A_AAC", b"A_ZZZ")),
        "audio",
        UnreadableMediaError,
        ("cannot be decoded", "audio stream"),
    ),
    BadClip("a file that is not there", lambda f: f / "gone.mp4", "video", MediaNotFoundError, ("gone.mp4 does not",)),
    BadClip(
        "a folder",
        lambda folder: folder,
        "video",
        MediaNotFoundError,
        ("is not a file",),
    ),
    BadClip("a named pipe", named_pipe, "video", MediaNotFoundError, ("pipe.mp4 is not a file",)),
    BadClip("a path with a null character", lambda f: f"{f}/a\0b.mp4", "video", MediaNotFoundError, ("does not",)),
    BadClip("an address", lambda f: "https://example.com/a.mp4", "video", MediaNotFoundError, ("a.mp4 does not",)),
    BadClip("a picture that is not there", lambda f: f / "gone.png", "image", MediaNotFoundError, ("gone.png",)),
    BadClip("a file without read permission", unreadable, "video", UnreadableMediaError, ("locked.mp4 may not",)),
    BadClip("a pattern of picture names", image_pattern, "video", MediaNotFoundError, ("shot%d.png does not",)),
    BadClip("a playlist", playlist_of, "video", UnreadableMediaError, ("is not a video",)),
    BadClip("a concat script", concat_script_of, "video", UnreadableMediaError, ("is not a video",)),
    BadClip("a dash manifest", dash_manifest_of, "video", UnreadableMediaError, ("is not a video",)),
    BadClip(
        "a format that is not on the list",
        made(lambda: clips.silent_clip(1.0, container="yuv4mpegpipe", video_codec="wrapped_avframe")),
        "video",
        UnreadableMediaError,
        ("is not a video",),
    ),
    BadClip("a drawing in svg", same(SVG), "image", UnreadableMediaError, ("not a picture",)),
    BadClip("a drawing in svg given as video", same(SVG), "video", UnreadableMediaError, ("is not a video",)),
    BadClip("a web page", same(HTML), "video", UnreadableMediaError, ("is not a video",)),
    BadClip("a zip archive", made(zipped), "video", UnreadableMediaError, ("is not a video",)),
    BadClip("a pickle", made(lambda: pickle.dumps(list(range(1000)))), "video", UnreadableMediaError, ("is not",)),
    BadClip(
        "a truncated jpeg",
        made(lambda: _saved(Image.fromarray(clips.corners(640, 480)), "JPEG")[:4000]),
        "image",
        UnreadableMediaError,
        ("damaged picture",),
    ),
    BadClip("a truncated png", made(lambda: png(320, 240)[:300]), "image", UnreadableMediaError, ("damaged picture",)),
    BadClip(
        "a truncated mkv",
        made(lambda: _half(clips.clip(container="matroska"))),
        "video",
        UnreadableMediaError,
        ("damaged: the file ends at 1.", "of 4.0"),
    ),
    BadClip(
        "a truncated flac",
        made(lambda: _half(clips.sound_file(4.0, at=(0.5, 1.5, 2.5, 3.5), container="flac", codec="flac"))),
        "audio",
        UnreadableMediaError,
        ("damaged",),
    ),
]


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]
