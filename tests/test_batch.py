"""A batch that is killed and goes on, a second one at once, and a post that stays failed."""

import json
import os
import signal
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from nas_nb.core import InputError
from nas_nb.publish.batch import Batch

PARAMETERS = """seed: int = 0  # of the draw
broken: bool = False  # fails until a file named mended is there"""
WORK = """import random
from pathlib import Path
if broken and not Path("mended").exists(): raise ValueError("not mended")
table = [{"method": "draw", "test value": random.Random(seed).random(), "seconds": 0.1}]
display({"application/vnd.nas-nb.result+json": {"metric": "value", "table": table}, "text/plain": "record"}, raw=True)"""
PLAN = """- template: draw
  grid: {seed: [1, 2, 3]}
- template: draw
  parameters: {broken: true}
"""
PROGRAM = "import sys; from nas_nb.publish.cli import main; sys.exit(main())"


def make_batch(root):
    (root / "blog" / "templates").mkdir(parents=True)
    cells = [new_markdown_cell("# Draw"), new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(WORK)]
    nbformat.write(new_notebook(cells=cells), root / "blog" / "templates" / "draw.ipynb")
    (root / "night.yaml").write_text(PLAN)
    return Batch(root / "night.yaml", project=root)


def told(batch):
    """What each finished post records, without the facts that differ from run to run."""
    posts = {row["post"]: row["page"] for row in batch.states() if row["state"] == "done"}
    records = {k: json.loads((batch.project / page).with_name("results.json").read_text()) for k, page in posts.items()}
    return {k: (r["metric"], r["table"], r["post"]["parameters"]) for k, r in records.items()}


def test_killed_and_resumed_gives_what_an_undisturbed_batch_gives(tmp_path):
    killed, whole = (make_batch(tmp_path / name) for name in ("killed", "whole"))
    words = [sys.executable, "-c", PROGRAM, "batch", "night.yaml", "-n", "2"]
    with subprocess.Popen(words, cwd=killed.project, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        lines = iter(process.stderr.readline, "")
        assert next(line for line in lines if "starts" in line)
        with pytest.raises(InputError, match=f"already running .process {process.pid}.: wait"):
            killed.work()
        assert next(line for line in lines if line.split()[1] == "done")
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    before = told(killed)
    assert 1 <= len(before) < 3 and "running" not in [row["state"] for row in killed.states()]
    pages = {p: p.stat().st_mtime_ns for p in killed.project.glob("blog/posts/*/page.html")}

    rows = killed.work(n=2)
    assert [row["state"] for row in rows] == ["done", "done", "done", "failed"]
    assert [row["state"] for row in whole.work(n=2)] == ["done", "done", "done", "failed"]
    assert len(told(whole)) == 3 and told(killed) == told(whole)
    finished = [p for p in pages if any(p.parent.name.endswith(slug) for slug in before)]
    assert finished and all(p.stat().st_mtime_ns == pages[p] for p in finished)

    assert killed.work() == rows and "not mended" in rows[-1]["said"]
    (killed.project / "mended").touch()
    after = killed.work(retry=1)
    assert after[-1]["state"] == "done" and after[-1]["attempts"] == rows[-1]["attempts"] + 1
