"""A table of bad requests: status, shape, param and code of each, and that the next good request succeeds."""

from __future__ import annotations

import json
import logging
import socket
import time

import httpx
import pytest

from favor.errors import (
    CheckpointError,
    ConfigurationError,
    MediaError,
    MediaLimitError,
    MessageError,
    PlaceholderError,
)
from serving.engines.base import EngineStoppedError, QueueFullError
from serving.engines.echo import EchoEngine
from serving.errors import as_api_error


def request(**fields) -> bytes:
    return json.dumps({"model": "echo", "messages": [{"role": "user", "content": "hi"}], **fields}).encode()


def with_part(part: object) -> bytes:
    return request(messages=[{"role": "system", "content": "s"}, {"role": "user", "content": [part]}])


def video(url: object) -> dict:
    return {"type": "video_url", "video_url": {"url": url}}


def sound(data: str, kind: str = "wav") -> dict:
    return {"type": "input_audio", "input_audio": {"data": data, "format": kind}}


PLACE = "messages[1].content[0]"
VIDEO = f"{PLACE}.video_url"

BAD_REQUESTS = {
    "no JSON": (b"{", 400, None, "invalid_json"),
    "no bytes": (b"", 400, None, "invalid_json"),
    "not UTF-8": (b'{"model": "\xff"}', 400, None, "invalid_json"),
    "half a surrogate": (b'{"model": "\\ud800"}', 400, None, "invalid_json"),
    "a list": (b"[]", 400, None, "invalid_type"),
    "a deep nest": (b"[" * 100_000, 400, None, "invalid_json"),
    "a swarm of objects": (b"[" + b"{}," * 1_000_000 + b"{}]", 400, None, "body_too_complex"),
    "nothing in it": (b"{}", 400, "model", "missing_required_parameter"),
    "no messages": (request(messages=[]), 400, "messages", "invalid_value"),
    "no content": (request(messages=[{"role": "user"}]), 400, "messages[0].content", "missing_required_parameter"),
    "null content": (request(messages=[{"role": "user", "content": None}]), 400, "messages[0].content", "invalid_type"),
    "empty content": (request(messages=[{"role": "user", "content": []}]), 400, "messages[0].content", "invalid_value"),
    "odd role": (request(messages=[{"role": "robot", "content": "x"}]), 400, "messages[0].role", "invalid_value"),
    "odd part": (with_part({"type": "file", "file": {}}), 400, f"{PLACE}.type", "invalid_value"),
    "part without type": (with_part({"text": "x"}), 400, f"{PLACE}.type", "invalid_value"),
    "a bare text as part": (with_part("x"), 400, PLACE, "invalid_type"),
    "part without url": (
        with_part({"type": "video_url", "video_url": {}}),
        400,
        f"{VIDEO}.url",
        "missing_required_parameter",
    ),
    "url not text": (with_part(video(7)), 400, f"{VIDEO}.url", "invalid_type"),
    "unknown model": (request(model="gpt-5"), 404, "model", "model_not_found"),
    "hot temperature": (request(temperature=9), 400, "temperature", "invalid_value"),
    "temperature in words": (request(temperature="0.5"), 400, "temperature", "invalid_type"),
    "temperature not a number": (b'{"model": "echo", "temperature": NaN}', 400, None, None),
    "top_p zero": (request(top_p=0), 400, "top_p", "invalid_value"),
    "no tokens": (request(max_tokens=0), 400, "max_tokens", "invalid_value"),
    "too many tokens": (request(max_completion_tokens=10**9), 400, "max_completion_tokens", "invalid_value"),
    "huge seed": (request(seed=2**63), 400, "seed", "invalid_value"),
    "five stops": (request(stop=list("abcde")), 400, "stop", "invalid_value"),
    "an empty stop": (request(stop=""), 400, "stop[0]", "invalid_value"),
    "absurd n": (request(n=10**9), 400, "n", "unsupported_parameter"),
    "two answers": (request(n=2), 400, "n", "unsupported_parameter"),
    "logprobs": (request(logprobs=True), 400, "logprobs", "unsupported_parameter"),
    "tools": (request(tools=[{"type": "function"}]), 400, "tools", "unsupported_parameter"),
    "JSON mode": (request(response_format={"type": "json_object"}), 400, "response_format", "unsupported_parameter"),
    "bias": (request(logit_bias={"1": 1}), 400, "logit_bias", "unsupported_parameter"),
    "penalty": (request(presence_penalty=1.5), 400, "presence_penalty", "unsupported_parameter"),
    "chat template": (request(chat_template="{{ 1 }}"), 400, "chat_template", "unsupported_parameter"),
    "http video": (with_part(video("http://127.0.0.1/a.mp4")), 422, VIDEO, "remote_media_not_supported"),
    "HTTPS video": (with_part(video("HTTPS://example.com/a.mp4")), 422, VIDEO, "remote_media_not_supported"),
    "file video": (with_part(video("file:///etc/hostname")), 400, VIDEO, "invalid_data_uri"),
    "video by path": (with_part(video("/etc/hostname")), 400, VIDEO, "invalid_data_uri"),
    "data without base64": (with_part(video("data:video/mp4,abcd")), 400, VIDEO, "invalid_data_uri"),
    "frames as jpeg": (with_part(video("data:video/jpeg;base64,AAAA")), 400, VIDEO, "unsupported_media_type"),
    "a page": (with_part(video("data:text/html;base64,AAAA")), 400, VIDEO, "unsupported_media_type"),
    "bad base64": (with_part(video("data:video/mp4;base64,A*AA")), 400, VIDEO, "invalid_base64"),
    "short base64": (with_part(video("data:video/mp4;base64,AAAAA")), 400, VIDEO, "invalid_base64"),
    "broken lines": (with_part(video("data:video/mp4;base64,AA\nAA")), 400, VIDEO, "invalid_base64"),
    "base64 beyond ASCII": (with_part(video("data:video/mp4;base64,ééé")), 400, VIDEO, "invalid_base64"),
    "empty video": (with_part(video("data:video/mp4;base64,")), 400, VIDEO, "empty_media"),
    "odd sound": (with_part(sound("AAAA", "exe")), 400, f"{PLACE}.input_audio", "unsupported_media_type"),
    "sound as URI": (with_part(sound("data:audio/wav;base64,AAAA")), 400, f"{PLACE}.input_audio", "invalid_base64"),
    "media of an assistant": (
        request(messages=[{"role": "assistant", "content": [video("data:video/mp4;base64,AAAA")]}]),
        400,
        "messages[0].content[0]",
        "media_not_allowed",
    ),
    "a hundred pictures": (
        request(messages=[{"role": "user", "content": [video("data:video/mp4;base64,AAAA")] * 100}]),
        400,
        "messages",
        "too_many_media_parts",
    ),
}


def error_of(reply: httpx.Response) -> dict:
    """The error of a reply, which has the one shape."""
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json()) == {"error"}, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    return error


@pytest.mark.parametrize("body, status, param, code", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_a_bad_request_is_told_what_is_wrong_and_the_next_good_one_succeeds(echo, body, status, param, code):
    started = time.monotonic()
    reply = echo.http.post("/v1/chat/completions", content=body)
    assert reply.status_code == status, reply.text
    error = error_of(reply)
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 2_000
    assert "pydantic" not in error["message"]
    if code is not None:
        assert (error["param"], error["code"]) == (param, code)
    assert time.monotonic() - started < 5
    assert echo.ask().status_code == 200


def test_at_most_ten_problems_are_listed(echo):
    messages = [{"role": "robot", "content": "x"}] * 1_000
    message = error_of(echo.http.post("/v1/chat/completions", content=request(messages=messages)))["message"]
    assert message.count("messages[") == 10
    assert message.endswith("and 990 more")


@pytest.mark.parametrize(
    "method, path, status, code",
    [
        ("GET", "/v1/nothing", 404, "unknown_route"),
        ("GET", "/", 404, "unknown_route"),
        ("GET", "/docs", 404, "unknown_route"),
        ("GET", "/v1/models/", 404, "model_not_found"),
        ("POST", "/v1/chat/completions/", 404, "unknown_route"),
        ("GET", "/v1/models/other/one", 404, "model_not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/health", 405, "method_not_allowed"),
    ],
)
def test_a_wrong_route_or_method_is_told_in_the_same_shape(echo, method, path, status, code):
    reply = echo.http.request(method, path)
    assert (reply.status_code, error_of(reply)["code"]) == (status, code)
    assert status != 405 or reply.headers["allow"]


# --- size ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_declared", [True, False], ids=["declared", "chunked"])
def test_a_body_of_sixty_megabytes_is_refused_quickly_and_the_connection_lives(echo, is_declared):
    pieces = [b"x" * 1_000_000] * 60
    started = time.monotonic()
    reply = echo.http.post("/v1/chat/completions", content=b"".join(pieces) if is_declared else iter(pieces))
    assert (reply.status_code, error_of(reply)["code"]) == (413, "body_too_large")
    assert "50000000" in error_of(reply)["message"]
    assert time.monotonic() - started < 5
    assert echo.ask().status_code == 200


def test_a_declared_size_is_refused_before_a_byte_of_it_is_sent(echo):
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99000000\r\n\r\n"
    assert raw(echo.address, head).startswith(b"HTTP/1.1 413 ")


def test_uploads_that_are_too_much_together_are_asked_to_wait(serving):
    server = serving(EchoEngine(), max_held_bytes=1_000)
    reply = server.ask("x" * 2_000)
    assert (reply.status_code, error_of(reply)["code"]) == (429, "too_many_uploads")
    assert reply.headers["retry-after"] == "5"
    for _ in range(20):
        assert server.ask("x" * 500).status_code == 200, "what was held is given back"


def test_a_huge_header_is_refused_in_the_same_shape(echo):
    reply = raw(echo.address, b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 1_000_000)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"
    assert echo.ask().status_code == 200


def test_what_is_not_http_is_refused_in_the_same_shape(echo):
    reply = raw(echo.address, b"\x16\x03\x01\x02 hello\r\n\r\n")
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


def raw(address: str, request: bytes) -> bytes:
    """Send bytes as they are and read what comes until a second of silence or the end."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=1) as connection:
        reply = b""
        try:
            connection.sendall(request)
            while piece := connection.recv(65536):
                reply += piece
        except (TimeoutError, ConnectionError):
            pass
        return reply


# --- the key ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked(serving_long):
    return serving_long(EchoEngine(), api_key="correct horse")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        "Bearer correct horses",
        "bearer CORRECT HORSE",
        "Basic correct horse",
        "correct horse",
        "Bearer \xe9",
    ],
)
def test_without_the_right_key_every_answer_is_401_in_shape(locked, header):
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    for method, path in [
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/nothing"),
        ("GET", "/docs"),
    ]:
        reply = locked.http.request(method, path, headers=headers)
        assert (reply.status_code, error_of(reply)["type"]) == (401, "authentication_error"), path
        assert reply.headers["www-authenticate"] == "Bearer"
        assert error_of(reply)["code"] == "invalid_api_key"


def test_with_the_right_key_it_answers_and_health_needs_none(locked):
    assert locked.ask().status_code == 401
    assert locked.openai(api_key="correct horse").models.list().data[0].id == "echo"
    assert httpx.get(f"{locked.address}/health", trust_env=False).status_code == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/models HTTP/1.1\r\nHost: x/health?y=\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x/health#\r\n",
        b"GET /v1/models?/health HTTP/1.1\r\nHost: x\r\n",
        b"GET /health/../v1/models HTTP/1.1\r\nHost: x\r\n",
        b"GET //health HTTP/1.1\r\nHost: x\r\n",
        b"GET http://x/health/v1/models HTTP/1.1\r\nHost: x\r\n",
    ],
)
def test_no_crafted_host_or_path_goes_round_the_key(locked, head):
    assert raw(locked.address, head + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 401 ")


def test_a_large_body_without_the_key_is_refused_with_401(locked):
    assert locked.http.post("/v1/chat/completions", content=b"x" * 20_000_000).status_code == 401


# --- errors of the engine -----------------------------------------------------------------------------------------


class EngineThatRaises(EchoEngine):
    """Raises the error it was given, once."""

    error: Exception | None = None

    async def generate(self, request):
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        async for delta in super().generate(request):
            yield delta


@pytest.fixture(scope="module")
def raising(serving_long):
    """Call it with an error to get a server whose next answer is that error."""
    server = serving_long(EngineThatRaises())

    def arm(error: Exception):
        server.engine.error = error
        return server

    return arm


def about(subject: str, error: MediaError) -> MediaError:
    error.subject = subject
    return error


THREE = {"allowed": "less", "advice": "Send less"}
ENGINE_ERRORS = {
    "media": (
        about("messages[2].content[1].input_audio", MediaLimitError("it is 9 h long", **THREE)),
        (422, "messages[2].content[1].input_audio", "media_limit_exceeded"),
    ),
    "media without a subject": (MediaLimitError("it is long", **THREE), (422, "messages", "media_limit_exceeded")),
    "message": (MessageError("the last message is an assistant's", **THREE), (400, "messages", "invalid_message")),
    "placeholder": (PlaceholderError("3 for 4", **THREE), (400, None, "placeholder_mismatch")),
    "setting": (ConfigurationError("num_beams is 99", **THREE), (400, None, "invalid_configuration")),
    "queue": (QueueFullError(7, retry_after_s=2.5), (429, None, "queue_full")),
    "stopped": (EngineStoppedError("no"), (503, None, "not_ready")),
    "checkpoint": (CheckpointError("a hash differs", **THREE), (500, None, "internal_error")),
    "bug": (KeyError("/srv/secret"), (500, None, "internal_error")),
}


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("error, expected", ENGINE_ERRORS.values(), ids=ENGINE_ERRORS.keys())
def test_an_error_of_the_engine_has_its_status_and_the_next_request_succeeds(raising, error, expected, is_stream):
    server = raising(error)
    reply = server.ask(stream=is_stream)
    told = error_of(reply)
    assert (reply.status_code, told["param"], told["code"]) == expected
    assert server.ask(stream=is_stream).status_code == 200


def test_a_full_queue_says_when_to_come_back_in_both_headers(raising):
    reply = raising(QueueFullError(7, retry_after_s=2.5)).ask()
    assert (reply.headers["retry-after"], reply.headers["retry-after-ms"]) == ("3", "2500")
    assert error_of(reply)["type"] == "rate_limit_error"


def test_the_unexpected_is_logged_with_its_traceback_not_repeated_and_not_told(raising, caplog):
    with caplog.at_level(logging.ERROR, "favor.serving"):
        reply = raising(KeyError("/srv/secret")).ask()
    assert reply.headers["x-should-retry"] == "false"
    assert "secret" not in reply.text
    assert "Traceback" not in reply.text
    assert [type(record.exc_info[1]) for record in caplog.records if record.exc_info] == [KeyError]


def test_a_wait_is_never_longer_than_clients_follow():
    assert as_api_error(QueueFullError(9, retry_after_s=9_999)).headers["Retry-After"] == "120"
