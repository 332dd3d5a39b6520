"""`nas-nb advise` from outside: what it prints, that it goes on, and what it refuses."""

import json

import numpy as np
import pytest

from nas_nb.publish.cli import main


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
