"""Swin Transformer V2 as eye and, over spectrograms, as ear of LAVISH, DG-SCT and CoPL (adapters.md 1)."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize
from transformers import Swinv2Config, Swinv2Model

from favor.encoders.layered import Branch
from favor.encoders.windows import WindowedEncoder

MOST_LOGIT_SCALE = 100.0
"""Bound of the learned factor of the cosine attention (Swin V2 paper, section 3.3)."""

MOST_POSITION_BIAS = 16.0


def swinv2_b() -> Swinv2Config:
    """-B, window 12 at 192 pixels (ImageNet-22k): 86,893,816 parameters without the head, as in timm."""
    return _at_192_pixels(embed_dim=128, num_heads=(4, 8, 16, 32))


def swinv2_l() -> Swinv2Config:
    """-L, window 12 at 192 pixels (ImageNet-22k): 195,202,932 parameters without the head, as in timm."""
    return _at_192_pixels(embed_dim=192, num_heads=(6, 12, 24, 48))


class SwinV2(WindowedEncoder):
    """Input: normalised images or spectrograms (B, 3, size, size). Output: (B, tokens, width), 36 x 1536 for -L.

    Norms follow the halves they belong to: a half adds LN(attention(x)) or LN(mlp(x)).

    transformers' module has timm's parameters one for one. It differs in one constant: the mask of shifted windows is
    added twice there (-200 in place of -100), which either way leaves nothing of a masked score unless scores lie
    further apart than 100.

    Prompts get the bias 8: a relative position has 16 sigmoid(.), so 8 is what says nothing, and zero, the least that
    two tokens can have, would hide prompts from all of them.
    """

    prompt_bias = 8.0

    mask_repeats = 2

    def __init__(self, config: Swinv2Config) -> None:
        super().__init__()
        self.model = Swinv2Model(config, add_pooling_layer=False)
        self.freeze()

    @property
    def stages(self) -> Any:
        return self.model.encoder.layers

    @property
    def grid(self) -> tuple[int, int]:
        return self.model.embeddings.patch_grid

    def embed(self, inputs: Tensor) -> Tensor:
        patches = self.model.embeddings.patch_embeddings
        needed = tuple(cells * size for cells, size in zip(patches.grid_size, patches.patch_size))
        assert tuple(inputs.shape[-2:]) == needed, f"{tuple(inputs.shape[-2:])} pixels given, needed are {needed}"
        hidden, _ = self.model.embeddings(inputs.to(patches.projection.weight.dtype))
        return hidden

    def attend(self, index: int, hidden: Tensor, prompts: Tensor | None = None) -> Branch:
        norm = self.block(index).layernorm_before  # behind the attention, whatever transformers calls it
        added = self.attend_in_windows(index, hidden, prompts)
        return Branch(norm(added.tokens), None if added.prompts is None else norm(added.prompts))

    def transform(self, index: int, hidden: Tensor) -> Tensor:
        block = self.block(index)
        return block.layernorm_after(block.output(block.intermediate(hidden)))

    def finish(self, hidden: Tensor) -> Tensor:
        return self.model.layernorm(hidden)

    def similarity(self, attention: Any, queries: Tensor, keys: Tensor) -> Tensor:
        scale = attention.logit_scale.clamp(max=math.log(MOST_LOGIT_SCALE)).exp()
        return normalize(queries, dim=-1) @ normalize(keys, dim=-1).transpose(-2, -1) * scale

    def position_bias(self, attention: Any) -> Tensor:
        table = attention.continuous_position_bias_mlp(attention.relative_coords_table).flatten(0, 2)  # (places, H)
        return MOST_POSITION_BIAS * table[attention.relative_position_index].permute(2, 0, 1).sigmoid()


def _at_192_pixels(embed_dim: int, num_heads: tuple[int, ...]) -> Swinv2Config:
    return Swinv2Config(
        image_size=192,
        patch_size=4,
        embed_dim=embed_dim,
        depths=(2, 2, 18, 2),
        num_heads=num_heads,
        window_size=12,
        pretrained_window_sizes=(0, 0, 0, 0),
        drop_path_rate=0.0,  # the encoder is frozen: the published recipes left it on by mistake (adapters.md 0.8)
    )
