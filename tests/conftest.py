"""What many tests share: no test may reach a model hub, and the ``tiny`` model is built once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from favor.modeling import FavorForConditionalGeneration
    from favor.processor import FavorProcessor

os.environ["HF_HUB_OFFLINE"] = "1"  # before anyone imports huggingface_hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class Tiny(NamedTuple):
    """The preset ``tiny``. Shared by all tests: copy what you want to change."""

    model: FavorForConditionalGeneration
    processor: FavorProcessor


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    import torch  # here, so that tests without a model do not wait for it

    from favor import presets

    torch.set_num_threads(1)  # for tensors this small a second thread only means waiting
    return Tiny(*presets.build("tiny"))
