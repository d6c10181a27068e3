"""Plain, DDP and DeepSpeed ZeRO training do the same to the same global batch, whatever each process finds in its part.

Real processes, gloo, torchrun. DeepSpeed's cases run where it is installed (``./install.sh cpu train``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

WORKER = Path(__file__).parent / "engine_worker.py"
LIMIT_S = 300
TOLERANCE = 2e-5  # of weights that moved by up to 1e-2; float32, other orders of summation


needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is not installed: ./install.sh cpu train"
)


def train(
    folder: Path, processes: int, engine: str, *, preset: str = "-", accumulation: int, adapter: dict | None = None
) -> tuple[list, dict[str, Tensor]]:
    """Losses and gradient norms of every step, and the trained tensors."""
    out = folder / f"{engine}-{preset}-{processes}-{accumulation}.safetensors"
    command = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", free_port()]
    subprocess.run(
        [sys.executable, *command, str(WORKER), engine, preset, str(accumulation), str(out), json.dumps(adapter)],
        check=True,
        timeout=LIMIT_S,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_LOG_LEVEL": "error"},
    )
    with safe_open(out, "pt") as file:
        return json.loads(file.metadata()["losses"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def free_port() -> str:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[list, dict[str, Tensor]]:
    return train(tmp_path_factory.mktemp("plain"), 1, "plain", accumulation=1)


def assert_same(one: tuple[list, dict[str, Tensor]], other: tuple[list, dict[str, Tensor]]) -> None:
    (losses, tensors), (others, other_tensors) = one, other
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(others), atol=0, rtol=1e-5)
    assert tensors.keys() == other_tensors.keys()
    for name, value in tensors.items():
        torch.testing.assert_close(value, other_tensors[name], atol=TOLERANCE, rtol=0, msg=name)


def test_the_loss_falls(plain: tuple[list, dict[str, Tensor]]) -> None:
    losses = [loss for loss, _ in plain[0]]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.95 * losses[0]


def test_eight_micro_batches_of_one_equal_one_of_eight(tmp_path: Path, plain: tuple[list, dict[str, Tensor]]) -> None:
    assert_same(train(tmp_path, 1, "plain", accumulation=8), plain)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_two_processes_with_ddp_equal_one(
    tmp_path: Path, plain: tuple[list, dict[str, Tensor]], accumulation: int
) -> None:
    assert_same(train(tmp_path, 2, "ddp", accumulation=accumulation), plain)


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("preset", ["zero1", "zero2", "zero3"])
def test_two_processes_with_zero_equal_one(
    tmp_path: Path, plain: tuple[list, dict[str, Tensor]], preset: str, accumulation: int
) -> None:
    assert_same(train(tmp_path, 2, "deepspeed", preset=preset, accumulation=accumulation), plain)
