"""A plain ViT as eye and, over spectrograms, as ear of LAVISH, AV-PEA and CoPL (adapters.md 1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import ViTConfig, ViTModel

from favor.adapters.contract import StreamShape
from favor.encoders.layered import Branch, LayeredEncoder

TIMM_LN_EPS = 1e-6
"""Epsilon of every LayerNorm in timm, where the weights come from; transformers' default is 1e-12."""


def vit_b16() -> ViTConfig:
    """ViT-B/16 at 224 pixels (ImageNet-21k): 85,798,656 parameters without the head."""
    return ViTConfig(layer_norm_eps=TIMM_LN_EPS)


def vit_l16() -> ViTConfig:
    """ViT-L/16 at 224 pixels (ImageNet-21k): 303,301,632 parameters without the head."""
    return ViTConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        layer_norm_eps=TIMM_LN_EPS,
    )


class PlainViT(LayeredEncoder):
    """Pre-norm vision transformer without a pooling layer.

    Input: normalised images or spectrograms (B, 3, height, width) of any size; what does not fill a patch is left out.
    Output: (B, 1 + patches, hidden size), CLS first.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.model = ViTModel(config, add_pooling_layer=False)
        self.freeze()

    @property
    def num_layers(self) -> int:
        return len(self.model.layers)

    def embed(self, inputs: Tensor) -> Tensor:
        embeddings = self.model.embeddings
        patches = embeddings.patch_embeddings(inputs.to(embeddings.cls_token.dtype))
        tokens = torch.cat((embeddings.cls_token.expand(len(patches), -1, -1), patches), dim=1)
        return embeddings.dropout(tokens + self.positions(tokens.shape[1]))

    def positions(self, num_tokens: int) -> Tensor:
        """The position table for so many tokens, (1, num_tokens, hidden size).

        As LAVISH does, another number than the table's is read off the table as if it were a line, CLS being its first
        point: neither rows and columns nor the CLS token's own place survive (adapters.md 2.4).
        """
        table = self.model.embeddings.position_embeddings
        if num_tokens == table.shape[1]:
            return table
        return interpolate(table.transpose(1, 2), num_tokens, mode="linear").transpose(1, 2)

    def run_layer(self, index: int, hidden: Tensor) -> Tensor:
        return self.model.layers[index](hidden)

    def attend(self, index: int, hidden: Tensor, prompts: Tensor | None = None) -> Branch:
        layer = self.model.layers[index]
        num_tokens = hidden.shape[1]
        seen = hidden if prompts is None else torch.cat((hidden, prompts), dim=1)
        added, _ = layer.attention(layer.layernorm_before(seen))
        return Branch(added[:, :num_tokens], None if prompts is None else added[:, num_tokens:])

    def transform(self, index: int, hidden: Tensor) -> Tensor:
        layer = self.model.layers[index]
        return layer.mlp(layer.layernorm_after(hidden))

    def num_tokens(self, height: int, width: int) -> int:
        """Of an input of that size, CLS included: 197 of 224 x 224, 49 of a spectrogram of 102 x 128."""
        rows, columns = self.model.embeddings.patch_embeddings.patch_size
        return 1 + (height // rows) * (width // columns)

    def shape(self, index: int) -> StreamShape:
        """For images of the configured size; other inputs have ``num_tokens`` of their own."""
        num_tokens = self.model.embeddings.position_embeddings.shape[1]
        return StreamShape(self.model.config.hidden_size, num_tokens, has_cls=True, layer=index)

    def finish(self, hidden: Tensor) -> Tensor:
        return self.model.layernorm(hidden)
