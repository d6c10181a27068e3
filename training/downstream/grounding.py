"""The network of MUSIC-AVQA's answers: spatio-temporal grounding (adapters.md 2.5; Li et al., CVPR 2022).

The sound of every second points at a place of its frame; the question chooses seconds of both streams; what they say
together, times the question, is the answer. Beside it, a small classifier tells whether a sound and a frame belong
together, and learns it from frames of another video.

Shapes: B questions, T segments, N visual tokens of a frame; D and E widths of the encoders; W width of the network;
L words; A answers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 512
NUM_ANSWERS = 42
NUM_WORDS = 93
"""Of the vocabulary of questions, padding included."""

NUM_HEADS = 4
DROPOUT = 0.1


class Answered(NamedTuple):
    """What the network makes of a batch.

    Args:
        answers: (B, A) logits.
        matches: (B, T, 2) logits of "no" and "yes": does the sound belong to its frame. other_matches: the same of
            another video's frames; None without them.
    """

    answers: Tensor
    matches: Tensor
    other_matches: Tensor | None = None


class GroundingNetwork(nn.Module):
    """Frames, sound and a question to an answer.

    Args:
        visual_width, sound_width: D and E.
        width: 512 as published with LAVISH, 1536 with DG-SCT.

    With Swin-V2-L, 9,424,556 weights. The published head counts 12,182,188 (adapters.md 6.2): it also holds 2,757,632
    of layers that nothing runs through, left over from a head for other features. They are not made here.
    """

    def __init__(
        self,
        visual_width: int,
        sound_width: int,
        *,
        width: int = WIDTH,
        num_words: int = NUM_WORDS,
        num_answers: int = NUM_ANSWERS,
    ) -> None:
        super().__init__()
        self.visual_projection = nn.Linear(visual_width, width)
        self.sound_projection = nn.Linear(sound_width, width)
        self.sound = nn.Linear(width, width)
        self.grounded = nn.Linear(2 * width, width)
        self.matching = MatchClassifier(width)
        self.question = QuestionEncoder(num_words, width)
        self.when_seen, self.when_heard = QuestionAttention(width), QuestionAttention(width)
        self.fusion = nn.Linear(2 * width, width)
        self.answer = nn.Linear(width, num_answers)

    def forward(self, visual: Tensor, sound: Tensor, words: Tensor, other_visual: Tensor | None = None) -> Answered:
        """Visual tokens (B, T, N, D), sound (B, T, E), words (B, L) int64, another video's tokens (B, T, N, D)."""
        heard = self.sound(functional.relu(self.sound_projection(sound)))  # (B, T, W)
        seen = self._ground(visual, heard)  # (B, T, W)
        question = self.question(words)  # (B, W)
        parts = self.when_heard(question, heard) + heard.mean(dim=1), self.when_seen(question, seen) + seen.mean(dim=1)
        fused = self.fusion(torch.cat(parts, dim=-1).tanh())
        others = None if other_visual is None else self.matching(heard, self._ground(other_visual, heard))
        return Answered(self.answer((fused * question).tanh()), self.matching(heard, seen), others)

    def _ground(self, visual: Tensor, heard: Tensor) -> Tensor:
        """A frame's mean beside what the sound points at, (B, T, N, D) and (B, T, W) -> (B, T, W)."""
        places = self.visual_projection(visual)  # (B, T, N, W)
        pointed = spatial_grounding(places, heard)
        return self.grounded(torch.cat((places.mean(dim=2), pointed), dim=-1).tanh())


def spatial_grounding(places: Tensor, heard: Tensor) -> Tensor:
    """The places' directions, weighted by a softmax of their cosines with the sound: (B, T, N, W), (B, T, W) ->
    (B, T, W)."""
    directions = functional.normalize(places, dim=-1)
    cosines = torch.einsum("btnw,btw->btn", directions, functional.normalize(heard, dim=-1))
    return torch.einsum("btn,btnw->btw", cosines.softmax(dim=-1), directions)


class QuestionEncoder(nn.Module):
    """Words (B, L) int64 to a vector (B, W): the last states of an LSTM, which reads the padding too, as published."""

    def __init__(self, num_words: int, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(num_words, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.out = nn.Linear(2 * width, width)

    def forward(self, words: Tensor) -> Tensor:
        _, (hidden, cell) = self.lstm(self.words(words).tanh())  # (1, B, W) each
        return self.out(torch.cat((hidden[0], cell[0]), dim=-1).tanh())


class QuestionAttention(nn.Module):
    """The question chooses seconds: a question (B, W) and a stream (B, T, W) -> (B, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, NUM_HEADS, dropout=DROPOUT, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(width, width), nn.Dropout(DROPOUT)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, question: Tensor, stream: Tensor) -> Tensor:
        chosen = self.attention(question[:, None], stream, stream, need_weights=False)[0][:, 0]
        return self.norm(chosen + self.mlp(chosen))


class MatchClassifier(nn.Module):
    """Whether a sound and a grounded frame, (..., W) each, belong together: logits (..., 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * width, width),
            nn.ReLU(),
            nn.Linear(width, width // 2),
            nn.ReLU(),
            nn.Linear(width // 2, width // 4),
            nn.ReLU(),
            nn.Linear(width // 4, 2),
        )

    def forward(self, heard: Tensor, seen: Tensor) -> Tensor:
        return self.layers(torch.cat((heard, seen), dim=-1))


def answer_loss(answered: Answered, answers: Tensor) -> Tensor:
    """Cross-entropy of the right answers (B,)."""
    return functional.cross_entropy(answered.answers, answers)


def match_loss(answered: Answered) -> Tensor:
    """Cross-entropy of "yes" for every second's own frame and "no" for the other video's, the mean of both halves."""
    assert answered.other_matches is not None, "another video's frames are needed"
    logits = torch.cat((answered.matches, answered.other_matches), dim=1).flatten(0, 1)  # (B * 2T, 2)
    is_own = torch.zeros(answered.matches.shape[0], 2 * answered.matches.shape[1], dtype=torch.int64)
    is_own[:, : answered.matches.shape[1]] = 1
    return functional.cross_entropy(logits, is_own.flatten().to(logits.device))
