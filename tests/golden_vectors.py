"""Reads the golden vectors of tests/golden and holds our tensors against them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Golden:
    """One golden file: its header and its tensors by full name."""

    meta: dict
    tensors: dict[str, Tensor]

    @classmethod
    def load(cls, name: str) -> Golden:
        with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
            meta = json.loads(file.metadata()["meta"])
            return cls(meta, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118

    @property
    def params(self) -> dict[str, Tensor]:
        return self.below("param/")

    def below(self, prefix: str) -> dict[str, Tensor]:
        return {key[len(prefix) :]: value for key, value in self.tensors.items() if key.startswith(prefix)}

    def check(self, key: str, ours: Tensor, *, where: Tensor | None = None) -> None:
        """Assert that ``ours`` equals the saved tensor ``key`` within the file's tolerance (only ``where`` set)."""
        saved = self.tensors[key]
        assert ours.shape == saved.shape, f"{key}: ours {tuple(ours.shape)}, saved {tuple(saved.shape)}"
        limit = self.meta["tolerance"]["grad" if key.startswith("grad") else "out"] * max(1.0, saved.abs().max().item())
        difference = (ours.detach() - saved).abs()
        if where is not None:
            difference = difference[where]
        assert difference.max().item() <= limit, f"{key}: off by {difference.max().item():.2e}, limit {limit:.2e}"


CONNECTOR_NAMES = {
    "speech_pre_qformer_proj": "audio_projections.0",
    "beats_pre_qformer_proj": "audio_projections.1",
    "ln_video": "qformer.joint_norm",
    "video_frame_position_embedding": "qformer.positions",
    "video_query_tokens": "query_tokens",
    "low_query_tokens": "fine_query_tokens",
    "llama_proj": "projection",
    "video_Qformer.bert.embeddings.LayerNorm": "qformer.query_norm",
}
LAYER_NAMES = {
    "encoder_causal_attention": "causal",
    "attention": "self_attention",
    "crossattention": "cross_attention",
}


def our_connector_name(official: str) -> str:
    """Name of a released FAVOR parameter in :class:`favor.connector.Connector`."""
    stem, _, leaf = official.rpartition(".")
    if official in CONNECTOR_NAMES:
        return CONNECTOR_NAMES[official]
    if stem in CONNECTOR_NAMES:
        return f"{CONNECTOR_NAMES[stem]}.{leaf}"
    number, block, *rest = stem.removeprefix("video_Qformer.bert.encoder.layer.").split(".")
    ours = {
        ("intermediate_query", "dense"): "feed_forward.inner",
        ("output_query", "dense"): "feed_forward.output",
        ("output_query", "LayerNorm"): "feed_forward.norm",
    }.get((block, *rest))
    if ours is None:
        part = {"dense": "output", "LayerNorm": "norm"}.get(rest[1], rest[1])
        ours = f"{LAYER_NAMES[block]}.{part}"
    return f"qformer.layers.{number}.{ours}.{leaf}"


def load_official(module: nn.Module, official: dict[str, Tensor], *, prefix: str = "") -> None:
    """Load released connector parameters strictly into ``module`` (whose names start behind ``prefix``)."""
    state = {}
    for name, value in official.items():
        ours = our_connector_name(name)
        if ours.startswith(prefix):
            state[ours[len(prefix) :]] = value.squeeze(0) if name.endswith("query_tokens") else value
    module.load_state_dict(state, strict=True)


def our_gradient(module: nn.Module, official_name: str, *, prefix: str = "") -> Tensor:
    gradient = module.get_parameter(our_connector_name(official_name).removeprefix(prefix)).grad
    return gradient[None] if official_name.endswith("query_tokens") else gradient
