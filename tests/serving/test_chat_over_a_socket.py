"""The official client against a real server: with the echo, with a stand-in for the model, and with ``tiny``."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from favor.decoding import Decoding
from favor.errors import ConfigurationError, UnreadableMediaError
from favor.media import write_clip
from favor.messages import user
from serving.engines import local
from serving.engines.base import EngineStoppedError, GenerateRequest, QueueFullError
from serving.engines.echo import EchoEngine
from serving.engines.local import LocalEngine

ROOT = Path(__file__).resolve().parents[2]


def question(*content: object) -> list[dict]:
    return [{"role": "user", "content": list(content)}]


def text(words: str) -> dict:
    return {"type": "text", "text": words}


# --- the official client and the echo -----------------------------------------------------------------------------


def test_the_official_client_gets_a_whole_answer_with_our_fields(echo, media):
    messages = question(media("video_url"), text("What rings?"))
    answer = echo.openai().chat.completions.create(model="echo", messages=messages)
    assert answer.choices[0].message.content == "What rings?"
    assert answer.usage.prompt_tokens_details.audio_tokens == 0
    assert answer.media_report[0]["name"] == "messages[0].content[0].video_url"
    assert answer._request_id.startswith("req-")


def test_the_official_client_gets_a_stream_with_usage_and_report(echo, media):
    stream = echo.openai().chat.completions.create(
        model="echo",
        messages=question(media("video_url"), text("What rings?")),
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == "What rings?"
    assert chunks[-1].usage.completion_tokens == 2
    assert [chunk.media_report[0]["num_bytes"] for chunk in chunks if getattr(chunk, "media_report", None)] == [4]


def test_the_official_client_lists_and_finds_models(echo):
    assert [model.id for model in echo.openai().models.list()] == ["echo"]
    assert echo.openai().models.retrieve("echo").owned_by == "favor"


def test_the_official_client_raises_its_own_exceptions(echo, serving):
    ask = echo.openai().chat.completions.create
    with pytest.raises(openai.NotFoundError) as not_found:
        ask(model="other", messages=question(text("x")))
    assert (not_found.value.code, not_found.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="n would change the answer"):
        ask(model="echo", messages=question(text("x")), n=3)
    part = {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}}
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        ask(model="echo", messages=question(part))
    assert refused.value.param == "messages[0].content[0].video_url"
    locked = serving(EchoEngine(), api_key="a")
    with pytest.raises(openai.AuthenticationError):
        locked.openai(api_key="b").models.list()
    assert locked.openai(api_key="a").models.list().data[0].id == "echo"


# --- the local engine around a stand-in for the model ---------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    text: str
    num_tokens: int
    finish_reason: str | None


@dataclass(frozen=True)
class Prepared:
    receipts: tuple = ()
    num_prompt_tokens: int = 9
    num_video_tokens: int = 4
    num_audio_tokens: int = 3
    num_image_tokens: int = 0


class CountingChat:
    """Counts aloud, a token every ``token_s``, on whatever thread it is asked."""

    name = "counting"

    def __init__(self, *, token_s: float = 0.0) -> None:
        self.token_s = token_s
        self.num_said = 0
        self.num_prepared = 0
        self.threads: set[str] = set()
        self.go = threading.Event()
        self.go.set()

    def prepare(self, messages, *, progress=None):
        self.threads.add(threading.current_thread().name)
        assert self.go.wait(10)
        self.num_prepared += 1
        if messages[-1].text == "bad clip":
            raise UnreadableMediaError("messages[0].content[0].video_url is text", allowed="mp4", advice="Send mp4")
        return Prepared()

    def stream(self, prepared, decoding, *, cancelled=None):
        for number in range(decoding.max_new_tokens):
            time.sleep(self.token_s)
            self.num_said += 1
            yield Piece(f"{number} ", 1, "length" if number == decoding.max_new_tokens - 1 else None)


@pytest.fixture
def counting(monkeypatch):
    """A function that makes a local engine around a chat that counts."""

    def make(chat: CountingChat, *, max_queue: int = 4) -> LocalEngine:
        monkeypatch.setattr(local, "_load", lambda model: chat)
        return LocalEngine("counting", max_queue=max_queue)

    return make


def wish(words: str = "count", max_new_tokens: int = 3) -> GenerateRequest:
    return GenerateRequest((user(words),), Decoding(max_new_tokens=max_new_tokens), "counting")


def test_the_local_engine_streams_what_the_model_says_and_counts_its_tokens(serving, counting):
    chat = CountingChat()
    server = serving(counting(chat))
    body = server.ask(max_tokens=3).json()
    assert body["choices"][0]["message"]["content"] == "0 1 2 "
    assert body["choices"][0]["finish_reason"] == "length"
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (9, 3)
    assert body["usage"]["prompt_tokens_details"] == {
        "cached_tokens": 0,
        "audio_tokens": 3,
        "video_tokens": 4,
        "image_tokens": 0,
    }
    assert [chunk["choices"][0]["delta"].get("content") for chunk in server.chunks(max_tokens=2)][1:3] == ["0 ", "1 "]
    assert chat.threads == {"favor-engine_0"}, "the model is asked on one thread, never on the event loop's"


def test_health_answers_while_the_model_is_busy(serving, counting, wait_for):
    chat = CountingChat()
    chat.go.clear()
    server = serving(counting(chat))
    asking = threading.Thread(target=server.ask)
    asking.start()
    wait_for(lambda: server.http.get("/health").json()["num_running"] == 1)
    started = time.monotonic()
    assert server.http.get("/health").status_code == 200
    assert time.monotonic() - started < 0.5
    chat.go.set()
    asking.join()


def test_a_closed_iterator_stops_the_model_within_one_token(counting):
    chat = CountingChat(token_s=0.02)

    async def leave_after_three() -> int:
        engine = counting(chat)
        await engine.start()
        deltas = engine.generate(wish(max_new_tokens=4_000))
        for _ in range(4):
            await anext(deltas)
        said = chat.num_said
        await deltas.aclose()
        while engine.health().num_running:
            await asyncio.sleep(0.005)
        await engine.stop()
        return said

    said = asyncio.run(leave_after_three())
    assert chat.num_said - said <= 1


def test_a_client_that_leaves_frees_the_model_for_the_next(serving, counting, wait_for):
    chat = CountingChat(token_s=0.02)
    server = serving(counting(chat))
    asked = {"model": "counting", "messages": question(text("x")), "stream": True, "max_tokens": 4_000}
    with server.http.stream("POST", "/v1/chat/completions", json=asked) as reply:
        lines = reply.iter_lines()
        next(lines)
        assert server.engine.health().num_running == 1
    wait_for(lambda: server.engine.health().num_running == 0, seconds=2)
    assert server.ask(max_tokens=2).json()["choices"][0]["message"]["content"] == "0 1 "


def test_a_question_cancelled_while_it_waits_never_reaches_the_model(counting):
    chat = CountingChat()
    chat.go.clear()

    async def cancel_the_second() -> None:
        engine = counting(chat)
        await engine.start()
        first, second = engine.generate(wish()), engine.generate(wish())
        asked = [asyncio.ensure_future(anext(deltas)) for deltas in (first, second)]
        await asyncio.sleep(0.05)
        assert engine.health().num_waiting == 1
        asked[1].cancel()
        await asyncio.sleep(0.05)
        assert engine.health().num_waiting == 0
        chat.go.set()
        await asked[0]
        async for _ in first:
            pass
        await engine.stop()

    asyncio.run(cancel_the_second())
    assert chat.num_prepared == 1


def test_a_full_queue_refuses_and_says_when_to_come_back(counting):
    chat = CountingChat()
    chat.go.clear()

    async def ask_four() -> list[BaseException | object]:
        engine = counting(chat, max_queue=2)
        await engine.start()
        asked = [asyncio.ensure_future(anext(engine.generate(wish()))) for _ in range(4)]
        await asyncio.sleep(0.05)
        chat.go.set()
        replies = await asyncio.gather(*asked, return_exceptions=True)
        await engine.stop()
        return replies

    *good, refused = asyncio.run(ask_four())
    assert not any(isinstance(reply, BaseException) for reply in good)
    assert isinstance(refused, QueueFullError)
    assert refused.retry_after_s > 0


def test_a_queue_full_over_http_is_429_and_the_client_repeats_it_by_itself(serving, counting, wait_for):
    chat = CountingChat()
    chat.go.clear()
    engine = counting(chat, max_queue=0)
    server = serving(engine)
    engine._mean_s = 0.01
    first = threading.Thread(target=server.ask)
    first.start()
    wait_for(lambda: engine.health().num_running == 1)
    assert server.ask().status_code == 429
    threading.Timer(0.2, chat.go.set).start()
    answer = server.openai(max_retries=3).chat.completions.create(
        model="counting", messages=question(text("x")), max_tokens=2
    )
    assert answer.choices[0].message.content == "0 1 "
    first.join()


def test_an_error_of_one_question_leaves_the_worker_ready(serving, counting):
    server = serving(counting(CountingChat()))
    reply = server.ask("bad clip")
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "unreadable_media")
    assert server.ask().status_code == 200


def test_stopping_ends_what_runs_and_what_waits(counting):
    chat = CountingChat(token_s=0.01)

    async def stop_in_the_middle() -> list[object]:
        engine = counting(chat)
        await engine.start()
        asked = [asyncio.ensure_future(_drain(engine.generate(wish(max_new_tokens=4_000)))) for _ in range(2)]
        await asyncio.sleep(0.1)
        await engine.stop()
        replies = await asyncio.gather(*asked, return_exceptions=True)
        with pytest.raises(EngineStoppedError):
            await anext(engine.generate(wish()))
        return replies

    replies = asyncio.run(stop_in_the_middle())
    assert [type(reply) for reply in replies] == [EngineStoppedError, EngineStoppedError]
    assert chat.num_said < 100


async def _drain(deltas) -> None:
    async for _ in deltas:
        pass


def test_a_model_that_cannot_be_loaded_stops_the_start(monkeypatch):
    def refuse(model):
        raise ConfigurationError(f"there is no model {model}", allowed="tiny", advice="Ask for tiny")

    monkeypatch.setattr(local, "_load", refuse)
    with pytest.raises(ConfigurationError):
        asyncio.run(LocalEngine("huge", max_queue=1).start())


# --- the model tiny, and real clips -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(serving_long):
    return serving_long(LocalEngine("tiny", max_queue=4))


@pytest.fixture(scope="module")
def clips() -> dict[str, bytes]:
    """Two seconds each: with a sound, without one, a sound alone, and a picture."""
    frames = np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), dtype=np.uint8)
    waveform = np.sin(np.arange(32_000) / 6).astype(np.float32)
    return {
        "video": written(frames=frames, fps=10, waveform=waveform),
        "silent": written(frames=frames, fps=10),
        "sound": written(waveform=waveform, container="wav"),
        "picture": drawn(frames[0]),
        "text": b"This is no video at all.\n" * 100,
    }


def drawn(frame: np.ndarray) -> bytes:
    target = io.BytesIO()
    Image.fromarray(frame).save(target, "png")
    return target.getvalue()


def written(**clip: object) -> bytes:
    target = io.BytesIO()
    write_clip(target, **clip)
    return target.getvalue()


def test_tiny_answers_about_a_clip_the_same_in_a_stream_and_whole_and_reports_what_it_took(tiny, media, clips):
    content = [media("video_url", clips["video"]), text("What rings?")]
    whole = tiny.ask(content, max_tokens=12).json()
    *_, finish, usage = chunks = tiny.chunks(content, max_tokens=12, stream_options={"include_usage": True})
    answer = whole["choices"][0]["message"]["content"]
    assert answer
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]) == answer
    assert finish["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert usage["usage"] == whole["usage"]
    assert finish["media_report"] == whole["media_report"]
    (receipt,) = whole["media_report"]
    assert (receipt["name"], receipt["kind"]) == ("messages[0].content[0].video_url", "video")
    assert (receipt["duration_s"], receipt["audio"]["codec"], receipt["num_steps"]) == (2.0, "aac", 4)
    assert whole["usage"]["prompt_tokens_details"]["video_tokens"] == receipt["num_soft_tokens"] > 0


def test_a_clip_without_a_sound_is_answered_and_the_report_says_so(tiny, media, clips):
    reply = tiny.ask([media("video_url", clips["silent"]), text("What rings?")], max_tokens=2)
    assert (reply.status_code, reply.json()["media_report"][0]["audio"]) == (200, None)


def test_a_sound_alone_is_a_clip(tiny, media, clips):
    body = tiny.ask([media("input_audio", clips["sound"]), text("What rings?")], max_tokens=2).json()
    assert [(receipt["kind"], receipt["video"]) for receipt in body["media_report"]] == [("audio", None)]
    assert body["usage"]["prompt_tokens_details"]["audio_tokens"] > 0


def test_a_picture_and_the_sound_after_it_are_shown_to_tiny_as_one_clip(tiny, media, clips):
    content = [media("image_url", clips["picture"]), media("input_audio", clips["sound"]), text("What rings?")]
    body = tiny.ask(content, max_tokens=2).json()
    (receipt,) = body["media_report"]
    assert (receipt["name"], receipt["kind"]) == ("messages[0].content[0].image_url", "image")
    assert (receipt["video"]["codec"], receipt["audio"]["seconds"]) == ("png", 2.0)
    assert body["usage"]["prompt_tokens_details"]["image_tokens"] == receipt["num_soft_tokens"]


def test_every_clip_has_its_report_in_the_order_of_the_request(tiny, media, clips):
    content = [media("input_audio", clips["sound"]), text("and"), media("video_url", clips["video"]), text("?")]
    names = [receipt["name"] for receipt in tiny.ask(content, max_tokens=2).json()["media_report"]]
    assert names == ["messages[0].content[0].input_audio", "messages[0].content[2].video_url"]


def test_a_question_without_a_clip_is_answered(tiny):
    body = tiny.ask("Who are you?", max_tokens=2).json()
    assert (body["media_report"], body["usage"]["completion_tokens"]) == ([], 2)


def test_a_seed_repeats_an_answer_and_another_seed_does_not(tiny):
    first, again, other = (
        tiny.ask("Say anything.", max_tokens=16, temperature=1.0, seed=seed).json()["choices"][0]["message"]["content"]
        for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("kind", ["video_url", "input_audio", "image_url"])
def test_a_text_renamed_to_media_is_422_and_the_next_question_is_answered(tiny, media, clips, kind, is_stream):
    reply = tiny.ask([media(kind, clips["text"]), text("?")], stream=is_stream)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (422, f"messages[0].content[0].{kind}")
    assert error["code"] == "unreadable_media"
    assert "/" not in error["message"].replace(f"content[0].{kind}", "").replace("audio/", "")
    assert tiny.ask("hi", max_tokens=1).status_code == 200


def test_a_conversation_longer_than_the_context_is_400(tiny):
    reply = tiny.ask("word " * 30_000, max_tokens=1)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_message")


def test_a_client_that_leaves_tiny_frees_it_within_a_second(tiny, wait_for):
    asked = {"model": "tiny", "messages": question(text("x")), "stream": True, "max_tokens": 1_500}
    with tiny.http.stream("POST", "/v1/chat/completions", json=asked) as reply:
        lines = reply.iter_lines()
        next(lines)
        assert tiny.engine.health().num_running == 1
    wait_for(lambda: tiny.engine.health().num_running == 0, seconds=1)


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def command():
    """Start ``python -m serving`` with arguments; gives the process and its address. Ends with the test."""
    processes = []

    def start(*arguments: str) -> tuple[subprocess.Popen, str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving", "--port", "0", *arguments],
            cwd=ROOT,
            env={key: value for key, value in os.environ.items() if key != "FAVOR_API_KEY"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        line = process.stdout.readline()
        assert line.startswith("FAVOR listening on http://127.0.0.1:"), line + process.stderr.read()
        return process, line.split()[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_the_command_prints_one_line_answers_and_ends_well_on_a_signal(command, sent):
    process, address = command("--engine", "echo", "--api-key", "k")
    reply = httpx.get(f"{address}/v1/models", headers={"authorization": "Bearer k"}, trust_env=False)
    assert reply.json()["data"][0]["id"] == "echo"
    process.send_signal(sent)
    out, log = process.communicate(timeout=10)
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in log


def test_the_echo_of_the_command_loads_no_torch():
    program = "import sys, serving.__main__ as m; m.create_engine(m.read_settings(['--engine', 'echo'])); "
    program += "import serving.server; print('torch' in sys.modules, 'favor.chat' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.split() == ["False", "False"], run.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--port", "99999"], ["--port", "x"], ["--max-queue", "-1"], ["--keep-alive-s", "nan"], ["--mod", "a"]],
)
def test_a_wrong_argument_is_told_and_starts_nothing(arguments, capsys):
    from serving.__main__ import main

    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: python -m serving" in capsys.readouterr().err


def test_a_port_in_use_is_told_in_one_line(command):
    _, address = command("--engine", "echo")
    run = subprocess.run(
        [sys.executable, "-m", "serving", "--engine", "echo", "--port", address.rsplit(":")[-1]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert run.returncode == 1
    assert "in use" in run.stderr
    assert "Traceback" not in run.stderr
