# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

import unified
from unified.contracts import document

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {"unified": "unified", "tasks": "unified.tasks", "heads": "unified.heads", "configs": "unified.configs"}
MAY_KNOW = ("unified.contracts", "unified.boxes", "unified.distributed", "unified.model.layers")
FLOORS = {  # longest prefix counts; a room may look at its own floor and at those below
    "unified.contracts": 1,
    "unified.export.artifact": 4,  # what reads an exported file; what writes one looks further
    "unified.export.endings": 4,
    "unified.export.opened": 4,
    "unified.export.suppression": 4,
    "unified.export": 5,
    "unified.boxes": 2,
    "unified.hardware": 2,
    "unified.distributed": 2,
    "unified.model": 3,
    "unified.data": 3,
    "unified.disk": 4,
    "unified.tensors": 4,
    "unified.manifest": 4,
    "unified.checkpoint": 4,
    "unified.shelf": 4,
    "unified.pretrained": 4,
    "unified.trained": 4,
    "unified.packs": 4,
    "unified.growing": 6,
    "unified.training": 5,
    "unified.inference": 5,
    "unified.study": 6,
    "unified.index": 6,
    "unified.official": 5,
    "unified.testing": 6,
    "unified.kit": 6,
    "unified.serve": 6,
    "unified.app": 6,
    "unified.cli": 6,
}
NEIGHBOURS = (("unified.data", "unified.model"), ("unified.model", "unified.data"))  # one floor, separate rooms
NEIGHBOURS += (("unified.inference", "unified.training"), ("unified.boxes", "unified.hardware"))
CODE_IN_DATA = {"pickle", "_pickle", "cPickle", "copyreg", "dill", "cloudpickle", "jsonpickle", "joblib", "hickle"}
CODE_IN_DATA |= {"shelve", "marshal", "builtins", "runpy", "codeop", "torch.package", "torch.distributed.rpc"}
CODE_IN_DATA |= {"multiprocessing.managers", "multiprocessing.connection", "multiprocessing.reduction.ForkingPickler"}
RUNS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "pty.spawn",
    "torch.jit.load",
    "torch.hub.load",
}
RUNS |= {f"os.{kind}{how}" for kind in ("exec", "spawn") for how in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")}
RUNS |= {
    f"yaml.{name}" for name in ("load", "load_all", "unsafe_load", "full_load", "Loader", "UnsafeLoader", "FullLoader")
}
RUNS |= {"torch.save", "torch.serialization.save", "pandas.read_pickle", "numpy.lib.format.read_array"}
PICKLES = ("gather_object", "all_gather_object", "broadcast_object_list", "scatter_object_list", "send_object_list")
PICKLES += ("recv_object_list", "to_pickle", "read_pickle", "dump_pickle", "load_pickle")
SAVES = ("numpy.save", "numpy.savez", "numpy.savez_compressed")
TORCH_LOAD = ("torch.load", "torch.serialization.load")
READS_TORCH = ("unified.official.archive",)  # the official files; only tensors, by torch's restricted reader


def modules() -> dict[str, Path]:
    """Every product module by the name it is installed under."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            inside = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(part for part in inside if part != "__init__")])] = path
    return found


MODULES = modules()


def is_in(name: str, packages: tuple[str, ...] | list[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def is_package(name: str) -> bool:
    return name not in MODULES or MODULES[name].name == "__init__.py"


def imports(name: str, tree: ast.AST) -> Iterator[str]:
    """Absolute names of everything imported below ``tree``, as far as they can be told apart."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = name.split(".")
            up = node.level - (1 if is_package(name) else 0)
            base = ".".join(parts[: len(parts) - up]) if node.level else ""
            target = ".".join(part for part in (base, node.module or "") if part)
            for alias in node.names:
                yield f"{target}.{alias.name}"


def wall(name: str, tree: ast.AST) -> list[str]:
    """What a module of tasks/ or heads/ knows and must not."""
    if not is_in(name, ("unified.tasks", "unified.heads")):
        return []
    own = ".".join(name.split(".")[:3]) if is_in(name, ("unified.tasks",)) else name
    return [
        f"{name} imports {found}"
        for found in imports(name, tree)
        if is_in(found, ("unified",)) and not is_in(found, (*MAY_KNOW, own))
    ]


def absolute_siblings(name: str, tree: ast.AST) -> list[str]:
    """Imports of a task's or head's own folder by its full name, which a checkout and a wheel spell differently."""
    found = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level)
    plain = (alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names)
    names = [*(node.module or "" for node in found), *plain]
    return [f"{name} imports {n}" for n in names if is_in(n, ("unified.tasks", "unified.heads"))]


def bare(name: str, tree: ast.AST) -> list[str]:
    """``import tasks``: a stranger's module of that name would be taken."""
    return [f"{name} imports {found}" for found in imports(name, tree) if is_in(found, ("tasks", "heads", "configs"))]


def floor(name: str) -> int | None:
    return next((level for room, level in FLOORS.items() if is_in(name, (room,))), None)


def floors(name: str, tree: ast.AST) -> list[str]:
    """Imports that point up, or across to a neighbour."""
    mine = floor(name)
    if mine is None:
        return []
    wrong = []
    for found in imports(name, tree):
        theirs = floor(found)
        across = any(is_in(name, (room,)) and is_in(found, (other,)) for room, other in NEIGHBOURS)
        if (theirs is not None and theirs > mine) or across:
            wrong.append(f"{name} imports {found}")
    return wrong


def aliases(name: str, tree: ast.AST) -> dict[str, str]:
    """What a module calls the things it imports, and what they are."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return known


def danger(name: str, tree: ast.AST) -> list[str]:
    """Ways by which data or words could become code."""
    wrong = [f"{name} imports {found}" for found in imports(name, tree) if is_in(found, tuple(CODE_IN_DATA))]
    known = aliases(name, tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            first, _, rest = ast.unparse(node).partition(".")
            meant = ".".join(part for part in (known.get(first, first), rest) if part)
            if meant in RUNS or meant.split(".")[-1] in PICKLES or is_in(meant, tuple(CODE_IN_DATA)):
                wrong.append(f"{name}:{node.lineno} uses {meant}")
        elif isinstance(node, ast.Call):
            first, _, rest = ast.unparse(node.func).partition(".")
            called = ".".join(part for part in (known.get(first, first), rest) if part)
            if _unsafe_call(name, called, {word.arg: ast.unparse(word.value) for word in node.keywords}):
                wrong.append(f"{name}:{node.lineno} calls {called}")
    return wrong


def _unsafe_call(name: str, called: str, said: dict[str | None, str]) -> bool:
    bad = said.get("shell", "False") != "False" or said.get("allow_pickle", "False") != "False"
    bad |= said.get("weights_only", "True") != "True" or (called in SAVES and "allow_pickle" not in said)
    return bad or (called in TORCH_LOAD and (name not in READS_TORCH or "weights_only" not in said))


Guard = Callable[[str, ast.AST], list[str]]
GUARDS: list[Guard] = [wall, absolute_siblings, bare, floors, danger]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_the_house_is_in_order(guard: Guard) -> None:
    assert len(MODULES) > 80
    assert [line for name, path in MODULES.items() for line in guard(name, ast.parse(path.read_text()))] == []


DANGERS = (
    "import pickle as p",
    "from pickle import loads",
    "def f():\n    from _pickle import loads",
    "import torch.package",
    "from multiprocessing.reduction import ForkingPickler",
    "from builtins import eval as e",
    "torch.load(p, weights_only=False)",
    "torch.load(p, weights_only=safe)",
    "torch.load(p)",
    "from torch import load\nload(p)",
    "import torch as t\nt.load(p)",
    "torch.save(x, p)",
    "save = torch.save",
    "torch.jit.load(p)",
    "numpy.load(p, allow_pickle=True)",
    "numpy.load(p, allow_pickle=flag)",
    "import numpy as np\nnp.save(p, x)",
    "import pandas as pd\npd.read_pickle(p)",
    "frame.to_pickle(p)",
    "yaml.load(text, Loader=yaml.SafeLoader)",
    "yaml.unsafe_load(text)",
    "from yaml import full_load\nfull_load(text)",
    "class L(yaml.Loader): pass",
    "eval('1')",
    "run = exec",
    "__import__(word)",
    "compile(text, 'x', 'exec')",
    "os.system('ls')",
    "from os import popen\npopen('ls')",
    "os.execv(p, [])",
    "subprocess.run('ls', shell=True)",
    "subprocess.Popen('ls', shell=flag)",
    "from accelerate.utils import gather_object\ngather_object([1])",
    "torch.distributed.broadcast_object_list([1])",
)
HARMLESS = (
    "torch.load(p, map_location='cpu', weights_only=True)",
    "re.compile('a')\nmodel.eval()\ntorch.compile(model)",
    "np.save(p, x, allow_pickle=False)",
    "subprocess.run(['ls'], shell=False)",
    "class L(yaml.SafeLoader): pass\nyaml.BaseLoader(text)",
)


@pytest.mark.parametrize(
    ("guard", "name", "source"),
    [
        (wall, "unified.heads.embed", "from unified.model.build import assemble"),
        (wall, "unified.heads.embed", "from . import multilabel"),
        (wall, "unified.heads.embed", "import unified.training.trainer"),
        (wall, "unified.tasks.detection.task", "from ..embedding.loss import sphere"),
        (wall, "unified.tasks.detection.task", "def f():\n    from unified.data import loader"),
        (absolute_siblings, "unified.tasks.detection.task", "from unified.tasks.detection.loss import x"),
        (absolute_siblings, "unified.model.build", "from unified.heads.embed import EmbedHead"),
        (bare, "unified.model.build", "import heads"),
        (bare, "unified.tasks.detection.task", "from tasks.detection import loss"),
        (floors, "unified.contracts.config", "from unified.boxes import area_xyxy"),
        (floors, "unified.model.network", "from unified.checkpoint import fit_state"),
        (floors, "unified.model.network", "from unified.data.collate import pack"),
        (floors, "unified.data.loader", "def f():\n    import unified.cli.train"),
        (floors, "unified.inference.predictor", "from unified.training import run"),
        (danger, "unified.checkpoint", "import pickle"),
        (danger, "unified.checkpoint", "def f():\n    return torch.load(p, weights_only=False)"),
        (danger, "unified.checkpoint", "torch.load(p)"),
        (danger, "unified.checkpoint", "eval('1')"),
        (danger, "unified.checkpoint", "subprocess.run('ls', shell=True)"),
        (danger, "unified.checkpoint", "np.load(p, allow_pickle=True)"),
        *((danger, "unified.official.archive", source) for source in DANGERS),
    ],
)
def test_each_guard_sees_what_it_guards_against(guard: Guard, name: str, source: str) -> None:
    assert guard(name, ast.parse(source)) != []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("unified.heads.embed", "from unified.model.layers.conv import Conv\nfrom unified.boxes import area_xyxy"),
        ("unified.tasks.detection.task", "from .targets import Targets\nimport torch"),
        ("unified.training.trainer", "from unified.checkpoint import Checkpoint\nmodel.eval()"),
        *(("unified.official.archive", source) for source in HARMLESS),
    ],
)
def test_the_guards_let_good_code_pass(name: str, source: str) -> None:
    assert [line for guard in GUARDS for line in guard(name, ast.parse(source))] == []


def test_the_engine_names_no_task_and_no_head() -> None:
    engine = {name: path for name, path in MODULES.items() if not is_in(name, ("unified.tasks", "unified.heads"))}
    found = [(name, n) for name, path in engine.items() for n in imports(name, ast.parse(path.read_text()))]
    assert [pair for pair in found if is_in(pair[1], ("unified.tasks", "unified.heads"))] == []


def at_import(tree: ast.Module) -> ast.Module:
    """Only what runs when a module is imported: no function bodies, nothing for type checkers."""

    class Pruner(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return Pruner().visit(tree)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One way round that ends where it began; empty where there is none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := walk(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


def module_graph() -> dict[str, set[str]]:
    graph = {}
    for name, path in MODULES.items():
        if name == "unified":
            continue  # the door is entered before every room and imports none of them
        named = list(imports(name, at_import(ast.parse(path.read_text()))))
        graph[name] = {
            m for n in named for m in (n, n.rpartition(".")[0]) if m in MODULES and m not in ("unified", name)
        }
    return graph


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = module_graph()
    assert graph["unified.training.run"] > {"unified.training.trainer", "unified.model.build"}
    assert circle(graph) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_the_packages_list_equals_the_tree() -> None:
    listed = PROJECT["tool"]["setuptools"]["packages"]
    standing = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert sorted(listed) == sorted(standing)
    assert len(set(listed)) == len(listed)
    without = [p for p in (ROOT / f for f in FOLDERS) for p in {q.parent for q in p.rglob("*.py")}]
    assert [str(p) for p in without if not (p / "__init__.py").is_file()] == []


POINTS = [
    (group, name, value)
    for group, points in PROJECT["project"]["entry-points"].items()
    for name, value in points.items()
]


@pytest.mark.parametrize(("group", "name", "value"), POINTS)
def test_every_entry_point_leads_to_a_class(group: str, name: str, value: str) -> None:
    module, _, attribute = value.partition(":")
    cls = getattr(importlib.import_module(module), attribute)
    assert isinstance(cls, type)
    from unified.contracts import protocols

    registry = next(r for r in vars(protocols).values() if isinstance(r, protocols.Registry) and r.group == group)
    assert registry.get(name) is cls


@pytest.mark.parametrize(("name", "value"), PROJECT["project"]["scripts"].items())
def test_every_command_can_be_called(name: str, value: str) -> None:
    module, _, attribute = value.partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))


@pytest.mark.parametrize("name", document.list_configs("models"))
def test_every_model_file_loads(name: str) -> None:
    assert document.load_model_config(name).name == name


@pytest.mark.parametrize("name", document.list_configs("data"))
def test_every_data_file_loads_with_its_recipe(name: str) -> None:
    config, _ = document.load_run_config(model="unified-n", data=name, tasks=("det",))
    assert config.data.datasets


@pytest.mark.parametrize("name", document.list_configs("train"))
def test_every_recipe_loads(name: str) -> None:
    config, _ = document.load_run_config(model="unified-n", data="shapes", tasks=("det", "cls", "emb"), recipe=name)
    assert config.train.batch >= 1


@pytest.mark.parametrize("name", document.list_configs("latents"))
def test_every_latent_block_loads(name: str) -> None:
    rules = document.load_model_config("unified-n", latents=name).latents
    assert bool(rules) == (name != "none")


@pytest.mark.parametrize("name", document.list_configs("studies"))
def test_every_study_loads_and_each_of_its_arms_can_be_built(name: str) -> None:
    from unified.contracts.config import TaskConfig
    from unified.model.build import EXAMPLE_VOCABULARY, assemble
    from unified.study.design import load_study

    study = load_study(name)
    tasks = {task: TaskConfig(task=task) for task in study.tasks}
    for arm in study.all_arms.values():
        rules = arm.latents if isinstance(arm.latents, str) else None
        assemble(document.load_model_config(study.model, latents=rules), tasks, EXAMPLE_VOCABULARY)


def test_every_yaml_file_has_been_read_by_these_tests() -> None:
    kinds = ("models", "data", "train", "latents", "studies")
    names = {f"{kind}/{name}" for kind in kinds for name in document.list_configs(kind)}
    assert {f"{p.parent.name}/{p.stem}" for p in (ROOT / "configs").rglob("*.y*ml")} == names


def test_the_door_is_light() -> None:
    code = (
        "import sys, unified; print(sorted({'torch', 'torchvision', 'numpy', 'pydantic', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_what_the_door_promises_is_there() -> None:
    names = ("load", "import_yolor", "UnifiedModel", "create_model", "list_models", "Prediction", "UnifiedError")
    assert [name for name in names if not callable(getattr(unified, name))] == []
    assert set(names) <= set(dir(unified))
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = unified.lode


def test_there_is_one_version() -> None:
    assert unified.__version__ == PROJECT["project"]["version"] == version(PROJECT["project"]["name"])


def test_every_file_states_its_licence() -> None:
    first = {name: path.read_text().split("\n", 1)[0] for name, path in MODULES.items()}
    assert [name for name, line in first.items() if line != "# SPDX-License-Identifier: Apache-2.0"] == []
