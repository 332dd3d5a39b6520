"""Damaged, hostile and merely odd files given to `nas_nb.data.own.load_npz`."""
import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from nas_nb.core import InputError
from nas_nb.data.own import load_npz

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(40, 6, 5))
CLASSES = np.arange(40) % 4


def save(folder, **arrays):
    path = folder / "mine.npz"
    np.savez(path, **({"x": IMAGES, "y": CLASSES} | arrays))
    return path


def refusal(path, **options):
    with pytest.raises(InputError) as caught:
        load_npz(path, **options)
    text = str(caught.value)
    assert "mine.npz" in text
    assert "\n" not in text and len(text) < 400
    return text


def npy_with_header(shape, descr="<f8", body=b""):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": descr})
    return file.getvalue() + body


def archive(folder, **members):
    path = folder / "mine.npz"
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


class Bomb:
    "Creates a file when it is unpickled."

    def __init__(self, path): self.path = str(path)

    def __reduce__(self): return open, (self.path, "w")


# files that are not what they claim to be

@pytest.mark.parametrize("content, said", [
    (b"", "is empty"),
    (b"<!DOCTYPE html><html><body>403</body></html>", "web page"),
    (b"\x89HDF\r\n\x1a\n" + bytes(100), "no npz file"),
    (b"x,y\n1,2\n", "no npz file"),
    (npy(IMAGES), "a single array"),
    (pickle.dumps({"x": 1}), "no npz file"),
    (b"PK\x03\x04" + bytes(60), "cut short"),
])
def test_other_files(tmp_path, content, said):
    (tmp_path / "mine.npz").write_bytes(content)
    assert said in refusal(tmp_path / "mine.npz")


def test_missing_file_and_folder(tmp_path):
    assert "does not exist" in refusal(tmp_path / "mine.npz")
    (tmp_path / "mine.npz").mkdir()
    assert "is a folder" in refusal(tmp_path / "mine.npz")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_unreadable_file(tmp_path):
    path = save(tmp_path)
    path.chmod(0)
    assert "permission" in refusal(path).lower()


def test_home_folder_is_expanded(tmp_path, monkeypatch):
    save(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_npz("~/mine.npz").name == "mine"


# damage

def test_every_truncation_is_refused(tmp_path):
    path = save(tmp_path)
    whole = path.read_bytes()
    for size in np.linspace(0, len(whole) - 1, 60).astype(int):
        path.write_bytes(whole[:size])
        refusal(path)


@pytest.mark.parametrize("store", [np.savez, np.savez_compressed])
def test_flipped_bytes_never_give_other_values(tmp_path, store):
    path = tmp_path / "mine.npz"
    store(path, x=IMAGES, y=CLASSES)
    whole, original = path.read_bytes(), load_npz(path)
    for place in RNG.integers(0, len(whole), 300):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ RNG.integers(1, 256)]) + whole[place + 1:])
        try:
            task = load_npz(path)
        except InputError as error:
            assert "mine.npz" in str(error)
        else:
            assert task.sha256 == original.sha256


def test_pickle_inside_is_never_opened(tmp_path):
    trace = tmp_path / "executed"
    objects = np.empty(40, dtype=object)
    objects[:] = [Bomb(trace) for _ in range(40)]
    path = tmp_path / "mine.npz"
    np.savez(path, x=objects, y=CLASSES)
    assert "Python objects" in refusal(path)
    refusal(archive(tmp_path, x=pickle.dumps(Bomb(trace)), y=npy(CLASSES)))
    assert not trace.exists()


def test_object_strings(tmp_path):
    assert "y is an array of Python objects" in refusal(save(tmp_path, y=np.array(["a", "b"] * 20, dtype=object)))


@pytest.mark.parametrize("shape", [(10**12, 8, 8), (40, 10**15), (-1, 8, 8)])
def test_headers_that_promise_too_much(tmp_path, shape):
    refusal(archive(tmp_path, x=npy_with_header(shape, body=bytes(640)), y=npy(CLASSES)))


def test_members_that_are_no_arrays(tmp_path):
    path = tmp_path / "mine.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x", b"not an array")
        file.writestr("y.npy", npy(CLASSES))
    refusal(path)


def test_other_zip_archives(tmp_path):
    path = tmp_path / "mine.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("word/document.xml", "<w/>")
    assert "holds word/document.xml" in refusal(path)
    with zipfile.ZipFile(path, "w"):
        pass
    assert "holds nothing" in refusal(path)


@pytest.mark.parametrize("keys", [("x",), ("y",), ("X", "Y"), ("x_train", "y_train", "x_test", "y_test")])
def test_missing_keys(tmp_path, keys):
    path = tmp_path / "mine.npz"
    np.savez(path, **{key: CLASSES for key in keys})
    assert "has no array" in refusal(path)


# values

HOLED, ENDLESS = IMAGES.copy(), IMAGES.copy()
HOLED[3, 1, 1], ENDLESS[39, 0, 0] = np.nan, -np.inf


@pytest.mark.parametrize("x, said", [
    (HOLED, "index 3"),
    (ENDLESS, "index 39"),
    (IMAGES * 1e300, "beyond float32"),
    (IMAGES + 1j, "two channels"),
    (IMAGES.astype(str), "text"),
    (np.zeros((40, 6, 5), "datetime64[D]"), "times"),
    (np.zeros(40, [("a", "f4"), ("b", "f4")]), "fields"),
    (IMAGES[:0], "nothing is in it"),
    (IMAGES[:, :0], "nothing is in it"),
    (np.zeros((40, 0)), "nothing is in it"),
    (np.zeros((40, 3, 0, 5)), "nothing is in it"),
    (np.float64(1), "single number"),
    (IMAGES[:, 0, 0], "reshape"),
    (IMAGES[:, None, None], "reshape"),
    (IMAGES[:39], "x has 39 samples, but y has 40"),
])
def test_samples_that_are_refused(tmp_path, x, said):
    assert said in refusal(save(tmp_path, x=x))


@pytest.mark.parametrize("y, said", [
    (np.zeros(40, int), "one class only"),
    (np.ones(40, bool), "one class only"),
    (np.array(["same"] * 40), "one class only"),
    (np.arange(40), "kind='regression'"),
    (np.where(np.arange(40) < 3, 9, CLASSES), "class 9 in 3 of 40"),
    (np.where(CLASSES == 1, np.nan, 0.5), "NaN"),
    (np.where(CLASSES == 1, np.inf, 0.5), "infinite"),
    (np.full(40, 2.5), "every sample"),
    (np.column_stack([IMAGES[:, 0, 0], np.full(40, 2.5)]), "column 1 of y"),
    (CLASSES + 1j, "complex"),
    (np.zeros(40, "datetime64[D]"), "times"),
    (np.tile([1, 1, 0], (40, 1)), "same labels"),
    (np.tile([1, 2, 3], (40, 1)), "save floats"),
    (np.array([["a", "b"]] * 40), "text"),
    (IMAGES, "one target a sample"),
    (np.int64(3), "one target a sample"),
    (np.zeros((40, 0)), "nothing is in it"),
    (np.zeros(0), "nothing is in it"),
    (np.array([], dtype=str), "text"),
    (np.array([b"\xff", b"a"] * 20), "UTF-8"),
])
def test_targets_that_are_refused(tmp_path, y, said):
    assert said in refusal(save(tmp_path, y=y))


@pytest.mark.parametrize("y, kind, said", [
    (CLASSES.astype(float), "regression", "if they are classes, say kind='multiclass'"),
    (np.eye(4)[CLASSES], "multilabel", "if they exclude each other, say kind='multiclass'"),
])
def test_odd_targets_are_read_plainly_and_noted(tmp_path, y, kind, said):
    task = load_npz(save(tmp_path, y=y))
    assert task.kind == kind
    assert said in " ".join(task.card.traps)


@pytest.mark.parametrize("options, said", [
    ({"kind": "imgae"}, "did you mean 'image'"),
    ({"kind": "image+sequence"}, "two answers"),
    ({"kind": "regression+multilabel"}, "two answers"),
    ({"kind": "sequence+multilabel"}, "zeros and ones"),
])
def test_words_that_are_refused(tmp_path, options, said):
    assert said in refusal(save(tmp_path), **options)


@pytest.mark.parametrize("extra, said", [
    ({"groups": np.arange(39)}, "groups has 39"),
    ({"groups": np.arange(40)[:, None]}, "one group a sample"),
    ({"groups": np.int64(1)}, "one group a sample"),
    ({"groups": np.where(CLASSES, 1.0, np.nan)}, "groups holds NaN"),
    ({"groups": CLASSES < 2}, "4 parts"),
    ({"targets": np.array(["a", "b"])}, "4 names"),
    ({"targets": np.array(["a", "b", "c", "c"])}, "alike"),
])
def test_extras_that_are_refused(tmp_path, extra, said):
    assert said in refusal(save(tmp_path, **extra))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_too_few_samples(tmp_path, n):
    refusal(save(tmp_path, x=IMAGES[:n], y=IMAGES[:n, 0, 0]))


# odd, but fine

@pytest.mark.parametrize("y, kind, targets", [
    (CLASSES[:, None], "multiclass", ("0", "1", "2", "3")),
    (CLASSES.astype(np.uint64) + 2**40, "multiclass", tuple(str(2**40 + k) for k in range(4))),
    (-CLASSES.astype(np.int8), "multiclass", ("-3", "-2", "-1", "0")),
    (CLASSES > 1, "multiclass", ("False", "True")),
    (np.array(["b", "a"] * 20), "multiclass", ("a", "b")),
    (np.array([b"b", b"a"] * 20), "multiclass", ("a", "b")),
    (IMAGES[:, 0, 0][:, None], "regression", ("y",)),
    (IMAGES[:, 0, 0].astype(np.float16), "regression", ("y",)),
    (IMAGES[:, 0], "regression", ("y0", "y1", "y2", "y3", "y4")),
    (np.arange(40.0), "regression", ("y",)),
    ((IMAGES[:, 0] > 0), "multilabel", ("0", "1", "2", "3", "4")),
    ((IMAGES[:, 0] > 0).astype(float), "multilabel", ("0", "1", "2", "3", "4")),
])
def test_targets_that_are_read(tmp_path, y, kind, targets):
    task = load_npz(save(tmp_path, y=y))
    assert (task.kind, task.targets) == (kind, targets)
    assert all(len(rows) for rows in task.splits.values())
    values = np.asarray(y).reshape(len(y), -1)
    if kind == "multiclass":
        read = [task.targets[k] for k in task.y]
        assert read == [v.decode() if isinstance(v, bytes) else str(v) for v in values[:, 0]]
    else:
        np.testing.assert_array_equal(task.y, values.astype(np.float32))


@pytest.mark.parametrize("word, y, kind", [
    ("multiclass", CLASSES.astype(float), "multiclass"),
    ("regression", CLASSES, "regression"),
    ("regression", CLASSES > 1, "regression"),
    ("multilabel", np.eye(4)[CLASSES], "multilabel"),
    ("multiclass", np.eye(4)[CLASSES], "multiclass"),
    ("multiclass", np.eye(4, dtype=bool)[CLASSES], "multiclass"),
    ("image+regression", CLASSES.astype(float), "regression"),
])
def test_one_word_decides(tmp_path, word, y, kind):
    assert load_npz(save(tmp_path, y=y), kind=word).kind == kind


@pytest.mark.parametrize("x, dtype", [
    (IMAGES > 0, np.uint8),
    (np.abs(IMAGES * 9).astype(np.int64), np.uint8),
    ((IMAGES * 9).astype(np.int64), np.float32),
    (np.abs(IMAGES * 9999).astype(np.uint16), np.float32),
    (IMAGES.astype(np.float16), np.float32),
    (IMAGES.astype(">f8"), np.float32),
    (np.asfortranarray(IMAGES), np.float32),
])
def test_number_types(tmp_path, x, dtype):
    task = load_npz(save(tmp_path, x=x))
    assert task.x.dtype == dtype
    np.testing.assert_array_equal(task.x[:, 0], x.astype(dtype))


def test_same_seed_same_split(tmp_path):
    path = save(tmp_path)
    first, again, other = load_npz(path, seed=3), load_npz(path, seed=3), load_npz(path, seed=4)
    assert all(np.array_equal(first.splits[p], again.splits[p]) for p in first.splits)
    assert not np.array_equal(first.splits["test"], other.splits["test"])


def test_groups_of_text_stay_whole(tmp_path):
    groups = np.array([f"p{i // 4}" for i in range(40)])
    task = load_npz(save(tmp_path, groups=groups))
    homes = [{part for part, rows in task.splits.items() if set(np.flatnonzero(groups == g)) & set(rows)}
             for g in np.unique(groups)]
    assert all(len(home) == 1 for home in homes)
