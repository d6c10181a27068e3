"""Reading models from folders: strict, safetensors only, nothing unpickled, no code from the folder run."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.utils import cached_file

from favor.configuration import FavorConfig
from favor.errors import CheckpointError
from favor.modeling import FavorForConditionalGeneration
from favor.processor import FavorProcessor

OWN_CODE_ONLY = {"trust_remote_code": False}
"""For ``from_pretrained``: run no code that comes with the weights."""

STRICTLY = {**OWN_CODE_ONLY, "use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
"""For a model's ``from_pretrained``: unpickle nothing, and report what does not fit, for ``refuse_misfits``."""

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_READING_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)


def load_folder(
    folder: str | Path, *, dtype: torch.dtype | None = None
) -> tuple[FavorForConditionalGeneration, FavorProcessor]:
    """Model (evaluation mode) and processor from a folder written by their ``save_pretrained``.

    Args:
        dtype: of all but the connector, which stays float32; by default as saved.

    Raises:
        CheckpointError: not such a folder, or weights that do not fit its configuration exactly.
    """
    folder = Path(folder).absolute()
    if not (folder / "config.json").is_file() or not any((folder / name).is_file() for name in (_WEIGHTS, _INDEX)):
        raise CheckpointError(
            f"{folder.name!r} is not a model folder",
            allowed=f"a preset name, or a folder with config.json and {_WEIGHTS} written by save_pretrained",
            advice="Check the name; convert other formats to safetensors first",
        )
    with reading(folder):
        config = AutoConfig.from_pretrained(folder, **OWN_CODE_ONLY)
        if not isinstance(config, FavorConfig):
            raise ValueError(f"it holds a model of the type {config.model_type!r}")
        model, report = FavorForConditionalGeneration.from_pretrained(
            folder, config=config, dtype=dtype, local_files_only=True, **STRICTLY
        )
    refuse_misfits(folder.name, report)
    return model.eval(), load_processor(folder)


def load_processor(folder: str | Path) -> FavorProcessor:
    """The processor of such a folder alone.

    Raises:
        CheckpointError: not such a folder.
    """
    folder = Path(folder).absolute()
    with reading(folder):
        if not (folder / "qformer_tokenizer").is_dir():  # else transformers would take the language model's for it
            raise FileNotFoundError("it has no qformer_tokenizer")
        return FavorProcessor.from_pretrained(folder, local_files_only=True, **OWN_CODE_ONLY)


@contextmanager
def reading(source: str | Path) -> Iterator[None]:
    """Whatever goes wrong inside while ``source``, a folder or hub name, is read becomes a CheckpointError."""
    try:
        yield
    except _READING_ERRORS as error:
        name = Path(source).name
        reason = str(error).replace(str(source), name).partition("\n")[0]
        raise CheckpointError(
            f"{name!r} cannot be read ({type(error).__name__}: {reason})",
            allowed="a complete folder written by save_pretrained, or a hub name that can be reached",
            advice="Copy or download it again",
        ) from error


def read_tensors(source: str, prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """Some tensors of a Hugging Face checkpoint, renamed; only the shards that hold them are opened (or downloaded).

    Args:
        source: folder or hub name.
        prefixes: start of a name there -> what stands in its place here. A leading ``model.`` there may be missing.
    """
    found: dict[str, Tensor] = {}
    with reading(source):
        for shard, names in _shards(source).items():
            wanted = {name: renamed for name in names if (renamed := _rename(name, prefixes)) is not None}
            if not wanted:
                continue
            with safe_open(_file(source, shard), "pt") as tensors:
                found |= {renamed: tensors.get_tensor(name) for name, renamed in wanted.items()}
    return found


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], *, name: str) -> None:
    """Load ``tensors`` into ``module``; every parameter must be given, and nothing else.

    Raises:
        CheckpointError: names that are missing or unexpected, or shapes that differ.
    """
    own = module.state_dict()
    refuse_problems(
        name,
        {
            "missing_keys": sorted(own.keys() - tensors.keys()),
            "unexpected_keys": sorted(tensors.keys() - own.keys()),
            "mismatched_keys": [
                _mismatch(key, tensors[key].shape, own[key].shape)
                for key in sorted(own.keys() & tensors.keys())
                if tensors[key].shape != own[key].shape
            ],
        },
    )
    module.load_state_dict(dict(tensors))


def refuse_misfits(name: str, report: Mapping[str, Collection[Any]]) -> None:
    """Raise CheckpointError unless ``from_pretrained``, in its loading info, found all tensors and nothing else."""
    refuse_problems(
        name,
        {
            "missing_keys": sorted(report["missing_keys"]),
            "unexpected_keys": sorted(report["unexpected_keys"]),
            "mismatched_keys": [_mismatch(*found) for found in sorted(report["mismatched_keys"])],
        },
    )


def refuse_problems(name: str, problems: Mapping[str, list[str]]) -> None:
    """Raise CheckpointError if any list of ``problems`` is not empty, naming the first few of each."""
    told = [
        f"{len(keys)} {problem.replace('_', ' ')} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for problem, keys in problems.items()
        if keys
    ]
    if told:
        raise CheckpointError(
            f"the weights of {name!r} do not fit: {'; '.join(told)}",
            allowed="exactly the parameters of the configuration",
            advice="Check that the configuration belongs to these weights",
        )


def _mismatch(key: str, found: Sequence[int], needed: Sequence[int]) -> str:
    return f"{key}: {tuple(found)} for {tuple(needed)}"


def _rename(name: str, prefixes: Mapping[str, str]) -> str | None:
    bare = name.removeprefix("model.")
    for start, replacement in prefixes.items():
        if bare.startswith(start):
            return replacement + bare[len(start) :]
    return None


def _shards(source: str) -> dict[str, list[str]]:
    """File name -> names of the tensors in it."""
    index = cached_file(source, _INDEX, _raise_exceptions_for_missing_entries=False)
    if index is not None:
        shards: dict[str, list[str]] = {}
        for name, shard in json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].items():
            shards.setdefault(shard, []).append(name)
        return shards
    with safe_open(_file(source, _WEIGHTS), "pt") as tensors:
        return {_WEIGHTS: list(tensors.keys())}


def _file(source: str, name: str) -> str:
    path = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
    if path is None:
        raise CheckpointError(
            f"{Path(source).name!r} has no {name} within reach",
            allowed="safetensors weights in a folder, or under a hub name that can be reached",
            advice="Check the name and the connection, or convert the weights to safetensors",
        )
    return str(path)
