"""Claim: the connector's forward + backward is exact, fast and linear in the clip's length, in time and memory.

    python -m benchmarks.causal_qformer            both paths at T = 60 and T = 1,200 steps, full FAVOR size
    python -m benchmarks.causal_qformer --steps 60 120

Baselines of the same run: the slow reference (benchmarks/reference_connector.py), and this machine's own matrix rate.
Every measurement has a process of its own, so that none inherits another's memory. Equality is proved first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.reference_connector import reference_soft_tokens
from benchmarks.timing import finish, gemm_flops_per_second, measure
from favor.configuration import ConnectorConfig
from favor.connector import Connector
from favor.sync import STEPS_PER_AUDIO_CHUNK, ClipSteps, WindowPlan

LLM_WIDTH = 4096
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[60, 1200])
    parser.add_argument("--one", nargs=2, metavar=("PATH", "STEPS"), help="measure one path and print its cost")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_one(options.one[0], int(options.one[1]))))
        return
    difference = prove_equal(steps=23)
    print(f"fast path equals the reference within {difference:.1e} (T = 23, full size)")
    costs = {
        path: {steps: measure_in_own_process(path, steps) for steps in options.steps} for path in ("fast", "reference")
    }
    short, long = min(options.steps), max(options.steps)
    fast, reference = costs["fast"], costs["reference"]
    finish(
        {
            "benchmark": "causal_qformer",
            "max_difference": difference,
            "costs": costs,
            "speed_up_over_reference": {t: reference[t]["seconds"] / fast[t]["seconds"] for t in options.steps},
            "memory_of_reference": {t: reference[t]["peak_bytes"] / fast[t]["peak_bytes"] for t in options.steps},
            "share_of_gemm_rate": {t: fast[t]["share_of_gemm_rate"] for t in options.steps},
            "length_ratio": long / short,
            "time_ratio": fast[long]["seconds"] / fast[short]["seconds"],
            "memory_ratio": fast[long]["peak_bytes"] / fast[short]["peak_bytes"],
        }
    )


def prove_equal(*, steps: int) -> float:
    """Largest difference between both paths' soft tokens; raises if they differ."""
    connector, visual, audio = build(steps)
    fast, slow = fast_path(connector, visual, audio), reference_path(connector, visual, audio)
    with torch.no_grad():
        ours, theirs = fast(), slow()
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    return (ours - theirs).abs().max().item()


def measure_in_own_process(path: str, steps: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.causal_qformer", "--one", path, str(steps)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    print(f"{path:>9}  T = {steps:5}  {found['seconds']:8.2f} s  {found['peak_bytes'] / 2**20:9.0f} MiB")
    return found


def measure_one(path: str, steps: int) -> dict[str, float]:
    """Cost of one forward + backward; for the fast path also its share of the machine's matrix rate."""
    connector, visual, audio = build(steps)
    forward = (fast_path if path == "fast" else reference_path)(connector, visual, audio)

    def train_step() -> None:
        connector.zero_grad(set_to_none=False)
        forward().square().mean().backward()

    cost = measure(train_step, repeats=3 if steps <= 120 else 1, device=DEVICE)
    result = {"seconds": cost.seconds, "peak_bytes": cost.peak_bytes}
    if path == "fast":
        with FlopCounterMode(display=False) as counter:
            train_step()
        width = connector.config.joint_width
        roof = gemm_flops_per_second(steps * 32, width, device=DEVICE, dtype=torch.float32)
        result |= {
            "flops": counter.get_total_flops(),
            "gemm_flops_per_second": roof,
            "share_of_gemm_rate": counter.get_total_flops() / cost.seconds / roof,
        }
    return result


def build(steps: int) -> tuple[Connector, Tensor, Tensor]:
    """A full-size connector (dropout off) and one random clip of ``steps`` with picture and sound."""
    torch.manual_seed(0)
    connector = Connector(ConnectorConfig(), llm_width=LLM_WIDTH).eval().to(DEVICE)
    visual = torch.randn(steps, 32, 768, device=DEVICE)
    chunks = -(-steps // STEPS_PER_AUDIO_CHUNK)
    return connector, visual, torch.randn(chunks * STEPS_PER_AUDIO_CHUNK, 25, 1280, device=DEVICE)


def fast_path(connector: Connector, visual: Tensor, audio: Tensor) -> Callable[[], Tensor]:
    clip = ClipSteps.of_clip(num_frames=len(visual), num_audio_steps=len(visual), is_image=False)
    plan = WindowPlan.of([clip], window_steps=connector.config.window_steps)
    return lambda: connector(visual, [audio], plan).soft_tokens


def reference_path(connector: Connector, visual: Tensor, audio: Tensor) -> Callable[[], Tensor]:
    return lambda: reference_soft_tokens(connector, [(visual, [audio[: len(visual)]])])


if __name__ == "__main__":
    main()
