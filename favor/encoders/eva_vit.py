"""EVA-CLIP ViT-g as FAVOR's eye, in transformers' InstructBLIP form."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import InstructBlipVisionConfig, InstructBlipVisionModel

from favor.adapters.contract import StreamShape
from favor.encoders.layered import Branch, LayeredEncoder

LN_VISION_EPS = 1e-5
"""Epsilon of the last LayerNorm in LAVIS, where the weights come from; transformers' class would use 1e-6 there."""


class EvaViT(LayeredEncoder):
    """Vision transformer with a final LayerNorm.

    Input: normalised frames (F, 3, size, size), float. Output: (F, 1 + patches, hidden size), CLS first.
    """

    def __init__(self, config: InstructBlipVisionConfig) -> None:
        super().__init__()
        self.model = InstructBlipVisionModel(config)
        self.model.post_layernorm.eps = LN_VISION_EPS
        self.freeze()

    @property
    def num_layers(self) -> int:
        return len(self.model.encoder.layers)

    def embed(self, inputs: Tensor) -> Tensor:
        return self.model.embeddings(inputs)

    def run_layer(self, index: int, hidden: Tensor) -> Tensor:
        return self.model.encoder.layers[index](hidden)

    def attend(self, index: int, hidden: Tensor, prompts: Tensor | None = None) -> Branch:
        layer = self.model.encoder.layers[index]
        num_tokens = hidden.shape[1]
        seen = hidden if prompts is None else torch.cat((hidden, prompts), dim=1)
        added, _ = layer.self_attn(hidden_states=layer.layer_norm1(seen))
        return Branch(added[:, :num_tokens], None if prompts is None else added[:, num_tokens:])

    def transform(self, index: int, hidden: Tensor) -> Tensor:
        layer = self.model.encoder.layers[index]
        return layer.mlp(layer.layer_norm2(hidden))

    def shape(self, index: int) -> StreamShape:
        config = self.model.config
        num_tokens = 1 + (config.image_size // config.patch_size) ** 2
        return StreamShape(config.hidden_size, num_tokens, has_cls=True, layer=index)

    def finish(self, hidden: Tensor) -> Tensor:
        return self.model.post_layernorm(hidden)
