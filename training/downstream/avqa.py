"""MUSIC-AVQA: questions about ten seconds' worth of frames and sound out of a minute of music.

Loss: cross-entropy of the answer + 0.5 x cross-entropy of "do sound and frame belong together", whose wrong frames are
another video's. As published, those pass the frozen encoder without adapters and without gradient, so the classifier
could tell adapted from plain frames without listening; that is how the published figures came about, and it is kept.

Answers and words are numbered by the *train* file. Predictions are JSON lines, {"question_id": 1, "answer": "yes"},
without the withdrawn questions, which are not scored.

Shapes: B questions, T segments, A answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from favor.downstream.annotations import Place
from favor.downstream.music_avqa import Question, answers_of, read_questions, word_numbers, words_of
from training.downstream.contract import Arrays, Example, Files, Head, Seen, Split, Streams, Targets, Task
from training.downstream.grounding import (
    NUM_ANSWERS,
    NUM_WORDS,
    WIDTH,
    Answered,
    GroundingNetwork,
    answer_loss,
    match_loss,
)
from training.recipe import Strict


class AvqaFiles(Files):
    """The three question files; ``train`` also makes the vocabularies, so it is needed by every split."""

    train: str
    val: str
    test: str


class AvqaHeadSettings(Strict):
    """``num_answers``, ``num_words``: of the vocabularies of the official train file.

    ``width``: 512 with LAVISH, 1536 with DG-SCT. ``matching_weight``: of the second loss.
    """

    width: int = WIDTH
    num_answers: int = NUM_ANSWERS
    num_words: int = NUM_WORDS
    matching_weight: float = 0.5


class AvqaHead(Head[Answered]):
    """Frames, sound and a question to an answer."""

    def __init__(self, settings: AvqaHeadSettings, streams: Streams) -> None:
        super().__init__()
        self.streams, self.matching_weight = streams, settings.matching_weight
        self.network = GroundingNetwork(
            streams.visual.width,
            streams.audio.width,
            width=settings.width,
            num_words=settings.num_words,
            num_answers=settings.num_answers,
        )

    def forward(self, seen: Seen) -> Answered:
        """Answer logits (B, A), and logits of the matches."""
        assert seen.text is not None, "a question is needed"
        _, sound = seen.pooled(self.streams)  # (B, T, E)
        others = None if seen.other_visual is None else self._places(seen.other_visual, seen.num_segments)
        return self.network(self._places(seen.visual, seen.num_segments), sound, seen.text, others)

    def loss(self, output: Answered, targets: Targets) -> Tensor:
        """``targets["answer"]`` (B,) int64; without another video's frames, as in evaluation, only that loss."""
        loss = answer_loss(output, targets["answer"])
        return loss if output.other_matches is None else loss + self.matching_weight * match_loss(output)

    def predictions(self, output: Answered) -> Arrays:
        """ "answers" (B,), numbers of the vocabulary."""
        return {"answers": output.answers.argmax(dim=-1).cpu().numpy()}

    def _places(self, tokens: Tensor, num_segments: int) -> Tensor:
        """(B * T, N, D) -> (B, T, N, D), without a CLS token, which is at no place."""
        places = tokens[:, 1:] if self.streams.visual.has_cls else tokens
        return places.unflatten(0, (-1, num_segments))


@dataclass(frozen=True)
class Asked:
    """A question and the answers there are."""

    question: Question
    answers: tuple[str, ...]


class AvqaTask(Task):
    num_segments = 10
    sound_s = 1.95
    filter_bank = "avqa"
    needs_other_video = True
    files = AvqaFiles
    head_settings = AvqaHeadSettings

    def examples(self, files: AvqaFiles, split: Split) -> Sequence[Example]:
        train = read_questions(files.train)
        answers, words = answers_of(train), words_of(train)
        path = {"train": files.train, "val": files.val, "test": files.test}[split]
        asked = [question for question in read_questions(path) if not question.is_deleted]
        return [self._example(files, Asked(question, answers), words) for question in asked]

    def build_head(self, settings: AvqaHeadSettings, streams: Streams) -> AvqaHead:
        return AvqaHead(settings, streams)

    def score(self, arrays: Arrays, examples: Sequence[Example]) -> float:
        """Right answers over questions."""
        answers = self._answers(arrays, examples)
        right = [answer == example.source.question.answer for answer, example in zip(answers, examples, strict=True)]
        return sum(right) / len(right)

    def write(self, path: Path, arrays: Arrays, examples: Sequence[Example]) -> Path:
        """JSON lines, one per question."""
        file = path.with_suffix(".jsonl")
        lines = [
            json.dumps({"question_id": example.source.question.question_id, "answer": answer}, ensure_ascii=False)
            for answer, example in zip(self._answers(arrays, examples), examples, strict=True)
        ]
        draft = file.with_suffix(".draft")
        draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
        draft.replace(file)
        return file

    def _example(self, files: AvqaFiles, asked: Asked, words: Sequence[str]) -> Example:
        question = asked.question
        if question.answer not in asked.answers:
            raise Place(f"question {question.question_id}").error(
                f"the unknown answer {question.answer!r}", allowed="answers of the train file"
            )
        return Example(
            question.video_id,
            Path(question.video_id + files.suffix),
            targets={"answer": np.array(asked.answers.index(question.answer))},
            text=tuple(word_numbers(question, words).tolist()),
            source=asked,
        )

    def _answers(self, arrays: Arrays, examples: Sequence[Example]) -> list[str]:
        return [example.source.answers[number] for number, example in zip(arrays["answers"].tolist(), examples)]


TASK = AvqaTask()
