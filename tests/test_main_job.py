"""The main job from outside: a post on real data, a kill in the middle, a full disk, and the reader's own arrays."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from nas_nb.core import Budget, InputError
from nas_nb.data.sources import load_task, local_path
from nas_nb.estimate.trial import Trial
from nas_nb.judge import study as judge
from nas_nb.judge.study import SCALES, Study
from nas_nb.publish.cli import main
from nas_nb.search.loop import History, budget_left
from nas_nb.train import Recipe, Trainer, fit, load_model

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = Path(sys.executable).with_name("nas-nb")


def command(folder, *words):
    return [PROGRAM, "post", "search_report", "-p", "budget", "toy", "-p", "runs", folder / "runs",
            "--out", folder / "posts", *words]


@pytest.fixture(scope="session")
def post(tmp_path_factory):
    """The folder of a toy post on digits, and the folder of its runs."""
    folder = tmp_path_factory.mktemp("whole")
    done = subprocess.run(command(folder), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = Path(done.stdout.splitlines()[-1])
    return page.parent, next((folder / "runs").iterdir())


def untimed(thing):
    """Records without what a clock measured."""
    if isinstance(thing, dict): return {k: untimed(v) for k, v in thing.items() if k not in ("seconds", "search")}
    return [untimed(v) for v in thing] if isinstance(thing, list) else thing


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_post_holds_what_it_promises(post):
    folder, _ = post
    result = json.loads((folder / "results.json").read_text())
    assert set(result["records"]["methods"]) == set(SCALES["toy"].methods)
    assert all(row["seeds"] == 3 for row in result["table"])
    darts, random = (History([Trial.from_json(t) for t in result["histories"][m]]) for m in ("darts", "random"))
    budget = Budget(seconds=darts.cost.seconds)
    assert not budget_left(budget, random) and budget_left(budget, History(random.trials[:-1]))
    page = (folder / "page.html").read_text()
    assert result["verdict"][10:60] in page and page.count("<svg") >= 2
    assert len(re.findall(r'<img[^>]*src="data:image/png', page)) >= 7


def test_verify_agrees_and_notices_a_changed_number(post, tmp_path):
    folder, _ = post
    verify = lambda path: subprocess.run([PROGRAM, "verify", path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert verify(folder).returncode == 0
    copy = tmp_path / folder.name
    copy.mkdir()
    for name in ("index.ipynb", "results.json"): (copy / name).write_bytes((folder / name).read_bytes())
    result = json.loads((copy / "results.json").read_text())
    for key, forged in {"table": [{**result["table"][0], "test accuracy": 1.0}, *result["table"][1:]],
                        "verdict": "DARTS is better than everything."}.items():
        (copy / "results.json").write_text(json.dumps({**result, key: forged}))
        changed = verify(copy)
        assert changed.returncode == 1 and (forged if key == "verdict" else "test accuracy") in changed.stdout


def test_the_three_lines_load_every_model(post):
    _, run = post
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8)
    for method in SCALES["toy"].methods:
        answers = load_model(run / "final" / f"{method}-0").predict(x)
        assert answers.shape == y.shape and answers.dtype.kind == "i"
    assert (load_model(run / "final" / "resnet-0").predict(x) == y).mean() > 0.2


def test_a_post_is_exported_by_its_name(post, tmp_path, monkeypatch, capsys):
    folder, run = post
    told = json.loads((folder / "results.json").read_text())
    told["post"]["parameters"]["runs"] = "data/runs"
    place = tmp_path / "blog" / "posts" / folder.name
    place.mkdir(parents=True)
    (place / "results.json").write_text(json.dumps(told))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "runs").symlink_to(run.parent)
    monkeypatch.chdir(tmp_path)
    assert main(["export", folder.name[11:], "--format", "torch", "--out", "files", "--json"]) == 0
    live, file = json.loads(capsys.readouterr().out)
    assert file["file"] == "model.pt2" and file["checked on"] == live["checked on"] == "the test part of digits, 80 samples"
    assert main(["export", f"data/runs/{run.name}"]) == 2
    assert f"final/{told['best']}-0" in capsys.readouterr().err


@pytest.mark.parametrize("moment", ["darts/checkpoint.pt", "final/resnet-0/checkpoint.pt"])
def test_killed_and_run_again_ends_with_the_same_records(post, tmp_path, moment):
    _, whole = post
    started = subprocess.Popen(command(tmp_path), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "runs").glob(f"*/{moment}")):
        assert started.poll() is None and time.monotonic() < deadline, "the run ended before it could be killed"
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert not list((tmp_path / "posts").glob("20*"))

    done = subprocess.run(command(tmp_path), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    again = next((tmp_path / "runs").iterdir())
    assert again.name == whole.name
    assert untimed(lines(again / "darts/history.jsonl")) == untimed(lines(whole / "darts/history.jsonl"))
    pairs = list(zip(lines(again / "random/history.jsonl"), lines(whole / "random/history.jsonl")))
    assert len(pairs) > 1 and all(untimed(a)["value"] == untimed(b)["value"] and a["genotype"] == b["genotype"] for a, b in pairs)
    ours, theirs = (json.loads((run / "result.json").read_text())["methods"] for run in (again, whole))
    same = [m for m in SCALES["toy"].methods if ours[m]["spec"] == theirs[m]["spec"]]
    assert {"darts", *SCALES["toy"].human} <= set(same)
    assert [untimed(ours[m]) for m in same] == [untimed(theirs[m]) for m in same]


def test_a_full_disk_leaves_the_last_good_state(tmp_path, monkeypatch):
    task = load_task("digits").subset(300)
    spec = {"net": "resnet", "width": 8, "depth": 8, **task.sizes}
    recipe, epoch = Recipe(epochs=3, batch=32), Trainer.epoch
    whole = fit(spec, task, recipe).records

    def stop_in_second_epoch(self, e):
        if e == 1: raise KeyboardInterrupt
        return epoch(self, e)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "epoch", stop_in_second_epoch)
        fit(spec, task, recipe, folder=tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # a checkpoint is larger, a history is not
    try:
        with pytest.raises(InputError, match="cannot write .*free space"): fit(spec, task, recipe, folder=tmp_path)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    after = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert after["checkpoint.pt"] == before["checkpoint.pt"] and set(after) == set(before)
    assert fit(spec, task, recipe, folder=tmp_path).records == whole


TINY = replace(SCALES["toy"], search_steps=2, candidate_steps=2, final_steps=20, n_seeds=2, audited=1, samples=160)


def run_tiny(dataset, tmp_path, monkeypatch, **options):
    monkeypatch.setitem(SCALES, "tiny", TINY)
    study = Study(str(dataset), "tiny", runs=tmp_path, **options)
    darts, found = study.run_darts()
    finals = study.run_finals({"darts": found, "random": study.run_random(found.cost.seconds)})
    records = study.records(finals)
    assert set(study.gap(darts, finals[0])) == {"supernet", "inherited", "from scratch"}
    assert judge.conclusion(records).count("DARTS") >= 2
    assert {row["failed"] for row in judge.table(records)} == {0}
    return study, records


RNG = np.random.default_rng(0)
CLASSES = np.arange(160) % 4
OWN = {
    "grey images": (8 * RNG.random((160, 9, 7)) + CLASSES[:, None, None], CLASSES, {}, "accuracy"),
    "five channels first": (RNG.random((160, 5, 6, 6)), CLASSES * 10 - 3, {}, "accuracy"),
    "colour last": (RNG.integers(0, 255, (160, 8, 8, 3), dtype=np.uint8), RNG.random(160), {}, "R2"),
    "two targets": (RNG.random((160, 3, 5)), RNG.random((160, 2)), {}, "R2"),
    "labels": (RNG.random((160, 4, 4)), RNG.integers(0, 2, (160, 3)), {}, "macro AUROC"),
    "sequences": (RNG.random((160, 31)), RNG.random(160), {}, "R2"),
    "sequences of channels": (RNG.random((160, 6, 20)), CLASSES, {"kind": "sequence"}, "accuracy"),
    "one pixel": (RNG.random((160, 1, 1)) + CLASSES[:, None, None], CLASSES, {"waive": "one pixel"}, "accuracy"),
    "wide": (RNG.random((160, 70, 66)), CLASSES, {}, "accuracy"),
}


@pytest.mark.parametrize("case", OWN)
def test_own_arrays_need_no_code(case, tmp_path, monkeypatch):
    x, y, options, metric = OWN[case]
    np.savez(tmp_path / "mine.npz", x=x, y=y)
    study, records = run_tiny(tmp_path / "mine.npz", tmp_path / "runs", monkeypatch, **options)
    assert records["metric"] == metric
    model = load_model(study.model_folder(judge.best_method(records), 0))
    answers = model.predict(x[:10])
    assert answers.shape == (10, *y.shape[1:]) if metric != "R2" else answers.shape == (10, study.task.n_out)
    if metric == "accuracy": assert set(answers) <= set(y)


@pytest.mark.skipif(local_path("graphene") is None, reason="the kirigami file is not on this machine (set NAS_NB_DATA)")
def test_graphene_is_split_by_orbit(tmp_path, monkeypatch):
    study, records = run_tiny("graphene", tmp_path, monkeypatch)
    task = load_task("graphene")
    orbits = [set(task.groups[task.splits[part]]) for part in task.splits]
    assert sum(map(len, orbits)) == len(set.union(*orbits)) == 7828
    assert records["metric"] == "R2" and study.task.spatial == (3, 5)
