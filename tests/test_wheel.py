"""A wheel alone, without a clone: a blog from nothing, and a post in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def nas_nb(env, folder, *words):
    program = "import sys; from nas_nb.publish.cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-P", "-c", program, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_a_blog_from_a_wheel(installed, tmp_path):
    listed = nas_nb(installed, tmp_path, "post", "search_report", "--parameters")
    assert "budget: str" in listed.stdout, listed.stderr
    begun = nas_nb(installed, tmp_path, "init", "ours")
    assert begun.returncode == 0, begun.stderr
    blog = tmp_path / "ours"
    assert [p.parent.name[11:] for p in blog.glob("blog/posts/*/page.html")] == ["eda-report-digits"]
    assert nas_nb(installed, tmp_path, "init", "ours").returncode == 2
    built = nas_nb(installed, blog, "site")
    assert built.returncode == 0, built.stderr
    assert "what is in the data?" in (blog / "_site" / "posts.html").read_text()
