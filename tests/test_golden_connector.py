"""The connector and its parts equal the authors' code, outputs and gradients, in both mask directions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from favor.causal_qformer import CausalQFormer, diversity_loss
from favor.configuration import ConnectorConfig
from favor.connector import Connector
from favor.sync import STEPS_PER_AUDIO_CHUNK, ClipSteps, WindowPlan
from tests.golden_vectors import Golden, load_official, our_gradient

FILES = {name: Golden.load(name) for name in (
    "favor_qformer_block4", "favor_qformer_block32", "favor_sync", "favor_diversity", "favor_connector",
    "videosalmonn_multires_30_3", "videosalmonn_multires_small",
)}  # fmt: skip


def cases(*files: str) -> list[tuple[str, str]]:
    return [(file, case) for file in files for case in FILES[file].meta["cases"]]


def connector_config(golden: Golden, *, direction: str) -> ConnectorConfig:
    config = golden.meta["config"]
    audio_widths = [config["audio_width"]] + ([config["beats_width"]] if config.get("use_beats") else [])
    fine = config.get("low_groupsize", 0)
    return ConnectorConfig(
        visual_width=config["visual_width"],
        audio_widths=audio_widths,
        hidden_size=config["hidden"],
        num_hidden_layers=config["layers"],
        num_attention_heads=config["heads"],
        intermediate_size=config["ffn"],
        num_query_tokens=config["num_queries"],
        window_steps=config["groupsize"],
        num_positions=config["position_rows"],
        fine_window_steps=fine,
        num_fine_query_tokens=config["num_queries"] * fine // config["groupsize"],
        causal_direction=direction,
        is_causal_padding_masked=False,  # as released
    )


@pytest.mark.parametrize(("file", "case"), cases("favor_qformer_block4", "favor_qformer_block32"))
def test_the_causal_qformer_equals_the_official_one_block_by_block(file: str, case: str) -> None:
    golden = FILES[file]
    config, settings = golden.meta["config"], golden.meta["cases"][case]
    is_skipped = settings["direction"] == "skipped"
    qformer = CausalQFormer(
        ConnectorConfig(
            visual_width=config["encoder_width"] // 2,
            hidden_size=config["hidden"],
            num_attention_heads=config["heads"],
            intermediate_size=config["ffn"],
            num_query_tokens=config["num_queries"],
            tokens_per_step=1 if is_skipped else config["tokens_per_frame"],
            window_steps=config["frames_per_window"],
            causal_direction="none" if is_skipped else settings["direction"],
            is_causal_padding_masked=False,
        )
    ).eval()
    official = {key: value for key, value in golden.params.items() if "bert" in key}
    query_key = next(key for key in golden.params if "query_tokens" in key)
    queries = golden.params[query_key].squeeze(0).clone().requires_grad_()
    state = {f"video_Qformer.{key[key.index('bert') :]}": value for key, value in official.items()}
    own = qformer.state_dict()
    if is_skipped:
        state = {key: value for key, value in state.items() if "encoder_causal_attention" not in key}
    state["ln_video.weight"], state["ln_video.bias"] = own["joint_norm.weight"], own["joint_norm.bias"]
    state["video_frame_position_embedding.weight"] = own["positions.weight"]
    load_official(qformer, state, prefix="qformer.")

    found: dict[str, Tensor] = {}
    for number, layer in enumerate(qformer.layers):
        parts = {
            "causal": layer.causal,
            "self": layer.self_attention,
            "cross": layer.cross_attention,
            "ffn": layer.feed_forward,
        }
        for part, module in parts.items():
            if module is not None:
                key = f"layer{number}/{part}"
                module.register_forward_hook(lambda _m, _i, out, key=key: found.__setitem__(key, out))
    qformer.query_norm.register_forward_hook(lambda _m, _i, out: found.__setitem__("query_embedding", out))

    given = golden.below(f"in/{case}/")
    joint = given["encoder_hidden_states"].clone().requires_grad_()
    tokens = 1 if is_skipped else config["tokens_per_frame"]
    is_real = given["encoder_attention_mask"].bool()[:, ::tokens]
    found["last_hidden_state"] = qformer.read(
        queries, joint, num_steps=joint.shape[1] // tokens, is_real=None if is_real.all() else is_real
    )

    expected = golden.below(f"out/{case}/")
    assert set(expected) == set(found)
    for key, ours in found.items():
        golden.check(f"out/{case}/{key}", ours.expand(expected[key].shape) if key == "query_embedding" else ours)
    (found["last_hidden_state"] * given["probe"]).sum().backward()
    golden.check(f"grad/{case}/encoder_hidden_states", joint.grad)
    for key in golden.below(f"grad/{case}/param/"):
        if "query_tokens" in key:
            golden.check(f"grad/{case}/param/{key}", queries.grad.view_as(golden.params[key]))
        else:
            name = f"video_Qformer.{key[key.index('bert') :]}"
            golden.check(f"grad/{case}/param/{key}", our_gradient(qformer, name, prefix="qformer."))


def packed_case(
    golden: Golden, case: str, window_steps: int
) -> tuple[Tensor, list[Tensor], WindowPlan, dict[str, Tensor]]:
    """A golden case's batch as packed frames, packed audio steps and a plan; also the leaves that get gradients."""
    given = golden.below(f"in/{case}/")
    settings = golden.meta["cases"][case]
    leaves = {key: value.clone().requires_grad_() for key, value in given.items() if key != "probe"}
    batch = settings["batch"]
    is_image = "image" in leaves
    audio_steps = settings.get("audio_steps", 0)
    visual_steps = settings.get("visual_steps", audio_steps if "image_audio" in settings["mode"] else 0)
    if "image_only" in settings["mode"]:
        visual_steps = settings.get("repeat_steps", 1)
    flags = settings["flags"] if isinstance(settings["flags"][0], list) else [settings["flags"]] * batch
    chunks = 1 if audio_steps else 0
    clips = [
        ClipSteps(
            num_frames=1 if is_image else visual_steps,
            num_visual_steps=visual_steps,
            num_audio_steps=audio_steps,
            num_audio_chunks=chunks,
            has_picture=bool(flag[0]),
            has_sound=bool(flag[1]),
        )
        for flag in flags
    ]
    width = golden.meta["config"]["visual_width"]
    visual = (
        leaves["image"]
        if is_image
        else leaves["visual"].flatten(0, 1)
        if "visual" in leaves
        else torch.zeros(0, 32, width)
    )
    names = ["audio", "beats"] if golden.meta["config"].get("use_beats") else ["audio"]
    audio = [pack_audio(leaves.get(name), chunks, golden.meta["config"][f"{name}_width"]) for name in names]
    return visual, audio, WindowPlan.of(clips, window_steps=window_steps), leaves


def pack_audio(audio: Tensor | None, chunks: int, width: int) -> Tensor:
    if audio is None:
        return torch.zeros(0, 25, width)
    steps = audio.unflatten(1, (-1, 25))  # (B, steps, 25, D)
    filled = torch.cat(
        (steps, steps.new_zeros(len(steps), chunks * STEPS_PER_AUDIO_CHUNK - steps.shape[1], 25, width)), dim=1
    )
    return filled.flatten(0, 1)


@pytest.mark.parametrize("case", FILES["favor_sync"].meta["cases"])
def test_synchronisation_equals_the_official_one(case: str) -> None:
    golden = FILES["favor_sync"]
    connector = Connector(connector_config(golden, direction="past"), llm_width=4)
    projection = connector.audio_projections[0]
    projection.load_state_dict({key.rpartition(".")[2]: value for key, value in golden.params.items()})
    visual, audio, plan, leaves = packed_case(golden, case, golden.meta["config"]["groupsize"])
    joint = connector.synchronise(visual, audio, plan)

    golden.check(f"out/{case}/windows", joint.flatten(1, 2))
    is_real = torch.tensor(plan.is_real)
    expected = golden.tensors[f"out/{case}/sync"]
    golden.check(f"out/{case}/sync", joint.flatten(0, 1)[is_real].reshape(expected.shape))
    mask = is_real.repeat_interleave(32).view(golden.tensors[f"out/{case}/window_mask"].shape)
    assert torch.equal(mask, golden.tensors[f"out/{case}/window_mask"].bool())
    (joint.flatten(1, 2) * golden.tensors[f"in/{case}/probe"]).sum().backward()
    for key in golden.below(f"grad/{case}/"):
        ours = getattr(projection, key.rpartition(".")[2]).grad if key.startswith("param") else leaves[key].grad
        golden.check(f"grad/{case}/{key}", ours)


@pytest.mark.parametrize(
    ("file", "case"), cases("favor_connector", "videosalmonn_multires_30_3", "videosalmonn_multires_small")
)
def test_the_connector_equals_the_official_one_end_to_end(file: str, case: str) -> None:
    golden = FILES[file]
    config = golden.meta["config"]
    settings = golden.meta["cases"][case]
    connector = Connector(
        connector_config(golden, direction=settings["direction"]), llm_width=config["llm_width"]
    ).eval()
    load_official(connector, golden.params)
    visual, audio, plan, leaves = packed_case(golden, case, config["groupsize"])
    output = connector(visual, audio, plan)

    expected = golden.below(f"out/{case}/")
    prefix = "coarse_" if "coarse_windows" in expected else ""
    golden.check(f"out/{case}/{prefix}windows", connector.synchronise(visual, audio, plan).flatten(1, 2))
    golden.check(f"out/{case}/{'coarse_queries' if prefix else 'qformer_output'}", output.queries)
    golden.check(f"out/{case}/diversity_loss", output.diversity.view(1))
    soft_tokens = output.soft_tokens.view(expected["soft_tokens"].shape)
    defined = torch.ones(soft_tokens.shape[:2], dtype=torch.bool)
    defined[:, settings.get("undefined_from_token", soft_tokens.shape[1]) :] = False
    golden.check(f"out/{case}/soft_tokens", soft_tokens, where=defined)
    if output.fine_queries is not None:
        fine = output.fine_queries
        golden.check(f"out/{case}/fine_queries", fine, where=defined.view(fine.shape[:2]))
    (soft_tokens * golden.tensors[f"in/{case}/probe"]).sum().backward()
    for key in golden.below(f"grad/{case}/"):
        ours = our_gradient(connector, key[6:]) if key.startswith("param/") else leaves[key].grad
        golden.check(f"grad/{case}/{key}", ours)


@pytest.mark.parametrize("case", FILES["favor_diversity"].meta["cases"])
def test_the_diversity_loss_equals_the_official_one(case: str) -> None:
    golden = FILES["favor_diversity"]
    queries = golden.tensors[f"in/{case}/queries"].clone().requires_grad_()
    loss = diversity_loss(queries)
    golden.check(f"out/{case}/loss", loss.view(1))
    loss.backward()
    if f"grad/{case}/queries" in golden.tensors:
        golden.check(f"grad/{case}/queries", queries.grad)
    total = diversity_loss(queries, reduction="sum")
    windows, number = queries.shape[:2]
    assert total.item() == pytest.approx(loss.item() * windows * number * (number - 1), rel=1e-5, abs=1e-3)
