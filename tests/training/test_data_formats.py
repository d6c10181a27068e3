"""One line to a sample: our own format, its errors, other projects' formats, and the index that finds a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from favor.messages import AudioPart, ImagePart, TextPart, VideoPart
from training import recipe
from training.data import ManifestError, Source, open_sources
from training.data.importers import as_messages
from training.data.manifest import read_sample

FOLDER = Path("media")


def line(content="What?", answer="A cat.", **other):
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **other}


def sample_of(record, format="messages"):
    return read_sample(
        as_messages(record, format), place="train.jsonl:3", key="train.jsonl:3", source="train.jsonl", folder=FOLDER
    )


def first_parts(record, format="messages"):
    return sample_of(record, format).messages[0].parts


def written(tmp_path, *lines, name="train.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(text if isinstance(text, str) else json.dumps(text) for text in lines) + "\n", "utf-8")
    return path


# --- our own lines --------------------------------------------------------------------------------------------------


def test_a_placeholder_says_where_a_file_stands_and_leaves_the_text():
    parts = first_parts(line("<video>\nWhat happens?", videos=["a.mp4"]))
    assert parts == (VideoPart(FOLDER / "a.mp4"), TextPart("What happens?"))


def test_files_are_taken_in_the_order_of_their_placeholders_through_all_turns():
    turns = [
        {"role": "user", "content": "<image> or <image>?"},
        {"role": "assistant", "content": "The first."},
        {"role": "user", "content": "And <audio> here?<image>"},
        {"role": "assistant", "content": "Both."},
    ]
    sample = sample_of({"messages": turns, "images": ["1.png", "2.png", "3.png"], "audios": ["s.wav"]})
    assert [part.source.name for part in sample.media] == ["1.png", "2.png", "s.wav", "3.png"]
    assert sample.messages[0].text == "or ?"
    assert [message.role for message in sample.question] == ["user", "assistant", "user"]
    assert sample.answer == "Both."


def test_a_picture_or_video_with_a_sound_right_behind_it_is_one_clip():
    assert first_parts(line("<image><audio>Hm?", images=["a.png"], audios=["s.wav"]))[0] == ImagePart(
        FOLDER / "a.png", sound=FOLDER / "s.wav"
    )
    assert first_parts(line("<video><audio>Hm?", videos=["a.mp4"], audios=["s.wav"]))[0] == VideoPart(
        FOLDER / "a.mp4", sound=FOLDER / "s.wav"
    )


def test_a_sound_with_anything_between_is_a_clip_of_its_own():
    parts = first_parts(line("<image> <audio>Hm?", images=["a.png"], audios=["s.wav"]))
    assert parts[:2] == (ImagePart(FOLDER / "a.png"), AudioPart(FOLDER / "s.wav"))


def test_without_placeholders_all_media_belong_to_the_first_user_turn():
    parts = first_parts(line("Hm?", audios=["s.wav"], images=["a.png"], videos=["a.mp4"]))
    assert [type(part) for part in parts] == [VideoPart, ImagePart, AudioPart, TextPart]


def test_own_sound_is_used_unless_the_sample_says_otherwise():
    assert first_parts(line(videos=["a.mp4"]))[0].use_audio
    assert not first_parts(line(videos=["a.mp4"], use_audio_in_video=False))[0].use_audio
    replaced = first_parts(line("<video><audio>?", videos=["a.mp4"], audios=["s.wav"], use_audio_in_video=False))[0]
    assert replaced.use_audio, "the separate sound is heard; only the video's own is not"


def test_the_id_is_the_key_and_seconds_are_kept():
    sample = sample_of(line(id=7, seconds=12.5, meta={"task": "anything"}))
    assert (sample.key, sample.seconds, sample.source) == ("7", 12.5, "train.jsonl")
    assert sample_of(line()).key == "train.jsonl:3"


def test_placeholders_in_answers_are_text():
    assert sample_of(line(answer="Write <image>.")).answer == "Write <image>."


@pytest.mark.parametrize(
    "record, kind, says",
    [
        (line("<video>?"), "placeholder_mismatch", "1 placeholders <video> and 0 files in 'videos'"),
        (line("<image>?", images=["a", "b"]), "placeholder_mismatch", "1 placeholders <image> and 2 files"),
        (line("<image>?", images=["a"], audios=["b"]), "placeholder_mismatch", "0 placeholders <audio> and 1 files"),
        (line(answer=" \n"), "empty_answer", "message 2 is an empty answer"),
        (line(" "), "empty_question", "a user message is empty"),
        (line(video=["a.mp4"]), "unknown_key", "Did you mean 'videos'"),
        (line(zebra=1), "unknown_key", "Put it into 'meta'"),
        (line(videos="a.mp4"), "malformed_line", "'videos' is not a list of paths"),
        (line(videos=["https://example.com/a.mp4"]), "malformed_line", "holds an address"),
        (line(seconds=-1), "malformed_line", "'seconds' is -1"),
        (line(seconds="4"), "malformed_line", "'seconds' is '4'"),
        (line(id=[1]), "malformed_line", "'id' is [1]"),
        (line(use_audio_in_video="no"), "malformed_line", "use_audio_in_video is 'no'"),
        ([1], "malformed_line", "the line is of the type list"),
        ({"messages": []}, "malformed_line", "no 'messages'"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "malformed_line", "message 1 is not a role and a content"),
        ({"messages": [{"role": "user", "content": "x"}]}, "wrong_turns", "the roles are user"),
    ],
)
def test_a_line_that_is_no_sample_is_named_with_file_and_line(record, kind, says):
    with pytest.raises(ManifestError) as caught:
        sample_of(record)
    assert caught.value.kind == kind
    assert str(caught.value).startswith("train.jsonl:3: ")
    assert says in str(caught.value)


# --- other projects' lists ------------------------------------------------------------------------------------------


def test_llava_records_are_read():
    record = {
        "id": "000",
        "image": "coco/1.jpg",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is it?"},
            {"from": "gpt", "value": "A bus."},
            {"from": "human", "value": "Red?"},
            {"from": "gpt", "value": "Yes."},
        ],
        "model": "ignored",
    }
    sample = sample_of(record, "sharegpt")
    assert sample.messages[0].parts == (ImagePart(FOLDER / "coco/1.jpg"), TextPart("What is it?"))
    assert (sample.key, len(sample.messages)) == ("000", 4)


@pytest.mark.parametrize("mark", ["<image>\n", "<video>\n", ""])
def test_video_records_are_read_whichever_placeholder_they_use(mark):
    turns = [{"from": "human", "value": f"{mark}What?"}, {"from": "gpt", "value": "Rain."}]
    parts = first_parts({"video": "a.mp4", "use_audio": False, "conversations": turns}, "sharegpt")
    assert parts == (VideoPart(FOLDER / "a.mp4", use_audio=False), TextPart("What?"))


def test_a_sharegpt_system_text_and_lists_are_kept():
    turns = [{"from": "human", "value": "<image><image>Which?"}, {"from": "gpt", "value": "None."}]
    sample = sample_of({"images": ["a", "b"], "system": "Be brief.", "conversations": turns}, "sharegpt")
    assert [message.role for message in sample.messages] == ["system", "user", "assistant"]
    assert len(sample.media) == 2


@pytest.mark.parametrize(
    "image_name, clip",
    [
        ("a.jpg", ImagePart(FOLDER / "a.jpg")),
        ("a.wav", AudioPart(FOLDER / "a.wav")),
        ("a.mp4", VideoPart(FOLDER / "a.mp4", use_audio=False)),
        (["a.mp4", "a.wav"], VideoPart(FOLDER / "a.mp4", sound=FOLDER / "a.wav")),
        (["a.JPG", "a.wav"], ImagePart(FOLDER / "a.JPG", sound=FOLDER / "a.wav")),
    ],
)
def test_the_released_codes_list_is_read(image_name, clip):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Rain."}]
    assert first_parts({"image_name": image_name, "conversation": turns}, "favor") == (clip, TextPart("What?"))


def test_dialogues_of_question_and_answer_pairs_are_read():
    record = {"image_name": ["a.mp4", "a.wav"], "conversation": [["Who?", "A man."], ["Why?", "No idea."]]}
    assert [message.text for message in sample_of(record, "favor").messages] == ["Who?", "A man.", "Why?", "No idea."]


@pytest.mark.parametrize("format, name", [("sharegpt", "conversations"), ("favor", "conversation")])
def test_a_foreign_record_without_turns_is_named_with_file_and_line(tmp_path, format, name):
    path = written(tmp_path, {"image_name": "a.jpg", name: [{"from": "robot", "value": "x"}]})
    with pytest.raises(ManifestError, match=rf"train.jsonl:1: turn 1 of '{name}'"):
        Source(path, format=format).read(0)


# --- the index ------------------------------------------------------------------------------------------------------


def test_a_malformed_line_is_named_and_its_neighbours_are_read(tmp_path):
    source = Source(written(tmp_path, line(), line(), '{"messages": [', line(), line()))
    assert len(source) == 5
    with pytest.raises(ManifestError, match=r"train.jsonl:3: not JSON"):
        source.read(2)
    assert [source.read(number).key for number in (0, 1, 3, 4)] == [f"train.jsonl:{n}" for n in (1, 2, 4, 5)]


def test_blank_lines_are_no_records_and_do_not_shift_line_numbers(tmp_path):
    source = Source(written(tmp_path, "", line(), "\r", line("Why?"), ""))
    assert len(source) == 2
    assert [source.read(number).key for number in range(2)] == ["train.jsonl:2", "train.jsonl:4"]
    assert source.read(1).messages[0].text == "Why?"


def test_a_line_that_is_not_utf_8_is_named(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(json.dumps(line()).encode() + b'\n{"messages": "\xff"}\n')
    with pytest.raises(ManifestError, match=r"train.jsonl:2: byte 15 of the line is not UTF-8") as caught:
        Source(path).read(1)
    assert caught.value.kind == "not_utf8"


@pytest.mark.parametrize("content", ["", "\n\n", "[]", "[ \n ]"])
def test_an_empty_file_is_refused(tmp_path, content):
    path = tmp_path / "train.jsonl"
    path.write_text(content, "utf-8")
    with pytest.raises(ManifestError, match=r"train.jsonl:1: the file is empty"):
        Source(path)


def test_a_missing_file_is_refused_by_its_name_alone(tmp_path):
    with pytest.raises(ManifestError, match=r"^train.jsonl cannot be opened"):
        Source(tmp_path / "train.jsonl")


@pytest.mark.parametrize("indent", [None, 2])
def test_arrays_are_indexed_item_by_item(tmp_path, indent):
    tricky = ['[{"}, {', 'back\\slash "quoted" \\', "é漢 \u2028 ,", ""]
    records = [line(f"Q {text}", answer=f"A {text}", meta={"list": [[1, 2], {"a": [3]}]}) for text in tricky]
    path = tmp_path / "train.json"
    path.write_text("\ufeff" + json.dumps(records, indent=indent, ensure_ascii=False), "utf-8")
    source = Source(path)
    assert [source.read(number).answer for number in range(len(source))] == [f"A {text}" for text in tricky]
    assert source.read(2).key == "train.json#3"


def test_a_bad_item_of_an_array_is_named_by_the_line_on_which_it_begins(tmp_path):
    path = tmp_path / "train.json"
    path.write_text('[\n{"messages": 1},\n\n{"messages": oops}\n]', "utf-8")
    source = Source(path)
    with pytest.raises(ManifestError, match=r"train.json:2 \(item 1\): no 'messages'"):
        source.read(0)
    with pytest.raises(ManifestError, match=r"train.json:4 \(item 2\): not JSON"):
        source.read(1)
    path.write_text('[{"messages": 1}, {"messages": 2}', "utf-8")
    with pytest.raises(ManifestError, match="the JSON array is not closed"):
        Source(path)


def test_the_index_of_a_hundred_thousand_lines_takes_eight_bytes_a_line_and_reads_any(tmp_path):
    import tracemalloc

    path = tmp_path / "train.jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line(f"Q {number}")) + "\n" for number in range(100_000))
    source = Source(path)
    assert source.index.num_bytes == 8 * 100_000
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(0, 100_000, 97):
        assert source.read(number).messages[0].text == f"Q {number}"
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 100_000, grown


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        written(tmp_path / folder, line())
    sources = open_sources([recipe.Source(path=str(tmp_path / folder / "train.jsonl")) for folder in ("a", "b")])
    assert [source.read(0).key for source in sources] == ["a/train.jsonl:1", "b/train.jsonl:1"]
