"""A run that is killed goes on exactly: the same losses, bit for bit, with dropout on.

Real processes under torchrun, gloo. DeepSpeed's cases run where it is installed (``./install.sh cpu train``).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from tests.training.small_data import write_data, write_recipe
from tests.training.test_engines import free_port

WORKER = Path(__file__).parent / "run_worker.py"
LIMIT_S = 300
STEPS = 12

ENGINES = {
    "plain": (1, "engine.name=plain"),
    "ddp": (2, "engine.name=ddp"),
    "zero1": (2, "engine.name=deepspeed engine.deepspeed=zero1"),
    "zero2": (2, "engine.name=deepspeed engine.deepspeed=zero2"),
    "zero3": (2, "engine.name=deepspeed engine.deepspeed=zero3"),
}
NO_DEEPSPEED = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is not installed: ./install.sh cpu train"
)
EVERY_ENGINE = [
    "ddp",
    *(pytest.param(name, marks=[pytest.mark.slow, NO_DEEPSPEED]) for name in ("zero1", "zero2", "zero3")),
]


class Run:
    """One output folder, trained by one command again and again."""

    def __init__(self, recipe: Path, output: Path, engine: str) -> None:
        processes, overrides = ENGINES[engine]
        self.output = output
        launcher = [sys.executable]
        if processes > 1:
            launcher += ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port"]
        self.launcher = launcher
        self.needs_port = processes > 1
        self.arguments = [str(WORKER), "run", str(recipe), f"output={output}", *overrides.split()]
        if processes > 1:
            self.arguments.append("optimisation.micro_batch=1")

    def start(self, **environment: str) -> subprocess.Popen[str]:
        port = [free_port()] if self.needs_port else []
        return subprocess.Popen(
            [*self.launcher, *port, *self.arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
                "DS_LOG_LEVEL": "error",
                **environment,
            },
        )

    def finish(self, **environment: str) -> int:
        process = self.start(**environment)
        output, _ = process.communicate(timeout=LIMIT_S)
        self.said = output
        return process.returncode

    def kill_after(self, step: int) -> None:
        """SIGKILL to the launcher and every process below it, once a step is in the log."""
        process = self.start()
        limit = time.monotonic() + LIMIT_S
        while max(self.losses(), default=0) < step:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < limit, "the run did not get that far"
            time.sleep(0.01)
        victims = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for victim in victims:
            victim.kill()
        process.communicate(timeout=LIMIT_S)

    def losses(self) -> dict[int, tuple[float, float, float]]:
        """Loss, its language part and the gradient norm of every step; of a step done twice, the second."""
        path = self.output / "metrics.jsonl"
        found = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                entry = json.loads(line)
            except ValueError:  # a line that the killed process did not finish
                continue
            if entry["event"] == "step":
                found[entry["step"]] = (entry["loss"], entry["language_loss"], entry["grad_norm"])
        return found


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return write_recipe(folder, write_data(folder))


@pytest.fixture(scope="module")
def uninterrupted(recipe: Path, tmp_path_factory: pytest.TempPathFactory):
    """Losses of a whole run of an engine, trained once."""
    known: dict[str, dict] = {}

    def losses_of(engine: str) -> dict:
        if engine not in known:
            run = Run(recipe, tmp_path_factory.mktemp(engine) / "run", engine)
            assert run.finish() == 0, run.said
            known[engine] = run.losses()
            assert len(known[engine]) == STEPS
        return known[engine]

    return losses_of


@pytest.mark.parametrize("engine", EVERY_ENGINE)
def test_a_run_killed_between_checkpoints_goes_on_bit_for_bit(
    recipe: Path, tmp_path: Path, uninterrupted, engine: str
) -> None:
    expected = uninterrupted(engine)
    run = Run(recipe, tmp_path / "run", engine)
    run.kill_after(6)
    assert run.finish() == 0, run.said
    assert run.losses() == expected


@pytest.mark.parametrize("engine", EVERY_ENGINE)
def test_a_run_killed_while_it_writes_a_checkpoint_goes_on_bit_for_bit(
    recipe: Path, tmp_path: Path, uninterrupted, engine: str
) -> None:
    expected = uninterrupted(engine)
    run = Run(recipe, tmp_path / "run", engine)
    assert run.finish(DIE_IN_SAVE="08") != 0
    names = {path.name for path in (run.output / "checkpoints").iterdir()}
    assert names == {"step-00000004", ".draft-step-00000008"}
    assert run.finish() == 0, run.said
    assert run.losses() == expected
    names = {path.name for path in (run.output / "checkpoints").iterdir()}
    assert all(name.startswith("step-") for name in names)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_at_the_next_step_and_ends_cleanly(
    recipe: Path, tmp_path: Path, uninterrupted, number: signal.Signals
) -> None:
    expected = uninterrupted("plain")
    run = Run(recipe, tmp_path / "run", "plain")
    process = run.start()
    while not run.losses():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(number)
    said, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, said
    done = max(run.losses())
    assert done < STEPS
    assert (run.output / "checkpoints" / f"step-{done:08d}" / "state.json").is_file()
    assert run.finish() == 0, run.said
    assert run.losses() == expected


def test_a_run_on_another_base_is_refused(recipe: Path, tmp_path: Path) -> None:
    run = Run(recipe, tmp_path / "run", "plain")
    run.output.mkdir()
    (run.output / "base.json").write_text(json.dumps({"vision": "0" * 64}), encoding="utf-8")
    assert run.finish() == 2
    assert "frozen weights of vision" in run.said


def test_a_run_on_another_number_of_processes_is_refused(recipe: Path, tmp_path: Path) -> None:
    run = Run(recipe, tmp_path / "run", "plain")
    run.arguments += ["optimisation.steps=1"]
    assert run.finish() == 0, run.said
    other = Run(recipe, tmp_path / "run", "ddp")
    assert other.finish() != 0
    assert "written by plain on 1 processes, this is ddp on 2" in other.said


@pytest.mark.slow
@NO_DEEPSPEED
def test_deepspeeds_own_launcher_trains_in_bf16(recipe: Path, tmp_path: Path) -> None:
    launcher = [str(Path(sys.executable).parent / "deepspeed"), "--num_gpus", "2", "--master_port", free_port()]
    overrides = ["engine.name=deepspeed", "optimisation.precision=bf16", "optimisation.steps=3"]
    done = subprocess.run(
        [*launcher, "--module", "training", "run", str(recipe), f"output={tmp_path / 'run'}", *overrides],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        cwd=Path(__file__).parents[2],
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "checkpoints" / "step-00000003" / "state.json").is_file()
