"""``python -m eval score``: official truth files and predictions to figures, and what it says of wrong ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from eval.__main__ import main

CLASSES = [f"class {number}" for number in range(28)]


def scored(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    assert main(["score", *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["score", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def ave_truth(folder: Path) -> Path:
    path = folder / "Annotations.txt"
    path.write_text("\n".join(f"{name}&id{number}&good&0&5" for number, name in enumerate(CLASSES)))
    return path


def test_ave_with_a_split_and_both_kinds_of_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, order = ave_truth(tmp_path), tmp_path / "order.txt"
    order.write_text("3\n1\n")
    scores = np.zeros((2, 10, 29))
    scores[0, :, 3] = scores[1, :, 28] = 1
    np.savez(tmp_path / "a.npz", scores=scores, clips=["id3", "id1"])
    found = scored(capsys, "ave", "--truth", truth, "--split", order, "--predictions", tmp_path / "a.npz")
    assert found == {
        "task": "ave",
        "segment_accuracy": 0.5,
        "oracle_all_background": 0.5,
        "oracle_perfect_class_without_localisation": 0.5,
    }
    np.savez(tmp_path / "b.npz", events=np.eye(10)[[0, 0]], classes=np.eye(28)[[3, 1]])
    found = scored(capsys, "ave", "--truth", truth, "--split", order, "--predictions", tmp_path / "b.npz", "--json")
    assert found["segment_accuracy"] == 0.6
    np.savez(tmp_path / "c.npz", scores=scores, clips=["id1", "id3"])
    assert "same order" in refused(
        capsys, "ave", "--truth", truth, "--split", order, "--predictions", tmp_path / "c.npz"
    )


def test_avvp_scores_the_clips_of_the_weak_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weak, audio, visual = (tmp_path / f"{name}.csv" for name in ("weak", "audio", "visual"))
    weak.write_text("filename\tevent_labels\nb_0_10\tSpeech\na_0_10\tCar\n")
    audio.write_text("filename\tonset\toffset\tevent_labels\na_0_10\t0\t10\tCar\nother_0_10\t0\t10\tDog\n")
    visual.write_text("filename\tonset\toffset\tevent_labels\nb_0_10\t0\t5\tSpeech\n")
    heard, seen = np.zeros((2, 10, 25)), np.zeros((2, 10, 25))
    heard[1, :, 1], seen[0, :, 0] = 0.9, 0.9
    np.savez(tmp_path / "p.npz", audio=heard, visual=seen, clips=["b_0_10", "a_0_10"])
    given = ("--truth", weak, "--audio", audio, "--visual", visual, "--predictions", tmp_path / "p.npz")
    found = scored(capsys, "avvp", *given)
    assert found["segment_audio"] == 1
    assert found["segment_visual"] == pytest.approx((10 / 15 + 1) / 2)  # TP 5, FP 5: F = 10 / 15
    assert found["event_visual"] == 1  # 0-10 against 0-5: IoU 5/10


def test_avs_says_which_batch_rule_it_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = np.zeros((3, 1, 2, 2), dtype=bool)
    masks[..., 0] = True
    np.savez(tmp_path / "t.npz", masks=masks)
    np.savez(tmp_path / "p.npz", probabilities=masks * 0.8)
    given = ("--truth", tmp_path / "t.npz", "--predictions", tmp_path / "p.npz")
    assert scored(capsys, "avs", *given)["per_batch"] is None
    found = scored(capsys, "avs", *given, "--per-batch", 2)
    assert (found["per_batch"], found["miou"], found["f_score"]) == (2, pytest.approx(1), pytest.approx(1))


def test_avqa_takes_answers_in_any_order_and_leaves_withdrawn_questions_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def question(number: int, kind: str, deleted: int = 0) -> dict:
        return {
            "video_id": "1",
            "question_id": number,
            "type": kind,
            "question_content": "How many?",
            "templ_values": "[]",
            "question_deleted": deleted,
            "anser": "two",
        }

    kinds = ['["Audio", "Counting"]', '["Visual", "Counting"]', '["Audio-Visual", "Counting"]']
    questions = [question(number, kind) for number, kind in enumerate(kinds)] + [question(9, kinds[0], 1)]
    truth, answers = tmp_path / "avqa-test.json", tmp_path / "answers.jsonl"
    truth.write_text(json.dumps(questions))
    lines = [json.dumps({"question_id": number, "answer": answer}) for number, answer in ((2, "two"), (0, "x"))]
    lines.append(json.dumps({"question_id": 1, "answer": "two"}))
    answers.write_text("\n".join(lines))
    found = scored(capsys, "avqa", "--truth", truth, "--predictions", answers)
    assert (found["Audio"], found["Visual Counting"]) == (0, 1)
    assert found["question_weighted"] == found["plain_mean_of_categories"] == pytest.approx(2 / 3)

    answers.write_text("\n".join(lines[:2]))
    assert "question 1 has no answer, 1 in all" in refused(capsys, "avqa", "--truth", truth, "--predictions", answers)
    answers.write_text("\n".join([*lines, lines[0]]))
    assert "answers.jsonl, line 4: question 2 is answered twice" in refused(
        capsys, "avqa", "--truth", truth, "--predictions", answers
    )


def test_avr_needs_no_truth_where_texts_and_videos_are_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "p.npz", similarities=np.eye(20))
    assert scored(capsys, "avr", "--predictions", tmp_path / "p.npz")["mean"] == 1
    np.savez(tmp_path / "t.npz", true_videos=np.arange(20)[::-1])
    found = scored(capsys, "avr", "--truth", tmp_path / "t.npz", "--predictions", tmp_path / "p.npz")
    assert found["recall_at_1"] == 0


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_archive_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "p.npz").write_bytes(content)
    message = refused(capsys, "ave", "--truth", ave_truth(tmp_path), "--predictions", tmp_path / "p.npz")
    assert "p.npz is not a readable .npz" in message
    assert str(tmp_path) not in message


def test_missing_arrays_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "p.npz", score=np.zeros(1))
    message = refused(capsys, "ave", "--truth", ave_truth(tmp_path), "--predictions", tmp_path / "p.npz")
    assert "p.npz has no array 'events', but score" in message
