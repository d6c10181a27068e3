"""InstructBLIP's image side: ViT, then a Q-Former reading each frame with the question in mind (paper section 4.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import InstructBlipQFormerModel

from favor.configuration import FavorConfig
from favor.encoders.eva_vit import EvaViT
from favor.encoders.layered import ROWS_PER_PASS


class InstructBlipEncoder(nn.Module):
    """Frames and the question in, visual tokens out. Starts frozen, like the ViT inside."""

    def __init__(self, config: FavorConfig) -> None:
        super().__init__()
        self.vit = EvaViT(config.vision_config)
        self.qformer = InstructBlipQFormerModel(config.qformer_config)
        width = config.qformer_config.hidden_size
        self.query_tokens = nn.Parameter(torch.empty(1, config.num_image_query_tokens, width))
        self.initialise()
        self.freeze()

    def initialise(self) -> None:
        nn.init.normal_(self.query_tokens, std=self.qformer.config.initializer_range)

    def forward(self, frames: Tensor, instruction_ids: Tensor, instruction_mask: Tensor) -> Tensor:
        """Look at frames with a question in mind.

        Args:
            frames: (F, 3, size, size) normalised pixels.
            instruction_ids: (F, T) token ids of the question, once per frame; T may be 0 for no question.
            instruction_mask: (F, T), 1 on real tokens.

        Returns:
            (F, Q, width) visual tokens.
        """
        patches = self.vit(frames)  # (F, 1 + patches, ViT width)
        if not self.is_frozen:
            return self.read(patches, instruction_ids, instruction_mask)
        pieces = zip(*(rows.split(ROWS_PER_PASS) for rows in (patches, instruction_ids, instruction_mask)), strict=True)
        with torch.no_grad():
            return torch.cat([self.read(*piece) for piece in pieces])

    def freeze(self) -> None:
        """Train nothing of it (the default)."""
        self.is_frozen = True
        self.vit.freeze()
        self.requires_grad_(False)
        self.eval()

    def unfreeze(self) -> None:
        """Let gradients through and follow the parent's mode again."""
        self.is_frozen = False
        self.vit.unfreeze()
        self.requires_grad_(True)

    def train(self, mode: bool = True) -> InstructBlipEncoder:
        return super().train(mode and not self.is_frozen)

    def read(self, patches: Tensor, instruction_ids: Tensor, instruction_mask: Tensor) -> Tensor:
        """The Q-Former alone: (F, 1 + patches, ViT width) and the question to (F, Q, width)."""
        queries = self.query_tokens.expand(len(patches), -1, -1)
        mask = torch.cat((instruction_mask.new_ones(queries.shape[:2]), instruction_mask), dim=1)
        hidden = self.qformer(
            input_ids=instruction_ids if instruction_ids.shape[1] else None,
            attention_mask=mask,
            query_embeds=queries,
            encoder_hidden_states=patches,
        ).last_hidden_state
        return hidden[:, : queries.shape[1]]  # (F, Q, width)
