"""One fact stands in one place, and what is generated is what its source says."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from nas_nb.publish.site import read_template, readme

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = configparser.ConfigParser(delimiters=["="])
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")
FACTS = SETTINGS["DEFAULT"]
BIN = Path(sys.executable).parent


def lines(key):
    return [line for line in FACTS[key].splitlines() if line]


def plain(requirement):
    return re.sub(r"[\s_.-]+", "-", requirement.split(";")[0].strip()).lower().replace("-", "")


def test_the_installed_package_has_the_facts_of_settings_ini():
    installed = metadata.distribution("nas_nb")
    assert installed.version == FACTS["version"]
    assert installed.metadata["Summary"] == FACTS["description"]
    assert installed.metadata["Requires-Python"] == f">={FACTS['min_python']}"
    required = [r for r in installed.requires if "extra ==" not in r]
    sort = lambda rs: sorted(",".join(sorted(re.split(r"(?=[<>])|,", plain(r)))) for r in rs)
    assert sort(required) == sort(lines("requirements"))
    extras = {r.split("extra == ")[1].strip("\"'") for r in installed.requires if "extra ==" in r}
    assert extras == {key.removesuffix("_requirements") for key in FACTS if key.endswith("_requirements")}
    scripts = {e.name: e.value for e in installed.entry_points if e.group == "console_scripts"}
    assert scripts == dict([FACTS["console_scripts"].split(" = ")])
    assert (ROOT / "LICENSE").read_text().split()[:2] == ["Apache", "License"] and FACTS["license"] == "Apache-2.0"


CONDA = {"torch": "pytorch-gpu", "matplotlib": "matplotlib-base", "graphviz": "python-graphviz"}
BY_PIP = {"nbdev", "fastcore", "graphviz-pure"}


def test_the_conda_environment_agrees():
    env = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert env["channels"] == ["conda-forge", "nodefaults"]
    specs = dict(re.fullmatch(r"([\w-]+) ?(.*)", s).groups() for s in env["dependencies"] if isinstance(s, str))
    assert [s for s in env["dependencies"] if isinstance(s, dict)] == [{"pip": ["-e ."]}]
    assert {"pytorch-gpu", "cuda-version", "jupyterhub-singleuser", "pip"} <= set(specs)
    assert not {"pytorch", "pytorch-cuda", "cudatoolkit"} & set(specs)
    for requirement in lines("requirements"):
        name, bounds = re.fullmatch(r"([\w-]+)(.*)", requirement).groups()
        assert name in BY_PIP or specs[CONDA.get(name, name)] == bounds, requirement
    assert specs["python"].startswith(f">={FACTS['min_python']}")


def test_the_readme_is_the_notebook_index():
    assert (ROOT / "README.md").read_text() == readme(read_template(ROOT / "nbs" / "index.ipynb"))


def test_commands_of_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"post", "test", "lab", "site", "bench", "help"} <= targets
    assert set(re.findall(r"`?make ([a-z]+)", text)) <= targets
    assert f"Version {FACTS['version']}" in text and f"## {FACTS['version']}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of what nbdev reads and writes."""
    root = tmp_path_factory.mktemp("copy")
    for name in ("settings.ini", "pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / name, root)
    for name in ("nbs", "nas_nb"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    return root


def files(root, suffix):
    return {p.relative_to(root).as_posix(): p.read_text() for p in root.rglob(f"*{suffix}")}


@pytest.mark.parametrize(("command", "folder", "suffix"), [("nbdev-export", "nas_nb", ".py"), ("nbdev-clean", "nbs", ".ipynb")])
def test_nbdev_leaves_no_difference(copy, command, folder, suffix):
    before = files(copy / folder, suffix)
    env = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run([BIN / command], cwd=copy, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    after = files(copy / folder, suffix)
    assert sorted(before) == sorted(after)
    assert [name for name in before if before[name] != after[name]] == []


def test_the_package_holds_all_of_its_rooms():
    rooms = {p.parent for p in (ROOT / "nas_nb").rglob("*.py")}
    assert [str(r.relative_to(ROOT)) for r in rooms if not (r / "__init__.py").is_file()] == []


make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed: apt install make")


@make
def test_make_help_is_the_default_and_names_everything():
    said = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"post", "test", "lab", "site", "bench"} == set(re.findall(r"^make (\w+)", said, re.MULTILINE))


@make
def test_make_says_what_an_environment_lacks(tmp_path):
    """An active environment without the package, a Python that is too old, and one that cannot make environments."""
    for name in ("Makefile", "settings.ini", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\ncase "$*" in *version_info*) exit ${OLD:-0};; *) exit 1;; esac\n')
    python.chmod(0o755)

    def refusal(*words, **env):
        done = subprocess.run(["make", "post", f"PYTHON={python}", *words], cwd=tmp_path, env=os.environ | env, capture_output=True, text=True, check=False)
        assert done.returncode != 0 and not (tmp_path / ".venv").exists()
        return done.stderr.splitlines()[0]

    assert "pip install -e '.[site,dev,kernels,accelerate,ct,arrays,bayes,apps,export]'" in refusal("VENV=")
    assert "needs Python 3.10 or newer" in refusal(OLD="1")
    assert "apt install python3-venv" in refusal()


def test_ci_runs_the_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    assert script.rstrip().endswith("\nmake test") and "set -euo pipefail" in script
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=False).returncode == 0
