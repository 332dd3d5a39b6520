"""A template that runs in a second, and a project around it."""

import sys
from types import SimpleNamespace

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from nas_nb.core import InputError

PARAMETERS = '''dataset: str = "digits"  # a name or a path
budget: str = "toy"  # toy or quick
seeds: int = 3  # how many
fail: str = ""  # how the run should end
runs: str = "data/runs"  # where runs are kept'''
WORK = """import os, sys, time, warnings
from pathlib import Path
from IPython.display import SVG, display
from nas_nb.core import InputError
warnings.warn("a warning nobody should read")
print("epoch 1/2", file=sys.stderr)
print("here", Path.cwd(), "home", Path.home(), "given", dataset, "python", sys.prefix, "planted", os.environ.get("PLANTED_TOKEN"))
if fail == "error": raise ValueError("the loss is not finite")
if fail == "input": raise InputError("data set 'x' has one class: give two or more")
if fail == "wait": time.sleep(60)
if fail == "pause":
    time.sleep(5)
    print("after the pause")
if fail == "chatter":
    for i in range(50):
        print(i, flush=True)
        time.sleep(0.1)
if fail == "kernel": os._exit(1)"""
RECORD = """Path(runs).mkdir(parents=True, exist_ok=True)
(Path(runs) / "history.jsonl").write_text("{}")
record = {"title": f"Means on {Path(dataset).stem}", "verify": "nas_nb.toy:rederive", "raw": list(range(seeds)),
          "table": [{"method": "mean", "value": sum(range(seeds)) / seeds}], "folder": str(Path.cwd() / runs), "planted": os.environ.get("PLANTED_TOKEN", "")}
display({"application/vnd.nas-nb.result+json": record, "text/plain": "record"}, raw=True)
SVG('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 40" width="900" height="40"><text y="20">cell</text></svg>')"""


def check(values):
    if values["budget"] not in ("toy", "quick"):
        raise InputError(f"unknown budget {values['budget']!r}: choose one of toy, quick")


def rederive(records):
    return {"table": [{"method": "mean", "value": sum(records["raw"]) / len(records["raw"])}]}


def make_project(root):
    """A project with the template `means`, whose check and table function are registered in this process."""
    sys.modules["nas_nb.toy"] = SimpleNamespace(check=check, rederive=rederive)
    cells = [
        new_markdown_cell("# Means"),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_markdown_cell("## Work\n\nThe loss is $L(w)$.\n\n$$\\sum_k w_k = 1$$"),
        new_code_cell(WORK),
        new_markdown_cell("## Result"),
        new_code_cell(RECORD),
        new_code_cell(""),
    ]
    templates = root / "blog" / "templates"
    templates.mkdir(parents=True)
    (root / "settings.ini").write_text("[DEFAULT]\nlib_name = toy\nversion = 0.0.1\nauthor = somebody\n")
    nbformat.write(new_notebook(cells=cells, metadata={"nas_nb": {"check": "nas_nb.toy:check"}}), templates / "means.ipynb")
    return root


def tree(root):
    """Every file below a folder with its content, to see that nothing changed."""
    return {p.relative_to(root).as_posix(): p.read_bytes() if p.is_file() else None for p in root.rglob("*")}
