"""A batch that is killed and goes on, a second one at once, the same on a Dask cluster, and a post that stays failed."""

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
COMPARE = """import json
from pathlib import Path
rows = json.loads((Path(batch) / "states.json").read_text())
display({"application/vnd.nas-nb.result+json": {"states": {r["post"]: r["state"] for r in rows}}, "text/plain": "record"}, raw=True)"""
DRAWS = """- template: draw
  grid: {seed: [1, 2, 3]}
"""
BROKEN = """- template: draw
  parameters: {broken: true}
"""
PROGRAM = "import sys; from nas_nb.publish.cli import main; sys.exit(main())"


def make_project(root, plan):
    """A project with a template of its own, and its own, small comparison."""
    (root / "blog" / "templates").mkdir(parents=True)
    for name, parameters, work in (("draw", PARAMETERS, WORK), ("comparison", 'batch: str = ""', COMPARE)):
        cells = [new_markdown_cell(f"# {name}"), new_code_cell(parameters, metadata={"tags": ["parameters"]}), new_code_cell(work)]
        nbformat.write(new_notebook(cells=cells), root / "blog" / "templates" / f"{name}.ipynb")
    (root / "night.yaml").write_text(plan)
    return root


def record(batch, row):
    return json.loads((batch.project / row["page"]).with_name("results.json").read_text())


def told(batch):
    """What each finished post records, without the facts that differ from run to run."""
    records = {row["post"]: record(batch, row) for row in batch.states() if row["state"] == "done" and row["post"].startswith("draw")}
    return {k: (r["metric"], r["table"], r["post"]["parameters"]) for k, r in records.items()}


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A batch that was killed after its first post, and what it had told by then."""
    root = make_project(tmp_path_factory.mktemp("killed"), DRAWS + BROKEN)
    batch = Batch(root / "night.yaml", project=root)
    words = [sys.executable, "-c", PROGRAM, "batch", "night.yaml", "-n", "2"]
    with subprocess.Popen(words, cwd=root, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        lines = iter(process.stderr.readline, "")
        assert next(line for line in lines if "starts" in line)
        with pytest.raises(InputError, match="already running: wait"):
            batch.work()
        assert next(line for line in lines if line.split()[1] == "done")
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    return batch


def test_killed_and_resumed_gives_what_an_undisturbed_batch_on_dask_gives(night, tmp_path):
    distributed = pytest.importorskip("distributed")
    before = told(night)
    assert 1 <= len(before) < 3 and "running" not in [row["state"] for row in night.states()]
    pages = {p: p.stat().st_mtime_ns for p in night.project.glob("blog/posts/*/page.html")}
    rows = night.work(n=2)
    assert [row["state"] for row in rows] == ["done", "done", "done", "failed", "done"]
    finished = [p for p in pages if any(p.parent.name.endswith(slug) for slug in before)]
    assert finished and all(p.stat().st_mtime_ns == pages[p] for p in finished)

    root = make_project(tmp_path, f"{DRAWS}- comparison: false\n")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster:
        whole = Batch(root / "night.yaml", f"dask:{cluster.scheduler_address}", root)
        assert [row["state"] for row in whole.work(n=2)] == ["done", "done", "done"]
    assert len(told(whole)) == 3 and told(night) == told(whole)
    assert not list(root.glob("blog/posts/*comparison*"))


def test_a_failed_post_is_tried_again_when_asked_and_the_comparison_follows(night):
    rows = night.states()
    assert night.work() == rows and "not mended" in rows[3]["said"]
    assert record(night, rows[4])["states"] == {row["post"]: row["state"] for row in rows[:4]}
    (night.project / "mended").touch()
    after = night.work(retry=1)
    assert after[3]["state"] == "done" and after[3]["attempts"] == rows[3]["attempts"] + 1
    assert record(night, after[4])["states"] == {row["post"]: "done" for row in rows[:4]}
    assert len(list(night.project.glob("blog/posts/*comparison-batch-night"))) == 1
