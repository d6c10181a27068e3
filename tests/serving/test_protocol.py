"""The protocol, spoken over a socket to an engine without a model."""

from __future__ import annotations

import json

import httpx
import pytest

from favor.errors import UnreadableMediaError
from serving.call import read_call
from serving.engines.base import Delta
from serving.engines.echo import EchoEngine
from serving.settings import Settings


class EngineThatFails(EchoEngine):
    """Says so many words, then raises."""

    def __init__(self, error: Exception, *, after: int) -> None:
        super().__init__()
        self.error = error
        self.after = after

    async def generate(self, request):
        async for delta in super().generate(request):
            if self.after == 0:
                raise self.error
            self.after -= bool(delta.text)
            yield delta


class EngineOfEmptyPieces(EchoEngine):
    """A model may need several tokens for one character; until then it has nothing to say."""

    async def generate(self, request):
        async for delta in super().generate(request):
            yield Delta("")
            yield delta


def read(messages: list[dict], **fields):
    body = json.dumps({"model": "echo", "messages": messages, **fields}).encode()
    return read_call(body, model="echo", settings=Settings())


# --- a stream -----------------------------------------------------------------------------------------------------


def test_a_stream_is_role_then_content_then_finish_then_usage_then_done(echo):
    role, *content, finish, usage = echo.chunks("one two", stream_options={"include_usage": True})
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["delta"] for chunk in content] == [{"content": "one"}, {"content": " two"}]
    assert (finish["choices"][0]["delta"], finish["choices"][0]["finish_reason"]) == ({}, "stop")
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in [role, *content])
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 2)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in [role, *content, finish, usage]}) == 1


def test_chunks_before_the_usage_say_null_and_without_the_option_nothing(echo):
    *earlier, last = echo.chunks(stream_options={"include_usage": True})
    assert [chunk["usage"] for chunk in earlier] == [None] * len(earlier)
    assert last["usage"]["total_tokens"] == 6
    assert not any("usage" in chunk for chunk in echo.chunks())


def test_the_report_of_a_stream_is_on_the_chunk_with_the_finish_reason(echo, media):
    chunks = echo.chunks([{"type": "text", "text": "What?"}, media("video_url")], hm=1)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks if "media_report" in chunk] == ["stop"]
    assert [receipt["name"] for receipt in chunks[-1]["media_report"]] == ["messages[0].content[1].video_url"]
    assert chunks[-1]["warnings"] == ["unknown field ignored: hm"]


def test_a_stream_says_what_the_whole_answer_says(echo):
    text = "a  b\nc   d"
    streamed = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in echo.chunks(text))
    assert streamed == echo.ask(text).json()["choices"][0]["message"]["content"] == text


def test_an_empty_piece_makes_no_chunk(serving):
    chunks = serving(EngineOfEmptyPieces()).chunks("one two")
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == ["", "one", " two", None]


def test_while_nothing_comes_a_stream_sends_comments_that_clients_skip(serving):
    server = serving(EchoEngine(prepare_s=0.3), keep_alive_s=0.05)
    events = server.events("hello")
    assert events[0] == ": keep-alive"
    assert 2 <= sum(event.startswith(":") for event in events) <= 6
    stream = server.openai().chat.completions.create(
        model="echo", messages=[{"role": "user", "content": "hello"}], stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "hello"


def test_an_error_before_the_first_chunk_has_its_own_status_in_a_stream_too(serving):
    error = UnreadableMediaError("it is not media", allowed="mp4", advice="Send mp4")
    error.subject = "messages[0].content[0].video_url"
    server = serving(EngineThatFails(error, after=0))
    reply = server.ask(stream=True)
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "unreadable_media")
    assert reply.json()["error"]["param"] == "messages[0].content[0].video_url"


def test_an_error_in_a_stream_is_an_event_that_ends_it_without_done(serving):
    server = serving(EngineThatFails(RuntimeError("at /srv/secret 0x7f"), after=2))
    events = server.events("one two three four")
    assert "[DONE]" not in events[-1]
    error = json.loads(events[-1].removeprefix("data: "))["error"]
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert "secret" not in events[-1]


@pytest.mark.parametrize("moment", ["before the first delta", "in the answer"])
def test_a_client_that_leaves_a_stream_cancels_the_answer(serving, wait_for, moment):
    engine = EchoEngine(prepare_s=60) if moment == "before the first delta" else EchoEngine(word_s=0.02)
    server = serving(engine, keep_alive_s=0.05)
    asked = {"model": "echo", "messages": [{"role": "user", "content": "word " * 10_000}], "stream": True}
    with server.http.stream("POST", "/v1/chat/completions", json=asked) as reply:
        lines = reply.iter_lines()
        next(lines)
        assert engine.num_running == 1
    wait_for(lambda: engine.num_running == 0, seconds=2)
    assert engine.num_cancelled == 1


def test_a_client_that_leaves_without_a_stream_cancels_the_answer(serving, wait_for):
    engine = EchoEngine(prepare_s=60)
    server = serving(engine)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.address}/v1/chat/completions",
            json={"model": "echo", "messages": [{"role": "user", "content": "hi"}]},
            timeout=0.3,
            trust_env=False,
        )
    wait_for(lambda: engine.num_running == 0, seconds=2)
    assert engine.num_cancelled == 1


def test_a_finished_answer_is_not_counted_as_cancelled(serving):
    engine = EchoEngine()
    server = serving(engine)
    server.ask()
    server.events()
    assert (engine.num_running, engine.num_cancelled) == (0, 0)


def test_a_server_told_to_stop_lets_a_running_stream_end_well(serving):
    server = serving(EchoEngine(word_s=0.02))
    asked = {"model": "echo", "messages": [{"role": "user", "content": "word " * 20}], "stream": True}
    with server.http.stream("POST", "/v1/chat/completions", json=asked) as reply:
        lines = reply.iter_lines()
        next(lines)
        server.server.should_exit = True
        assert [line for line in lines if line][-1] == "data: [DONE]"


def test_no_answer_is_held_back_by_the_network_stack(echo):
    """Small writes without TCP_NODELAY wait for the other side's acknowledgement: 40 ms for every token."""
    for _ in range(20):
        echo.ask()  # Linux acknowledges a young connection's packets at once, which would hide the wait
    best_s = min(echo.ask().elapsed.total_seconds() for _ in range(10))
    assert best_s < 0.03


# --- a whole answer -----------------------------------------------------------------------------------------------


def test_a_whole_answer_has_the_official_fields_and_the_media_report(echo):
    body = echo.ask("one two").json()
    assert set(body) == {"id", "object", "created", "model", "choices", "usage", "media_report", "warnings"}
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "one two", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 2,
        "total_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0, "video_tokens": 0, "image_tokens": 0},
    }
    assert (body["media_report"], body["warnings"]) == ([], [])


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_limit_of_tokens_ends_the_answer_with_length(echo, field):
    choice = echo.ask("one two three", **{field: 2}).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two", "length")


def test_the_newer_name_of_the_limit_wins(echo):
    assert echo.ask("a b c", max_tokens=1, max_completion_tokens=2).json()["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("stop", [" two", [" two"], ["x", "three", " two", "four"]])
def test_stop_is_a_text_or_up_to_four_and_no_part_of_the_answer(echo, stop):
    choice = echo.ask("one two three", stop=stop).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one", "stop")


def test_the_decoding_that_reaches_the_engine_is_the_one_asked_for_and_greedy_by_default():
    messages = [{"role": "user", "content": "hi"}]
    asked = read(messages, temperature=0.7, top_p=0.9, seed=-3, stop=["x"], max_tokens=7).request.decoding
    assert (asked.temperature, asked.top_p, asked.seed, asked.stop, asked.max_new_tokens) == (0.7, 0.9, -3, ("x",), 7)
    default = read(messages, temperature=None, stop=None, max_tokens=None, n=None).request.decoding
    assert (default.temperature, default.seed, default.stop) == (0.0, None, ())


# --- messages -----------------------------------------------------------------------------------------------------


def test_a_developer_is_a_system_and_a_plain_text_is_one_part():
    roles = ["system", "developer", "user", "assistant", "user"]
    messages = read([{"role": role, "content": role} for role in roles]).request.messages
    assert [message.role for message in messages] == ["system", "system", "user", "assistant", "user"]
    assert [message.text for message in messages] == roles


def test_a_part_is_named_by_its_place_and_holds_the_bytes_that_were_sent(media):
    content = [{"type": "text", "text": "a"}, media("video_url", b"v" * 10), media("input_audio", b"s" * 7)]
    messages = read([{"role": "system", "content": "b"}, {"role": "user", "content": content}]).request.messages
    video, sound = messages[1].media
    assert (video.name, video.source) == ("messages[1].content[1].video_url", b"v" * 10)
    assert (sound.name, sound.source) == ("messages[1].content[2].input_audio", b"s" * 7)


def test_a_picture_directly_followed_by_a_sound_is_one_clip(echo, media):
    report = echo.ask([media("image_url"), media("input_audio")]).json()["media_report"]
    assert [(receipt["kind"], receipt["has_separate_sound"]) for receipt in report] == [("image", True)]


@pytest.mark.parametrize(
    "kinds, clips",
    [
        (["input_audio", "image_url"], ["audio", "image"]),
        (["image_url", "text", "input_audio"], ["image", "audio"]),
        (["image_url", "input_audio", "input_audio"], ["image", "audio"]),
        (["video_url", "input_audio"], ["video", "audio"]),
        (["image_url", "image_url", "video_url"], ["image", "image", "video"]),
    ],
)
def test_other_neighbours_stay_clips_of_their_own_in_the_order_of_the_request(echo, media, kinds, clips):
    content = [{"type": "text", "text": "?"} if kind == "text" else media(kind) for kind in kinds]
    assert [receipt["kind"] for receipt in echo.ask(content).json()["media_report"]] == clips


def test_a_data_uri_may_have_capitals_and_parameters(echo):
    part = {"type": "video_url", "video_url": {"url": "data:Video/MP4;codecs=avc1;base64,AAEC"}}
    assert echo.ask([part]).json()["media_report"][0]["num_bytes"] == 3


# --- fields -------------------------------------------------------------------------------------------------------


def test_unknown_fields_are_named_wherever_they_stand(echo, media):
    part = media("video_url")
    part["video_url"]["fps"] = 2
    body = echo.ask([part], thinking={"deep": True}, stream_options={"odd": 1}).json()
    assert sorted(body["warnings"]) == [
        "unknown field ignored: messages[0].content[0].video_url.fps",
        "unknown field ignored: stream_options.odd",
        "unknown field ignored: thinking",
    ]


def test_many_unknown_fields_make_a_short_list(echo):
    warnings = echo.ask(**{f"field_{number}": 1 for number in range(500)}).json()["warnings"]
    assert len(warnings) == 21
    assert warnings[-1] == "and 480 more"


def test_harmless_fields_and_values_that_change_nothing_are_taken_in_silence(echo):
    reply = echo.ask(
        user="me",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        n=1,
        logprobs=False,
        tools=[],
        tool_choice="none",
        presence_penalty=0.0,
        response_format={"type": "text"},
        logit_bias=None,
    )
    assert (reply.status_code, reply.json()["warnings"]) == (200, [])


def test_an_answer_can_be_sent_back_as_the_next_turns_history(echo):
    answer = echo.ask("one").json()["choices"][0]["message"]
    history = [{"role": "user", "content": "one"}, answer, {"role": "user", "content": "two"}]
    reply = echo.ask(messages=history)
    assert (reply.json()["choices"][0]["message"]["content"], reply.json()["warnings"]) == ("two", [])


# --- other routes -------------------------------------------------------------------------------------------------


def test_the_served_model_is_listed_and_found_by_its_name(echo):
    listed = echo.http.get("/v1/models").json()
    assert (listed["object"], [card["id"] for card in listed["data"]]) == ("list", ["echo"])
    assert echo.http.get("/v1/models/echo").json() == listed["data"][0]


def test_health_says_ok(echo):
    assert echo.http.get("/health").json() == {"status": "ok", "model": "echo", "num_running": 0, "num_waiting": 0}


def test_a_plain_request_id_comes_back_and_any_other_is_replaced(echo):
    assert echo.http.get("/health", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert echo.http.get("/health", headers={"x-request-id": "a b;c"}).headers["x-request-id"].startswith("req-")
