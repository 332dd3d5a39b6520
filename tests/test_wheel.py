"""A wheel alone, without a clone: a blog from nothing, and a post in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package as a wheel puts it down, and an environment that finds this one and not the clone."""
    tmp = tmp_path_factory.mktemp("wheel")
    leave = shutil.ignore_patterns("__pycache__", "posts", "drafts")
    for name in ("nas_nb", "blog"):
        shutil.copytree(ROOT / name, tmp / "source" / name, ignore=leave)
    for name in ("settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp / "source")
    words = ["install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", tmp / "site", tmp / "source"]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    return os.environ | {"PYTHONPATH": str(tmp / "site"), "OMP_NUM_THREADS": "1"}


PROGRAM = """
import os, nas_nb
from nas_nb.publish.cli import main
print(nas_nb.__file__)
codes = [main("post search_report --parameters".split()), main("init ours --empty".split()), main("init ours --empty".split())]
os.chdir("ours")
os.rename("../squares.ipynb", "blog/templates/squares.ipynb")
print(codes, main("post squares -p n 4".split()), main(["site"]))
"""


def test_a_blog_from_a_wheel(installed, tmp_path):
    """One process, as each takes seconds to begin: a shipped template, a blog, a post in it, its pages."""
    tagged = new_code_cell("n: int = 3  # how many", metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell("# Squares\n\n> What are they?"), tagged, new_code_cell("[i * i for i in range(n)]")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "squares.ipynb")
    done = subprocess.run([sys.executable, "-P", "-c", PROGRAM], cwd=tmp_path, env=installed, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and Path(done.stdout.splitlines()[0]).is_relative_to(installed["PYTHONPATH"]), done.stderr
    assert done.stdout.endswith("[0, 0, 2] 0 0\n") and "budget: str" in done.stdout, done.stdout + done.stderr
    blog = tmp_path / "ours"
    assert [p.parent.name[11:] for p in blog.glob("blog/posts/*/page.html")] == ["squares-n-4"]
    assert "Squares" in (blog / "_site" / "posts.html").read_text()
