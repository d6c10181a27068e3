"""Adapters: small trained modules that let two frozen encoders tell each other what they perceive.

contract          what an adapter is
lavish            latent tokens beside attention and MLP (AVISH too)
dg_sct            maps of the channels and tokens that matter to the other stream, beside attention and MLP
copl              prompts that the streams write for each other
av_pea            CLS tokens look at the other stream, beside attention
bottleneck        the part that LAVISH, DG-SCT and AV-PEA share
cross_attention   attention between streams, in full precision
bridge            from one encoder's width to the other's

``options_for("lavish", "ave")`` is where to begin.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from favor.adapters.av_pea import AvPeaOptions
from favor.adapters.choices import TASKS, require_choice, require_type
from favor.adapters.contract import (
    AdapterLayer,
    AdapterOptions,
    Additions,
    Cost,
    Prompts,
    Site,
    StreamShape,
)
from favor.adapters.copl import CoplOptions
from favor.adapters.dg_sct import DgSctOptions
from favor.adapters.lavish import LavishOptions
from favor.errors import ConfigurationError

OPTIONS: dict[str, type[AdapterOptions]] = {
    "lavish": LavishOptions,
    "dg_sct": DgSctOptions,
    "av_pea": AvPeaOptions,
    "copl": CoplOptions,
}
"""Every kind of adapter by its name."""


def options_for(name: str, task: str | None = None, **changes: Any) -> AdapterOptions:
    """Settings of an adapter: of a published task or, without one, its defaults; with changes to some of them.

    Raises:
        ConfigurationError: an unknown name, task or setting (the nearest is named), or a value that is not allowed.
    """
    require_choice("the adapter", name, OPTIONS)
    kind = OPTIONS[name]
    options = kind() if task is None else kind.for_task(task)
    known = [field.name for field in fields(options)]  # type: ignore[arg-type]  # every kind is a dataclass
    for key, value in changes.items():
        require_choice(f"a setting of {name}", key, known)
        require_type(kind, key, value)
    return replace(options, **changes)  # type: ignore[type-var]


def options_of(settings: Mapping[str, Any]) -> AdapterOptions:
    """Settings of an adapter as a configuration holds them: ``{"name": "lavish", "task": "ave", "num_latents": 4}``.

    Raises:
        ConfigurationError: no name, or as :func:`options_for`.
    """
    given = dict(settings)
    if "name" not in given:
        raise ConfigurationError(
            f"an adapter without a name: {given}", allowed=", ".join(OPTIONS), advice="Give it a name, as name: lavish"
        )
    return options_for(given.pop("name"), given.pop("task", None), **given)


def refuse_misfit(options: AdapterOptions, *, window_steps: int) -> None:
    """Refuse settings that suit clips cut into segments of one length, but not FAVOR's clips of any length.

    Raises:
        ConfigurationError: BatchNorm, a loss of the task's own, or another number of frame prompts than a window has
            steps.
    """
    if getattr(options, "batch_norm", False):
        raise ConfigurationError(
            "batch_norm between FAVOR's encoders, whose clips differ in length and number",
            allowed="batch_norm: false (its LayerNorms stay)",
            advice="Set batch_norm to false; statistics of one clip would be that clip's own",
        )
    if getattr(options, "consistency_weight", 0):
        raise ConfigurationError(
            "consistency_weight between FAVOR's encoders, which learn from answers alone",
            allowed="consistency_weight: 0",
            advice="Set consistency_weight to 0; its Linear would never learn",
        )
    prompts = getattr(options, "frame_prompts", window_steps)
    if prompts != window_steps:
        raise ConfigurationError(
            f"{prompts} frame prompts and windows of {window_steps} steps",
            allowed="one frame prompt for every step of a window",
            advice=f"Set frame_prompts to {window_steps}",
        )


__all__ = [
    "OPTIONS",
    "TASKS",
    "AdapterLayer",
    "AdapterOptions",
    "Additions",
    "AvPeaOptions",
    "CoplOptions",
    "Cost",
    "DgSctOptions",
    "LavishOptions",
    "Prompts",
    "Site",
    "StreamShape",
    "options_for",
    "options_of",
    "refuse_misfit",
]
