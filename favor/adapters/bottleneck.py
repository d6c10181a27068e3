"""The bottleneck that LAVISH, DG-SCT and AV-PEA share, behind whatever they do with the other stream.

    LN_pre -> W_down -> BN_1 -> ReLU -> W_up -> BN_2 -> LN_post -> gate        (adapters.md 2.1, steps 3 to 6)

The gate is last, always, and starts at zero: a fresh adapter adds exactly nothing. The released code for AVS puts it
before LN_post, where the norm takes its size out again, and leaves it out of audio adapters (adapters.md 2.6).

BatchNorm is the 1-d form: torch's 2-d backward on a CPU gives wrong input gradients for (F, C, N, 1) (torch 2.13).

Shapes: F frames, N tokens, C width, K = C / reduction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from favor.adapters.bridge import Bridge
from favor.errors import ConfigurationError

PARTS = ("latent tokens", "bottleneck convolutions", "norms", "gates", "bridges", "learned queries")


@dataclass(frozen=True)
class BottleneckOptions:
    """How a bottleneck is made.

    Args:
        reduction: r, K = C / r.
        groups: g of both convolutions; not shuffled, so the g parts of the channels never meet in here.
        batch_norm: a BatchNorm behind each convolution, over all frames and tokens together.
        ln_pre, ln_post: a LayerNorm before and behind.
        gate: without it the output is not zero at the start.
    """

    reduction: int = 8
    groups: int = 1
    batch_norm: bool = True
    ln_pre: bool = True
    ln_post: bool = True
    gate: bool = True

    def __post_init__(self) -> None:
        for name in ("reduction", "groups"):
            if getattr(self, name) < 1:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)}", allowed="1 or more", advice=f"Use {name}=1 for none"
                )

    def check(self, width: int) -> None:
        """Raise ConfigurationError unless a stream of this width can be reduced and parted into groups."""
        if width % self.reduction:
            raise ConfigurationError(
                f"a stream of width {width} with reduction {self.reduction}",
                allowed="a reduction that divides the width",
                advice=f"Use {_nearest_divisor(self.reduction, width)}",
            )
        inner = width // self.reduction
        if inner % self.groups:
            raise ConfigurationError(
                f"width {width} and its bottleneck of {inner} in {self.groups} groups",
                allowed="a number of groups that divides both",
                advice=f"Use {_nearest_divisor(self.groups, inner)}, or another reduction",
            )

    def macs(self, width: int) -> int:
        """Multiply-accumulates of both convolutions for one token: 2 C K / g (adapters.md 6.3)."""
        return 2 * width * (width // self.reduction) // self.groups


class Bottleneck(nn.Module):
    """What an adapter adds to its stream.

    Args:
        width: C.
        options: see there.

    Raises:
        ConfigurationError: a width that does not fit the options.
    """

    def __init__(self, width: int, options: BottleneckOptions) -> None:
        super().__init__()
        options.check(width)
        inner = width // options.reduction
        self.norm_before = nn.LayerNorm(width) if options.ln_pre else nn.Identity()
        self.down = nn.Conv1d(width, inner, 1, groups=options.groups, bias=False)
        self.down_norm = nn.BatchNorm1d(inner) if options.batch_norm else nn.Identity()
        self.up = nn.Conv1d(inner, width, 1, groups=options.groups, bias=False)
        self.up_norm = nn.BatchNorm1d(width) if options.batch_norm else nn.Identity()
        self.norm_after = nn.LayerNorm(width) if options.ln_post else nn.Identity()
        # One element, not a scalar: sharded training refuses weights without dimensions.
        self.gate = nn.Parameter(torch.zeros(1)) if options.gate else None

    def forward(self, tokens: Tensor) -> Tensor:
        """(F, N, C) -> (F, N, C), of the tokens' dtype; reckoned in the weights' unless autocast says otherwise.

        Raises:
            ConfigurationError: a BatchNorm is to be trained on a single token.
        """
        self._refuse_single_values(tokens)
        hidden = self.norm_before(tokens.to(self.down.weight.dtype)).transpose(1, 2)  # (F, C, N)
        hidden = torch.relu(self.down_norm(self.down(hidden)))  # (F, K, N)
        hidden = self.up_norm(self.up(hidden)).transpose(1, 2)  # (F, N, C)
        hidden = self.norm_after(hidden)
        return (hidden if self.gate is None else self.gate * hidden).to(tokens.dtype)

    def _refuse_single_values(self, tokens: Tensor) -> None:
        frames, number, _ = tokens.shape
        if self.training and isinstance(self.down_norm, nn.BatchNorm1d) and frames * number == 1:
            raise ConfigurationError(
                "a batch of 1 frame with 1 token, for a BatchNorm in training",
                allowed="two tokens or more in all frames together: one has no variance",
                advice="Give more frames, set batch_norm to false, or put the adapter in evaluation mode",
            )


def weights_by_part(layers: nn.Module) -> dict[str, int]:
    """Trained weights of adapters around a bottleneck, by PARTS; each is counted once, parts without any are left out.

    Latent tokens, gates and learned queries are known by the ends of their names: latents, gate, query. What is none of
    PARTS is counted under ``others``.
    """
    seen: set[Tensor] = set()
    counts: Counter[str] = Counter()
    for module, name, weight in _weights(layers.modules()):
        if weight not in seen:
            seen.add(weight)
            counts[_part(module, name)] += weight.numel()
    return {part: counts[part] for part in (*PARTS, "others") if counts[part]}


def _weights(modules: Iterable[nn.Module]) -> Iterable[tuple[nn.Module, str, Tensor]]:
    for module in modules:
        for name, weight in module.named_parameters(recurse=isinstance(module, Bridge)):
            yield module, name, weight


def _part(module: nn.Module, name: str) -> str:
    if isinstance(module, Bridge):  # met before its own Linear modules
        return "bridges"
    if isinstance(module, nn.Conv1d):
        return "bottleneck convolutions"
    if isinstance(module, nn.LayerNorm | nn.BatchNorm1d):
        return "norms"
    endings: Mapping[str, str] = {"latents": "latent tokens", "gate": "gates", "query": "learned queries"}
    return next((part for ending, part in endings.items() if name.endswith(ending)), "others")


def _nearest_divisor(given: int, number: int) -> int:
    divisors = [divisor for divisor in range(1, number + 1) if number % divisor == 0]
    return min(divisors, key=lambda divisor: abs(divisor - given))
