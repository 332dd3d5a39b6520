"""The floors of the house: which module may import which, read from the exported code."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {"core": 0, "run": 0, "plot": 0, "data": 1, "space": 2, "nets": 3, "train": 4, "estimate": 5, "search": 6, "judge": 7, "publish": 8}
JUPYTER = {"papermill", "nbconvert", "nbformat", "nbclient", "jupyter_client", "jupyter_core", "jupyter_server", "jupyterlab", "nbdev", "sphinx"}
LAZY = ["graphviz", "seaborn", "papermill", "pooch", "tqdm"]


def order_of(root):
    """Each module's place: its floor, then the number of its notebook."""
    found = {}
    for path in (root / "nbs").rglob("*.ipynb"):
        number, _, name = path.stem.partition("_")
        if number.isdigit() and path.parent.name in {*FLOORS, "nbs"}:
            room = path.parent.name if path.parent.name != "nbs" else ""
            found[f"{room}.{name}".strip(".")] = (FLOORS[room or name], int(number))
    return found


def imports_of(module, source):
    """Full names of everything a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ["nas_nb", *module.split(".")][: -node.level] if node.level else []
            name = ".".join([*base, *filter(None, [node.module])])
            yield from [name] if node.module else (f"{name}.{a.name}" for a in node.names)


def violations(sources, order):
    """One sentence for each import, or call of `open_test`, that the floors forbid."""
    found = []
    for module, source in sources.items():
        room = module.split(".")[0]
        for name in imports_of(module, source):
            top = name.split(".")[0]
            if top == "nas_nb":
                other = name.removeprefix("nas_nb.")
                if other not in order:
                    found.append(f"{module} imports {name}, which no notebook makes")
                elif order[other] >= order[module]:
                    found.append(f"{module} imports {other}, which is not below it")
                elif room == "space" and other.split(".")[0] not in ("core", "plot", "space"):
                    found.append(f"{module} imports {other}: space stands on core and plot only")
            if room == "space" and top.startswith("torch"):
                found.append(f"{module} imports {name}: space has no torch")
            if top in JUPYTER and room != "publish":
                found.append(f"{module} imports {name}: only publish knows Jupyter")
        calls = [n.func.attr for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
        if "open_test" in calls and room != "judge":
            found.append(f"{module} calls open_test: only judge may")
    return found


def exported():
    paths = [p for p in (ROOT / "nas_nb").rglob("*.py") if not p.name.startswith("_")]
    return {".".join(p.relative_to(ROOT / "nas_nb").with_suffix("").parts): p.read_text() for p in paths}


def test_every_module_stands_on_its_floor():
    assert set(exported()) == set(order_of(ROOT))
    assert violations(exported(), order_of(ROOT)) == []


ORDER = {"core": (0, 0), "plot": (0, 2), "data.task": (1, 0), "data.own": (1, 6), "space.draw": (2, 2), "search.loop": (6, 0), "judge.study": (7, 1), "publish.post": (8, 0)}


@pytest.mark.parametrize(("module", "source", "said"), [
    ("core", "from .data.task import Task", "not below"),
    ("data.task", "def f():\n    from nas_nb.data.own import load_npz", "not below"),
    ("data.task", "from .own import load_npz", "not below"),
    ("data.own", "from ..search.loop import search", "not below"),
    ("space.draw", "from ..data.task import Task", "core and plot only"),
    ("space.draw", "import torch.nn", "no torch"),
    ("search.loop", "import papermill", "only publish"),
    ("search.loop", "task.open_test()", "only judge"),
    ("judge.study", "from nas_nb.absent import x", "no notebook"),
])
def test_a_broken_rule_is_noticed(module, source, said):
    assert said in " ".join(violations({module: source}, ORDER))


@pytest.mark.parametrize(("module", "source"), [
    ("judge.study", "task.open_test()"),
    ("data.own", "from .task import make_task\nfrom ..core import InputError"),
    ("publish.post", "import papermill\nfrom ..core import InputError"),
    ("space.draw", "from ..plot import figure"),
])
def test_what_is_allowed_is_not_noticed(module, source):
    assert violations({module: source}, ORDER) == []


def test_learning_needs_no_drawing_or_download_programs():
    """Networks, training and search import where graphviz, seaborn, papermill, pooch and tqdm are not installed."""
    modules = [f"nas_nb.{m}" for m in exported() if re.match(r"(nets|train|search)\b", m)]
    assert modules
    block = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in LAZY)
    done = subprocess.run([sys.executable, "-c", block + f"import {', '.join(modules)}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    probe = subprocess.run([sys.executable, "-c", block + "import papermill"], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in probe.stderr
