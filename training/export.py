"""From a run to models that others load.

    python -m training merge  RUN OUT    a model folder, LoRA merged into the language model
    python -m training export RUN OUT    the same, and OUT/llm: a plain Hugging Face language model for vLLM
    python -m training export RUN OUT --part adapter    only the adapter between the encoders, a small folder

RUN is a run's folder (its best checkpoint is taken, else the newest) or one of its ``checkpoints/step-*``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from safetensors.torch import save_file

from favor.adapter_files import save_adapter
from favor.errors import CheckpointError, ConfigurationError
from favor.lora import lora_state, merge_lora, peft_settings, remove_lora
from favor.modeling import FavorForConditionalGeneration
from favor.processor import FavorProcessor
from favor.terminal import quiet_libraries
from training import parts, recipe
from training.base_model import base_model
from training.checkpoints import base_hashes, load_parts, read_state, refuse_other_base

LlmForm = Literal["merged", "adapter"]


def merge(source: str | Path, out: str | Path) -> Path:
    """Write the trained model with LoRA merged into its language model: a folder for ``--model``.

    Raises:
        CheckpointError: ``source`` is no run or checkpoint, or began on another base than is here.
        ConfigurationError: ``out`` exists and is not empty.
    """
    with _writing(Path(out)) as folder:
        model, processor = trained_model(source)
        merge_llm(model)
        _write(model, processor, folder)
    return Path(out)


def export(source: str | Path, out: str | Path, *, llm: LlmForm = "merged") -> Path:
    """Write a folder for ``favor``, ``serving`` and ``eval`` (``--model OUT``), and in it ``llm/`` for vLLM.

    Args:
        llm: ``merged``: LoRA is merged, in both. ``adapter``: LoRA stays apart, in both; ``llm/`` is then the base
            language model with PEFT's folder ``llm/adapter/`` beside its weights.

    Raises:
        As ``merge``.
    """
    with _writing(Path(out)) as folder:
        model, processor = trained_model(source)
        if llm == "merged":
            merge_llm(model)
        _write(model, processor, folder)
        if model.config.lora_config is not None:
            _write_adapter(model, folder / "llm" / "adapter")
            remove_lora(model.language_model)
        model.language_model.save_pretrained(folder / "llm")
        processor.tokenizer.save_pretrained(folder / "llm")
    return Path(out)


def export_adapter(source: str | Path, out: str | Path) -> Path:
    """Write the run's adapter alone, for ``python -m favor ask --adapter OUT`` and :mod:`favor.adapter_files`.

    Raises:
        As ``merge``; and ConfigurationError: the run has no adapter.
    """
    with _writing(Path(out)) as folder:
        save_adapter(trained_model(source)[0], folder)
    return Path(out)


def trained_model(source: str | Path) -> tuple[FavorForConditionalGeneration, FavorProcessor]:
    """Model (evaluation mode, CPU) and processor as a run left them, LoRA of the language model unmerged.

    Raises:
        CheckpointError: no run or checkpoint, or frozen weights that are not those it began on.
    """
    run, checkpoint = locate(Path(source))
    trained = recipe.load(run / "recipe.yaml")
    model, processor = base_model(trained)
    parts.apply(model, trained.parts)
    refuse_other_base(run, base_hashes(model))
    load_parts(checkpoint, model)
    for part in (model.vision, model.audio, model.connector):  # a model folder has LoRA in its language model alone
        merge_lora(part)
    return model.requires_grad_(False).eval(), processor


def locate(source: Path) -> tuple[Path, Path]:
    """The run's folder and the checkpoint meant: the one given, else the run's best, else its newest.

    Raises:
        CheckpointError: there is none.
    """
    if (source / "state.json").is_file():
        run, checkpoint = source.absolute().parent.parent, source
    else:
        run, checkpoint = source, _chosen(source)
    if not all((run / name).is_file() for name in ("recipe.yaml", "base.json")):
        raise _no_run(source)
    return run, checkpoint


def add_merge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="RUN", help="a run's folder, or one of its checkpoints")
    parser.add_argument("out", metavar="OUT", help="folder to write")


def run_merge(options: argparse.Namespace) -> int:
    quiet_libraries()
    print(f"wrote {merge(options.source, options.out).name}: python -m favor ask --model {options.out} CLIP QUESTION")
    return 0


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    add_merge_arguments(parser)
    parser.add_argument(
        "--part", choices=("model", "adapter"), default="model", help="the whole model, or its adapter alone"
    )
    parser.add_argument("--llm", choices=("merged", "adapter"), default="merged", help="merge LoRA, or keep it apart")


def run_export(options: argparse.Namespace) -> int:
    quiet_libraries()
    if options.part == "adapter":
        name = export_adapter(options.source, options.out).name
        print(f"wrote {name}: python -m favor ask --adapter {options.out} CLIP QUESTION")
        return 0
    export(options.source, options.out, llm=options.llm)
    print(f"wrote {Path(options.out).name}: python -m serving --model {options.out}")
    return 0


def _chosen(run: Path) -> Path:
    checkpoints = sorted((run / "checkpoints").glob("step-*"), key=lambda path: path.name)
    if not checkpoints:
        raise _no_run(run)
    best = read_state(checkpoints[-1]).best_step
    return next((path for path in checkpoints if int(path.name.removeprefix("step-")) == best), checkpoints[-1])


def _no_run(source: Path) -> CheckpointError:
    return CheckpointError(
        f"{source.name!r} is not a run with a checkpoint",
        allowed="a run's folder with recipe.yaml, base.json and checkpoints/, or one of those checkpoints",
        advice="Check the name, and that the run has saved something",
    )


def merge_llm(model: FavorForConditionalGeneration) -> None:
    """Merge LoRA into the language model, for good."""
    merge_lora(model.language_model)
    model.config.lora_config = None


def _write(model: FavorForConditionalGeneration, processor: FavorProcessor, folder: Path) -> None:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _write_adapter(model: FavorForConditionalGeneration, folder: Path) -> None:
    folder.mkdir(parents=True)
    save_file(lora_state(model.language_model), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = json.dumps(peft_settings(model.config.lora_config), indent=1)
    (folder / "adapter_config.json").write_text(settings, encoding="utf-8")


@contextmanager
def _writing(out: Path) -> Iterator[Path]:
    """A folder to fill; it gets its name when it is complete, and is removed when something goes wrong."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigurationError(
            f"{out.name!r} exists", allowed="a new or empty folder", advice="Choose another name, or remove it"
        )
    draft = out.absolute().with_name(f".draft-{out.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
