"""Full-size FAVOR-7B and 13B have exactly the parameters of the paper's shapes; built without memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from favor import presets
from favor.configuration import ConnectorConfig
from favor.connector import Connector
from favor.modeling import FavorForConditionalGeneration


@pytest.fixture(scope="module", params=["favor-7b", "favor-13b"])
def model(request: pytest.FixtureRequest) -> FavorForConditionalGeneration:
    with torch.device("meta"):
        return FavorForConditionalGeneration(presets.config(request.param))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def is_13b(model: FavorForConditionalGeneration) -> bool:
    return model.config.text_config.num_hidden_layers == 40


def test_every_part_of_the_connector_has_its_exact_size(model: FavorForConditionalGeneration) -> None:
    connector = model.connector
    layer = connector.qformer.layers[0]
    assert count(layer.self_attention) == 2_363_904
    assert count(layer.cross_attention) == 3_543_552
    assert count(layer.feed_forward) == 4_723_968
    assert count(layer.causal) == 9_446_400
    assert count(layer) == 20_077_824
    assert count(connector.qformer.layers) + count(connector.qformer.query_norm) == 40_157_184
    assert connector.query_tokens.numel() == 24_576
    assert count(connector.qformer.positions) == 6_291_456
    assert count(connector.qformer.joint_norm) == 3_072
    assert count(connector.audio_projections) == 983_808
    assert count(connector.projection) == (3_937_280 if is_13b(model) else 3_149_824)
    assert count(connector) == (51_397_376 if is_13b(model) else 50_609_920)


def test_the_frozen_encoders_are_the_published_ones(model: FavorForConditionalGeneration) -> None:
    assert count(model.vision.vit) == 985_952_256  # with 39 zero key biases and the last norm
    assert count(model.vision.qformer) == 185_660_160
    assert model.vision.query_tokens.numel() == 24_576
    assert count(model.audio) == 636_784_640  # Whisper large-v2's encoder, by its shapes


def test_lora_adapts_q_k_v_and_o_of_every_layer_and_nothing_else(model: FavorForConditionalGeneration) -> None:
    adapted = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
    layers = model.config.text_config.num_hidden_layers
    assert len(adapted) == 4 * layers == (160 if is_13b(model) else 128)
    assert {name.rpartition(".")[2] for name in adapted} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    lora = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    assert lora == (52_428_800 if is_13b(model) else 33_554_432)


def test_exactly_the_connector_and_lora_are_trained(model: FavorForConditionalGeneration) -> None:
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert all(name.startswith("connector.") or "lora_" in name for name in trained)
    assert sum(trained.values()) == (103_826_176 if is_13b(model) else 84_164_352)


def test_video_salmonn_has_85_million_connector_parameters() -> None:
    config = ConnectorConfig(
        audio_widths=[1280, 768], num_query_tokens=30, fine_window_steps=1, num_fine_query_tokens=3
    )
    with torch.device("meta"):
        connector = Connector(config, llm_width=5120)
    assert count(connector) == 85_029_632
