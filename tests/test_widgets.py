"""Drawings with controls in a real browser: in a page without a kernel, in JupyterLab and in Voila."""

from importlib.util import find_spec
from pathlib import Path

import nbformat
import numpy as np
import pytest
from browser import free_port, needs_browser, open_page, serving
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nas_nb.core import Budget
from nas_nb.data.sources import load_task
from nas_nb.data.task import make_task
from nas_nb.estimate.tables import TableScore, load_digits_cells
from nas_nb.estimate.trial import Trial
from nas_nb.publish.explorer import edit_genotype, explore_cell
from nas_nb.publish.page import external_requests, page_html
from nas_nb.publish.replay import browse, replay
from nas_nb.publish.widgets import CSS, SCRIPT, softmax_toy
from nas_nb.search.loop import History, search
from nas_nb.search.random_search import RandomSearch
from nas_nb.space.genotype import PUBLISHED
from nas_nb.space.spaces import DARTS

ROOT = Path(__file__).resolve().parent.parent


def words(text):
    return " ".join(text.split())


@pytest.fixture(scope="module")
def drawings():
    """One of each kind, on invented weights and small data."""
    rng = np.random.default_rng(0)
    history = History([Trial(PUBLISHED["DARTS_V2"], None, extra={"mixture": rng.dirichlet(np.ones(8), (2, 14)).tolist()}) for _ in range(6)])
    task = load_task("digits").subset(100, seed=0)
    table = load_digits_cells()
    evaluate = TableScore(table, "digits", "valid@12", run=0)
    runs = {"random": [search(RandomSearch(table.space), evaluate, Budget(evaluations=12), seed) for seed in range(2)]}
    measured = make_task("hu", rng.normal(40, 20, (40, 1, 6, 6)).astype("float32"), np.arange(40) % 2, "multiclass", targets=("a", "b"))
    return [softmax_toy(), explore_cell(history, DARTS), edit_genotype(PUBLISHED["DARTS_V2"], DARTS, task, 4, 3),
            replay(runs, table, lambda g: table.value(g, "digits_holdout_e12")), browse(task, each=3), browse(measured, each=2)]


@pytest.fixture(scope="module")
def page_file(drawings, tmp_path_factory):
    """A post page with all of them."""
    cells = [new_markdown_cell("# Drawings")]
    for d in drawings:
        data = {"text/html": d._repr_html_(), "text/plain": repr(d)}
        cells.append(new_code_cell("d", outputs=[new_output("display_data", data=data)]))
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(page_html(new_notebook(cells=cells, metadata={"title": "Drawings", "date": "2026-01-01"})))
    return path


SET = """(fig, state) => { for (const [name, position] of Object.entries(state)) {
  const control = fig.querySelector(`[data-control="${name}"]`);
  control.value = position; control.dispatchEvent(new Event("input", {bubbles: true})); } }"""
PARTS = "fig => [...fig.querySelectorAll('.nas-body [data-part]')].map(e => [e.dataset.part, e.textContent, e.getAttribute('stroke'), e.getAttribute('width')])"


def parts_of(page, html):
    """What the browser itself makes of the drawing as Python writes it."""
    return page.evaluate("html => { const fig = document.createElement('div'); fig.innerHTML = `<div class=nas-body>${html}</div>`; return (" + PARTS + ")(fig) }", html)


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_without_a_kernel_shows_what_python_shows(drawings, page_file, width):
    assert external_requests(page_file.read_text()) == []
    rng = np.random.default_rng(1)
    with open_page(width) as page:
        page.goto(page_file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        for drawing, fig in zip(drawings, page.query_selector_all(".nas-fig"), strict=True):
            for _ in range(4):
                state = {name: int(rng.integers(len(c.options))) for name, c in drawing.controls.items()}
                fig.evaluate(SET, state)
                assert words(fig.query_selector(".nas-text").text_content()) == drawing.text(**state)
                assert fig.evaluate(PARTS) == parts_of(page, drawing.at(**state))
        assert page.outside == [] and page.errors == []


@needs_browser
def test_the_keyboard_reaches_everything(drawings, page_file):
    with open_page() as page:
        page.goto(page_file.as_uri())
        toy, explorer = page.query_selector_all(".nas-fig")[:2]
        toy.query_selector("input").focus()
        page.keyboard.press("ArrowLeft")
        assert words(toy.query_selector(".nas-text").text_content()) == drawings[0].text(temperature=drawings[0].controls["temperature"].start - 1)
        explorer.query_selector("[data-set='edge:5']").focus()
        page.keyboard.press("Enter")
        assert words(explorer.query_selector(".nas-text").text_content()) == drawings[1].text(edge=5)
        explorer.query_selector("[data-play]").click()
        page.wait_for_function("fig => fig.querySelector('input').value == 2", arg=explorer)


@needs_browser
def test_a_window_is_the_same_in_script_and_in_python(drawings, page_file):
    pixels = """async src => { const i = new Image(); i.src = src; await i.decode(); const c = document.createElement('canvas');
      c.width = i.width; c.height = i.height; const p = c.getContext('2d'); p.drawImage(i, 0, 0); return [...p.getImageData(0, 0, i.width, i.height).data]; }"""
    with open_page() as page:
        page.goto(page_file.as_uri())
        fig = page.query_selector_all(".nas-fig")[-1]
        fig.evaluate(SET, {"level": 10, "window": 6})
        python = drawings[-1].at(level=10, window=6).split('src="')[1].split('"')[0]
        shown = page.evaluate(pixels, fig.query_selector("img").get_attribute("src"))
        assert len(set(shown)) > 5 and shown == page.evaluate(pixels, python)


def test_stored_drawings_are_those_of_this_version():
    stored = {}
    for path in (ROOT / "nbs").rglob("*.ipynb"):
        outputs = [o for c in nbformat.read(path, 4).cells for o in c.get("outputs", [])]
        stored[path.stem] = [html for o in outputs if "nas-fig" in (html := o.get("data", {}).get("text/html", ""))]
    assert all(stored[name] for name in ("07_widgets", "08_explorer", "08_replay", "30_apps"))
    old = [name for name, drawn in stored.items() if not all(CSS in html and SCRIPT in html for html in drawn)]
    assert old == [], "run these notebooks again and save them: their drawings are of an earlier version"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """The first drawing of the tutorial, and the explorer's click, as a notebook of their own."""
    source = nbformat.read(ROOT / "nbs" / "tutorials" / "30_apps.ipynb", 4)
    first = next(c for c in source.cells if c.cell_type == "code" and c.source.startswith("softmax_toy"))
    imports = "from nas_nb.publish.widgets import CSS, SCRIPT, softmax_toy"
    nb = new_notebook(cells=[new_code_cell(imports), new_code_cell(first.source)], metadata={"kernelspec": {"name": "python3", "display_name": "python3"}})
    path = tmp_path_factory.mktemp("live") / "toy.ipynb"
    nbformat.write(nb, path)
    return path


def move_the_slider(page):
    """One step of the temperature with the keyboard; the words before and after."""
    text = page.locator(".nas-live .nas-text")
    text.wait_for(timeout=60_000)
    before = words(text.text_content())
    page.locator(".nas-live .noUi-handle").first.focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("before => document.querySelector('.nas-live .nas-text').textContent.trim().split(/\\s+/).join(' ') != before", arg=before)
    return before, words(text.text_content())


def expected():
    toy = softmax_toy()
    return toy.text(), toy.text(temperature=toy.controls["temperature"].start - 1)


RUN = """async () => { const app = window.jupyterapp; const panel = app.shell.currentWidget; await panel.context.ready;
  await panel.sessionContext.ready; await app.commands.execute('notebook:run-all-cells'); }"""


@needs_browser
def test_jupyterlab_moves_the_drawing(notebook):
    port = free_port()
    host = f"http://127.0.0.1:{port}"
    server = ["jupyterlab", "--allow-root", "--no-browser", f"--port={port}", "--ServerApp.port_retries=0", "--ip=127.0.0.1", "--IdentityProvider.token=t",
              "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with serving(server, notebook.parent, f"{host}/api"), open_page(host=host) as page:
        page.goto(f"{host}/lab/tree/toy.ipynb?token=t")
        page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.sessionContext", timeout=60_000)
        page.evaluate(RUN)
        assert move_the_slider(page) == expected()
        assert page.outside == [] and page.errors == []


@needs_browser
@pytest.mark.skipif(find_spec("voila") is None, reason="voila is not installed: pip install 'nas_nb[apps]'")
def test_voila_serves_the_drawing(notebook):
    port = free_port()
    host = f"http://127.0.0.1:{port}"
    fonts = "fortawesome"  # icons that voila's own template asks for; the drawings have none
    others = ("net::ERR_FAILED", "/voila/labextensions/")  # these icons, and extensions of JupyterLab that voila cannot load
    with serving(["voila", "toy.ipynb", "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"], notebook.parent, f"{host}/static/none"), open_page(host=host) as page:
        page.goto(host)
        assert move_the_slider(page) == expected()
        assert [url for url in page.outside if fonts not in url] == []
        assert [e for e in page.errors if not any(o in e for o in others)] == []
