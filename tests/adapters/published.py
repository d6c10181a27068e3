"""Encoders of the published adapters as sites, and their bottleneck's names in the golden vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from favor.adapters import AdapterOptions, Site, StreamShape
from tests.golden_vectors import Golden

SWIN_DEPTHS, SWIN_TOKENS = (2, 2, 18, 2), (2304, 576, 144, 36)


def vit_sites(*, width: int, depth: int, audio_tokens: int = 49) -> tuple[Site, ...]:
    """A ViT of 224 px frames for both streams, the sound a smaller picture."""
    return tuple(
        Site(StreamShape(width, 197, True, i), StreamShape(width, audio_tokens, True, i)) for i in range(depth)
    )


def swin_sites(*, width: int) -> tuple[Site, ...]:
    """A Swin-V2 of 192 px pictures for both streams."""
    stages = [stage for stage, depth in enumerate(SWIN_DEPTHS) for _ in range(depth)]
    shapes = [StreamShape(width << s, SWIN_TOKENS[s], False, layer, s) for layer, s in enumerate(stages)]
    return tuple(Site(shape, shape) for shape in shapes)


def favor_sites() -> tuple[Site, ...]:
    """Whisper-large's 32 layers beside as many of ViT-g's 39; the other seven stand alone."""
    visual = [StreamShape(1408, 257, True, i) for i in range(39)]
    partners = {round((i + 1) * 39 / 32) - 1: StreamShape(1280, 25, False, i) for i in range(32)}
    return tuple(Site(shape, partners.get(shape.layer)) for shape in visual)


VIT_B, VIT_L = vit_sites(width=768, depth=12), vit_sites(width=1024, depth=24)
SWIN_B, SWIN_L = swin_sites(width=128), swin_sites(width=192)


def build_on_meta(options: AdapterOptions, sites: tuple[Site, ...]) -> nn.ModuleList:
    with torch.device("meta"):
        return options.build(sites)


def num_weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in set(module.parameters()))


BOTTLENECK_NAMES = {
    "ln_before": "norm_before", "ln_pre": "norm_before", "ln_post": "norm_after", "bn1": "down_norm", "bn2": "up_norm",
    "down_sampler": "down", "down": "down", "up_sampler": "up", "up": "up",
}  # fmt: skip
ADAPTER_NAMES = {
    "my_tokens": "latents",
    "gate_av": "cross_gate",
    "gate_cross": "cross_gate",
    "gate": "bottleneck.gate",
    "gate_out": "bottleneck.gate",
}


def our_name(theirs: str) -> str:
    """Name of a golden parameter in LavishAdapter and AvPeaAdapter."""
    stem, _, leaf = theirs.partition(".")
    return f"bottleneck.{BOTTLENECK_NAMES[stem]}.{leaf}" if leaf else ADAPTER_NAMES[theirs]


def check_adapter(adapter: nn.Module, golden: Golden, case: str) -> None:
    """An adapter equals a golden case: residual, all gradients and, in training, its BatchNorms' buffers."""
    saved = golden.below(f"param/{case}/")
    state = {our_name(key): value for key, value in saved.items()}
    own = adapter.state_dict()
    counters = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}  # not in every file
    adapter.load_state_dict({**counters, **{key: value.view(own[key].shape) for key, value in state.items()}})
    adapter.train(golden.meta["cases"][case]["mode"] == "train")

    given = golden.below(f"in/{case}/")
    streams = {name: given[name].float().requires_grad_() for name in ("own", "other") if name in given}
    residual = adapter(streams["own"], streams.get("other"))
    golden.check(f"out/{case}/residual", residual)
    if f"out/{case}/fused" in golden.tensors:
        golden.check(f"out/{case}/fused", adapter.fused(streams["own"], streams.get("other")))
    (residual * given["probe"]).sum().backward()
    for key, expected in golden.below(f"grad/{case}/").items():
        ours = streams[key].grad if key in streams else gradient(adapter, key.removeprefix("param/"))
        golden.check(f"grad/{case}/{key}", ours.view(expected.shape))
    for key in golden.below(f"out/{case}/buffer_after/"):
        golden.check(f"out/{case}/buffer_after/{key}", adapter.state_dict()[our_name(key)])


def gradient(adapter: nn.Module, theirs: str) -> Tensor:
    found = adapter.get_parameter(our_name(theirs)).grad
    assert found is not None, f"{theirs} has no gradient"
    return found


def moving_weights(layers: nn.Module) -> set[str]:
    """Last parts of the names of the weights that have a gradient other than zero."""
    return {
        name.partition(".")[2]
        for name, weight in layers.named_parameters()
        if weight.grad is not None and weight.grad.abs().max() > 0
    }
