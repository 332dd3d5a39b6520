"""What gathers posts: a comparison and a week, on this project's own posts and on damaged ones."""

import json
import shutil
from datetime import date
from pathlib import Path

import pytest

from nas_nb.publish.cli import main
from nas_nb.publish.page import external_requests
from nas_nb.publish.post import read_results, verify_post
from nas_nb.publish.provenance import git

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def team(tmp_path_factory):
    """A team's project: real posts, one of them a second time with another budget, a damaged one, and a batch that names them."""
    root = tmp_path_factory.mktemp("team")
    (root / "settings.ini").write_text("[DEFAULT]\nauthor = A. Student\n")
    posts = root / "blog" / "posts"
    real = [next((ROOT / "blog" / "posts").glob(f"*-search-report-{name}-quick")) for name in ("digits", "graphene")]
    for folder in real:
        shutil.copytree(folder, posts / folder.name, ignore=shutil.ignore_patterns("page.html"))
    names = [folder.name for folder in real]
    told = read_results(posts / names[0])
    told["post"]["parameters"]["budget"] = told["records"]["budget"] = "toy"
    for name, text in (("2026-01-02-search-report-digits-toy", json.dumps(told)), ("2026-01-03-cut", '{"title"'), (".half.tmp", '{"title"')):
        (posts / name).mkdir()
        (posts / name / "results.json").write_text(text)
    done = [*names, "2026-01-02-search-report-digits-toy", "2026-01-03-cut"]
    rows = [{"post": n[11:], "state": "done", "page": f"blog/posts/{n}/page.html", "said": ""} for n in done]
    rows += [{"post": "search-report-lost", "state": "failed", "page": "", "said": "nas-nb: killed by signal 9 after: epoch 3"}]
    (root / "data" / "runs" / "batches" / "night").mkdir(parents=True)
    (root / "data" / "runs" / "batches" / "night" / "states.json").write_text(json.dumps(rows))
    return root


def test_a_comparison_of_real_posts(team, monkeypatch, capsys):
    monkeypatch.chdir(team)
    assert main(["post", "comparison", "-p", "batch", "data/runs/batches/night"]) == 0
    page = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert page.parent.name == f"{date.today()}-comparison-batch-night" and verify_post(page) == []
    told, text = read_results(page.parent), page.read_text()
    assert len(told["compared"]) == 3 and set(told["failed"]) == {"search-report-lost", "2026-01-03-cut"}
    assert "killed by signal 9" in text and "is damaged" in text and "different budgets" in text
    assert "accuracy" in text and "R2" in text and "only from 3 data sets on" in text
    assert set(told["verdict"]) == {"digits (quick)", "graphene (quick)", "digits (toy)"} and all("beat" in said for said in told["verdict"].values())
    assert external_requests(text) == [] and f'href="../{told["compared"][0]}/page.html"' in text
    assert main(["post", "comparison", "-p", "posts", "2026-01-03-cut"]) == 2


def test_a_week_is_drafted_and_published_when_words_stand_in_it(team, monkeypatch, capsys):
    monkeypatch.chdir(team)
    shutil.rmtree(team / "blog" / "posts" / "2026-01-03-cut")
    note = {"date": "2026-01-04", "post": "lost", "command": "nas-nb post lost", "said": "cell 2/3: no memory", "seconds": 12.0}
    (team / "blog" / "drafts" / "lost").mkdir(parents=True)
    (team / "blog" / "drafts" / "lost" / "log.txt").write_text("cell 2/3")
    (team / "blog" / "drafts" / "lost" / "failed.json").write_text(json.dumps(note))
    words = ["weekly", "--since", "2026-01-01", "--until", "2026-01-07"]
    assert main(words) == 0
    text = (team / capsys.readouterr().out.strip().splitlines()[-1]).read_text()
    assert "1 post, 1 failed run" in text and "no memory" in text and "not in a git repository" in text
    assert 'href="../../posts/2026-01-02-search-report-digits-toy/page.html"' in text and external_requests(text) == []
    draft = team / "blog" / "drafts" / "weekly-2026-01-01.ipynb"
    assert main(["post", str(draft)]) == 2 and "waits for your words in 4 places" in capsys.readouterr().err
    assert not list(team.glob("blog/posts/*weekly*"))

    draft.write_text(draft.read_text().replace("> **Your words:**", "We learned:"))
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2026-01-05T12:00")
    for git_words in (["init", "-q"], ["add", "settings.ini"], ["-c", "user.name=Ada", "-c", "user.email=a@b.org", "commit", "-qm", "A first search"]):
        git(team, *git_words)
    assert main(["post", str(draft)]) == 0
    (post,) = team.glob("blog/posts/*weekly-2026-01-01")
    text = (post / "page.html").read_text()
    assert "We learned: " in text and "A first search" in text and "Your words" not in text and verify_post(post) == []
