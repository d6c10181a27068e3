"""Files to figures: one function per task, from an official truth file and a file of predictions.

Predictions are a ``.npz`` of arrays in the truth's order, or JSON lines for answers. An array "clips" with the clips'
names (AVE's video ids, LLP's file names) is optional and checked where it is given, so that nothing shifts by one.

    ave     "scores" (N, 10, 29), or "events" (N, 10) and "classes" (N, 28); see :mod:`eval.metrics.ave`
    avvp    "audio" and "visual" (N, 10, 25) probabilities, and if the model has it "clip" (N, 25)
    avs     "probabilities" (N, F, H, W); the truth is a ``.npz`` with "masks" of the same shape
    avqa    lines of {"question_id": 1, "answer": "yes"}, in any order, one for every question
    avr     "similarities" (texts, videos); the truth, if not the diagonal, is a ``.npz`` with "true_videos" (texts,)
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.metrics import ave, avqa, avs, avvp, retrieval
from eval.metrics.arguments import ScoringError
from favor.downstream import llp, music_avqa
from favor.downstream.annotations import Place, read_lines
from favor.downstream.ave import read_annotations, read_split, segment_labels

Arrays = Mapping[str, NDArray[Any]]


def score_ave(truth: Path, predictions: Path, *, split: Path | None = None) -> dict[str, float]:
    """Segment accuracy, and what the two oracles reach on the same clips.

    ``split`` picks rows of the annotation file; without it all rows are scored.
    """
    clips = read_annotations(truth)
    if split is not None:
        clips = tuple(clips[number] for number in read_split(split, num_clips=len(clips)))
    arrays = read_arrays(predictions, needs=())
    _check_clips(arrays, [clip.video_id for clip in clips])
    if "scores" in arrays:
        predicted = ave.labels_of_scores(arrays["scores"])
    else:
        _need(predictions, arrays, ("events", "classes"))
        predicted = ave.labels_of_events(arrays["events"], arrays["classes"])
    labels = segment_labels(clips)
    oracles = ave.oracles(labels)
    return {
        "segment_accuracy": ave.segment_accuracy(predicted, labels),
        "oracle_all_background": oracles.all_background,
        "oracle_perfect_class_without_localisation": oracles.perfect_class_without_localisation,
    }


def score_avvp(truth: Path, predictions: Path, *, audio: Path, visual: Path) -> dict[str, float]:
    """Segment and event F-scores of the clips that the weak file ``truth`` lists.

    ``audio`` and ``visual`` are the dense files.
    """
    filenames = [clip.filename for clip in llp.read_clips(truth)]
    arrays = read_arrays(predictions, needs=("audio", "visual"))
    _check_clips(arrays, filenames)
    given = {
        "audio": avvp.decided(arrays["audio"], arrays.get("clip")),
        "visual": avvp.decided(arrays["visual"], arrays.get("clip")),
        "true_audio": llp.segment_labels(llp.read_events(audio), filenames),
        "true_visual": llp.segment_labels(llp.read_events(visual), filenames),
    }
    segment, event = avvp.segment_scores(**given), avvp.event_scores(**given)
    return {
        f"{level}_{name}": value
        for level, scores in (("segment", segment), ("event", event))
        for name, value in vars(scores).items()
    }


def score_avs(truth: Path, predictions: Path, *, per_batch: int | None = None) -> dict[str, float | int | None]:
    """mIoU and F-score; ``per_batch`` is told along, for the figures depend on it."""
    masks = read_arrays(truth, needs=("masks",))["masks"]
    probabilities = read_arrays(predictions, needs=("probabilities",))["probabilities"]
    return dict(vars(avs.scores(probabilities, masks, per_batch=per_batch)))


def score_avqa(truth: Path, predictions: Path) -> dict[str, float | None]:
    """Accuracy by type and category, and both averages, over the questions that are not withdrawn."""
    questions = [question for question in music_avqa.read_questions(truth) if not question.is_deleted]
    answers = read_answers(predictions, [question.question_id for question in questions])
    scores = avqa.scores(
        [(question.category, question.type) for question in questions],
        answers,
        [question.answer for question in questions],
    )
    return {
        **{f"{category} {kind}": share for (category, kind), share in scores.by_type.items()},
        **scores.by_category,
        "question_weighted": scores.question_weighted,
        "plain_mean_of_categories": scores.plain_mean_of_categories,
    }


def score_avr(truth: Path | None, predictions: Path) -> dict[str, float]:
    """Recall at 1, 5 and 10 and their mean."""
    similarities = read_arrays(predictions, needs=("similarities",))["similarities"]
    true_videos = None if truth is None else read_arrays(truth, needs=("true_videos",))["true_videos"]
    return dict(vars(retrieval.scores(similarities, true_videos)))


def read_arrays(path: Path, *, needs: Sequence[str]) -> Arrays:
    """The arrays of a ``.npz``.

    Raises:
        ScoringError: no such archive, or one without the arrays needed.
    """
    try:
        with path.open("rb") as file, np.load(file) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile):
        raise ScoringError(
            f"{path.name} is not a readable .npz of numbers", allowed="what numpy.savez writes", advice="Write it so"
        ) from None
    _need(path, arrays, needs)
    return arrays


def read_answers(path: Path, question_ids: Sequence[int]) -> list[str]:
    """The answers to these questions, in their order, of JSON lines in any order.

    Raises:
        AnnotationError: a line that is no answer, names file and line.
        ScoringError: a question without an answer, or an answer to no question.
    """
    answers: dict[int, str] = {}
    for place, line in read_lines(path):
        number, answer = _answer(place, line)
        if number in answers:
            raise place.error(f"question {number} is answered twice", allowed="one answer for each question")
        answers[number] = answer
    wanted = set(question_ids)
    if len(wanted) != len(question_ids):
        raise ScoringError("a question_id comes twice", allowed="each once", advice="Correct the truth")
    for what, missing in (("has no answer", wanted - answers.keys()), ("was not asked", answers.keys() - wanted)):
        if missing:
            raise ScoringError(
                f"{path.name}: question {min(missing)} {what}, {len(missing)} in all",
                allowed="one answer for each question of the truth",
                advice="Answer the truth file's questions",
            )
    return [answers[number] for number in question_ids]


def _answer(place: Place, line: str) -> tuple[int, str]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise place.error(f"not JSON: {error.msg}", allowed="one JSON object per line") from None
    number, answer = (record.get("question_id"), record.get("answer")) if isinstance(record, dict) else (None, None)
    if isinstance(number, bool) or not isinstance(number, int) or not isinstance(answer, str):
        raise place.error(f"{line.strip()[:80]!r}", allowed="question_id, a whole number, and answer, text")
    return number, answer


def _need(path: Path, arrays: Arrays, names: Sequence[str]) -> None:
    for name in names:
        if name not in arrays:
            raise ScoringError(
                f"{path.name} has no array {name!r}, but {', '.join(arrays) or 'none'}",
                allowed=", ".join(names),
                advice="Name the arrays so",
            )


def _check_clips(arrays: Arrays, names: Sequence[str]) -> None:
    given = arrays.get("clips")
    if given is not None and [str(name) for name in given.ravel()] != list(names):
        raise ScoringError(
            "the predictions' 'clips' are not the truth's",
            allowed="the same names in the same order",
            advice="Sort them",
        )
