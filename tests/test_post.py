"""Runs that end badly, paths of the machine, and a page in a real browser."""

import json
import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from browser import needs_browser, open_page
from toy import make_project, tree

from nas_nb.core import InputError, RunFailed
from nas_nb.publish import page as page_module
from nas_nb.publish import post
from nas_nb.publish.page import external_requests, page_html
from nas_nb.publish.post import execute, plan_post, publish, publish_post, verify_post
from nas_nb.space.draw import draw_genotype, graphviz_program
from nas_nb.space.spaces import DARTS

SECRET = "correct horse & battery"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A post on a reader's own file, made from another folder than the project."""
    root = make_project(tmp_path_factory.mktemp("house").resolve())
    elsewhere = tmp_path_factory.mktemp("elsewhere").resolve()
    (elsewhere / "my_leaves.npz").write_bytes(b"")
    before = os.getcwd()
    os.chdir(elsewhere)
    os.environ["PLANTED_TOKEN"] = SECRET
    try:
        return root, elsewhere, publish_post("means", {"dataset": "my_leaves.npz", "seeds": "5"}, project=root)
    finally:
        os.chdir(before)
        del os.environ["PLANTED_TOKEN"]


def test_a_post_is_three_files_and_a_run(published):
    root, _, page = published
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-means-my-leaves-toy-seeds-5", page.parent.name)
    assert sorted(p.name for p in page.parent.iterdir()) == ["index.ipynb", "page.html", "results.json", "thumbnail.svg"]
    assert (root / "data" / "runs" / "history.jsonl").is_file()
    records = json.loads((page.parent / "results.json").read_text())
    assert records["table"] == [{"method": "mean", "value": 2.0}]
    assert records["post"]["parameters"]["dataset"] == "my_leaves.npz"
    assert records["post"]["command"] == "nas-nb post means -p dataset my_leaves.npz -p seeds 5"
    assert verify_post(page, root) == []


def test_no_secret_path_or_warning_of_the_machine_is_published(published):
    root, elsewhere, page = published
    for name in ("index.ipynb", "results.json", "page.html"):
        text = (page.parent / name).read_text()
        assert "planted" in text and "[removed]" in text, f"{name} does not show that something was taken out"
    for file in page.parent.iterdir():
        text = file.read_text()
        for secret in (SECRET, SECRET.replace("&", "&amp;"), "UserWarning", str(root), str(elsewhere), os.path.expanduser("~") + "/"):
            assert secret not in text, f"{file.name} holds {secret}"
        shown = "".join(re.findall(r'"text": \[.*?\]', text, re.DOTALL)) if file.suffix == ".ipynb" else ""
        assert "epoch 1/2" not in shown
    outputs = [o for c in nbformat.read(page.parent / "index.ipynb", 4).cells for o in c.get("outputs", [])]
    assert [o.get("name", "data") for o in outputs] == ["stdout", "data"]
    assert "given my_leaves.npz" in outputs[0].text


def test_front_matter_and_folded_parameters(published):
    nb = nbformat.read(published[2].parent / "index.ipynb", 4)
    assert nb.metadata.title == "Means on my_leaves" and nb.metadata.blogpost is True
    assert nb.metadata.tags == "means, my_leaves, toy"
    assert nb.cells[0].source == "# Means on my_leaves"
    assert "papermill" not in json.dumps(nb)
    assert [c for c in nb.cells if c.cell_type == "code" and "hide-input" not in c.metadata.tags] == []
    assert '<details class="code"><summary>Parameters of this post</summary>' in published[2].read_text()


@pytest.mark.parametrize(("how", "said"), [
    ("error", "ValueError: the loss is not finite"),
    ("input", "(Work): data set 'x' has one class"),
    ("kernel", "cell 3/4 (Work): the kernel died (too little memory is the usual cause)"),
])
def test_a_failed_run_is_a_draft_and_no_post(tmp_path, how, said):
    root = make_project(tmp_path)
    earlier = root / "blog" / "posts" / "2020-01-01-means-digits-toy"
    earlier.mkdir(parents=True)
    (earlier / "page.html").write_text("earlier")
    with pytest.raises(RunFailed, match=re.escape(said)) as caught:
        publish_post("means", {"fail": how}, project=root)
    assert "\n" not in str(caught.value)
    assert tree(root / "blog" / "posts")["2020-01-01-means-digits-toy/page.html"] == b"earlier"
    assert len(list((root / "blog" / "posts").iterdir())) == 1
    draft = nbformat.read(root / "blog" / "drafts" / f"means-digits-toy-fail-{how}" / "index.ipynb", 4)
    assert any(c.get("execution_count") for c in draft.cells)


def test_a_full_disk_while_publishing_leaves_the_earlier_post(tmp_path, monkeypatch):
    root = make_project(tmp_path)
    plan = plan_post("means", project=root)
    ran = execute(plan)
    first = publish(plan, ran, "2025-01-31")
    before = {k: v for k, v in tree(root / "blog" / "posts").items() if ".tmp" not in k}

    def full(path, data):
        raise InputError(f"cannot write {path}: No space left on device; free space or name another folder")

    with monkeypatch.context() as m, pytest.raises(InputError, match="No space left"):
        m.setattr(post, "write_atomic", full)
        publish(plan, ran, "2025-02-01")
    assert {k: v for k, v in tree(root / "blog" / "posts").items() if ".tmp" not in k} == before
    second = publish(plan, ran, "2025-02-01")
    assert second.is_file() and not first.exists()


def test_a_folder_below_the_project_is_found_by_its_bare_name(tmp_path, monkeypatch):
    root = make_project(tmp_path / "project")
    (root / "notes" / "cells").mkdir(parents=True)
    (root / "notes" / "digits").mkdir()
    monkeypatch.chdir(root / "notes")
    assert plan_post("means", {"dataset": "cells"}).values["dataset"] == str(root / "notes" / "cells")
    assert plan_post("means", {"dataset": "digits"}).values["dataset"] == "digits"


def test_a_post_names_no_code_to_run(published, tmp_path):
    records = json.loads((published[2].parent / "results.json").read_text())
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(records | {"verify": "os:system"}))
    with pytest.raises(InputError, match="is not run"):
        verify_post(folder)


def test_without_the_system_s_graphviz_a_post_draws_with_the_package(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Path(graphviz_program()).name == "graphviz-pure"
    svg = draw_genotype(DARTS.sample(np.random.default_rng(0))).svg
    assert svg.startswith("<svg") and svg.count("<svg") == 3


def test_without_the_site_s_packages_a_page_keeps_its_formulas_as_tex(published, monkeypatch, capfd):
    monkeypatch.setattr(page_module, "mathjax", lambda: None)
    page = page_html(nbformat.read(published[2].parent / "index.ipynb", 4))
    assert "L(w)" in page and "MathJax" not in page
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "pip install sphinx-mathjax-offline" in said


def test_hostile_outputs_fetch_nothing():
    html = '<img src="https://example.org/a.png"><script src="//example.org/b.js"></script>'
    out = nbformat.v4.new_output("display_data", {"text/html": html})
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[out])])
    page = page_html(nb)
    assert len(external_requests(page)) == 2
    assert page.index("Content-Security-Policy") < page.index("example.org")


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_the_page_in_a_browser(published, width, scheme):
    with open_page(width, scheme) as page:
        page.goto(published[2].as_uri())
        page.wait_for_selector("mjx-container svg")
        assert page.outside == [] and page.errors == []
        assert page.locator("h1").inner_text() == "Means on my_leaves"
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert not page.locator("details.code pre").first.is_visible()
        page.locator("details.code summary").first.click()
        assert page.locator("details.code pre").first.is_visible()
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


@needs_browser
def test_the_content_policy_blocks_what_a_template_displayed(tmp_path):
    out = nbformat.v4.new_output("display_data", {"text/html": '<img src="https://example.org/a.png">'})
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[out])])
    (tmp_path / "page.html").write_text(page_html(nb))
    with open_page() as page:
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_timeout(300)
        assert page.outside == []
        assert any("Content Security Policy" in e for e in page.errors)


def test_settings_decide_who_signs_or_say_what_is_wrong_with_them(tmp_path):
    root = make_project(tmp_path.resolve())
    plan = plan_post("means", project=root)
    (root / "settings.ini").write_text("[DEFAULT]\nauthor = 100 % Ada\n")
    assert post.author_of(plan) == "100 % Ada"
    for damage in (b"author = nobody\n", "[DEFAULT]\nauthor = J\u00fcrgen\n".encode("latin-1")):
        (root / "settings.ini").write_bytes(damage)
        with pytest.raises(InputError, match=r"settings.ini cannot be read .*--author"):
            execute(plan)
        assert not plan.drafts.exists()
    assert post.author_of(plan_post("means", project=root, author="Ada")) == "Ada"


@pytest.mark.parametrize("text", ["{", "[]"])
def test_damaged_records_are_named(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError, match=r"results.json is damaged .*publish the post again"):
        verify_post(tmp_path)
