"""``python -m training`` for tests; with DIE_IN_SAVE=N it kills itself while it writes the checkpoint of step N."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from training import __main__, checkpoints

if step := os.environ.get("DIE_IN_SAVE"):
    flush = checkpoints._flush

    def die_or_flush(folder: Path) -> None:
        if folder.name.endswith(step):
            os.kill(os.getpid(), signal.SIGKILL)
        flush(folder)

    checkpoints._flush = die_or_flush

status = __main__.main()
sys.stdout.flush()
os._exit(status)
