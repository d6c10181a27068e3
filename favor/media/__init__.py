"""The media room: bytes or a path in, frames with time stamps and a 16 kHz waveform out.

The only user of PyAV. FFmpeg never sees a path or an address: we open the file, it reads from our file object.

    sniff_kind   image, audio or video, told by the content
    load_video   a video with its own sound, or with a separate sound file
    load_audio   sound alone (also the sound of a video)
    load_image   a still picture, or a picture shown while a sound lasts
    write_clip   frames and a waveform to a real mp4
"""

from favor.media.clip import SAMPLE_RATE_HZ, AudioReceipt, Clip, Receipt, VideoReceipt
from favor.media.limits import MediaLimits, MediaOptions
from favor.media.load import load_audio, load_image, load_video, sniff_kind
from favor.media.write import write_clip

__all__ = [
    "SAMPLE_RATE_HZ",
    "AudioReceipt",
    "Clip",
    "MediaLimits",
    "MediaOptions",
    "Receipt",
    "VideoReceipt",
    "load_audio",
    "load_image",
    "load_video",
    "sniff_kind",
    "write_clip",
]
