"""Running an app on a socket: uvicorn, with our error shape below HTTP and a quiet end on a signal."""

from __future__ import annotations

import socket
from types import FrameType

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.app import create_app
from serving.engines.base import Engine
from serving.errors import ApiError
from serving.settings import Settings

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers together."""


class HttpProtocol(H11Protocol):
    """uvicorn's, but what is not HTTP, or has too large a head, is told so in the one error shape."""

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return self.transport.close()
        message = f"{msg} Allowed: HTTP/1.1 with at most {MAX_HEAD_BYTES} bytes of headers."
        body = ApiError(400, message, code="invalid_http").body().model_dump_json().encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Server(uvicorn.Server):
    """Prints where it listens; a signal ends it in peace, running answers first, with exit code 0."""

    def __init__(self, config: uvicorn.Config, address: str) -> None:
        super().__init__(config)
        self._address = address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(f"FAVOR listening on {self._address}", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def bind(settings: Settings) -> socket.socket:
    """The listening socket; taken before the model is loaded, so that a busy port is known at once."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.create_server((settings.host, settings.port), family=family)
    # Accepted sockets inherit it; asyncio leaves it unset on those of a listener whose protocol was not named.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def create_server(engine: Engine, settings: Settings, listener: socket.socket) -> Server:
    config = uvicorn.Config(
        create_app(engine, settings),
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        server_header=False,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_graceful_shutdown=settings.drain_s,
    )
    return Server(config, address_of(listener))


async def serve(engine: Engine, settings: Settings, listener: socket.socket) -> None:
    """Start the engine, answer until told to stop, stop the engine."""
    await engine.start()
    try:
        await create_server(engine, settings, listener).serve(sockets=[listener])
    finally:
        await engine.stop()
