"""The encoders equal their authors' code and transformers' own classes, layer by layer, and stay frozen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import (
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from favor.configuration import ConnectorConfig, FavorConfig
from favor.encoders import EvaViT, InstructBlipEncoder, LayeredEncoder, WhisperAudioEncoder
from favor.encoders.layered import ROWS_PER_PASS
from tests.golden_vectors import Golden

WHISPER_NAMES = {
    "attn.query": "self_attn.q_proj",
    "attn.key": "self_attn.k_proj",
    "attn.value": "self_attn.v_proj",
    "attn.out": "self_attn.out_proj",
    "attn_ln": "self_attn_layer_norm",
    "mlp.0": "fc1",
    "mlp.2": "fc2",
    "mlp_ln": "final_layer_norm",
}


def whisper_of(golden: Golden) -> WhisperAudioEncoder:
    """Our encoder with the parameters of a golden file, which carries openai-whisper's names."""
    dims = golden.meta["config"]["dims"]
    encoder = WhisperAudioEncoder(whisper_config(dims))
    state = {}
    for name, value in golden.params.items():
        if not name.startswith("encoder."):
            continue
        stem, _, leaf = name.removeprefix("encoder.").rpartition(".")
        if stem.startswith("blocks."):
            _, number, part = stem.split(".", 2)
            stem = f"layers.{number}.{WHISPER_NAMES[part]}"
        ours = {"positional_embedding": "embed_positions.weight"}.get(leaf, f"{stem}.{leaf}")
        state[f"model.{ours.replace('ln_post', 'layer_norm')}"] = value
    encoder.load_state_dict(state, strict=True)
    return encoder


def whisper_config(dims: dict[str, int]) -> WhisperConfig:
    return WhisperConfig(
        d_model=dims["n_audio_state"],
        encoder_layers=dims["n_audio_layer"],
        encoder_attention_heads=dims["n_audio_head"],
        encoder_ffn_dim=4 * dims["n_audio_state"],
        num_mel_bins=dims["n_mels"],
        max_source_positions=dims["n_audio_ctx"],
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        begin_suppress_tokens=None,
        vocab_size=60,
    )


def test_whisper_equals_openai_whisper_layer_by_layer_and_in_its_gradient() -> None:
    golden = Golden.load("whisper_encoder_tiny")
    encoder = whisper_of(golden)
    encoder.unfreeze()
    encoder.eval()
    mel = golden.tensors["in/batch2/mel"].clone().requires_grad_()
    hidden = encoder.embed(mel)
    golden.check("out/batch2/embedded", hidden)
    for index in range(encoder.num_layers):
        hidden = encoder.run_layer(index, hidden)
        golden.check(f"out/batch2/block{index}", hidden)
    hidden = encoder.finish(hidden)
    golden.check("out/batch2/encoder", hidden)
    (hidden * golden.tensors["in/batch2/probe"]).sum().backward()
    golden.check("grad/batch2/mel", mel.grad)


def test_sound_to_vectors_equals_openai_whisper() -> None:
    golden = Golden.load("whisper_wave_to_encoder")
    wave = golden.tensors["in/wave3_7s/wave"]
    features = WhisperFeatureExtractor(feature_size=80)(wave.numpy(), sampling_rate=16_000, return_tensors="pt")
    golden.check("out/wave3_7s/mel_padded_30s", features["input_features"][0])
    out = whisper_of(golden)(features["input_features"])
    assert out.shape[1] == 1500, "any sound up to 30 s gives 1500 vectors, 25 a step"
    golden.check("out/wave3_7s/encoder", out)


def lavis_encoder(golden: Golden) -> InstructBlipEncoder:
    """Our encoder with the parameters of the golden file, which carries LAVIS' names."""
    settings = golden.meta["config"]
    vit, qformer = settings["vit"], settings["qformer"]
    config = FavorConfig(
        num_image_query_tokens=settings["num_queries"],
        vision_config=InstructBlipVisionConfig(
            hidden_size=vit["width"],
            intermediate_size=int(vit["width"] * vit["mlp_ratio"]),
            num_hidden_layers=vit["depth"],
            num_attention_heads=vit["heads"],
            image_size=vit["image"],
            patch_size=vit["patch"],
        ),
        qformer_config=InstructBlipQFormerConfig(
            vocab_size=qformer["vocab"],
            hidden_size=qformer["hidden"],
            num_hidden_layers=qformer["layers"],
            num_attention_heads=qformer["heads"],
            intermediate_size=qformer["ffn"],
            max_position_embeddings=qformer["max_position"],
            encoder_hidden_size=vit["width"],
        ),
        connector_config=ConnectorConfig(visual_width=qformer["hidden"], tokens_per_step=settings["num_queries"]),
        text_config=LlamaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1),
    )
    encoder = InstructBlipEncoder(config)
    encoder.load_state_dict(our_lavis_names(golden.params), strict=True)
    return encoder


def our_lavis_names(params: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {"query_tokens": params["query_tokens"]}
    for name, value in params.items():
        if name.startswith("Qformer.bert."):
            ours = name.removeprefix("Qformer.bert.").replace("attention.self.", "attention.attention.")
            state[f"qformer.{ours.replace('embeddings.LayerNorm', 'embeddings.layernorm')}"] = value
        elif name.startswith("ln_vision."):
            state[name.replace("ln_vision", "vit.model.post_layernorm")] = value
        elif name.startswith("visual_encoder.blocks."):
            _, _, number, part = name.split(".", 3)
            part = part.replace("norm", "layer_norm").replace("attn.proj", "self_attn.projection")
            if part.endswith("q_bias"):
                v_bias = params[name.replace("q_bias", "v_bias")]
                part, value = "self_attn.qkv.bias", torch.cat((value, torch.zeros_like(value), v_bias))
            if not part.endswith("v_bias"):
                state[f"vit.model.encoder.layers.{number}.{part.replace('attn.qkv.w', 'self_attn.qkv.w')}"] = value
    for lavis, ours in (
        ("cls_token", "class_embedding"),
        ("pos_embed", "position_embedding"),
        ("patch_embed.proj.weight", "patch_embedding.weight"),
        ("patch_embed.proj.bias", "patch_embedding.bias"),
    ):
        state[f"vit.model.embeddings.{ours}"] = params[f"visual_encoder.{lavis}"]
    return state


@pytest.mark.parametrize("case", ["with_text", "without_text", "frames"])
def test_instructblip_equals_lavis(case: str) -> None:
    golden = Golden.load("lavis_instructblip_tiny")
    encoder = lavis_encoder(golden)
    given = golden.below(f"in/{case}/")
    frames = given["images"]
    per_clip = frames.shape[1] if frames.dim() == 5 else 1
    frames = frames.flatten(0, 1) if frames.dim() == 5 else frames
    ids = given.get("input_ids", torch.zeros(len(frames), 0, dtype=torch.long)).repeat_interleave(per_clip, dim=0)
    mask = given.get("text_mask", ids).repeat_interleave(per_clip, dim=0) if "text_mask" in given else ids

    hidden = encoder.vit.embed(frames)
    golden.check(f"out/{case}/vit_embedded", hidden)
    for index in range(encoder.vit.num_layers):
        hidden = encoder.vit.run_layer(index, hidden)
        golden.check(f"out/{case}/vit_block{index}", hidden)
    golden.check(f"out/{case}/ln_vision", encoder.vit.finish(hidden))
    golden.check(f"out/{case}/query_output", encoder(frames, ids, mask))


def tiny_whisper() -> WhisperAudioEncoder:
    dims = {"n_audio_state": 16, "n_audio_layer": 3, "n_audio_head": 2, "n_mels": 80, "n_audio_ctx": 50}
    return WhisperAudioEncoder(whisper_config(dims))


def test_layer_by_layer_equals_transformers_own_forward(tiny: tuple) -> None:
    model, _ = tiny
    frames = torch.randn(3, 3, 28, 28)
    assert torch.equal(model.vision.vit(frames), model.vision.vit.model(frames).last_hidden_state)
    mel = torch.randn(2, 80, 100)
    whisper = tiny_whisper()
    torch.testing.assert_close(whisper(mel), whisper.model(mel).last_hidden_state, atol=1e-6, rtol=0)


def test_passes_bound_the_memory_but_not_the_result() -> None:
    whisper = tiny_whisper()
    mel = torch.randn(2 * ROWS_PER_PASS + 1, 80, 100)
    whole = whisper._encode(mel)
    torch.testing.assert_close(whisper(mel), whole, atol=1e-6, rtol=0)


def test_encoders_stay_frozen_in_a_training_model(tiny: tuple) -> None:
    model, _ = tiny
    model.train()
    try:
        assert model.connector.training
        for encoder in (model.vision, model.vision.vit, model.audio):
            assert not any(module.training for module in encoder.modules())
            assert not any(parameter.requires_grad for parameter in encoder.parameters())
    finally:
        model.eval()


def test_an_unfrozen_encoder_learns() -> None:
    whisper: LayeredEncoder = tiny_whisper()
    assert not whisper(torch.randn(1, 80, 100)).requires_grad
    whisper.unfreeze()
    whisper.train()
    assert whisper.training
    whisper(torch.randn(1, 80, 100)).sum().backward()
    assert whisper.model.conv1.weight.grad is not None


def test_sound_that_is_not_thirty_seconds_of_mel_is_an_internal_error() -> None:
    with pytest.raises(AssertionError, match="99 mel frames given, Whisper takes exactly 100"):
        tiny_whisper()(torch.randn(1, 80, 99))


def tiny_eva() -> EvaViT:
    return EvaViT(
        InstructBlipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        )
    )


@pytest.mark.parametrize("make", [tiny_whisper, tiny_eva])
def test_the_halves_of_a_layer_make_the_whole(make):
    encoder = make()
    hidden = torch.randn(2, encoder.shape(0).num_tokens, encoder.shape(0).width)
    whole = encoder.run_layer(0, hidden)
    assert torch.equal(LayeredEncoder.run_layer(encoder, 0, hidden), whole)
    prompts = torch.randn(2, 3, encoder.shape(0).width)
    seen = encoder.run_layer(0, torch.cat((hidden, prompts), dim=1))
    branch = encoder.attend(0, hidden, prompts)
    hidden, prompts = hidden + branch.tokens, prompts + branch.prompts
    torch.testing.assert_close(seen[:, :-3], hidden + encoder.transform(0, hidden))
    torch.testing.assert_close(seen[:, -3:], prompts + encoder.transform(0, prompts))
