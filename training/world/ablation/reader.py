"""Reads every step of a clip off its soft tokens: the measuring device, the same for all variants.

A question for each step looks at all soft tokens of the clip, wherever they stand; that soft tokens belong to steps at
all, and which to which, it has to learn like everything else.

Shapes: B clips, M = MAX_STEPS steps, N = MAX_TOKENS places, S = B * M, R width of the reader.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from favor.modeling import FavorForConditionalGeneration
from favor.sync import ClipSteps, num_windows
from training.world.steps import StepHeads, StepVectors

from .variants import MAX_STEPS, MAX_TOKENS

WIDTH = 192
_LAYERS, _HEADS = 2, 4
_SLOWEST = 100.0
"""How much slower than the fastest wave the slowest one is."""


def reading_heads(model: FavorForConditionalGeneration) -> StepHeads:
    """The model's connector, a reader of its soft tokens and heads on that."""
    weight = model.config.connector_config.diversity_weight
    return StepHeads(Reader(model), width=WIDTH, diversity_weight=weight)


class Reader(nn.Module):
    """A vector for every step of every clip."""

    def __init__(self, model: FavorForConditionalGeneration) -> None:
        super().__init__()
        self.connector = model.connector
        self._soft_tokens = model.get_soft_tokens  # a bound method: the rest of the model is not taught
        self.taken_in = nn.Sequential(
            nn.LayerNorm(model.config.text_config.hidden_size), nn.Linear(model.config.text_config.hidden_size, WIDTH)
        )
        self.steps = nn.Parameter(_waves(MAX_STEPS, MAX_TOKENS // MAX_STEPS))
        self.places = nn.Parameter(_waves(MAX_TOKENS, 1))
        self.layers = nn.ModuleList(_Layer() for _ in range(_LAYERS))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, media: dict[str, Tensor]) -> StepVectors:
        """(S, R), for seeing and hearing the same; M steps of every clip, whether it has them or not."""
        made = self._soft_tokens(**media)
        clips = made.soft_tokens.split(self.tokens_of_clips(media))
        tokens = self.taken_in(pad_sequence(list(clips), batch_first=True))  # (B, longest, R)
        lengths = torch.tensor([len(clip) for clip in clips])
        is_filler = torch.arange(tokens.shape[1]) >= lengths[:, None]
        tokens = tokens + self.places[: tokens.shape[1]]
        steps = self.steps.expand(len(clips), -1, -1)
        for layer in self.layers:
            steps = layer(steps, tokens, is_filler)
        vectors = self.norm(steps).flatten(0, 1)  # (S, R)
        return StepVectors(vectors, vectors, made.diversity)

    def tokens_of_clips(self, media: dict[str, Tensor]) -> list[int]:
        """How many soft tokens each clip has."""
        config = self.connector.config
        lengths = [
            ClipSteps.of_clip(num_frames=frames, num_audio_steps=steps, is_image=still).length(config.align)
            for frames, steps, still in zip(
                *(media[name].tolist() for name in ("num_frames", "num_audio_steps", "is_image")), strict=True
            )
        ]
        return [num_windows(length, config.window_steps) * config.num_query_tokens for length in lengths]


def _waves(number: int, distance: int) -> Tensor:
    """(number, R) sines and cosines of every ``distance``-th place, so that what is near looks alike from the start.

    Which places belong to which step they do not say: attention begins with random weights.
    """
    places = torch.arange(number) * distance
    rates = _SLOWEST ** -(torch.arange(WIDTH // 2) / (WIDTH // 2))
    angles = places[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=1)


class _Layer(nn.Module):
    """Steps look at tokens, then think."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, _HEADS, batch_first=True)
        self.thought = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, steps: Tensor, tokens: Tensor, is_filler: Tensor) -> Tensor:
        """(B, M, R), (B, N, R), (B, N) -> (B, M, R)."""
        looked, _ = self.attention(self.before(steps), tokens, tokens, key_padding_mask=is_filler, need_weights=False)
        steps = steps + looked
        return steps + self.thought(self.between(steps))
