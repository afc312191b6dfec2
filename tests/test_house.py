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
    "unified.boxes": 2,
    "unified.hardware": 2,
    "unified.distributed": 2,
    "unified.model": 3,
    "unified.data": 3,
    "unified.checkpoint": 4,
    "unified.trained": 4,
    "unified.training": 5,
    "unified.inference": 5,
    "unified.official": 5,
    "unified.cli": 6,
}
NEIGHBOURS = (("unified.data", "unified.model"), ("unified.model", "unified.data"))  # one floor, separate rooms
NEIGHBOURS += (("unified.inference", "unified.training"), ("unified.boxes", "unified.hardware"))
CODE_IN_DATA = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


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


def danger(name: str, tree: ast.AST) -> list[str]:
    """Ways by which data or words could become code."""
    wrong = [f"{name} imports {found}" for found in imports(name, tree) if found.split(".")[0] in CODE_IN_DATA]
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        called = ast.unparse(call.func)
        said = {word.arg: ast.unparse(word.value) for word in call.keywords}
        bad = called in ("eval", "exec", "compile", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load")
        bad |= said.get("shell", "False") != "False" or said.get("allow_pickle", "False") != "False"
        bad |= said.get("weights_only", "True") != "True" or (called == "torch.load" and "weights_only" not in said)
        if bad:
            wrong.append(f"{name}:{call.lineno} calls {called}")
    return wrong


Guard = Callable[[str, ast.AST], list[str]]
GUARDS: list[Guard] = [wall, absolute_siblings, bare, floors, danger]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_the_house_is_in_order(guard: Guard) -> None:
    assert len(MODULES) > 80
    assert [line for name, path in MODULES.items() for line in guard(name, ast.parse(path.read_text()))] == []


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


def test_every_yaml_file_has_been_read_by_these_tests() -> None:
    kinds = ("models", "data", "train", "latents")
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
