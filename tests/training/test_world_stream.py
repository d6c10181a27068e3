"""The generated world as training data: packed questions, kept features, and the stream of batches."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from favor import presets
from favor.checkpoint import load_folder
from favor.errors import ConfigurationError
from favor.media import Clip
from favor.media.clip import Receipt
from favor.messages import ImagePart, assistant, user
from favor.presets import random_weights
from favor.prompt import IGNORED
from training import recipe, trainer
from training.base_model import use_fastest_attention
from training.trained import FrozenEncoders, TrainedModel, as_inputs
from training.world import questions
from training.world.features import Encode, Shards, encode, encode_clips, log_mels, pixel_values, raw_clip, scene_of
from training.world.packing import HIDDEN, QuestionEncoder, collate, pack, shared_rows
from training.world.question import Question
from training.world.shards import media_inputs
from training.world.stream import WorldData, WorldStream

NUM_CLIPS = 20
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: the tiny preset, whose image encoder reads no question."""
    preset = presets.describe("tiny")
    config = {**preset.config, "is_instruction_aware": False, "lora_config": None}
    model, processor = random_weights.assemble(replace(preset, config=config))
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def parts(folder: Path) -> tuple:
    return load_folder(folder)


@pytest.fixture(scope="module")
def features(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("features") / "train"
    encode(a_recipe(folder, path))
    return path


def a_recipe(folder: Path, output: Path, **changes: object) -> Encode:
    settings = {"clips": NUM_CLIPS, "shard_clips": 8, "precision": "fp32", "split": "train", **changes}
    return Encode(model=str(folder), output=str(output), **settings)


def a_stream(parts: tuple, features: Path, *, seed: int = 1, accumulation: int = 1, **options: object) -> WorldStream:
    world = recipe.World(features=str(features), **options.pop("world", {}))
    data = WorldData(world, parts[1], parts[0].config, **{"micro_batch": 4, **options})
    return data.stream(seed=seed, accumulation=accumulation)


# Packing -------------------------------------------------------------------------------------------------------------


def test_a_packed_question_has_the_logits_of_a_sequence_of_its_own(parts, features):
    model, processor = parts
    encoder, shards = QuestionEncoder(processor), Shards(features)
    layout = WorldData(recipe.World(features=""), processor, model.config, micro_batch=1)._layout
    clips, blocks, alone = [], [], []
    for number in range(6):
        clip, rng = shards.clip(number), random.Random(number)
        receipt = layout.receipt(clip)
        asked = questions.ask(shards.scene(number), rng, 4)
        asked.append(Question("vqa", "two.turns", "and it?", "no", ("no",), frozenset(), before=(("is it?", "yes"),)))
        prompts = [encoder(question, receipt.num_soft_tokens) for question in asked]
        clips.append(clip)
        blocks.append(pack(prompts, placeholder_token_id=processor.placeholder_token_id))
        alone.append(prompts)
    rows = [[0, 1], [2], [3, 4, 5]]
    packed = collate([[blocks[place] for place in row] for row in rows], filler_id=processor.tokenizer.eos_token_id)
    chunk_steps = model.config.audio_chunk_steps
    soft = [model.get_soft_tokens(**media_inputs([clip], chunk_steps=chunk_steps)) for clip in clips]
    together = model.get_soft_tokens(**media_inputs(clips, chunk_steps=chunk_steps))
    logits = model.language_model(
        inputs_embeds=model.embed(packed["input_ids"], together),
        attention_mask=packed["attention_mask"],
        position_ids=packed["position_ids"],
    ).logits
    for place, row in enumerate(rows):
        start = 0
        for number in row:
            prompts = alone[number]
            shared = len(prompts[0].input_ids) - blocks[number].segments.count(1)
            begin = start + shared
            for prompt in prompts:
                ids = torch.tensor([prompt.input_ids])
                expected = model.language_model(inputs_embeds=model.embed(ids, soft[number])).logits[0, shared:]
                own = slice(begin, begin + len(prompt.input_ids) - shared)
                assert packed["input_ids"][place, own].tolist() == prompt.input_ids[shared:]
                assert packed["labels"][place, own].tolist() == prompt.labels[shared:]
                torch.testing.assert_close(logits[place, own], expected, atol=2e-4, rtol=2e-4)
                begin = own.stop
            start += len(blocks[number])


def test_prompts_are_token_for_token_those_of_the_processor(parts, tmp_path):
    _, processor = parts
    Image.new("RGB", (28, 28), "red").save(tmp_path / "red.png")
    picture = ImagePart(tmp_path / "red.png")
    question = Question("vqa", "a.b", "what colour?", "red", ("red",), frozenset(), before=(("hello", "good day"),))
    asked = processor([user(picture, "hello"), assistant("good day"), user("what colour?")], answer="red")
    prompt = QuestionEncoder(processor)(question, asked.receipts[0][0].num_soft_tokens)
    assert [prompt.input_ids] == asked["input_ids"].tolist()
    assert [prompt.labels] == asked["labels"].tolist()
    bare = replace(question, before=())
    asked = processor([user("what colour?")], answer="red")
    assert [QuestionEncoder(processor)(bare, None).input_ids] == asked["input_ids"].tolist()


def test_the_mask_shows_a_token_its_prefix_and_its_own_conversation(parts):
    encoder = QuestionEncoder(parts[1])
    asked = [Question("vqa", "a.b", text, "no", ("no",), frozenset()) for text in ("one?", "another?")]
    block = pack([encoder(question, 3) for question in asked], placeholder_token_id=0)
    bare = pack([encoder(question, None) for question in asked], placeholder_token_id=0)
    mask = collate([[block, bare], [bare]], filler_id=2)["attention_mask"]
    whose = [(n, each) for n, part in enumerate((block, bare)) for each in part.segments]
    for query, (part, segment) in enumerate(whose):
        for key, (other_part, other) in enumerate(whose):
            is_seen = key <= query and part == other_part and other in (0, segment)
            assert mask[0, 0, query, key] == (0 if is_seen else HIDDEN), (query, key)
    assert (mask == 0).any(-1).all(), "every token, filler too, sees something"


def test_short_blocks_share_a_row_and_none_grows_beyond_the_longest():
    lengths = [5, 9, 4, 2, 9, 3]
    rows = shared_rows(lengths)
    assert sorted(place for row in rows for place in row) == list(range(6))
    assert max(sum(lengths[place] for place in row) for row in rows) == 9
    assert len(rows) == 4


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_hugging_faces_llama_takes_the_mask_under_autocast(folder, features, attention):
    model, processor = load_folder(folder)
    if attention == "eager":
        use_fastest_attention(model, device=CPU, precision="bf16")
    assert model.language_model.config._attn_implementation == attention
    batch = a_stream((model, processor), features, mask_dtype=torch.bfloat16).next_step()[0]
    FrozenEncoders(model, CPU)
    trained = TrainedModel(model)
    inputs = as_inputs(batch.inputs, end_token_id=2, device=CPU)
    with torch.no_grad():
        exact = trained(inputs | {"attention_mask": inputs["attention_mask"].float()})
        with torch.autocast("cpu", torch.bfloat16):
            rough = trained(inputs)
    assert exact.num_tokens == rough.num_tokens == batch.num_target_tokens
    assert float(rough.language) == pytest.approx(float(exact.language), rel=0.02)


# Features ------------------------------------------------------------------------------------------------------------


def test_clips_are_prepared_as_the_processor_does(parts, folder):
    model, processor = parts
    clips = [raw_clip(scene_of(a_recipe(folder, Path()), number), size=28) for number in range(8)]
    decoded = [
        Clip(clip.frames, torch.zeros(0).numpy(), clip.waveform, clip.scene.is_still, Receipt("", 0, None, None, ()))
        for clip in clips
    ]
    expected = processor.clip_tensors(decoded)
    pixels = pixel_values(torch.cat([torch.from_numpy(clip.frames) for clip in clips]).numpy(), processor)
    torch.testing.assert_close(pixels, expected["pixel_values"], atol=1e-4, rtol=0)
    mels = log_mels([clip.waveform for clip in clips], processor)
    torch.testing.assert_close(mels, expected["input_features"], atol=1e-4, rtol=0)
    assert [clip.num_audio_steps for clip in clips] == expected["num_audio_steps"].tolist()

    encoded = encode_clips(model, processor, clips, device=CPU, precision="fp32")
    nothing = torch.zeros(len(clips), 0, dtype=torch.long)
    visual = model.get_visual_features(expected["pixel_values"], expected["num_frames"], nothing, nothing)
    torch.testing.assert_close(torch.cat([clip.visual for clip in encoded]).float(), visual, atol=0.02, rtol=0.02)
    chunk = model.config.audio_chunk_steps
    audio = model.get_audio_features(expected["input_features"]).unflatten(0, (-1, chunk))
    with_sound = [clip for clip in encoded if len(clip.audio)]
    for clip, steps in zip(with_sound, audio, strict=True):
        torch.testing.assert_close(clip.audio.float(), steps[: len(clip.audio)], atol=0.02, rtol=0.02)


def test_shards_give_every_clip_its_own_features(parts, folder, features):
    model, processor = parts
    shards = Shards(features)
    assert len(shards) == NUM_CLIPS
    for number in (0, 7, 8, 19):
        clip, scene = shards.clip(number), shards.scene(number)
        assert scene == scene_of(a_recipe(folder, features), number)
        [expected] = encode_clips(
            model, processor, [raw_clip(scene, size=28, jitter_s=0.1)], device=CPU, precision="fp32"
        )
        torch.testing.assert_close(clip.visual, expected.visual, atol=0.02, rtol=0.02)
        torch.testing.assert_close(clip.audio, expected.audio, atol=0.02, rtol=0.02)
        assert clip.is_image == scene.is_still
    assert {shards.scene(int(number)).kind for number in shards.of_kinds(["image"])} == {"image"}


def test_encoding_goes_on_where_it_stopped_and_refuses_other_clips(folder, features, tmp_path):
    output = tmp_path / "features"
    encode(a_recipe(folder, output))
    shards = sorted(output.glob("*.safetensors"))
    kept = shards[0].stat().st_mtime_ns
    before = shards[1].read_bytes()
    shards[1].unlink()
    with pytest.raises(ConfigurationError, match="lacks 1 of its 3 shards"):
        Shards(output)
    encode(a_recipe(folder, output))
    assert shards[0].stat().st_mtime_ns == kept
    assert shards[1].read_bytes() == before
    with pytest.raises(ConfigurationError, match="another seed, clips"):
        encode(a_recipe(folder, output, seed=7, clips=21))


def test_processes_share_the_shards(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, expected in ((1, [1]), (0, [0, 1, 2])):
        monkeypatch.setenv("RANK", str(rank))
        encode(a_recipe(folder, tmp_path))
        assert sorted(int(path.stem[6:]) for path in tmp_path.glob("*.safetensors")) == expected


def test_features_of_other_encoders_are_refused(parts, features):
    model, _ = presets.untrained("tiny")
    Shards(features).refuse_other_encoders(parts[0])
    model.vision.query_tokens.data += 1
    with pytest.raises(ConfigurationError, match="other encoders"):
        Shards(features).refuse_other_encoders(model)


# The stream ----------------------------------------------------------------------------------------------------------


def test_a_batch_fits_the_model(parts, features):
    model, _ = parts
    batch = a_stream(parts, features, world={"outside_share": 1.0}).next_step()[0]
    inputs = batch.inputs
    receipts = [receipt for row in inputs.receipts for receipt in row]
    assert len(receipts) == len(inputs["num_frames"]) == 4
    assert batch.keys.count("outside") == 1
    assert (inputs["input_ids"] == 0).sum() == sum(receipt.num_soft_tokens for receipt in receipts)
    output = model(**inputs)
    assert output.logits.shape[:2] == inputs["input_ids"].shape
    assert output.language_loss.isfinite()
    assert batch.num_target_tokens == (inputs["labels"][:, 1:] != IGNORED).sum()


def test_an_epoch_holds_every_clip_and_ranks_take_disjoint_parts(parts, features):
    seen: list[str] = []
    for rank in range(2):
        stream = a_stream(parts, features, rank=rank, world_size=2, micro_batch=2, world={"outside_share": 0.0})
        assert stream.steps_per_epoch == 5
        seen += [key for _ in range(5) for batch in stream.next_step() for key in batch.keys]
        assert stream.epoch == 1
    assert sorted(seen) == sorted(str(seed) for seed in Shards(features).seeds)


def test_a_steps_clips_and_questions_do_not_depend_on_the_number_of_ranks(parts, features):
    quiet = {"outside_share": 0.0}
    one = a_stream(parts, features, world=quiet, micro_batch=2, accumulation=2)
    two = [a_stream(parts, features, world=quiet, rank=rank, world_size=2, micro_batch=2) for rank in range(2)]
    for _ in range(6):
        expected = one.next_step()
        found = [stream.next_step()[0] for stream in two]
        assert [batch.keys for batch in found] == [batch.keys for batch in expected]
        for batch, other in zip(found, expected):
            assert torch.equal(batch.inputs["input_ids"], other.inputs["input_ids"])


def test_a_resumed_stream_goes_on_exactly_and_epochs_differ(parts, features):
    stream = a_stream(parts, features)
    steps = [stream.next_step()[0] for _ in range(3)]
    state = stream.state()
    later = [stream.next_step()[0] for _ in range(5)]
    other = a_stream(parts, features)
    other.load_state(state)
    for batch in later:
        again = other.next_step()[0]
        assert again.keys == batch.keys
        assert torch.equal(again.inputs["input_ids"], batch.inputs["input_ids"])
        assert torch.equal(again.inputs["visual_features"], batch.inputs["visual_features"])
    epochs = [batch.keys for batch in steps + later]
    assert epochs[:3] != epochs[5:]
    with pytest.raises(ConfigurationError, match="another seed"):
        a_stream(parts, features, seed=2).load_state(state)


@pytest.mark.parametrize("dropped, kept", [("sound", "num_frames"), ("picture", "num_audio_steps")])
def test_a_clip_without_a_stream_is_asked_only_what_the_other_tells(parts, features, monkeypatch, dropped, kept):
    asked: list[Question] = []
    monkeypatch.setattr(
        "training.world.packing.QuestionEncoder.__call__", _noting(asked, QuestionEncoder.__call__), raising=True
    )
    world = {"drop_sound": 0.0, "drop_picture": 0.0, f"drop_{dropped}": 1.0, "kinds": ("match", "video")}
    stream = a_stream(parts, features, world={**world, "outside_share": 0.0}, micro_batch=1)
    other = "num_audio_steps" if dropped == "sound" else "num_frames"
    num_dropped = 0
    for _ in range(6):
        asked.clear()
        inputs = stream.next_step()[0].inputs
        assert inputs[kept].item() > 0
        if inputs[other].item() == 0:
            num_dropped += 1
            assert not any(dropped in question.needs for question in asked)
            assert len(asked) >= 2
    assert num_dropped > 0


def _noting(asked: list[Question], call):
    def noted(self, question, num_soft_tokens):
        asked.append(question)
        return call(self, question, num_soft_tokens)

    return noted


def test_only_the_wanted_tasks_and_kinds_are_learnt(parts, features, monkeypatch):
    asked: list[Question] = []
    monkeypatch.setattr("training.world.packing.QuestionEncoder.__call__", _noting(asked, QuestionEncoder.__call__))
    world = {"tasks": ("count", "timeline"), "kinds": ("video", "match"), "outside_share": 0.0}
    stream = a_stream(parts, features, world=world)
    for _ in range(4):
        stream.next_step()
    assert {question.task for question in asked} == {"count", "timeline"}
    with pytest.raises(ConfigurationError, match="kinds vidoe"):
        a_stream(parts, features, world={"kinds": ("vidoe",)})


def test_validation_asks_the_same_of_every_clip_each_time(parts, features):
    world = recipe.World(features=str(features), val=str(features))
    passes = []
    for _ in range(2):
        found = []
        for rank in range(2):
            data = WorldData(world, parts[1], parts[0].config, rank=rank, world_size=2, micro_batch=8)
            found.append(list(data.validation_batches()))
        assert [len(batches) for batches in found] == [2, 2]
        passes.append([batch for batches in found for batch in batches])
    assert sorted(key for batch in passes[0] for key in batch.keys) == sorted(map(str, Shards(features).seeds))
    for first, second in zip(*passes):
        assert first.keys == second.keys
        assert first.inputs is None or torch.equal(first.inputs["input_ids"], second.inputs["input_ids"])


# Training ------------------------------------------------------------------------------------------------------------


def test_training_learns_from_the_world_and_resumes(folder, features, tmp_path):
    settings = {
        "name": "world",
        "summary": "for a test",
        "model": str(folder),
        "output": str(tmp_path / "run"),
        "parts": {"llm": "full"},
        "data": {"world": {"features": str(features), "val": str(features)}},
        "optimisation": {"steps": 2, "micro_batch": 4, "learning_rate": 3e-3},
        "saving": {"every_steps": 1},
        "logging": {"every_steps": 1, "tensorboard": False},
    }
    first = trainer.run(recipe.Recipe.model_validate(settings), is_resuming=False)
    settings["optimisation"]["steps"] = 12
    second = trainer.run(recipe.Recipe.model_validate(settings), is_resuming=True)
    assert second.step == 12
    assert second.validation_loss < first.validation_loss
    settings["parts"]["vision"] = "full"
    with pytest.raises(ConfigurationError, match="an encoder is to learn"):
        trainer.run(recipe.Recipe.model_validate(settings), is_resuming=True)


@pytest.mark.parametrize("data", [{}, {"train": [{"path": "a.jsonl"}], "world": {"features": "f"}}])
def test_a_recipe_learns_from_files_or_from_the_world(data):
    with pytest.raises(ValueError, match=r"exactly one of data\.train and data\.world"):
        recipe.Data.model_validate(data)


def test_a_stream_can_be_left_out_of_every_clip_while_all_is_still_asked(parts, features):
    options = {"kinds": ("video", "match", "cause"), "drop_sound": 0.0, "drop_picture": 0.0, "outside_share": 0.0}
    whole = a_stream(parts, features, world=options).next_step()[0]
    for without, gone in (("sound", "audio_features"), ("picture", "visual_features")):
        batch = a_stream(parts, features, world=options | {"without": without}).next_step()[0]
        assert gone in whole.inputs
        assert gone not in batch.inputs
        assert (batch.keys, batch.num_target_tokens) == (whole.keys, whole.num_target_tokens)


def test_long_clips_can_be_left_out(parts, features):
    clips = a_stream(parts, features, world={"max_steps": 14})._maker.clips
    shards = Shards(features)
    assert clips == [n for n in range(NUM_CLIPS) if max(shards.num_frames[n], shards.num_audio_steps[n]) <= 14]
    assert 0 < len(clips) < NUM_CLIPS
