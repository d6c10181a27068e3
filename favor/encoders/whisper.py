"""Whisper's encoder as FAVOR's ear (paper section 4.1): 30 s of sound become 1500 vectors, 50 a second."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import gelu
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from favor.encoders.layered import LayeredEncoder


class WhisperAudioEncoder(LayeredEncoder):
    """Whisper's encoder of any size; the decoder is never built.

    Input: log-mel features (B, mel bins, 3000), float. Output: (B, 1500, d_model).
    """

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.model = WhisperEncoder(config)
        self.freeze()

    @property
    def num_layers(self) -> int:
        return len(self.model.layers)

    def embed(self, inputs: Tensor) -> Tensor:
        needed = 2 * self.model.max_source_positions
        assert inputs.shape[-1] == needed, f"{inputs.shape[-1]} mel frames given, Whisper takes exactly {needed}"
        hidden = gelu(self.model.conv1(inputs.to(self.model.conv1.weight.dtype)))
        hidden = gelu(self.model.conv2(hidden)).transpose(1, 2)  # (B, 1500, d_model)
        return hidden + self.model.embed_positions.weight

    def run_layer(self, index: int, hidden: Tensor) -> Tensor:
        return self.model.layers[index](hidden, None)

    def finish(self, hidden: Tensor) -> Tensor:
        return self.model.layer_norm(hidden)
