"""The routes.

The life of a chat request: ``FrontDoor`` (key, size) -> ``read_call`` (JSON -> messages) -> ``engine.generate`` (queue,
model) -> ``answer`` (deltas -> chunks) -> ``EventStream``. Errors of any of them end in ``FrontDoor``, in one shape.
"""

from __future__ import annotations

import asyncio
import time

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from serving.answer import chunks, completion
from serving.call import read_call
from serving.door import FrontDoor
from serving.engines.base import Engine
from serving.errors import as_api_error, model_not_found
from serving.protocol import HealthBody, ModelCard, ModelList
from serving.settings import Settings
from serving.stream import EventStream, while_connected


def create_app(engine: Engine, settings: Settings) -> FastAPI:
    """The application around an engine that its caller starts and stops."""
    app = FastAPI(title="FAVOR", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    routes = Routes(engine, settings)
    app.add_api_route("/health", routes.health, methods=["GET"])
    app.add_api_route("/v1/models", routes.models, methods=["GET"])
    app.add_api_route("/v1/models/{name:path}", routes.model, methods=["GET"])
    app.add_api_route("/v1/chat/completions", routes.chat_completions, methods=["POST"])
    app.add_exception_handler(HTTPException, _no_such_route)
    app.add_middleware(FrontDoor, settings=settings)
    return app


class Routes:
    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._created = int(time.time())

    async def health(self) -> Response:
        health = self._engine.health()
        body = HealthBody(
            status="ok" if health.is_ready else "unavailable",
            model=self._engine.name,
            num_running=health.num_running,
            num_waiting=health.num_waiting,
        )
        return _json(body, 200 if health.is_ready else 503)

    async def models(self) -> Response:
        return _json(ModelList(object="list", data=[self._card()]))

    async def model(self, name: str) -> Response:
        if name != self._engine.name:
            raise model_not_found(name, self._engine.name)
        return _json(self._card())

    async def chat_completions(self, request: Request) -> Response:
        body = b"".join([piece async for piece in request.stream()])
        call = await asyncio.to_thread(read_call, body, model=self._engine.name, settings=self._settings)
        del body
        deltas = self._engine.generate(call.request)
        if call.is_stream:
            return EventStream(chunks(deltas, call), keep_alive_s=self._settings.keep_alive_s)
        return _json(await while_connected(request.receive, completion(deltas, call)))

    def _card(self) -> ModelCard:
        return ModelCard(id=self._engine.name, object="model", created=self._created, owned_by="favor")


def _json(body: BaseModel, status: int = 200) -> Response:
    return Response(body.model_dump_json(), status, media_type="application/json")


async def _no_such_route(_request: Request, error: Exception) -> Response:
    return as_api_error(error).response()
