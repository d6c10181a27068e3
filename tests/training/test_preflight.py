"""Before a long run: data, media and output are there, and all processes agree and can talk."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests import small_media
from training import preflight, recipe
from training.engine.base import Ranks
from training.preflight import Finding, agreements, check_alone, facts


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A recipe over three videos."""
    lines = []
    for number in range(3):
        (tmp_path / f"{number}.mp4").write_bytes(small_media.video(1.0, seed=number))
        turns = [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "A dog."}]
        lines.append(json.dumps({"messages": turns, "videos": [f"{number}.mp4"]}))
    (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"{{name: r, summary: s, model: tiny, output: {tmp_path / 'run'}, optimisation: {{steps: 1}},"
        f" data: {{train: [{{path: {tmp_path / 'data.jsonl'}}}]}}}}"
    )
    return path


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    preflight.add_arguments(parser)
    return preflight.run(parser.parse_args([str(argument) for argument in arguments]))


def test_a_machine_on_which_all_is_well_passes(given, capsys):
    assert run(given) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line[:3] for line in shown] == ["ok "] * 3
    assert "data.jsonl 3" in shown[0]
    assert "3 clips decoded" in shown[1]


def test_an_unreadable_clip_and_a_missing_file_are_named(given, tmp_path, capsys):
    (tmp_path / "1.mp4").write_bytes(b"no video")
    assert run(given) == 1
    assert "BAD media of 20 samples: 1.mp4" in capsys.readouterr().out
    assert run(given, "data.train=[{path: gone.jsonl}]") == 1
    assert "BAD data: " in capsys.readouterr().out


def test_an_output_folder_that_cannot_be_written_is_found(given, tmp_path):
    (tmp_path / "file").touch()
    findings = check_alone(recipe.load(given, [f"output={tmp_path / 'file' / 'run'}"]), num_samples=1)
    assert [finding.name for finding in findings if not finding.is_fine] == ["output folder"]


def test_a_process_that_stands_apart_is_named(given):
    ours = facts(recipe.load(given))
    assert all(finding.is_fine for finding in agreements([ours, dict(ours)]))
    findings = agreements([ours, ours, {**ours, "torch": "1.0"}, {**ours, "data": "other"}])
    assert {finding.name: finding.text[-3:] for finding in findings if not finding.is_fine} == {
        "same torch": "n 2",
        "same data": "n 3",
    }


def join(path: Path, rank: int, port: int, seed: int, told: multiprocessing.Queue) -> None:
    """One of two processes."""
    torch.set_num_threads(1)  # the parent's threads did not come along
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    ranks = Ranks(rank, 2, torch.device("cpu"))
    told.put((rank, preflight.check_together(recipe.load(path, [f"seed={seed}"]), ranks, timeout_s=60)))
    dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_processes_find_each_other_and_what_differs(given):
    context, port = multiprocessing.get_context("fork"), free_port()
    told = context.Queue()
    processes = [context.Process(target=join, args=(given, rank, port, rank, told)) for rank in range(2)]
    for process in processes:
        process.start()
    findings = dict(told.get(timeout=90) for _ in processes)
    for process in processes:
        process.join(30)
    assert findings[0] == findings[1]
    assert findings[0][0] == Finding("all-reduce", True, "2 processes over gloo")
    assert [finding.name for finding in findings[0] if not finding.is_fine] == ["same recipe"]


def test_a_process_that_is_missing_ends_the_wait(given, monkeypatch, capsys):
    place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    assert run(given, "--timeout", "2") == 1
    assert "BAD [process 0 on" in capsys.readouterr().out
