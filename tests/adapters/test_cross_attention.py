"""Attention between streams is reckoned in float32, and adapters are made by name, task and checked settings."""

from __future__ import annotations

import pytest
import torch

from favor.adapters import OPTIONS, TASKS, AdapterOptions, options_for
from favor.adapters.cross_attention import compress, fuse
from favor.errors import ConfigurationError


def test_summaries_and_mixtures_are_what_the_equations_say() -> None:
    latents, tokens, other = torch.randn(2, 8), torch.randn(3, 4, 8), torch.randn(3, 5, 8)
    summary = latents + (latents @ other.mT).softmax(-1) @ other
    torch.testing.assert_close(compress(latents, other), summary)
    torch.testing.assert_close(fuse(tokens, summary), (tokens @ summary.mT).softmax(-1) @ summary)
    scaled = (tokens @ summary.mT / 8**0.5).softmax(-1) @ summary
    torch.testing.assert_close(fuse(tokens, summary, scale=True), scaled)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [True, False])
def test_dot_products_beyond_half_precision_are_still_told_apart(dtype: torch.dtype, autocast: bool) -> None:
    tokens = torch.full((1, 1, 64), 60.0, dtype=dtype)  # its square is 230,400: infinite in float16
    others = torch.cat((tokens, tokens), dim=1)
    others[0, 1, 0] = 60.25 if dtype == torch.float16 else 60.5  # 15 or 30 more: one step in bfloat16 is 1024
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        taken = fuse(tokens, others)
    assert taken.dtype == torch.float32
    torch.testing.assert_close(taken[:, 0], others[:, 1].float())


def test_double_precision_stays_double() -> None:
    assert compress(torch.randn(2, 8).double(), torch.randn(1, 3, 8).double()).dtype == torch.float64


@pytest.mark.parametrize("task", [None, *TASKS])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_adapter_has_settings_for_every_task(name: str, task: str | None) -> None:
    assert isinstance(options_for(name, task), AdapterOptions)


def test_a_task_s_settings_may_be_changed() -> None:
    options = options_for("lavish", "avqa", num_latents=3, bridge_rank=None)
    assert (options.num_latents, options.groups, options.bridge_rank) == (3, 4, None)


@pytest.mark.parametrize(
    ("name", "task", "changes", "says"),
    [
        ("lavsh", None, {}, "'lavsh'.*Did you mean 'lavish'"),
        ("lavish", "aveq", {}, "task is 'aveq'.*Did you mean 'ave'"),
        ("lavish", None, {"num_latent": 3}, "'num_latent'.*Did you mean 'num_latents'"),
        ("lavish", None, {"batch_norm": "false"}, "batch_norm is 'false', of type str.*bool"),
        ("lavish", None, {"num_latents": True}, "num_latents is True, of type bool.*int"),
        ("lavish", None, {"bridge_rank": 1.5}, "bridge_rank is 1.5, of type float.*None or int"),
        ("av_pea", None, {"cls_stand_in": "men"}, "cls_stand_in is 'men'.*Did you mean 'mean'"),
    ],
)
def test_unknown_names_and_wrong_values_are_refused(name: str, task: str | None, changes: dict, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        options_for(name, task, **changes)
