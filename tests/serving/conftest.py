"""A real server on a real socket, in a thread, around any engine."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import httpx
import openai
import pytest

from serving.engines.base import Engine
from serving.engines.echo import EchoEngine
from serving.server import Server, address_of, bind, create_server
from serving.settings import Settings


@dataclass(frozen=True)
class Running:
    """A server that answers; ``http`` speaks plain HTTP to it."""

    address: str
    engine: Engine
    server: Server
    http: httpx.Client
    official_http: openai.DefaultHttpxClient

    def openai(self, **options) -> openai.OpenAI:
        """The official client; it does not repeat what failed unless told to."""
        options = {"api_key": "unused", "max_retries": 0, **options}
        return openai.OpenAI(base_url=f"{self.address}/v1", http_client=self.official_http, **options)

    def ask(self, text: str = "one two three", **fields) -> httpx.Response:
        asked = {"model": self.engine.name, "messages": [{"role": "user", "content": text}], **fields}
        return self.http.post("/v1/chat/completions", json=asked)

    def events(self, text: str = "one two three", **fields) -> list[str]:
        """The raw events of a stream, without the blank lines between them."""
        reply = self.ask(text, stream=True, **fields)
        assert reply.status_code == 200, reply.text
        return [event for event in reply.text.split("\n\n") if event]

    def chunks(self, text: str = "one two three", **fields) -> list[dict]:
        events = self.events(text, **fields)
        assert events[-1] == "data: [DONE]"
        return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]


@contextmanager
def running(engine: Engine, **settings) -> Iterator[Running]:
    options = Settings(port=0, **settings)
    ready: list[Server] = []

    async def live() -> None:
        await engine.start()
        ready.append(create_server(engine, options, listener))
        await ready[0].serve(sockets=[listener])
        await engine.stop()

    with bind(options) as listener:
        address = address_of(listener)
        thread = threading.Thread(target=asyncio.run, args=(live(),))
        thread.start()
        wait_for(lambda: (ready and ready[0].started) or not thread.is_alive(), seconds=120)
        assert ready, "the engine did not start"
        try:
            with (
                httpx.Client(base_url=address, trust_env=False, timeout=60) as http,
                openai.DefaultHttpxClient(trust_env=False) as official_http,
            ):
                yield Running(address, engine, ready[0], http, official_http)
        finally:
            ready[0].should_exit = True
            thread.join(timeout=40)
            assert not thread.is_alive(), "the server did not stop"


def wait_for(condition: Callable[[], object], *, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def media(kind: str, data: bytes = b"\0\1\2\3") -> dict:
    """A content part of a kind, with any bytes."""
    if kind == "input_audio":
        return {"type": kind, kind: {"data": encoded(data), "format": "wav"}}
    mime = {"video_url": "video/mp4", "image_url": "image/png"}[kind]
    return {"type": kind, kind: {"url": f"data:{mime};base64,{encoded(data)}"}}


@pytest.fixture(name="wait_for")
def _wait_for():
    return wait_for


@pytest.fixture(name="media", scope="session")
def _media():
    return media


@pytest.fixture
def serving():
    """Call it with an engine and settings to get a running server; all end with the test."""
    with ExitStack() as stack:
        yield lambda engine, **settings: stack.enter_context(running(engine, **settings))


@pytest.fixture(scope="module")
def serving_long():
    """The same, for servers that all tests of a file share."""
    with ExitStack() as stack:
        yield lambda engine, **settings: stack.enter_context(running(engine, **settings))


@pytest.fixture(scope="session")
def echo() -> Iterator[Running]:
    """One echo for all tests that leave it as it was."""
    with running(EchoEngine(), max_body_bytes=50_000_000) as server:
        yield server
