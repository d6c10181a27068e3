"""EVA-CLIP ViT-g as FAVOR's eye, in transformers' InstructBLIP form."""

from __future__ import annotations

from torch import Tensor
from transformers import InstructBlipVisionConfig, InstructBlipVisionModel

from favor.encoders.layered import LayeredEncoder

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

    def finish(self, hidden: Tensor) -> Tensor:
        return self.model.post_layernorm(hidden)
