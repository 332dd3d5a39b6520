"""The report on any data set as a post: an image set, sequences of one's own, what is refused, and what a reader can check."""

import json
from pathlib import Path

import nbformat
import numpy as np
import pytest

from nas_nb.core import InputError
from nas_nb.publish.post import plan_post, publish_post, verify_post

ROOT = Path(__file__).resolve().parent.parent


def post(folder, **given):
    return publish_post("eda_report", given, out=folder / "posts", project=ROOT).parent


def figures(folder):
    """Number of pictures in the post."""
    cells = nbformat.read(folder / "index.ipynb", 4).cells
    return sum("image/png" in o.get("data", {}) for cell in cells for o in cell.get("outputs", []))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return post(tmp_path_factory.mktemp("digits"), dataset="digits", samples=400)


@pytest.fixture(scope="module")
def swings(tmp_path_factory):
    """A report on two-channel sequences with a measured target, each sequence stored twice, and the file."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    decay = rng.uniform(1, 9, 150)
    swing = np.exp(-np.linspace(0, 10, 32) / decay[:, None])
    x = np.stack([swing, 100 * swing + rng.normal(size=swing.shape)], axis=1)
    np.savez(folder / "swings.npz", x=np.repeat(x, 2, axis=0), y=np.repeat(decay, 2))
    return post(folder, dataset=str(folder / "swings.npz"), kind="sequence"), folder


def test_images_are_reported(digits):
    records = json.loads((digits / "results.json").read_text())
    rows = {row["of"]: row for row in records["table"]}
    assert set(rows) == {"channel 0", *map(str, range(10))}
    assert abs(sum(rows[str(k)]["mean"] for k in range(10)) - 1) < 1e-9
    assert rows["channel 0"]["largest"] == 16
    assert records["records"]["task"]["n"] == 1797, "numbers and checks take all samples into account"
    assert "digits" in records["title"] and records["metric"] == "accuracy"
    assert figures(digits) == 10
    assert verify_post(digits) == []


def test_sequences_of_ones_own_are_reported_and_their_copies_found(swings):
    folder, home = swings
    records = json.loads((folder / "results.json").read_text())
    assert [row["of"] for row in records["table"]][:2] == ["channel 0", "channel 1"]
    assert records["verdict"].startswith("mend first what makes every score misleading: duplicates")
    assert "are exact copies" in (folder / "page.html").read_text()
    assert figures(folder) == 10
    assert verify_post(folder) == []
    for file in folder.iterdir():
        assert str(home).encode() not in file.read_bytes(), f"{file.name} names a folder of this machine"


def test_a_changed_number_is_noticed(digits, tmp_path):
    changed = json.loads((digits / "results.json").read_text())
    changed["records"]["channels"][0]["sum"] += 1000
    for file in digits.iterdir(): (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "results.json").write_text(json.dumps(changed))
    assert any("row 1, mean" in sentence for sentence in verify_post(tmp_path))
    changed = json.loads((digits / "results.json").read_text())
    changed["verdict"] = "all is well"
    (tmp_path / "results.json").write_text(json.dumps(changed))
    assert any(sentence.startswith("verdict: the post has 'all is well'") for sentence in verify_post(tmp_path))


@pytest.mark.parametrize(("given", "said"), [
    ({"dataset": "digit"}, "did you mean 'digits'"),
    ({"dataset": "digits", "options": "size=3"}, "takes no options"),
    ({"dataset": "graphene-simulated", "options": "target strain"}, "name=value"),
    ({"dataset": "digits", "samples": "7"}, "100 or more"),
    ({"dataset": "digits", "sample": "700"}, "did you mean 'samples'"),
])
def test_what_cannot_be_reported_is_refused_before_work(given, said, tmp_path):
    with pytest.raises(InputError, match=said):
        plan_post("eda_report", given, out=tmp_path / "posts", project=ROOT)
    assert not (tmp_path / "posts").exists()
