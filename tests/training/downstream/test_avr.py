"""Retrieval: one space of texts and clips, the contrastive loss, and a matrix that eval scores."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.scoring import score_avr
from favor.errors import ConfigurationError
from tests.training.downstream.head_checks import STREAMS, fit, seen, weights_without_gradient, with_other_sound
from training.downstream.avr import TASK, AvrHead, AvrHeadSettings, contrastive_loss
from training.downstream.captions import SHIPPED_SIZE, ValorFiles, Words
from training.downstream.contract import Seen, task_named

SMALL = {"width": 8, "text_width": 8, "text_layers": 1, "text_heads": 2, "vocabulary_size": 20, "max_tokens": 6}
TEXT = torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0], [1, 9, 8, 2]])
MASK = torch.tensor([[True] * 4, [True, True, True, False], [True] * 4])
DIFFERENT = {"clip": torch.tensor([4, 7, 9])}


def build(**settings: object) -> AvrHead:
    torch.manual_seed(0)
    return AvrHead(AvrHeadSettings(**{**SMALL, **settings}), STREAMS)


def pairs() -> Seen:
    return seen(clips=3)._replace(text=TEXT, text_mask=MASK)


def test_texts_and_clips_are_directions_of_one_space() -> None:
    output = build()(pairs())
    assert output.texts.shape == output.clips.shape == (3, 8)
    for found in output:
        torch.testing.assert_close(found.norm(dim=1), torch.ones(3))


def test_the_loss_is_the_mean_of_both_ways_among_the_batch() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0], [3.0, 0.0, 0.0]])
    exp = logits.exp()
    to_clips = -(exp.diagonal() / exp.sum(dim=1)).log().mean()
    to_texts = -(exp.diagonal() / exp.sum(dim=0)).log().mean()
    torch.testing.assert_close(contrastive_loss(logits, DIFFERENT["clip"]), (to_clips + to_texts) / 2)


def test_another_caption_of_the_same_clip_is_no_wrong_one() -> None:
    logits = torch.tensor([[2.0, 9.0, 1.0], [9.0, 1.0, 0.0], [3.0, 0.0, 0.0]])
    changed = logits.clone()
    changed[0, 1] = changed[1, 0] = -5.0
    same = torch.tensor([4, 4, 9])
    torch.testing.assert_close(contrastive_loss(logits, same), contrastive_loss(changed, same))
    assert contrastive_loss(logits, same) < contrastive_loss(logits, DIFFERENT["clip"])


def test_the_temperature_starts_as_set_is_learnt_and_is_bounded() -> None:
    head = build(temperature=0.5).eval()
    output = head(pairs())
    torch.testing.assert_close(
        head.loss(output, DIFFERENT), contrastive_loss(output.texts @ output.clips.T / 0.5, DIFFERENT["clip"])
    )
    torch.nn.init.constant_(head.log_scale, math.log(1e6))
    torch.testing.assert_close(
        head.loss(output, DIFFERENT), contrastive_loss(100 * output.texts @ output.clips.T, DIFFERENT["clip"])
    )


def test_every_weight_learns() -> None:
    assert weights_without_gradient(build(temperature=0.5, max_tokens=4), pairs(), DIFFERENT) == []


def test_padding_says_nothing() -> None:
    head, given = build().eval(), pairs()
    padded = TEXT.clone()
    padded[1, 3] = 11
    torch.testing.assert_close(head(given._replace(text=padded)).texts, head(given).texts)


def test_another_sound_moves_its_clip_alone_and_no_text() -> None:
    head, given = build().eval(), pairs()
    before, after = head(given), head(with_other_sound(given, clip=1))
    torch.testing.assert_close(after.texts, before.texts)
    torch.testing.assert_close(after.clips[[0, 2]], before.clips[[0, 2]])
    assert not torch.allclose(after.clips[1], before.clips[1])


def test_a_few_pairs_are_learnt_by_heart() -> None:
    losses = fit(build().eval(), pairs(), DIFFERENT, steps=60)
    assert losses[-1] < 0.05 < losses[0]


def test_a_text_model_of_transformers_takes_the_place_of_ours(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(**size, vocab_size=20, max_position_embeddings=8)).save_pretrained(tmp_path)
    head, given = build(text_model=str(tmp_path)).eval(), pairs()
    padded = TEXT.clone()
    padded[1, 3] = 11
    torch.testing.assert_close(head(given._replace(text=padded)).texts, head(given).texts)
    head.loss(head(given), DIFFERENT).backward()
    assert head.tower.model.embeddings.word_embeddings.weight.grad.any()


def test_a_folder_without_a_model_or_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="text_model"):
        build(text_model=str(tmp_path))
    with pytest.raises(ConfigurationError, match="tokenizer"):
        Words.of(str(tmp_path))


def test_the_shipped_tokenizer_writes_any_text_and_cuts_long_ones() -> None:
    words = Words.of(None)
    assert len(words.tokenizer) == SHIPPED_SIZE == AvrHeadSettings().vocabulary_size
    text = "A man plays the café guitar, while dogs bark!"
    numbers = words.numbers(text, at_most=64)
    assert (numbers[0], numbers[-1]) == (words.begin, words.end)
    assert words.text(numbers) == text
    assert words.text([*numbers, 5, 6]) == text
    short = words.numbers(text, at_most=6)
    assert len(short) == 6
    assert short[-1] == words.end


def _files(folder: Path) -> ValorFiles:
    captions = {"a": ["A dog barks."], "b": ["A bell rings.", "It rings twice."], "c": "A man sings."}
    (folder / "captions.json").write_text(json.dumps(captions))
    for split, ids in (("train", ["b", "a"]), ("val", ["a"]), ("test", ["c", "b", "a"])):
        (folder / f"{split}.json").write_text(json.dumps(ids))
    named = {split: str(folder / f"{split}.json") for split in ("train", "val", "test")}
    return ValorFiles(root="videos", captions=str(folder / "captions.json"), **named)


def test_every_caption_is_an_example(tmp_path: Path) -> None:
    examples = TASK.examples(_files(tmp_path), "test")
    assert [(example.name, int(example.targets["clip"])) for example in examples] == [
        ("c", 0), ("b", 1), ("b", 1), ("a", 2)
    ]  # fmt: skip
    assert examples[0].clip == Path("c.mp4")
    assert Words.of(None).text(examples[2].text) == "It rings twice."


def test_predictions_are_scored_by_eval_and_by_the_task_alike(tmp_path: Path) -> None:
    examples = TASK.examples(_files(tmp_path), "test")
    videos = np.eye(4, dtype=np.float32)[[0, 1, 1, 2]]  # of c, b, b, a
    texts = np.eye(4, dtype=np.float32)[[0, 1, 0, 2]]  # the second of b is like c
    arrays = TASK.finished({"texts": texts, "videos": videos}, examples)
    assert arrays["similarities"].shape == (4, 3)
    file = TASK.write(tmp_path / "predictions", arrays, examples)
    scored = score_avr(file, file)
    assert scored["recall_at_1"] == TASK.score(arrays, examples) == 0.75
    assert scored["recall_at_5"] == 1


def test_the_matrix_compares_every_text_with_every_clip(tmp_path: Path) -> None:
    of_c, of_b, _, of_a = TASK.examples(_files(tmp_path), "test")
    head = build().eval()
    arrays = head.predictions(head(pairs()))
    found = TASK.finished(arrays, [of_c, of_b, of_a])
    np.testing.assert_allclose(found["similarities"], arrays["texts"] @ arrays["videos"].T)


def test_the_task_is_found_by_name() -> None:
    assert task_named("avr") is TASK
    assert isinstance(TASK.build_head(AvrHeadSettings(**SMALL), STREAMS), AvrHead)
