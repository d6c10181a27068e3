"""Still pictures, and the size and orientation that every frame is given."""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from favor.errors import UnreadableMediaError
from favor.media.limits import check_pixels, too_many_pixels
from favor.media.reading import Reading

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_MOVING_FORMATS = ("GIF", "PNG")
"""Formats whose moving pictures FFmpeg decodes."""

_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    OverflowError,
    MemoryError,
    struct.error,
)
"""What Pillow's readers raise on damaged files."""

_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_WHITE = (255, 255, 255)


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (size, size, 3) uint8, bicubic, aspect not kept."""
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))


def on_white(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 RGBA -> (H, W, 3) uint8: transparency shows a white page, for which most drawings are made."""
    picture = Image.fromarray(pixels, "RGBA")
    page = Image.new("RGBA", picture.size, (*_WHITE, 255))
    return np.asarray(Image.alpha_composite(page, picture).convert("RGB"))


def is_still_picture(reading: Reading) -> bool:
    """Whether the bytes are a picture that does not move (an animated gif is a video)."""
    picture = _open(reading)
    if picture is None:
        return False
    with picture:
        return not (picture.format in _MOVING_FORMATS and _has_pages(picture))


def load_picture(reading: Reading) -> tuple[np.ndarray, str, tuple[int, int]]:
    """Decode one picture.

    Returns:
        (size, size, 3) uint8 RGB, turned upright by its EXIF orientation, transparency on white; the format; and the
        upright width and height in pixels.

    Raises:
        UnreadableMediaError: not a picture, or damaged.
        MediaLimitError: too many pixels, or too few.
    """
    picture = _open(reading)
    if picture is None:
        raise UnreadableMediaError(
            f"{reading.name} is not a picture that can be read (0 pictures found)",
            allowed="png, jpeg, webp, bmp, tiff or gif",
            advice="Send a video as a video and sound as sound, or convert the picture to png",
        )
    with picture:
        check_pixels(reading.name, picture.width, picture.height, reading.limits)
        if picture.format != "MPO" and _has_pages(picture):  # MPO: a photograph with a preview of itself
            reading.note("every picture but the first of an animated file")
        pixels = _decode(picture, reading)
    size = (pixels.shape[1], pixels.shape[0])
    return resized(pixels, reading.options.frame_size), (picture.format or "picture").lower(), size


def _open(reading: Reading) -> Image.Image | None:
    reading.file.seek(0)
    try:
        return Image.open(reading.file, formats=_FORMATS)  # type: ignore[arg-type]
    except _BOMBS as error:
        raise too_many_pixels(reading.name, 2 * (Image.MAX_IMAGE_PIXELS or 0), reading.limits) from error
    except UnidentifiedImageError:
        return None
    except _PILLOW_ERRORS as error:
        raise _damaged(reading) from error


def _has_pages(picture: Image.Image) -> bool:
    try:
        return bool(getattr(picture, "is_animated", False))
    except _PILLOW_ERRORS:
        return False


def _decode(picture: Image.Image, reading: Reading) -> np.ndarray:
    try:
        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I;16"):  # Pillow would clip 16 bits to white instead of scaling them
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        if upright.has_transparency_data:
            return on_white(np.asarray(upright.convert("RGBA")))
        return np.asarray(upright.convert("RGB"))
    except _BOMBS as error:
        raise too_many_pixels(reading.name, 2 * (Image.MAX_IMAGE_PIXELS or 0), reading.limits) from error
    except _PILLOW_ERRORS as error:
        raise _damaged(reading) from error


def _damaged(reading: Reading) -> UnreadableMediaError:
    return UnreadableMediaError(
        f"{reading.name} is a damaged picture",
        allowed="a complete picture, 0 damaged places",
        advice="Send an intact copy",
    )
