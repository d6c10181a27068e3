"""Every metric by hand on a small case, against a slow and literal second version on random ones, and against print."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from eval.metrics import ave, avqa, avs, avvp, captioning, retrieval
from eval.metrics.arguments import ScoringError
from favor.errors import MissingDependencyError

BG = 28


def one_hot(labels: np.ndarray, num: int) -> np.ndarray:
    return np.eye(num)[labels]


# --- AVE -----------------------------------------------------------------------------------------------------------


def test_ave_counts_right_segments_background_too() -> None:
    truth = np.array([[3] * 4 + [BG] * 6, [5] * 10])
    predicted = np.array([[3] * 6 + [BG] * 4, [5] * 5 + [7] * 5])
    # first clip: 4 of class 3 right, 2 of background wrong, 4 right = 8; second: 5 right; 13 of 20
    assert ave.segment_accuracy(predicted, truth) == 13 / 20
    assert ave.segment_accuracy(ave.labels_of_scores(one_hot(predicted, 29)), truth) == 13 / 20


def test_ave_heads_with_one_class_per_clip_need_more_than_one_half() -> None:
    events = np.full((1, 10), 0.5)
    events[0, 2:4] = 0.51
    labels = ave.labels_of_events(events, one_hot(np.array([7]), 28))
    assert labels.tolist() == [[BG, BG, 7, 7, BG, BG, BG, BG, BG, BG]]


def test_ave_oracles_share_the_background() -> None:
    truth = np.array([[3] * 4 + [BG] * 6, [5] * 10, [BG] * 10])
    found = ave.oracles(truth)
    assert found.all_background == pytest.approx(16 / 30)
    assert found.perfect_class_without_localisation == pytest.approx(14 / 30)


def test_ave_refuses_a_label_that_is_none() -> None:
    with pytest.raises(ScoringError, match="0 to 28"):
        ave.segment_accuracy(np.full((1, 10), 29), np.zeros((1, 10), dtype=int))
    with pytest.raises(ScoringError, match="NaN"):
        ave.labels_of_scores(np.full((1, 10, 29), np.nan))
    with pytest.raises(ScoringError, match=r"\(clips, 10, 29\)"):
        ave.labels_of_scores(np.zeros((1, 10, 28)))


# --- AVVP ----------------------------------------------------------------------------------------------------------


def marked(*seconds: tuple[int, int, int], classes: int = 25) -> np.ndarray:
    """(1, 10, classes) with [first, end) of a class marked: (class, first, end)."""
    array = np.zeros((1, 10, classes), dtype=int)
    for label, first, end in seconds:
        array[0, first:end, label] = 1
    return array


def test_avvp_segments_by_hand() -> None:
    found = avvp.segment_scores(
        audio=marked((0, 0, 4)),
        visual=marked((0, 2, 6), (1, 0, 2)),
        true_audio=marked((0, 2, 8)),
        true_visual=marked((0, 2, 6)),
    )
    # A, class 0: predicted 0-4, true 2-8: TP 2, FP 2, FN 4: F = 4 / (4 + 6) = 0.4
    assert found.audio == pytest.approx(0.4)
    # V, class 0: TP 4: F = 1; class 1: TP 0, FP 2: F = 0; mean 0.5
    assert found.visual == pytest.approx(0.5)
    # AV, class 0: predicted 2-4, true 2-6: TP 2, FN 2: F = 4 / (4 + 2) = 2/3; class 1 is never both
    assert found.audio_visual == pytest.approx(2 / 3)
    assert found.type_av == pytest.approx((0.4 + 0.5 + 2 / 3) / 3)
    # A and V together, class 0: TP 6, FP 2, FN 4: 12 / 18; class 1: 0; mean 1/3
    assert found.event_av == pytest.approx(1 / 3)


def test_avvp_events_by_hand() -> None:
    found = avvp.event_scores(
        audio=marked((0, 0, 4)),
        visual=marked((0, 0, 3), (0, 4, 10)),
        true_audio=marked((0, 2, 8)),
        true_visual=marked((0, 0, 6), (0, 8, 10)),
    )
    # A: 0-4 against 2-8: IoU 2/8: FP 1, FN 1: F = 0
    assert found.audio == 0
    # V: 0-3 against 0-6: IoU 3/6, at the limit: TP; 4-10 against 0-6 2/10, against 8-10 2/6: FP; 8-10 has none: FN
    # F = 2 / (2 + 2) = 0.5
    assert found.visual == pytest.approx(0.5)
    # AV: predicted 0-3; true 2-6; IoU 1/6: F = 0
    assert found.audio_visual == 0
    # together: TP 1, FP 2, FN 2: 2 / 6
    assert found.event_av == pytest.approx(1 / 3)


def test_avvp_an_event_cut_in_two_is_found_once() -> None:
    whole, cut = marked((4, 0, 9)), marked((4, 0, 5), (4, 6, 9))
    # 0-9 against 0-5: IoU 5/9, a match; against 6-9: 3/9, none
    found = avvp.event_scores(audio=whole, visual=cut, true_audio=cut, true_visual=whole)
    assert found.audio == pytest.approx(2 / 3)  # TP 1, FN 1
    assert found.visual == pytest.approx(2 / 3)  # TP 1, FP 1


def test_avvp_hits_are_counted_over_predictions_and_misses_over_true_events() -> None:
    """The reference's rule, which is not one to one; runs of one sequence never show the difference."""
    assert avvp._matched([(0, 4), (0, 5)], [(0, 4)]) == (2, 0, 0)
    assert avvp._matched([(0, 4)], [(0, 4), (0, 5)]) == (1, 0, 0)


def test_avvp_no_two_runs_of_a_sequence_match_the_same_event() -> None:
    sequences = [[int(bit) for bit in f"{number:010b}"] for number in range(1024)]
    events = [(first, end) for first in range(10) for end in range(first + 1, 11)]
    matches = {event: {other for other in events if avvp._overlap(event, other)} for event in events}
    for sequence in sequences:
        found = [event for run in avvp.runs(sequence) for event in matches[run]]
        assert len(found) == len(set(found))


def test_avvp_a_clip_without_any_class_counts_one() -> None:
    nothing = marked()
    found = avvp.event_scores(audio=nothing, visual=nothing, true_audio=nothing, true_visual=nothing)
    assert vars(found) == dict.fromkeys(("audio", "visual", "audio_visual", "type_av", "event_av"), 1.0)
    two = np.concatenate([nothing, marked((0, 0, 1))])
    found = avvp.segment_scores(audio=two * 0, visual=two, true_audio=two, true_visual=two)
    assert found.audio == 0.5  # one clip 1.0, one clip 0.0
    assert found.visual == 1


def test_avvp_the_clips_prediction_silences_classes_and_one_half_is_a_yes() -> None:
    probabilities = np.zeros((1, 10, 25))
    probabilities[..., :2] = 0.5
    clip = np.zeros((1, 25))
    clip[0, 0] = 0.5
    assert avvp.decided(probabilities)[0].sum(axis=0)[:3].tolist() == [10, 10, 0]
    assert avvp.decided(probabilities, clip)[0].sum(axis=0)[:3].tolist() == [10, 0, 0]
    with pytest.raises(ScoringError, match="sigmoid"):
        avvp.decided(probabilities * 4)


def slow_f(counts: list[tuple[int, int, int]]) -> float:
    present = [(tp, fp, fn) for tp, fp, fn in counts if tp + fp + fn]
    return sum(2 * tp / (2 * tp + fp + fn) for tp, fp, fn in present) / len(present) if present else 1.0


def slow_segment_counts(predicted: np.ndarray, truth: np.ndarray) -> tuple[int, int, int]:
    pairs = [(bool(p), bool(t)) for p, t in zip(predicted, truth)]
    return pairs.count((True, True)), pairs.count((True, False)), pairs.count((False, True))


def slow_event_counts(predicted: np.ndarray, truth: np.ndarray) -> tuple[int, int, int]:
    def events(row: np.ndarray) -> list[set[int]]:
        found: list[set[int]] = []
        for second, yes in enumerate(row):
            if yes and second and row[second - 1]:
                found[-1].add(second)
            elif yes:
                found.append({second})
        return found

    ours, real = events(predicted), events(truth)
    hit = [[len(o & r) >= 0.5 * len(o | r) for r in real] for o in ours]
    tp = sum(any(row) for row in hit)
    return tp, len(ours) - tp, sum(not any(row[column] for row in hit) for column in range(len(real)))


@pytest.mark.parametrize("seed", range(20))
def test_avvp_agrees_with_a_literal_second_version(seed: int) -> None:
    random = np.random.default_rng(seed)
    density = random.choice([0.1, 0.5, 0.9])
    arrays = random.random((4, 5, 10, 6)) < density
    arrays[:, :, :, random.random(6) < 0.4] = False
    a, v, true_a, true_v = arrays
    given = {"audio": a, "visual": v, "true_audio": true_a, "true_visual": true_v}
    for score, count in (
        (avvp.segment_scores, slow_segment_counts),
        (avvp.event_scores, slow_event_counts),
    ):
        expected = []
        for clip in range(5):
            per_stream = [
                [count(p[clip, :, k], t[clip, :, k]) for k in range(6)]
                for p, t in ((a, true_a), (v, true_v), (a & v, true_a & true_v))
            ]
            f_a, f_v, f_av = map(slow_f, per_stream)
            together = [tuple(map(sum, zip(x, y))) for x, y in zip(*per_stream[:2])]
            expected.append((f_a, f_v, f_av, (f_a + f_v + f_av) / 3, slow_f(together)))
        assert tuple(vars(score(**given)).values()) == pytest.approx(tuple(np.mean(expected, axis=0)))


# --- AVS -----------------------------------------------------------------------------------------------------------


def frames(*rows: list[float]) -> np.ndarray:
    """One clip per row, one frame of 1 x len(row) pixels each."""
    return np.array(rows)[:, None, None, :]


def test_avs_iou_by_hand_and_an_empty_truth_is_scored_on_its_background() -> None:
    truth = frames([1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0])
    predicted = frames([0.9, 0.5, 0.9, 0.1], [0.1, 0.1, 0.1, 0.9], [0.9, 0.9, 0.9, 0.9])
    # first: 0.5 is no yes; intersection 1, union 3; second: 3 of 4 pixels rightly silent; third: none
    assert avs.frame_ious(predicted, truth)[:, 0].tolist() == pytest.approx([1 / 3, 3 / 4, 0], abs=1e-6)
    found = avs.scores(predicted, truth)
    assert found.miou == pytest.approx((1 / 3 + 3 / 4) / 3, abs=1e-6)


def test_avs_f_score_by_hand() -> None:
    truth = frames([1, 1, 0, 0])
    predicted = frames([0.9, 0.3, 0.6, 0.0])
    # threshold 0: P 2/4, R 1: 1.3 * 0.5 / (0.15 + 1) = 0.5652; up to 0.3: P 2/3, R 1: 1.3 * 2/3 / 1.2 = 0.7222
    # up to 0.6: P 1/2, R 1/2: 0.5; up to 0.9: P 1, R 1/2: 1.3 * 0.5 / 0.8 = 0.8125, the best; above: 0
    curve = avs.frame_f_curves(predicted, truth)[0, 0]
    assert curve[[0, 60, 120, 200, 254]].tolist() == pytest.approx([0.65 / 1.15, 1.3 / 1.8, 0.5, 0.8125, 0])
    assert avs.scores(predicted, truth).f_score == pytest.approx(0.8125)


def test_avs_batches_weigh_the_same_and_each_takes_its_best_threshold() -> None:
    truth = frames([1, 0], [1, 0], [1, 0])
    predicted = frames([0.9, 0.6], [0.4, 0.1], [0.2, 0.1])
    # alone, each clip has a threshold that is perfect: F 1; together none is, for 0.6 of the first is above 0.4
    assert avs.scores(predicted, truth, per_batch=1).f_score == pytest.approx(1)
    together = avs.scores(predicted, truth)
    # just above 0.1: F of P 1/2, R 1 is 0.65 / 1.15, then 1, 1
    assert together.f_score == pytest.approx((0.65 / 1.15 + 2) / 3)
    # IoU 1/2, 0, 0: global 1/6; in batches of two the last clip weighs a half: ((1/2 + 0) / 2 + 0) / 2 = 1/8
    assert together.miou == pytest.approx(1 / 6, abs=1e-6)
    assert avs.scores(predicted, truth, per_batch=2).miou == pytest.approx(1 / 8, abs=1e-6)
    assert avs.scores(predicted, truth, per_batch=3) == avs.AvsScores(together.miou, together.f_score, 3)


def test_avs_frames_without_truth_do_not_enter_the_f_score() -> None:
    truth, predicted = frames([1, 0], [0, 0]), frames([0.9, 0.1], [0.9, 0.9])
    assert avs.scores(predicted, truth).f_score == pytest.approx(1)
    assert avs.scores(predicted, truth, per_batch=1).f_score == pytest.approx(
        0.5
    )  # an empty batch counts 0, as printed
    with pytest.raises(ScoringError, match="no frame has a true mask"):
        avs.scores(predicted[1:], truth[1:])
    with pytest.raises(ScoringError, match="per_batch"):
        avs.scores(predicted, truth, per_batch=0)


@pytest.mark.parametrize("seed", range(10))
def test_avs_agrees_with_a_literal_second_version(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = random.random((5, 2, 6, 7)) < random.choice([0.0, 0.02, 0.5], size=(5, 2, 1, 1), p=[0.2, 0.4, 0.4])
    truth[0, 0, 0, 0] = True
    predicted = np.clip(0.4 * truth + random.random(truth.shape) * 0.8, 0, 1).round(2)
    for per_batch in (None, 2):
        found = avs.scores(predicted, truth, per_batch=per_batch)
        size = per_batch or 5
        ious, best = [], []
        for start in range(0, 5, size):
            pairs = [
                (p, t)
                for ps, ts in zip(predicted[start : start + size], truth[start : start + size])
                for p, t in zip(ps, ts)
            ]
            batch_ious, curves = [], []
            for p, t in pairs:
                yes = p > 0.5
                shared, union = (yes & t).sum(), (yes | t).sum()
                if not t.any():
                    shared, union = (~yes).sum(), t.size
                batch_ious.append(shared / (union + 1e-7))
                if t.any():
                    curve = []
                    for threshold in np.linspace(0, 1 - 1e-10, 255):
                        hits = ((p >= threshold) & t).sum()
                        precision = hits / ((p >= threshold).sum() + 1e-20)
                        recall = hits / t.sum()
                        curve.append(1.3 * precision * recall / (0.3 * precision + recall) if hits else 0.0)
                    curves.append(curve)
            ious.append(np.mean(batch_ious))
            best.append(np.max(np.mean(curves, axis=0)) if curves else 0.0)
        assert (found.miou, found.f_score) == pytest.approx((np.mean(ious), np.mean(best)))


def test_avs_refuses_logits_grey_truth_and_other_shapes() -> None:
    with pytest.raises(ScoringError, match=r"of shape \(1, 1, 1, 3\), the truth of \(1, 1, 1, 2\)"):
        avs.scores(frames([0.2, 0.1, 0.0]), frames([1, 0]))
    with pytest.raises(ScoringError, match="sigmoid"):
        avs.scores(frames([2.0, -1.0]), frames([1, 0]))
    with pytest.raises(ScoringError, match="other values than 0 and 1"):
        avs.scores(frames([0.2, 0.1]), frames([1 / 255, 0]))


# --- AVQA ----------------------------------------------------------------------------------------------------------

COUNTS = {"Audio": 1623, "Visual": 2427, "Audio-Visual": 5135}


def test_avqa_both_averages_by_hand() -> None:
    types = [("Audio", "Counting"), ("Audio", "Comparative"), ("Visual", "Location"), ("Audio-Visual", "Temporal")]
    found = avqa.scores([*types, types[3]], ["one", "no", "left", "flute", "x"], ["one", "yes", "left", "flute", "y"])
    assert found.by_type == {types[0]: 1, types[1]: 0, types[2]: 1, types[3]: 0.5}
    assert found.by_category == {"Audio": 0.5, "Visual": 1, "Audio-Visual": 0.5}
    assert found.question_weighted == pytest.approx(3 / 5)
    assert found.plain_mean_of_categories == pytest.approx(2 / 3)


def test_avqa_the_printed_average_of_dg_sct_is_question_weighted() -> None:
    printed = {"Audio": 77.4, "Visual": 81.9, "Audio-Visual": 70.7}
    # (77.4 * 1623 + 81.9 * 2427 + 70.7 * 5135) / 9185 = 687436.0 / 9185 = 74.84
    assert sum(COUNTS.values()) == 9185
    assert round(avqa.question_weighted(printed, COUNTS), 1) == 74.8
    assert round(avqa.plain_mean_of_categories(printed), 1) == 76.7


@pytest.mark.parametrize(
    ("printed", "average"),
    [((76.16, 78.82, 69.72), 74.90), ((74.49, 80.06, 71.26), 75.27), ((73.14, 68.73, 64.93), 68.93)],
)
def test_avqa_the_printed_averages_of_av_pea_are_plain_means(printed: tuple[float, ...], average: float) -> None:
    accuracies = dict(zip(COUNTS, printed))
    assert avqa.plain_mean_of_categories(accuracies) == pytest.approx(average, abs=0.01)
    assert avqa.question_weighted(accuracies, COUNTS) != pytest.approx(average, abs=0.1)


def test_avqa_without_a_category_there_is_no_plain_mean() -> None:
    assert avqa.scores([("Audio", "Counting")], ["one"], ["one"]).plain_mean_of_categories is None
    with pytest.raises(ScoringError, match="Audio, Location"):
        avqa.scores([("Audio", "Location")], ["one"], ["one"])
    with pytest.raises(ScoringError, match="1 questions, 0 answers"):
        avqa.scores([("Audio", "Counting")], [], ["one"])


# --- retrieval and captions ----------------------------------------------------------------------------------------


def test_retrieval_by_hand_and_ties_count_against_the_model() -> None:
    similarities = np.zeros((3, 12))
    similarities[0, 0] = 1  # first
    similarities[1, :4] = [3, 0, 2, 4]
    similarities[1, 1] = 1  # behind three
    # text 2: all twelve equal, so behind eleven
    assert retrieval.ranks(similarities).tolist() == [0, 3, 11]
    found = retrieval.scores(similarities)
    assert (found.recall_at_1, found.recall_at_5, found.recall_at_10) == pytest.approx((1 / 3, 2 / 3, 2 / 3))
    assert found.mean == pytest.approx(5 / 9)


def test_retrieval_of_several_texts_for_one_video() -> None:
    assert retrieval.ranks(np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0]]), [1, 1, 0]).tolist() == [0, 1, 1]
    with pytest.raises(ScoringError, match="true_videos"):
        retrieval.ranks(np.zeros((3, 2)))


@pytest.mark.parametrize("seed", range(10))
def test_retrieval_agrees_with_sorting(seed: int) -> None:
    similarities = np.random.default_rng(seed).integers(0, 8, (20, 20)).astype(float)
    expected = [
        sorted(range(20), key=lambda video: (-row[video], video == text)).index(text)
        for text, row in enumerate(similarities)
    ]
    assert retrieval.ranks(similarities).tolist() == expected


def test_the_printed_averages_of_captioning_and_retrieval_check() -> None:
    assert captioning.avc_average(bleu_4=9.60, meteor=15.40, rouge_l=31.80) == pytest.approx(18.93, abs=0.005)
    assert captioning.avc_average(bleu_4=11.37, meteor=19.09, rouge_l=37.06) == pytest.approx(22.51, abs=0.005)
    with pytest.raises(ScoringError, match="meteor"):
        captioning.avc_average(bleu_4=0.1, meteor=float("nan"), rouge_l=0.3)


@pytest.mark.skipif(importlib.util.find_spec("pycocoevalcap") is not None, reason="pycocoevalcap is installed")
def test_captions_without_their_package_say_what_to_install() -> None:
    with pytest.raises(MissingDependencyError, match="Install pycocoevalcap"):
        captioning.caption_scorer("bleu.bleu")
