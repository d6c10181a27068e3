"""``python -m serving.demo``: one question about a clip made on the spot, asked over HTTP as any client would.

Makes a clip of four seconds (a red square crosses a blue field, a beep sounds at 2 s), starts the real server as a
process of its own, asks it with the official client, prints question, answer and receipt, and stops the server. The
last line of stdout is one JSON document with all of it.
"""

from __future__ import annotations

import base64
import io
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import IO, cast

import numpy as np
import openai
from openai.types.chat import ChatCompletionMessageParam

from favor.errors import FavorError
from favor.media import SAMPLE_RATE_HZ, write_clip

MODEL = "tiny"
QUESTION = "Where is the red square when the beep sounds?"
MAX_TOKENS = 32
START_LIMIT_S = 300
ANSWER_LIMIT_S = 300
LOG_TAIL_LINES = 20

CLIP_S = 4
FPS = 25
BEEP_S = (2.0, 2.5)


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


@dataclass(frozen=True)
class Outcome:
    """What the last line says; ``seconds`` run from the question to the last word."""

    model: str
    question: str
    answer: str
    media_report: list[dict[str, object]]
    usage: dict[str, object]
    seconds: float


def main() -> int:
    cast(io.TextIOWrapper, sys.stdout).reconfigure(errors="replace")
    try:
        clip = make_clip()
        print(
            f"Made a clip of {CLIP_S} s ({len(clip):,} bytes): a red square crosses a blue field, a beep sounds at 2 s."
        )
        key = secrets.token_urlsafe(16)
        with running_server(key) as address:
            print(f"Started a server with the model {MODEL} on {address}.\n")
            outcome = ask(address, key, clip)
    except (DemoError, FavorError, OSError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    show(outcome)
    print(json.dumps(asdict(outcome)))
    return 0


def make_clip() -> bytes:
    """An mp4 with picture and sound."""
    target = io.BytesIO()
    write_clip(target, frames=_frames(), fps=FPS, waveform=_waveform())
    return target.getvalue()


def _frames() -> np.ndarray:
    """(F, H, W, 3) uint8: a red square goes from left to right at an even pace."""
    frames = np.zeros((CLIP_S * FPS, 180, 320, 3), dtype=np.uint8)
    frames[..., 2] = 200
    for index, frame in enumerate(frames):
        left = round((320 - 40) * index / (len(frames) - 1))
        frame[70:110, left : left + 40] = (220, 20, 20)
    return frames


def _waveform() -> np.ndarray:
    """(S,) float32: silence with one beep of 440 Hz."""
    times_s = np.arange(CLIP_S * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    is_beep = (times_s >= BEEP_S[0]) & (times_s < BEEP_S[1])
    return (0.5 * np.sin(2 * np.pi * 440 * times_s) * is_beep).astype(np.float32)


@contextmanager
def running_server(key: str) -> Iterator[str]:
    """A server process on a free port; gives its address, and shows the end of its log when something goes wrong."""
    command = [sys.executable, "-m", "serving", "--model", MODEL, "--port", "0"]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, "FAVOR_API_KEY": key}
        )
        try:
            yield _address(process)
        except DemoError:
            _show_tail(log)
            raise
        finally:
            _stop(process)


def _address(process: subprocess.Popen[str]) -> str:
    """Where the server says it listens; waits for the model to load."""
    assert process.stdout is not None
    limit = threading.Timer(START_LIMIT_S, process.kill)
    limit.start()
    line = process.stdout.readline()
    limit.cancel()
    if not line:
        raise DemoError(f"the server ended with exit code {process.wait()} before it listened")
    return line.split()[-1]


def _show_tail(log: IO[str]) -> None:
    log.seek(0)
    print("\nThe end of the server's log:", *log.readlines()[-LOG_TAIL_LINES:], sep="\n  ", file=sys.stderr)


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(timeout=40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()


def ask(address: str, key: str, clip: bytes) -> Outcome:
    """Ask the one question, printing the answer as it comes."""
    print(f"Question  {QUESTION}\nAnswer    ", end="", flush=True)
    started = time.monotonic()
    try:
        with openai.DefaultHttpxClient(trust_env=False) as http:
            client = openai.OpenAI(
                base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=ANSWER_LIMIT_S, http_client=http
            )
            return _read_answer(client, clip, started)
    except openai.OpenAIError as error:
        raise DemoError(f"the server gave no answer: {error}") from error


def _read_answer(client: openai.OpenAI, clip: bytes, started: float) -> Outcome:
    answer = ""
    report: list[dict[str, object]] = []
    usage: dict[str, object] = {}
    stream = client.chat.completions.create(
        model=MODEL,
        messages=_conversation(clip),
        max_completion_tokens=MAX_TOKENS,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        piece = "".join(choice.delta.content or "" for choice in chunk.choices)
        print(_printable(piece), end="", flush=True)
        answer += piece
        report = getattr(chunk, "media_report", None) or report
        usage = chunk.usage.to_dict() if chunk.usage else usage
    return Outcome(MODEL, QUESTION, answer, report, usage, round(time.monotonic() - started, 3))


def _conversation(clip: bytes) -> list[ChatCompletionMessageParam]:
    """The request's messages; ``video_url`` is an extension that the client's types do not know."""
    uri = f"data:video/mp4;base64,{base64.b64encode(clip).decode()}"
    content = [{"type": "video_url", "video_url": {"url": uri}}, {"type": "text", "text": QUESTION}]
    return cast("list[ChatCompletionMessageParam]", [{"role": "user", "content": content}])


def show(outcome: Outcome) -> None:
    """The receipt and the cost as a table."""
    print(f"\n\n{MODEL} has random weights, so its words mean nothing yet; what is real is the path they took.\n")
    print("What the model was given")
    for receipt in outcome.media_report:
        _print_table(receipt)
    print(f"\nWhat it cost ({outcome.seconds} s)")
    _print_table(outcome.usage)
    print()


def _print_table(record: dict[str, object]) -> None:
    rows = list(_rows(record))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")


def _rows(record: dict[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """A nested record as lines: names joined by dots, long lists shortened."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _rows(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            shown = [str(item) for item in value]
            yield prefix + name, ", ".join(shown if len(shown) <= 8 else [*shown[:4], "...", shown[-1]]) or "nothing"
        else:
            yield prefix + name, "none" if value is None else str(value)


def _printable(text: str) -> str:
    """Random weights say anything; a terminal should not obey it."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


if __name__ == "__main__":
    sys.exit(main())
