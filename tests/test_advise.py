"""`nas-nb advise` from outside: what it prints, that it goes on, and what it refuses."""

import json
import shlex

import numpy as np
import pytest

from nas_nb.core import InputError
from nas_nb.data.task import make_task
from nas_nb.judge.advise import Adviser, forest_score, linear_score
from nas_nb.publish.cli import main
from nas_nb.publish.template import check_parameters, shipped, template_parameters


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    np.savez("own.npz", x=rng.normal(y[:, None, None, None], 2, (400, 1, 6, 6)).astype("float32"), y=y)
    return "own.npz"


def test_advice_is_json_and_is_found_again(data, capsys):
    assert main(["advise", data, "--budget", "30s", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["recommendation"] in ("no-nas", "random-search", "darts")
    assert first["reasons"] and first["evidence"] and first["next"].startswith("nas-nb ")
    assert main(["advise", data, "--budget", "30s", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == first


@pytest.mark.parametrize("words, said", [(["--budget", "soon"], "is no time"), (["-p", "colour", "red"], "colour")])
def test_refusals_are_one_sentence(data, capsys, words, said):
    assert main(["advise", data, *words]) == 2
    assert said in capsys.readouterr().err


def test_one_class_is_refused(data, capsys):
    np.savez("one.npz", x=np.zeros((50, 1, 6, 6), "float32"), y=np.zeros(50, int))
    assert main(["advise", "one.npz"]) == 2
    assert "at least 2 classes" in capsys.readouterr().err


@pytest.mark.parametrize("rule", ["data", "spread"])
def test_the_next_command_is_accepted(data, tmp_path, rule):
    adviser = Adviser(data, "30s", seed=3, runs=tmp_path / "runs", waive="duplicates", kind="multiclass", augment="hflip")
    words = shlex.split(adviser.next_command(rule, "no-nas"))
    given = dict(zip(words[4::3], words[5::3]))
    assert words[3::3] == ["-p"] * len(given) and given["seed"] == "3"
    check_parameters(template_parameters(shipped() / "templates" / f"{words[2]}.ipynb"), given)


def test_a_known_finding_is_waived(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 1, 6, 6)).astype("float32"), np.arange(200) % 2
    np.savez("twice.npz", x=np.concatenate([x, x]), y=np.concatenate([y, y]))
    found = Adviser("twice.npz", "30s").serious
    assert found
    assert not Adviser("twice.npz", "30s", waive=",".join(f.name for f in found)).serious
    with pytest.raises(InputError, match="check to waive"):
        Adviser("twice.npz", "30s", waive="nothing")


@pytest.mark.parametrize("kind, y", [("multilabel", 1), ("multilabel", 3), ("regression", 2)])
def test_cheap_models_take_any_targets(kind, y):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 1, 4, 4)).astype("float32")
    told = x[:, 0, 0, :y] if kind == "regression" else (x[:, 0, 0, :y] > 0).astype("float32")
    task = make_task("planted", x, told, kind)
    assert min(linear_score(task), forest_score(task)) > 0.5
