"""Whisper's encoder as FAVOR's ear (paper section 4.1): 30 s of sound become 1500 vectors, 50 a second."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import gelu
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from favor.adapters.contract import StreamShape
from favor.encoders.layered import Branch, LayeredEncoder


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

    def attend(self, index: int, hidden: Tensor, prompts: Tensor | None = None) -> Branch:
        layer = self.model.layers[index]
        num_tokens = hidden.shape[1]
        seen = hidden if prompts is None else torch.cat((hidden, prompts), dim=1)
        added, _ = layer.self_attn(hidden_states=layer.self_attn_layer_norm(seen), attention_mask=None)
        return Branch(added[:, :num_tokens], None if prompts is None else added[:, num_tokens:])

    def transform(self, index: int, hidden: Tensor) -> Tensor:
        layer = self.model.layers[index]
        return layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden))))

    def shape(self, index: int) -> StreamShape:
        model = self.model
        return StreamShape(model.config.d_model, model.max_source_positions, has_cls=False, layer=index)

    def finish(self, hidden: Tensor) -> Tensor:
        return self.model.layer_norm(hidden)
