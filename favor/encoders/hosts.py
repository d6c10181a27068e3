"""The pairs of encoders that published adapters sat in, and FAVOR's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from transformers import InstructBlipVisionConfig, WhisperConfig

from favor.adapters.contract import Site
from favor.configuration import WHISPER_LARGE_V2
from favor.encoders.eva_vit import EvaViT
from favor.encoders.hts_at import HtsAt, hts_at_audioset
from favor.encoders.layered import LayeredEncoder
from favor.encoders.pairing import sites
from favor.encoders.swin_v2 import SwinV2, swinv2_b, swinv2_l
from favor.encoders.vit import PlainViT, vit_b16, vit_l16
from favor.encoders.whisper import WhisperAudioEncoder
from favor.sync import AUDIO_FRAMES_PER_STEP

VIT_AUDIO_TOKENS = 1 + 6 * 8
"""CLS and the patches of a spectrogram of 102 frames x 128 mel bins."""


@dataclass(frozen=True)
class Host:
    """An eye and an ear, of published size, with random weights.

    Args:
        visual, audio: build the encoders; without ``audio`` one encoder, and one set of weights, sees and hears.
        audio_tokens: of a frame's sound at every layer, where the ear's own ``shape`` tells of another input.
    """

    visual: Callable[[], LayeredEncoder]
    audio: Callable[[], LayeredEncoder] | None = None
    audio_tokens: int | None = None

    def build(self) -> tuple[LayeredEncoder, LayeredEncoder]:
        """The visual and the audio encoder; the same object twice where it is shared."""
        visual = self.visual()
        return visual, visual if self.audio is None else self.audio()

    def sites(self, visual: LayeredEncoder, audio: LayeredEncoder) -> tuple[Site, ...]:
        """Every layer of both encoders, in running order, with its partner if it has one."""
        eye, ear = visual.shapes(), audio.shapes()
        if self.audio_tokens is not None:
            ear = [replace(shape, num_tokens=self.audio_tokens) for shape in ear]
        return sites(eye, ear)


HOSTS = {
    "vit-b16": Host(lambda: PlainViT(vit_b16()), audio_tokens=VIT_AUDIO_TOKENS),
    "vit-l16": Host(lambda: PlainViT(vit_l16()), audio_tokens=VIT_AUDIO_TOKENS),
    "swinv2-b": Host(lambda: SwinV2(swinv2_b())),
    "swinv2-l": Host(lambda: SwinV2(swinv2_l())),
    "swinv2-l+htsat": Host(lambda: SwinV2(swinv2_l()), lambda: HtsAt(hts_at_audioset(), ends_in_norm=False)),
    "whisper+eva": Host(
        lambda: EvaViT(InstructBlipVisionConfig()),
        lambda: WhisperAudioEncoder(WhisperConfig(**WHISPER_LARGE_V2)),
        audio_tokens=AUDIO_FRAMES_PER_STEP,
    ),
}
