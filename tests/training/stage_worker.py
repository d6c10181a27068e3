"""Stands in for ``python -m training`` in tests of stages: does what the settings' ``do`` says, in pure Python."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import yaml

command, file = sys.argv[1:]
settings = yaml.safe_load(Path(file).read_text())
folder = Path(settings["output"])
folder.mkdir(parents=True, exist_ok=True)


def save(*_: object) -> None:
    (folder / "saved").touch()
    sys.exit(0)


def wait_for(path: Path) -> None:
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.01)


signal.signal(signal.SIGTERM, save)
(folder / "started").touch()
threads = os.environ["OMP_NUM_THREADS"]
print(f"{command} with seed {settings['seed']} and {threads} threads", flush=True)
match settings.get("do"):
    case "fail":
        sys.exit(7)
    case "meet":
        wait_for(Path(settings["other"]) / "started")
    case "wait":
        time.sleep(20)
    case "signal" if not (folder / "saved").exists():
        os.kill(os.getppid(), signal.Signals[settings["signal"]])
        time.sleep(20)
    case "fail-behind":
        wait_for(Path(settings["other"]) / "started")
        sys.exit(3)
