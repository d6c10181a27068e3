"""AVSBench: masks, their two losses, the published count, and masks read from palette pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval.scoring import score_avs
from favor.adapters.contract import StreamShape
from favor.downstream.annotations import AnnotationError
from favor.errors import ConfigurationError
from tests.training.downstream.head_checks import fit, num_weights, seen, weights_without_gradient, with_other_sound
from training.downstream.avs import TASK, AvsFiles, AvsHead, AvsHeadSettings, read_mask, write_truth
from training.downstream.contract import Streams, task_named
from training.downstream.segmentation import (
    SegmentationNetwork,
    Segmented,
    SoundFusion,
    mask_loss,
    matching_loss,
    spread_stages,
)

STAGES = tuple(
    StreamShape(width, side * side, False, 0, stage)
    for stage, (width, side) in enumerate(((6, 8), (8, 4), (10, 2), (12, 1)))
)
STREAMS = Streams(STAGES[-1], StreamShape(10, 3, False, 0), STAGES)
SMALL = {"channels": 8, "stage_channels": (2, 3, 4, 5)}
FUSED = {**SMALL, "fused_stages": (0, 1, 2, 3), "matching_weight": 0.5}
SIZE = 32


def build(streams: Streams = STREAMS, **settings: object) -> AvsHead:
    torch.manual_seed(0)
    return AvsHead(AvsHeadSettings(**{**SMALL, **settings}), streams, size=SIZE)


def open_fusion(head: AvsHead) -> AvsHead:
    """So that the sound is heard: the fusion starts closed."""
    for fusion in head.network.fusions.values():
        torch.nn.init.ones_(fusion.out_norm.weight)
    return head


def masks(frames: int, *, clips: int = 2) -> torch.Tensor:
    return (torch.rand(clips, frames, SIZE, SIZE, generator=torch.Generator().manual_seed(5)) > 0.6).byte()


def test_every_frame_gets_a_mask_of_the_size_asked_for() -> None:
    assert build()(seen(STREAMS)).logits.shape == (2, 3, SIZE, SIZE)


def test_the_counts_are_the_published_ones_less_what_nothing_reads() -> None:
    network = SegmentationNetwork((192, 384, 768, 1536), 1536)
    fused = SegmentationNetwork((192, 384, 768, 1536), 1536, fused_stages=(0,))
    unread_projection = 1536 * 128 + 128
    unread_unit = 2 * (256 * 256 * 9 + 256)
    assert num_weights(network) == 19_129_025
    assert num_weights(network) + unread_projection + unread_unit == 20_505_921  # adapters.md 6.2
    assert num_weights(fused.projections) == 1_094_656  # adapters.md 6.5
    assert fused.sound_projection is not None
    assert num_weights(fused.sound_projection) == unread_projection


def test_grids_are_a_4th_to_a_32nd_of_the_mask() -> None:
    network = SegmentationNetwork((6, 8, 10, 12), 10, channels=8, stage_channels=(2, 3, 4, 5))
    found = []
    for bank in network.banks:
        bank.register_forward_hook(lambda _, inputs, output: found.append(output.shape[-1]))
    network([torch.zeros(1, 1, shape.num_tokens, shape.width) for shape in STAGES], torch.zeros(1, 1, 10))
    assert found == [56, 28, 14, 7]


@pytest.mark.parametrize(
    "given, taken", [("abcd", "abcd"), ("a", "aaaa"), ("ab", "aabb"), ("abcdefghijkl", "cfil"), ("abc", "abcc")]
)
def test_other_numbers_of_stages_are_spread_over_four(given: str, taken: str) -> None:
    assert "".join(spread_stages(tuple(given))) == taken


def test_an_encoder_of_one_resolution_gives_its_places_four_times_without_cls() -> None:
    shape = StreamShape(12, 5, True, 3)
    streams = Streams(shape, StreamShape(12, 4, True, 3), (shape,))
    head, given = build(streams), seen(streams)
    other_cls = given.stages[0].clone()
    other_cls[:, 0] = 7.0
    output = head(given)
    assert output.logits.shape == (2, 3, SIZE, SIZE)
    torch.testing.assert_close(head(given._replace(stages=(other_cls,))).logits, output.logits)


def test_only_the_frames_that_have_masks_are_learnt_from() -> None:
    logits = torch.tensor([[[[0.0, 2.0]], [[5.0, 5.0]]]])  # (1, 2, 1, 2)
    by_hand = (np.log(2) + np.log1p(np.exp(-2.0))) / 2
    assert mask_loss(logits, torch.tensor([[[[1, 1]]]])).item() == pytest.approx(by_hand)
    both = mask_loss(logits, torch.tensor([[[[1, 1]], [[0, 0]]]]))
    assert both.item() == pytest.approx((by_hand + np.log1p(np.exp(5.0))) / 2, rel=1e-5)


def test_the_matching_loss_is_the_divergence_of_what_is_seen_from_what_is_heard() -> None:
    draw = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, 3, 4, side, side, generator=draw) for side in (4, 2)]
    sounds = [torch.randn(2, 3, 4, generator=draw) for _ in maps]
    logits = torch.randn(2, 3, 8, 8, generator=draw)
    by_hand = 0.0
    for shown, heard in zip(maps, sounds):
        side, step = shown.shape[-1], 8 // shown.shape[-1]
        for clip in range(2):
            for frame in range(3):
                cells = logits[clip, frame].reshape(side, step, side, step).mean(dim=(1, 3)).sigmoid()
                p = (shown[clip, frame] * cells).mean(dim=(1, 2)).softmax(0)
                q = heard[clip, frame].softmax(0)
                by_hand += (q * (q.log() - p.log())).sum().item() / 2 / 2  # clips, stages
    assert matching_loss(Segmented(logits, tuple(maps), tuple(sounds))).item() == pytest.approx(by_hand, rel=1e-5)


def test_the_fusion_is_the_sum_over_all_places_of_all_frames() -> None:
    torch.manual_seed(0)
    fusion = SoundFusion(8).eval()
    torch.nn.init.ones_(fusion.out_norm.weight)
    maps, sound = torch.randn(2, 3, 8, 2, 2), torch.randn(2, 3, 128)
    fused, heard = fusion(maps, sound)
    x = maps.permute(0, 1, 3, 4, 2).reshape(2, 12, 8)  # every place of every frame
    a = heard[:, :, None].expand(2, 3, 4, 8).reshape(2, 12, 8)
    y = (fusion.theta(x) @ fusion.phi(a).transpose(1, 2) / 12) @ fusion.g(x)
    z = fusion.norm(x + fusion.out_norm(fusion.out(y).flatten(0, 1)).view(2, 12, 8))
    torch.testing.assert_close(fused, z.view(2, 3, 2, 2, 8).permute(0, 1, 4, 2, 3).flatten(0, 1))


def test_the_loss_of_ms3_adds_the_matching_with_its_weight() -> None:
    head = open_fusion(build(**FUSED))
    output, targets = head(seen(STREAMS)), {"masks": masks(3)}
    expected = mask_loss(output.logits, targets["masks"]) + 0.5 * matching_loss(output)
    torch.testing.assert_close(head.loss(output, targets), expected)


@pytest.mark.parametrize("settings", [{}, FUSED])
def test_every_weight_learns(settings: dict[str, object]) -> None:
    assert weights_without_gradient(open_fusion(build(**settings)), seen(STREAMS), {"masks": masks(3)}) == []


def test_with_masks_of_first_frames_only_those_learn() -> None:
    head, given = build(), seen(STREAMS)
    stages = tuple(stage.requires_grad_() for stage in given.stages)
    head.loss(head(given._replace(stages=stages)), {"masks": masks(1)}).backward()
    moved = stages[0].grad.unflatten(0, (2, 3)).abs().sum(dim=(2, 3))  # (B, T)
    assert (moved[:, 0] > 0).all()
    assert not moved[:, 1:].any()


def test_another_sound_changes_the_masks_of_its_clip_alone() -> None:
    head, given = open_fusion(build(**FUSED)).eval(), seen(STREAMS)
    before, after = head(given).logits, head(with_other_sound(given, clip=1)).logits
    torch.testing.assert_close(after[0], before[0])
    assert not torch.allclose(after[1], before[1])


def test_without_fusion_the_sound_speaks_through_the_adapters_alone() -> None:
    head, given = build(), seen(STREAMS)
    torch.testing.assert_close(head(with_other_sound(given, clip=1)).logits, head(given).logits, rtol=0, atol=0)


def test_a_few_masks_are_learnt_by_heart() -> None:
    torch.manual_seed(0)
    head = build()
    halves = torch.zeros(2, 3, SIZE, SIZE)
    halves[0, :, :, :16] = 1
    halves[1, :, 16:] = 1
    losses = fit(head, seen(STREAMS), {"masks": halves}, steps=150)
    assert losses[-1] < 0.1 < losses[0]


def test_matching_needs_fused_stages() -> None:
    with pytest.raises(ConfigurationError, match="fused_stages"):
        build(matching_weight=0.5)


@pytest.mark.parametrize("given", [{"fused_stages": (0, 4)}, {"fused_stages": (1, 1)}, {"size": 100}])
def test_impossible_networks_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        SegmentationNetwork((6, 8, 10, 12), 10, **given)


def _data(folder: Path) -> AvsFiles:
    """A set of one training and two test clips, in palette pictures of the classes 0, 1 and 22."""
    draw = np.random.default_rng(0)
    (folder / "ms3.csv").write_text("video_id,split\na,train\nb,test\nc,test\n")
    for split, name in (("train", "a"), ("test", "b"), ("test", "c")):
        home = folder / "gt_masks" / split / name
        home.mkdir(parents=True)
        for number in range(1, 6):
            numbers = draw.choice(np.array([0, 1, 22], dtype=np.uint8), (224, 224))
            palette = Image.frombytes("P", (224, 224), numbers.tobytes())
            palette.putpalette([0, 0, 0] * 2 + [9, 9, 9] * 254)  # number 1 is black to the eye
            palette.save(home / f"{name}_{number}.png")
    return AvsFiles(root=str(folder), annotations=str(folder / "ms3.csv"), subset="ms3")


def test_palette_masks_are_read_as_zeros_and_ones(tmp_path: Path) -> None:
    files = _data(tmp_path)
    (example,) = TASK.examples(files, "train")
    read = TASK.targets(files, example)["masks"]
    assert read.shape == (5, 224, 224)
    assert read.dtype == np.uint8
    numbers = np.asarray(Image.open(tmp_path / "gt_masks/train/a/a_1.png"))
    assert set(np.unique(numbers)) == {0, 1, 22}
    np.testing.assert_array_equal(read[0], numbers > 0)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA"])
def test_masks_of_other_modes_are_read_too(tmp_path: Path, mode: str) -> None:
    truth = np.zeros((224, 224), dtype=np.uint8)
    truth[:100, 50:] = 255
    Image.fromarray(truth).convert(mode).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), truth > 0)


def test_masks_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    Image.new("L", (100, 90)).save(tmp_path / "small.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for name, words in (("small.png", "100 x 90"), ("broken.png", "readable"), ("missing.png", "readable")):
        with pytest.raises(AnnotationError, match=words) as caught:
            read_mask(tmp_path / name)
        assert str(caught.value).startswith(name)
        assert str(tmp_path) not in str(caught.value)


def test_predictions_are_scored_by_eval_and_by_the_task_alike(tmp_path: Path) -> None:
    files = _data(tmp_path)
    examples = TASK.examples(files, "test")
    truth = np.stack([example.source.masks() for example in examples])
    logits = (
        torch.from_numpy(truth).float() * 4 - 2 + torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    )
    arrays = build().predictions(Segmented(logits))
    assert arrays["probabilities"].dtype == np.float16
    file = TASK.write(tmp_path / "predictions", TASK.finished(arrays, examples), examples)
    write_truth(tmp_path / "truth.npz", examples)
    scored = score_avs(tmp_path / "truth.npz", file)
    assert scored["miou"] == pytest.approx(TASK.score(arrays, examples), abs=1e-6)
    assert 0.9 < scored["miou"] < 1
    assert scored["f_score"] > 0.9


def test_silent_frames_are_scored_on_their_background() -> None:
    class Source:
        def masks(self) -> np.ndarray:
            return np.zeros((1, 2, 2), dtype=np.uint8)

    class One:
        source = Source()

    predicted = np.array([[[[0.9, 0.1], [0.2, 0.3]]]])
    assert TASK.score({"probabilities": predicted}, [One()]) == pytest.approx(0.75)  # type: ignore[list-item]


def test_the_task_asks_for_stages_and_is_found_by_name() -> None:
    assert task_named("avs") is TASK
    assert TASK.needs_stages
    head = TASK.build_head(AvsHeadSettings(**SMALL), STREAMS)
    assert head.network.size == 224
