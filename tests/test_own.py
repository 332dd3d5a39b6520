"""Damaged, hostile and merely odd data of your own, given to `nas_nb.data.own`."""
import io
import os
import pickle
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nas_nb.core import InputError
from nas_nb.data.guard import leakage
from nas_nb.data.own import load_npz, load_own
from nas_nb.data.sources import load_task

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


# tables, folders, gridded files and objects, through the one call

AS_ROOT = not hasattr(os, "geteuid") or os.geteuid() == 0


def told(source, *words, **options):
    """The sentence of a refused load; it names every one of `words`."""
    with pytest.raises(InputError) as caught:
        load_own(source, **options)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    for word in words:
        assert word in text, text
    return text


def csv(folder, text, name="mine.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


ROWS = [f"{k},{IMAGES[k, 0, 0]:.4f},{IMAGES[k, 0, 1]:.4f},{'ab'[k % 2]},{k % 3 / 7}" for k in range(40)]
HEAD = "id,b0,b1,class,strain"


def rows(folder, change=None, head=HEAD):
    """A good table, one line of which may be changed; the first sample stands in line 2."""
    lines = dict(enumerate(ROWS, 2)) | (change or {})
    return csv(folder, "\n".join([head, *lines.values()]) + "\n")


def test_a_csv_file_is_read_as_its_columns_say(tmp_path):
    task = load_own(rows(tmp_path), target="class", columns="b0:b1")
    assert (task.name, task.kind, task.targets, task.x.shape) == ("mine", "multiclass", ("a", "b"), (40, 1, 2))
    np.testing.assert_allclose(task.x[:, 0, 0], IMAGES[:40, 0, 0], atol=1e-4)
    both = load_own(rows(tmp_path), target="strain", columns="b*")
    assert (both.kind, both.targets) == ("regression", ("strain",))
    assert load_own(rows(tmp_path), columns="b0,b1").targets == ("a", "b")


@pytest.mark.parametrize("sep, decimal", [(",", "."), (";", ","), (";", "."), ("\t", ".")])
def test_separators_and_decimal_signs(tmp_path, sep, decimal):
    text = "\r\n".join([HEAD, *ROWS]).replace(",", "|").replace(".", decimal).replace("|", sep)
    task = load_own(csv(tmp_path, b"\xef\xbb\xbf" + text.encode()), target="strain", columns="b0")
    np.testing.assert_allclose(task.x[:, 0, 0], IMAGES[:40, 0, 0], atol=1e-4)


@pytest.mark.parametrize("change, options, said", [
    ({7: "5,x,1,a,0"}, {}, ["mine.csv, line 7", "b0 is 'x'"]),
    ({7: "5,,1,a,0"}, {}, ["mine.csv, line 7", "b0 is missing"]),
    ({7: "5,inf,1,a,0"}, {}, ["mine.csv, line 7", "no finite number"]),
    ({7: "4,1,1,a,0"}, {}, ["mine.csv, line 7", "id '4' stands in line 6 too", "group='id'"]),
    ({7: "5,1,1,,0"}, {}, ["mine.csv, line 7", "class is missing"]),
    ({7: "5,1,1,a,low"}, {"target": "strain"}, ["mine.csv, line 7", "strain is 'low'"]),
    ({7: "5,1,1,a,0,9"}, {}, ["mine.csv, line 7 has 6 fields instead of 5"]),
    ({7: "5,1,1,c,0"}, {}, ["mine.csv", "class holds class c in 1 of 40"]),
    ({}, {"target": "strian"}, ["mine.csv", "did you mean 'strain'"]),
    ({}, {"columns": "b0:b9"}, ["unknown column", "b0:b9"]),
    ({}, {"columns": "b0,class"}, ["class", "target or group"]),
    ({}, {"group": "patient"}, ["unknown column", "patient"]),
    ({}, {"target": "class,strain"}, ["column class holds text"]),
    ({}, {"colums": "b0"}, ["colums", "did you mean 'columns'"]),
    ({}, {"table": "x.csv"}, ["table"]),
    ({}, {"size": 8}, ["size is for pictures"]),
])
def test_tables_that_are_refused(tmp_path, change, options, said):
    told(rows(tmp_path, change), *said, **({"target": "class", "columns": "b0,b1"} | options))


def test_blank_lines_are_left_out_and_still_counted(tmp_path):
    path = csv(tmp_path, "\n".join([HEAD, *ROWS[:3], "", "", "99,soft,1,a,0", *ROWS[4:]]))
    told(path, "mine.csv, line 7: b0 is 'soft'", target="class", columns="b0")
    path = csv(tmp_path, "\n".join(["b0,y", *[f"{k}.5,{k % 2}" for k in range(40)], "", ",", ""]))
    assert load_own(path).kind == "multiclass"


def test_a_column_without_any_value_and_a_column_missing(tmp_path):
    empty = csv(tmp_path, "\n".join(["b0,b1,y", *[f",{k},{k}.5" for k in range(40)]]))
    told(empty, "mine.csv", "b0 is empty in all 40 rows")
    told(csv(tmp_path, "\n".join(["b0,b1", *[f"{k},{k}.5" for k in range(40)]])), "mine.csv", "does not say what to predict", "b0, b1")


@pytest.mark.parametrize("content, said", [
    (b"", "is empty"), (b"<html>403", "web page"), (b"PK\x03\x04abc", "Excel"), (b"a,b\n\x00\x01,2\n", "no text"),
    (b"a,y\n\xff\xfe,1\n", "UTF-8"), (b"1,2\n3,4\n", "no header"), (b"a,a,y\n1,2,3\n", "two columns called 'a'"), (b"a,y\n", "no rows"),
])
def test_files_that_are_no_tables(tmp_path, content, said):
    told(csv(tmp_path, content), "mine.csv", said)


def test_a_number_that_names_a_class_needs_a_word(tmp_path):
    path = csv(tmp_path, "\n".join(["b0,code", *[f"{k},{('1', '2', '12b')[k % 3]}" for k in range(42)]]))
    told(path, "code is '12b'", target="code")
    assert load_own(path, target="code", kind="multiclass").targets == ("1", "12b", "2")


def test_dataframes(tmp_path):
    frame = pd.read_csv(rows(tmp_path))
    task = load_own(frame, target="class", columns="b0:b1", group="id", name="frame", seed=2)
    assert task.sha256 == load_own(rows(tmp_path), target="class", columns="b0:b1").sha256
    assert (task.name, task.card.origin) == ("frame", "a DataFrame")
    told(frame.assign(b0=frame["b0"].where(frame["id"] != 9)).set_index("id", drop=False), "row 9", "b0 is missing", target="class", columns="b0")
    told(frame.assign(when=pd.Timestamp(0)), "when holds times", target="class", columns="when")
    told(frame.astype({"b0": "category"}).assign(b0="x"), "b0 holds text", target="class", columns="b0")
    told([1, 2], "list is nothing that can be read")


# pictures

def picture(path, side=(9, 7), values=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (*side, 3), np.uint8) if values is None else values).save(path)


@pytest.fixture
def sheets(tmp_path):
    """Twelve pictures in a folder below, and a table of two measured values, a class, and two labels."""
    root = tmp_path / "sheets"
    lines = []
    for k in range(12):
        picture(root / "raw" / f"{k:03}.png")
        lines.append(f"{k:03}.png,{k / 7:.3f},{k % 5},{'ab'[k % 2]},{k % 2},{k // 6},p{k // 2}")
    csv(root, "\n".join(["file,strain,count,class,bleed,mass,patient", *lines]), "labels.csv")
    return root


def relabel(root, change):
    path = root / "labels.csv"
    path.write_text(change(path.read_text()))
    return root


@pytest.mark.parametrize("target, kind, y", [
    ("strain,count", "regression", [3 / 7, 3]), ("class", "multiclass", 1), ("bleed,mass", "multilabel", [1, 0]), ("strain", "regression", [3 / 7]),
])
def test_a_folder_and_its_table(sheets, target, kind, y):
    task = load_own(sheets, target=target)
    assert (task.kind, task.x.shape, task.name) == (kind, (12, 3, 9, 7), "sheets")
    np.testing.assert_allclose(task.y[3], y, atol=1e-3)
    assert task.sha256 == load_own(sheets / "labels.csv", target=target).sha256
    assert load_task(sheets, target=target).sha256 == task.sha256
    grouped = load_own(sheets, target=target, group="patient")
    assert all(part[0::2].tolist() == (part[1::2] - 1).tolist() for part in grouped.splits.values())


@pytest.mark.parametrize("change, said", [
    (lambda t: t.replace("005.png", "05.png"), ["labels.csv, line 7", "'05.png' is not in sheets"]),
    (lambda t: t.replace("005.png", "004.png"), ["labels.csv, line 7", "stands in line 6 too"]),
    (lambda t: t.replace("005.png", ""), ["labels.csv, line 7", "file is missing"]),
    (lambda t: t.replace("0.714", "o.714"), ["labels.csv, line 7", "strain is 'o.714'"]),
    (lambda t: t.replace(".png", ".xyz").replace("0", "z"), ["no column that names the pictures"]),
])
def test_tables_of_pictures_that_are_refused(sheets, change, said):
    told(relabel(sheets, change), *said, target="strain,count")


def test_names_lead_nowhere_outside(sheets, tmp_path):
    picture(tmp_path / "secret.png")
    relabel(sheets, lambda t: t.replace("005.png", "../secret.png"))
    told(sheets, "'../secret.png' is not in sheets", target="strain")
    relabel(sheets, lambda t: t.replace("../secret.png", str(tmp_path / "secret.png")))
    told(sheets, "is not in sheets", target="strain")


def test_names_keep_their_zeros_and_may_lack_their_ending(sheets):
    relabel(sheets, lambda t: t.replace(".png", ""))
    assert load_own(sheets, target="strain").x.shape[0] == 12


def test_names_that_may_mean_two_pictures(sheets):
    picture(sheets / "old" / "005.png")
    told(sheets, "labels.csv, line 7", "old/005.png and raw/005.png", "write its folder too", target="strain")
    relabel(sheets, lambda t: t.replace("005.png", "raw/005.png"))
    assert load_own(sheets, target="strain").x.shape[0] == 12


def test_pictures_without_a_line_are_counted(sheets):
    picture(sheets / "raw" / "spare.png")
    assert "1 pictures of sheets stand in no line" in " ".join(load_own(sheets, target="strain").card.traps)


def test_which_table(sheets):
    csv(sheets, "file,strain\n000.png,1\n", "old.csv")
    told(sheets, "2 tables", "labels.csv, old.csv", target="strain")
    assert load_own(sheets, target="strain", table="labels.csv").x.shape[0] == 12
    told(sheets, "no table new.csv in sheets", target="strain", table="new.csv")


@pytest.mark.parametrize("values, said", [
    (np.zeros((20, 30, 3), np.uint8), ["20 x 30", "9 x 7", "size=7"]),
    (RNG.integers(0, 4096, (9, 7)).astype(np.uint16), ["different kinds"]),
])
def test_mixed_pictures(sheets, values, said):
    picture(sheets / "raw" / "004.png", values=values)
    told(sheets, "sheets/raw/004.png", *said, target="strain")


def test_size_brings_pictures_together(sheets):
    picture(sheets / "raw" / "004.png", (20, 30))
    assert load_own(sheets, target="strain", size="8").x.shape == (12, 3, 8, 8)
    for wrong in (0, -1, "8.5", "big"):
        told(sheets, "size", target="strain", size=wrong) if wrong != 0 else told(sheets, "size '0'", target="strain", size=0)


def test_sixteen_bits_keep_their_values_and_palettes_become_colours(tmp_path):
    counts = RNG.integers(0, 4096, (8, 9, 7)).astype(np.uint16)
    for k in range(8):
        picture(tmp_path / "deep" / "ab"[k % 2] / f"{k}.png", values=counts[k])
        Image.fromarray(RNG.integers(0, 256, (9, 7), np.uint8)).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / f"{k}.gif")
    deep = load_own(tmp_path / "deep")
    assert (deep.x.dtype, deep.x.shape) == (np.float32, (8, 1, 9, 7))
    np.testing.assert_array_equal(deep.x[:, 0], counts[[0, 2, 4, 6, 1, 3, 5, 7]])
    csv(tmp_path, "\n".join(["file,y", *[f"{k}.gif,{k}.5" for k in range(8)]]), "labels.csv")
    assert load_own(tmp_path, target="y").x.dtype == np.uint8


@pytest.mark.parametrize("damage, said", [
    (lambda p: p.write_bytes(p.read_bytes()[:60]), "cannot be read as a picture"),
    (lambda p: p.write_bytes(b"<html>"), "no picture in a known format"),
    (lambda p: p.write_bytes(b""), "no picture in a known format"),
])
def test_broken_pictures(sheets, damage, said):
    damage(sheets / "raw" / "006.png")
    told(sheets, "sheets/raw/006.png", said, target="strain")


@pytest.fixture
def classes(tmp_path):
    for name in ("fog", "rain"):
        for k in range(6):
            picture(tmp_path / "photos" / name / f"{k}.png")
    return tmp_path / "photos"


def test_folders_of_classes(classes):
    (classes / ".cache").mkdir()
    (classes / "fog" / "notes.txt").touch()
    task = load_own(classes, augment="hflip, crop")
    assert (task.targets, np.bincount(task.y).tolist(), task.augment) == (("fog", "rain"), [6, 6], ("hflip", "crop"))
    assert load_task(str(classes)).sha256 == task.sha256


def test_official_test_folders(classes, tmp_path):
    both = tmp_path / "both"
    shutil.copytree(classes, both / "Train")
    shutil.copytree(classes, both / "test")
    task = load_own(both)
    assert (len(task.x), len(task.splits["test"]), task.targets) == (24, 12, ("fog", "rain"))
    shutil.rmtree(both / "test" / "fog")
    told(both, "class fog lies in only one of train and test")


@pytest.mark.parametrize("change, said", [
    (lambda p: (p / "snow").mkdir(), ["photos/snow holds no pictures"]),
    (lambda p: picture(p / "snow" / "0.png"), ["photos/snow holds only 1", "at least 4"]),
    (lambda p: shutil.rmtree(p / "fog"), ["one class only"]),
    (lambda p: [shutil.rmtree(p / n) for n in ("fog", "rain")], ["empty folder"]),
    (lambda p: picture(p / "fog" / "9.png", (30, 30)), ["photos/fog/9.png", "30 x 30", "size="]),
    (lambda p: csv(p, "file,y\n0.png,1\n", "labels.csv"), ["2 folders and labels.csv", "target='...'"]),
])
def test_folders_that_are_refused(classes, change, said):
    change(classes)
    told(classes, *said)


def test_words_that_a_folder_of_classes_has_no_use_for(classes):
    told(classes, "holds no table", target="strain")
    told(classes, "unknown augmentation", "did you mean 'hflip'", augment="hflop")
    told(classes / "fog", "neither folders of classes nor a table")


@pytest.mark.skipif(AS_ROOT, reason="root may read every file")
@pytest.mark.parametrize("path", ["photos", "photos/fog", "photos/fog/1.png"])
def test_unreadable_places(classes, path):
    place = classes.parent / path
    place.chmod(0)
    try:
        told(classes, place.name, "ermission")
    finally:
        place.chmod(0o755)


# gridded files

def grid(**changes):
    xarray = pytest.importorskip("xarray")
    held = {"t": (("n", "y", "x"), IMAGES), "q": (("n", "y", "x"), IMAGES + 1), "rain": ("n", IMAGES[:, 0, 0], {"units": "mm"})}
    return xarray.Dataset(held | changes)


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
def test_netcdf_files_of_both_generations(tmp_path, engine):
    pytest.importorskip("h5netcdf")
    grid().to_netcdf(tmp_path / "mine.nc", engine=engine)
    task = load_own(tmp_path / "mine.nc", target="rain")
    assert (task.x.shape, task.targets, task.name) == ((40, 2, 6, 5), ("rain [mm]",), "mine")
    assert load_task(tmp_path / "mine.nc", target="rain").sha256 == task.sha256 == load_own(grid(), target="rain").sha256
    whole = (tmp_path / "mine.nc").read_bytes()
    for size in (0, 4, 9, 200, len(whole) // 2):
        (tmp_path / "mine.nc").write_bytes(whole[:size])
        told(tmp_path / "mine.nc", "mine.nc", target="rain")


def test_gridded_values_that_are_refused():
    holed = IMAGES.copy()
    holed[3, 1, 2] = np.nan
    told(grid(q=(("n", "y", "x"), IMAGES * np.nan)), "q is NaN throughout", target="rain")
    told(grid(q=(("n", "y", "x"), holed)), "first at n 3, y 1, x 2", target="rain")
    told(grid(rain=("n", np.where(CLASSES == 1, np.nan, 0.5))), "rain is missing", target="rain")
    told(grid(q=(("n", "z", "x"), IMAGES)), "choose variables of one grid", target="rain")


# arrays of this session

def test_arrays(tmp_path):
    task = load_own({"x": IMAGES, "y": CLASSES, "groups": np.arange(40) // 2}, name="mine")
    assert (task.name, task.kind, task.sha256) == ("mine", "multiclass", load_npz(save(tmp_path)).sha256)
    told({"x": IMAGES, "labels": CLASSES}, "labels")
    told({"x": np.stack([IMAGES, IMAGES * np.nan], axis=1), "y": CLASSES}, "channel 1 of x is NaN in all 40 samples")
    told({"x": IMAGES, "y": CLASSES}, "target", target="y")


def test_scans_and_slices_of_dicom(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    uid = pydicom.uid

    def write(path, z, series, **changes):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = uid.CTImageStorage, uid.generate_uid()
        data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        tags = {"Modality": "CT", "SeriesInstanceUID": series, "ImagePositionPatient": [0, 0, z], "RescaleSlope": 1, "RescaleIntercept": -1024,
                "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "Rows": 8, "Columns": 8, "BitsAllocated": 16, "BitsStored": 16,
                "HighBit": 15, "PixelRepresentation": 0, "SOPClassUID": uid.CTImageStorage,
                "PixelData": RNG.integers(1000, 1200, (8, 8)).astype("<u2").tobytes()} | changes
        for tag, value in tags.items():
            setattr(data, tag, value)
        path.parent.mkdir(parents=True, exist_ok=True)
        data.save_as(path, enforce_file_format=True)

    root = tmp_path / "heads"
    for k in range(8):
        series = uid.generate_uid()
        for z in range(3):
            write(root / f"p{k}" / f"{z}.dcm", 5.0 * z, series)
    csv(root, "\n".join(["patient,bleed,mass", *[f"p{k},{k % 2},{k // 4}" for k in range(8)]]), "reads.csv")
    task = load_own(root, target="bleed,mass", size=8, slices=3)
    assert (task.kind, task.x.shape, len(set(task.groups))) == ("multilabel", (24, 3, 8, 8), 8)
    assert leakage(task.groups, task.splits)["test"] == 0
    write(root / "p3" / "1.dcm", 5.0, uid.generate_uid(), Modality="MR")
    told(root, "heads/p3/1.dcm", "modality MR", target="bleed,mass", size=8, slices=3)
    told(root, "no series has 9 slices", target="bleed,mass", slices=9)
