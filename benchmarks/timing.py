"""What every benchmark shares: time, peak memory, the machine's own matrix rate, and one JSON line at the end."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Cost:
    """Best wall time of a call in seconds, and by how many bytes it raised the process's (or GPU's) peak memory."""

    seconds: float
    peak_bytes: int


def measure(call: Callable[[], Any], *, repeats: int, device: str) -> Cost:
    """Cost of ``call``: memory of its first run, which finds nothing to reuse; least time of 1 + repeats runs."""
    first = _once(call, device)
    return Cost(min([first.seconds, *(_once(call, device).seconds for _ in range(repeats))]), first.peak_bytes)


def gemm_flops_per_second(rows: int, width: int, *, device: str, dtype: torch.dtype, repeats: int = 5) -> float:
    """This machine's rate on one (rows, width) x (width, width) product: the roof for a model of that width."""
    left, right = (torch.randn(size, width, device=device, dtype=dtype) for size in (rows, width))
    cost = measure(lambda: left @ right, repeats=repeats, device=device)
    return 2 * rows * width * width / cost.seconds


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
    }


def finish(result: dict[str, Any]) -> None:
    """Print the result as the benchmark's last line, one JSON object."""
    print(json.dumps({**result, "machine": machine(), "date": time.strftime("%Y-%m-%d")}))


def _once(call: Callable[[], Any], device: str) -> Cost:
    before = _start_peak(device)
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return Cost(seconds, _peak(device) - before)


def _start_peak(device: str) -> int:
    """Forget the peak so far; bytes in use now."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the high-water mark (Linux)
    return _status_bytes("VmRSS")


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status_bytes("VmHWM")


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status; peak memory on a CPU needs Linux")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
