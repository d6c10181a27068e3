"""HTS-AT as the ear of DG-SCT: a Swin Transformer over a folded log-mel spectrogram (Chen et al., ICASSP 2022).

Shapes: B inputs, 1001 or 1024 frames of 10 ms (or fewer, then stretched), 64 mel bins.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import ClapAudioConfig
from transformers.models.clap.modeling_clap import ClapAudioModel

from favor.encoders.layered import Branch
from favor.encoders.windows import WindowedEncoder


def hts_at_audioset() -> ClapAudioConfig:
    """The AudioSet model of 31,325,143 parameters, of which this encoder has 27,534,488.

    The others are the matrices of STFT (2 x 513 x 1024) and mel bank (513 x 64), stored as parameters there and
    computed by :func:`favor.encoders.spectrogram.hts_at_log_mel` here, and the head over 527 classes: a 2 x 3
    convolution (2,428,943) and a Linear (278,256).
    """
    return ClapAudioConfig(
        window_size=8,
        num_mel_bins=64,
        spec_size=256,
        patch_size=4,
        patch_stride=(4, 4),
        patch_embeds_hidden_size=96,
        depths=(2, 2, 6, 2),
        num_attention_heads=(4, 8, 16, 32),
        hidden_size=768,
        hidden_dropout_prob=0.0,
    )


class HtsAt(WindowedEncoder):
    """Input: log-mel spectrograms (B, 1, frames, 64), at most 1024 frames. Output: (B, 64, 768).

    The frames are stretched to 1024 and folded: four quarters of 256 frames, one over the other, make a picture of
    256 x 256. Frozen, the batch-norm over mel bins keeps its running statistics.

    The released weights carry other names (``bn0``, ``attn.qkv`` in one piece, ``mlp.fc1``); reading them needs a table
    of names.

    Args:
        ends_in_norm: ``finish`` applies the last norm; DG-SCT takes the tokens without (adapters.md 3.3).
    """

    def __init__(self, config: ClapAudioConfig, ends_in_norm: bool = True) -> None:
        super().__init__()
        self.model = ClapAudioModel(config)
        self.ends_in_norm = ends_in_norm
        for index in range(self.num_layers):  # transformers does it in its forward, which halves do without
            self.block(index).set_shift_and_window_size(self.grid_of(index))
        self.freeze()

    @property
    def stages(self) -> Any:
        return self.model.audio_encoder.layers

    @property
    def grid(self) -> tuple[int, int]:
        return self.model.audio_encoder.patch_embed.grid_size

    def embed(self, inputs: Tensor) -> Tensor:
        encoder = self.model.audio_encoder
        mel_first = inputs.to(encoder.batch_norm.weight.dtype).transpose(1, 3)  # (B, mel, frames, 1)
        return encoder.patch_embed(encoder.reshape_mel2img(encoder.batch_norm(mel_first).transpose(1, 3)))

    def attend(self, index: int, hidden: Tensor, prompts: Tensor | None = None) -> Branch:
        norm = self.block(index).layernorm_before
        return self.attend_in_windows(index, norm(hidden), None if prompts is None else norm(prompts))

    def transform(self, index: int, hidden: Tensor) -> Tensor:
        block = self.block(index)
        return block.output(block.intermediate(block.layernorm_after(hidden)))

    def finish(self, hidden: Tensor) -> Tensor:
        return self.model.audio_encoder.norm(hidden) if self.ends_in_norm else hidden

    def similarity(self, attention: Any, queries: Tensor, keys: Tensor) -> Tensor:
        return queries @ keys.transpose(-2, -1) / attention.attention_head_size**0.5

    def position_bias(self, attention: Any) -> Tensor:
        return attention.relative_position_bias_table[attention.relative_position_index].permute(2, 0, 1)
