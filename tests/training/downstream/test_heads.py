"""Heads of AVE and AVVP against figures worked out by hand (adapters.md 2.5, 3.2, 7.1, 7.2)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from favor.adapters.contract import StreamShape
from training.downstream import ave, avvp
from training.downstream.ave import AveHeadSettings, EventHead, Located, both_open_loss
from training.downstream.avvp import AvvpHeadSettings, Parsed
from training.downstream.contract import Example, Head, Seen, Streams, pool
from training.downstream.temporal import Gates

STREAMS = Streams(StreamShape(16, 5, True, 1), StreamShape(8, 3, False, 1))


def seen(clips: int = 2, segments: int = 10) -> Seen:
    made = torch.Generator().manual_seed(0)
    frames = clips * segments
    return Seen(torch.randn(frames, 5, 16, generator=made), torch.randn(frames, 3, 8, generator=made), segments)


def trains_everything(head: Head, targets: dict[str, torch.Tensor]) -> bool:
    head.loss(head(seen()), targets).backward()
    return all(weight.grad is not None and weight.grad.isfinite().all() for weight in head.parameters())


def ave_targets() -> dict[str, torch.Tensor]:
    labels = torch.full((2, 10), 28)
    labels[0, :4] = 7
    return {"labels": labels, "category": torch.tensor([7, 3])}


def test_pooling_takes_the_adapters_map_before_cls_before_the_mean() -> None:
    tokens = torch.tensor([[[1.0], [2.0], [6.0]]])
    assert pool(tokens, None, has_cls=True).item() == 1
    assert pool(tokens, None, has_cls=False).item() == 3
    assert pool(tokens, torch.tensor([[0.5, 0.0, 0.5]]), has_cls=True).item() == 3.5


def test_the_linear_head_has_the_published_weights_and_loss() -> None:
    swin = Streams(StreamShape(1536, 36, False, 23, 3), StreamShape(1536, 36, False, 23, 3))
    head = ave.TASK.build_head(AveHeadSettings(), swin)
    assert sum(weight.numel() for weight in head.parameters()) == 1_588_253
    logits = torch.zeros(1, 1, 29)
    logits[..., 0] = math.log(28)  # softmax: 1/2, and 1/56 for each of the 28 others
    for label, likely in ((0, 0.5), (1, 1 / 56)):
        by_hand = -math.log(likely) - (27 if label else 28) * math.log(55 / 56) - (math.log(0.5) if label else 0)
        loss = head.loss(Located(logits), {"labels": torch.tensor([[label]])})
        assert loss.item() == pytest.approx(by_hand / 29, rel=1e-5)
    entropy = ave.TASK.build_head(AveHeadSettings(loss="cross_entropy"), swin)
    assert entropy.loss(Located(logits), {"labels": torch.tensor([[0]])}).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    "settings", [{}, {"loss": "cross_entropy"}, {"kind": "event"}, {"kind": "event", "gamma": 0.1}], ids=str
)
def test_every_head_of_ave_trains_all_its_weights_and_predicts_for_the_score(settings: dict[str, object]) -> None:
    head = ave.TASK.build_head(AveHeadSettings(**settings), STREAMS)
    assert trains_everything(head, ave_targets())
    arrays = head.eval().predictions(head(seen()))
    shapes = {name: array.shape for name, array in arrays.items()}
    wanted = {"events": (2, 10), "classes": (2, 28)} if settings.get("kind") == "event" else {"scores": (2, 10, 29)}
    assert shapes == wanted


def test_the_product_of_gates_is_a_probability_not_a_logit() -> None:
    gates = Gates(torch.tensor([[0.0, 30.0]]), torch.tensor([[0.0, 30.0]]))  # products 1/4 and, nearly, 1
    assert both_open_loss(gates, torch.tensor([[1.0, 1.0]])).item() == pytest.approx(math.log(4) / 2, rel=1e-4)
    closed = both_open_loss(gates, torch.tensor([[0.0, 1.0]])).item()
    assert closed == pytest.approx(-math.log(3 / 4) / 2, rel=1e-4)


def test_shut_gates_still_learn() -> None:
    logits = torch.full((1, 1), -40.0, requires_grad=True)
    both_open_loss(Gates(logits, logits), torch.ones(1, 1)).backward()
    assert logits.grad is not None
    assert logits.grad.item() == pytest.approx(-2, rel=1e-4)


def test_gamma_of_nothing_builds_no_gates() -> None:
    assert EventHead(STREAMS, 0.0).gate is None


def test_ave_scores_segments() -> None:
    examples = [Example("clip", "clip.mp4", {"labels": np.array([2] * 5 + [28] * 5)})]
    events, classes = np.full((1, 10), 0.9), np.eye(28)[[2]]
    assert ave.TASK.score({"events": events, "classes": classes}, examples) == 0.5


def test_the_loss_of_video_parsing_is_that_of_its_pooled_probabilities() -> None:
    head = avvp.TASK.build_head(AvvpHeadSettings(width=8), STREAMS)
    half = torch.full((1, 10, 2, 25), 0.1)
    output = Parsed(torch.zeros(1, 10, 2, 25), half, torch.full_like(half, 0.5))
    assert torch.allclose(output.clip, torch.tensor(0.5))
    assert torch.allclose(output.streams, torch.tensor(0.5))
    loss = head.loss(output, {"occurs": torch.zeros(1, 25, dtype=torch.bool)})
    assert loss.item() == pytest.approx(3 * math.log(2), rel=1e-5)
    sure = Parsed(torch.full((1, 10, 2, 25), math.log(3.0)), half, torch.full_like(half, 0.5))  # 3/4 everywhere
    smooth = 0.95 * math.log(4 / 3) + 0.05 * math.log(4)  # of 0.9 * 1 + 0.1 / 2
    loss = head.loss(sure, {"occurs": torch.ones(1, 25)})
    assert loss.item() == pytest.approx(2 * math.log(4 / 3) + smooth, rel=1e-5)


def test_the_head_of_video_parsing_trains_all_its_weights_and_predicts_probabilities() -> None:
    head = avvp.TASK.build_head(AvvpHeadSettings(width=8), STREAMS)
    occurs = torch.zeros(2, 25)
    occurs[:, 3] = 1
    assert trains_everything(head, {"occurs": occurs})
    arrays = head.eval().predictions(head(seen()))
    assert {name: array.shape for name, array in arrays.items()} == {
        "audio": (2, 10, 25),
        "visual": (2, 10, 25),
        "clip": (2, 25),
    }
    assert all(array.min() >= 0 and array.max() <= 1 for array in arrays.values())


def test_the_score_of_video_parsing_is_the_published_type_f_score() -> None:
    from eval.metrics.avvp import decided, segment_scores

    random = np.random.default_rng(0)
    arrays = {name: random.random((3, 10, 25)) for name in ("audio", "visual")} | {"clip": random.random((3, 25))}
    true = [random.random((3, 10, 25)) > 0.8 for _ in range(2)]
    examples = [Example(str(n), "x", source=(true[0][n], true[1][n])) for n in range(3)]
    said = {name: decided(arrays[name], arrays["clip"]) for name in ("audio", "visual")}
    published = segment_scores(**said, true_audio=true[0], true_visual=true[1]).type_av
    assert avvp.TASK.score(arrays, examples) == pytest.approx(published)
