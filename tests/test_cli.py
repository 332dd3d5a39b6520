"""The command line from outside: exit codes, one sentence, nothing written."""

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path

import numpy as np
import pytest
from toy import make_project, tree

from nas_nb.publish import cli
from nas_nb.publish.post import alone, plan_post

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = Path(sys.executable).with_name("nas-nb")


@pytest.fixture
def project(tmp_path, monkeypatch):
    root = make_project(tmp_path / "house")
    monkeypatch.chdir(root)
    (root / "a_file").write_text("")
    return root


REFUSED = {
    "no such template": (["post", "meens"], "did you mean 'means'"),
    "no such file": (["post", "other.ipynb"], "does not exist"),
    "not a notebook": (["post", "settings.ini"], "is not a Jupyter notebook"),
    "misspelt parameter": (["post", "means", "-p", "seed", "3"], "did you mean 'seeds'"),
    "unknown parameter": (["post", "means", "-p", "zzz", "3"], "choose one of dataset, budget, seeds"),
    "wrong type": (["post", "means", "-p", "seeds", "three"], "parameter seeds is a whole number, not 'three'"),
    "negative budget": (["post", "means", "-p", "budget", "-5"], "unknown budget '-5'"),
    "given twice": (["post", "means", "-p", "seeds", "3", "-p", "seeds", "4"], "given twice"),
    "half a parameter": (["post", "means", "-p", "seeds"], "expected 2 arguments"),
    "a file as output folder": (["post", "means", "--out", "a_file"], "cannot be written"),
    "below a file": (["post", "means", "--out", "a_file/posts"], "cannot be written"),
    "a folder of the kernel": (["post", "means", "--out", "/proc/posts"], "cannot be written"),
    "unknown place": (["post", "means", "--on", "moon"], "choose one of local"),
    "unknown command": (["publish"], "unknown command"),
    "misspelt command": (["pots"], "did you mean 'post'"),
    "unknown option": (["post", "means", "--fast"], "--fast"),
    "no such post": (["verify", "nothing"], "results.json"),
    "unknown action": (["data", "fetch"], "choose one of list, get, verify"),
    "no name": (["data", "get"], "needs the name"),
    "unknown data set": (["data", "verify", "digts"], "did you mean 'digits'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_one_sentence_and_nothing_written(project, capfd, case):
    words, said = REFUSED[case]
    before = tree(project)
    assert cli.main(words) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("nas-nb: ")
    assert said in err
    assert tree(project) == before


def test_the_program_itself(tmp_path):
    """The console script, as a reader starts it: a post, then a refusal."""
    root = make_project(tmp_path)
    template = root / "blog" / "templates" / "means.ipynb"
    template.write_text(template.read_text().replace("nas_nb.toy:check", "nas_nb.core:derive_seed"))
    run = lambda *words: subprocess.run([PROGRAM, *words], cwd=root / "blog", capture_output=True, text=True, check=False)
    done = run("post", "means", "--out", "../mine")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]).name == "page.html"
    assert "cell 3/4 (Work)" in done.stderr and "epoch 1/2" in done.stderr and "%|" not in done.stderr
    assert len(list((root / "mine").glob("*-means-digits-toy/page.html"))) == 1
    refused = run("post", "means", "-p", "seed", "3")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)


def test_failed_run_verify_and_parameters(project, capfd):
    assert cli.main(["post", "means", "-p", "fail", "error"]) == 1
    out, err = capfd.readouterr()
    assert out == "" and "the loss is not finite; the draft with that cell is blog/drafts/means-digits-toy-fail-error/page.html" in err
    assert not (project / "blog" / "posts").exists()

    draft = project / "blog" / "drafts" / "means-digits-toy"
    draft.mkdir()
    assert cli.main(["post", "means"]) == 0
    page = Path(capfd.readouterr().out.strip())
    assert not page.is_absolute() and page.is_file()
    assert not draft.exists()

    assert cli.main(["verify", "means-digits-toy"]) == 0
    assert "agrees" in capfd.readouterr().out
    results = page.parent / "results.json"
    records = json.loads(results.read_text())
    records["table"][0]["value"] += 1e-6
    results.write_text(json.dumps(records))
    assert cli.main(["verify", str(page)]) == 1
    assert "row 1, value" in capfd.readouterr().out

    assert cli.main(["post", "means", "--parameters"]) == 0
    assert "seeds: int = 3  how many" in capfd.readouterr().out


def test_an_interruption_is_one_sentence(project):
    """Ctrl-C in a terminal reaches the program and its kernel's starter while a cell works."""
    template = project / "blog" / "templates" / "means.ipynb"
    template.write_text(template.read_text().replace("nas_nb.toy:check", "nas_nb.core:derive_seed"))
    words = [PROGRAM, "post", "means", "-p", "fail", "wait"]
    listen = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it, and so would theirs
    how = {"cwd": project, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(words, **how, preexec_fn=listen) as process:  # noqa: PLW1509 (no threads here)
        assert next(line for line in process.stderr if "epoch 1/2" in line)
        os.killpg(process.pid, signal.SIGINT)
        said = [line for line in process.stderr.read().splitlines() if not line.endswith(" s")]  # but for how long the cell took
    assert said == ["nas-nb: interrupted; the same command goes on from its run folders"]
    assert process.returncode == 130


def test_a_post_is_made_by_one_program_at_a_time(project, capfd):
    words = ["post", "means", "-p", "seeds", "4"]
    with ThreadPoolExecutor(1) as pool:
        with alone(plan_post("means", {"seeds": 4})):
            before = tree(project)
            assert cli.main(words) == 2
            assert "the post means-digits-toy-seeds-4 is being made by another program" in capfd.readouterr().err
            waiting = pool.submit(cli.main, [*words, "--wait"])
            with pytest.raises(NotYet):
                waiting.result(0.5)
            assert tree(project) == before
        assert waiting.result() == 0
    assert Path(capfd.readouterr().out.strip()).is_file()


def test_help_imports_nothing_that_a_run_needs(project):
    """What a person types to learn the program imports none of what a run needs."""
    code = "import sys; from nas_nb.publish.cli import main; main(['help', 'post']); print(sorted({'papermill', 'nbformat', 'sklearn'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0].startswith("usage: nas-nb post") and said[-1] == "[]"


def test_data_sets_are_listed_for_people_and_programs(capfd):
    assert cli.main(["data", "list"]) == 0
    assert "graphene" in capfd.readouterr().out
    assert cli.main(["data", "list", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert {"digits", "graphene", "mnist", "cifar10"} <= {f["name"] for f in facts}
    assert all(f["url"] and f["licence"] for f in facts)


TEMPLATE = ROOT / "blog" / "templates" / "search_report.ipynb"
WRONG_DATA = {
    "objects": {"x": np.array([{}] * 40, dtype=object), "y": np.arange(40) % 2},
    "nan": {"x": np.full((40, 4, 4), np.nan), "y": np.arange(40) % 2},
    "lengths": {"x": np.zeros((40, 4, 4)), "y": np.arange(39) % 2},
    "one class": {"x": np.random.default_rng(0).random((40, 4, 4)), "y": np.zeros(40, int)},
    "few samples": {"x": np.random.default_rng(0).random((4, 4, 4)), "y": np.arange(4)},
    "no pixels": {"x": np.zeros((40, 0, 4)), "y": np.arange(40) % 2},
}


@pytest.mark.parametrize("words", [
    ["dataset", "digts"], ["dataset", "absent.npz"], ["budget", "fast"], ["budget", "-5"], *(["dataset", f"{k}.npz"] for k in WRONG_DATA)])
def test_the_main_job_refuses_before_any_work(tmp_path, monkeypatch, capfd, words):
    (tmp_path / "blog" / "templates").mkdir(parents=True)
    (tmp_path / "blog" / "templates" / TEMPLATE.name).write_bytes(TEMPLATE.read_bytes())
    if (name := words[1].removesuffix(".npz")) in WRONG_DATA:
        np.savez(tmp_path / words[1], **WRONG_DATA[name])
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    assert cli.main(["post", "search_report", "-p", *words]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and len(err) < 400
    assert tree(tmp_path) == before


def test_bash_completes_commands_templates_and_posts(tmp_path):
    """The script is read by a real shell, in the folder of a blog."""
    (tmp_path / "blog" / "templates").mkdir(parents=True)
    (tmp_path / "blog" / "templates" / "search_report.ipynb").touch()
    (tmp_path / "blog" / "posts" / "2026-01-31-leaves").mkdir(parents=True)
    script = subprocess.run([sys.executable, "-c", "from nas_nb.publish.cli import main; main(['completion', 'bash'])"], capture_output=True, text=True, check=True)
    (tmp_path / "completion.bash").write_text(script.stdout)
    asked = """source completion.bash
    complete_words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _shtab_nas_nb; echo "${COMPREPLY[*]}"; }
    complete_words nas-nb verif
    complete_words nas-nb post sea
    complete_words nas-nb verify 2026"""
    found = subprocess.run(["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["verify", "search_report", "2026-01-31-leaves"]


def test_fish_completes_commands_templates_and_posts(tmp_path):
    if not shutil.which("fish"):
        pytest.skip("fish is not installed")
    (tmp_path / "blog" / "templates").mkdir(parents=True)
    (tmp_path / "blog" / "templates" / "search_report.ipynb").touch()
    (tmp_path / "blog" / "posts" / "2026-01-31-leaves").mkdir(parents=True)
    script = subprocess.run([sys.executable, "-c", "from nas_nb.publish.cli import main; main(['completion', 'fish'])"], capture_output=True, text=True, check=True)
    (tmp_path / "completion.fish").write_text(script.stdout)
    asked = "source completion.fish; for typed in verif 'post sea' 'verify 2026'; complete -C \"nas-nb $typed\"; end"
    found = subprocess.run(["fish", "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [line.split("\t")[0] for line in found.stdout.splitlines()] == ["verify", "search_report", "2026-01-31-leaves"]
