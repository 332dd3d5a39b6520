"""Files of the exact official formats, written here, and every way in which they can be damaged, through `load_task`."""

import gzip
import io
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import savemat

from nas_nb.core import InputError
from nas_nb.data.guard import leakage
from nas_nb.data.head_ct import FINDINGS, READERS, read_slice
from nas_nb.data.images import read_idx
from nas_nb.data.light_curves import CLASSES, bin_curves, check_curves
from nas_nb.data.photographs import read_picture
from nas_nb.data.sources import SOURCES, DataFile, file_checksum, load_task, verify_source

RNG = np.random.default_rng(0)
AS_ROOT = not hasattr(os, "geteuid") or os.geteuid() == 0


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty data folder; the project around it is empty too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.ini").touch()
    folder = tmp_path / "given"
    folder.mkdir()
    monkeypatch.setenv("NAS_NB_DATA", str(folder))
    return folder


def publish(monkeypatch, data, name, filenames=None):
    """The registry entry with sizes and checksums of the files that a test wrote."""
    source = SOURCES[name]
    paths = [data / source.folder / f for f in filenames or [file.filename for file in source.files]]
    files = tuple(DataFile(p.name, file_checksum(p), p.stat().st_size) for p in paths)
    monkeypatch.setitem(SOURCES, name, replace(source, files=files))


def refusal(name, *words, **options):
    """The sentence of a refused load; it names every one of `words`."""
    with pytest.raises(InputError) as caught:
        load_task(name, **options)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600
    for word in words:
        assert word in text, text
    return text


# CIFAR and the two MNISTs


def tar_pickles(path, folder, members):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, value in members.items():
            content = value if isinstance(value, bytes) else pickle.dumps(value, protocol=2)
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def cifar_members(kind, **changes):
    def batch(n):
        pixels = RNG.integers(0, 256, (n, 3072), dtype=np.uint8)
        if kind == "cifar10":
            return {b"batch_label": b"batch", b"labels": [i % 10 for i in range(n)], b"data": pixels, b"filenames": [b"a.png"] * n}
        return {b"fine_labels": [i % 100 for i in range(n)], b"coarse_labels": [i % 20 for i in range(n)], b"data": pixels}
    if kind == "cifar10":
        members = {f"data_batch_{k}": batch(20) for k in range(1, 6)}
        members |= {"test_batch": batch(20), "batches.meta": {b"label_names": [b"class%d" % k for k in range(10)], b"num_vis": 3072}}
        return members | changes
    names = {b"fine_label_names": [b"f%d" % k for k in range(100)], b"coarse_label_names": [b"c%d" % k for k in range(20)]}
    return {"train": batch(400), "test": batch(200), "meta": names} | changes


FOLDERS = {"cifar10": ("cifar-10-python.tar.gz", "cifar-10-batches-py"), "cifar100": ("cifar-100-python.tar.gz", "cifar-100-python")}


@pytest.mark.parametrize(("kind", "options", "n_out"), [("cifar10", {}, 10), ("cifar100", {}, 100), ("cifar100", {"labels": "coarse"}, 20)])
def test_cifar_archives(data, monkeypatch, kind, options, n_out):
    filename, folder = FOLDERS[kind]
    members = cifar_members(kind)
    tar_pickles(data / kind / filename, folder, members)
    publish(monkeypatch, data, kind)
    task = load_task(kind, **options)
    assert (task.x.shape[1:], task.n_out, task.metric_name) == ((3, 32, 32), n_out, "accuracy")
    last = members["test_batch" if kind == "cifar10" else "test"][b"data"]
    assert np.array_equal(task.x[task.splits["test"]].reshape(len(last), -1), last)
    assert task.card.licence == "no formal licence" and len(task.card.sha256) == 64
    assert list(verify_source(kind)) == [filename]


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def damaged(kind, tmp_path):
    first = "data_batch_1" if kind == "cifar10" else "train"
    whole = cifar_members(kind)[first]
    return {
        "a program": {first: Trap(tmp_path / "executed")},
        "a program in an array": {first: whole | {b"data": Trap(tmp_path / "executed")}},
        "text": {first: b"<html>moved</html>"},
        "half a pickle": {first: pickle.dumps(whole, protocol=2)[:900]},
        "no pixels": {first: {k: v for k, v in whole.items() if k != b"data"}},
        "too few labels": {first: whole | {b"labels": [1], b"fine_labels": [1]}},
        "floats": {first: whole | {b"data": np.zeros(whole[b"data"].shape)}},
        "other pixels": {first: whole | {b"data": whole[b"data"][:, :1000]}},
    }


@pytest.mark.parametrize("case", list(damaged("cifar10", Path("x"))))
@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_damaged_cifar(data, monkeypatch, tmp_path, kind, case):
    filename, folder = FOLDERS[kind]
    tar_pickles(data / kind / filename, folder, cifar_members(kind, **damaged(kind, tmp_path)[case]))
    publish(monkeypatch, data, kind)
    refusal(kind, filename, "fetch it again")
    assert not (tmp_path / "executed").exists()


def test_truncated_cifar_and_missing_member(data, monkeypatch):
    path = data / "cifar10" / "cifar-10-python.tar.gz"
    tar_pickles(path, "cifar-10-batches-py", cifar_members("cifar10"))
    whole = path.read_bytes()
    for share in (0.0, 0.3, 0.9, 0.99):
        path.write_bytes(whole[:int(share * len(whole))])
        publish(monkeypatch, data, "cifar10")
        refusal("cifar10", path.name, "no complete CIFAR-10 archive")
    tar_pickles(path, "another-folder", cifar_members("cifar10"))
    publish(monkeypatch, data, "cifar10")
    refusal("cifar10", "no complete CIFAR-10 archive")


def blur(noise):
    """Pictures without fine waves, as small photographs are."""
    for axis in (1, 2):
        noise = (noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)) / 3
    return noise


def through_jpeg(picture):
    stored = io.BytesIO()
    Image.fromarray(picture).save(stored, "JPEG", quality=75)
    return np.asarray(Image.open(stored))


def test_jpeg_pictures_in_an_archive_of_the_official_form(data, monkeypatch):
    rough = blur(RNG.normal(size=(100, 32, 32, 1)))
    original = np.clip(128 + 90 * rough.repeat(3, 3), 0, 255).astype(np.uint8)
    path = data / "cifar10" / "cifar-10-python.tar.gz"
    for pictures, fits in ((original, True), (np.stack([through_jpeg(p) for p in original]), False)):
        rows = pictures.transpose(0, 3, 1, 2).reshape(100, 3072)
        members = cifar_members("cifar10")
        for k in range(5):
            members[f"data_batch_{k + 1}"][b"data"] = rows[20 * k:20 * k + 20]
        tar_pickles(path, "cifar-10-batches-py", members)
        publish(monkeypatch, data, "cifar10")
        if fits:
            assert load_task("cifar10").n_out == 10
        else:
            refusal("cifar10", path.name, "went through JPEG")


def write_idx(path, array, magic=8):
    path.parent.mkdir(exist_ok=True)
    head = bytes([0, 0, magic, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes()))


def write_mnist(data, name, bright):
    """Four IDX files; the pictures of class k are as bright as `bright[k]` says."""
    y = np.arange(80, dtype=np.uint8) % 10
    x = np.broadcast_to(np.array(bright)[y][:, None, None], (80, 28, 28)).astype(np.uint8)
    for file, array in zip(SOURCES[name].files, (x[:60], y[:60], x[60:], y[60:])):
        write_idx(data / name / file.filename, array)


DIGITS, CLOTHES = (45, 20, 38, 37, 31, 32, 34, 29, 38, 31), (82, 57, 95, 66, 98, 35, 84, 43, 88, 76)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_two_mnists_are_told_apart(data, monkeypatch, name):
    own, other = (DIGITS, CLOTHES) if name == "mnist" else (CLOTHES, DIGITS)
    write_mnist(data, name, own)
    publish(monkeypatch, data, name)
    task = load_task(name)
    assert (task.x.shape, task.n_out, len(task.splits["test"])) == ((80, 1, 28, 28), 10, 20)
    write_mnist(data, name, other)
    publish(monkeypatch, data, name)
    refusal(name, "train-images-idx3-ubyte.gz", "the ink of the other set")


@pytest.mark.parametrize(("content", "said"), [
    (b"", "IDX"), (b"<html>", "gzip"), (gzip.compress(b"\0\0\x0d\x01\0\0\0\x01abcd"), "IDX file of bytes"),
    (gzip.compress(b"\0\0\x08\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xffabc"), "holds 3 values"),
])
def test_damaged_idx(tmp_path, content, said):
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read_idx(tmp_path / "a.gz")
    assert "a.gz" in str(caught.value)


# ImageNet and weather

WNIDS = ["n01440764", "n01443537", "n01484850", "n01491361"]


def picture(path, seed=0, size=(90, 60), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(array).convert(mode).save(path, "JPEG")


def write_train(base):
    for k, wnid in enumerate(WNIDS):
        for n in range(5):
            picture(base / "train" / wnid / f"{wnid}_{n}.JPEG", 10 * k + n, (60 + n, 90), "L" if n == 0 else "CMYK" if n == 1 else "RGB")


def write_flat_val(base):
    for n in range(8):
        picture(base / "val" / f"ILSVRC2012_val_{n + 1:08d}.JPEG", 100 + n)


def write_devkit(root, truth):
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{n}\n" for n in truth))
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height", "num_train_images")
    synsets = np.zeros(5, [(f, object) for f in fields])
    for k, wnid in enumerate([*WNIDS, "n00001740"]):
        synsets[k] = (k + 1, wnid, f"name{k}, other name", "", 4 * (k == 4), 0, 0, 5)
    savemat(kit / "meta.mat", {"synsets": synsets})


def imagenet_sorted(root):
    write_train(root)
    for n in range(8):
        picture(root / "val" / WNIDS[n % 4] / f"ILSVRC2012_val_{n + 1:08d}.JPEG", 100 + n)


def imagenet_devkit(root):
    write_train(root)
    write_flat_val(root)
    write_devkit(root, [n % 4 + 1 for n in range(8)])


def imagenet_kaggle(root):
    base = root / "ILSVRC" / "Data" / "CLS-LOC"
    write_train(base)
    write_flat_val(base)
    rows = [f"ILSVRC2012_val_{n + 1:08d},{WNIDS[n % 4]} 10 20 30 40 {WNIDS[n % 4]} 1 2 3 4 " for n in range(8)]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]) + "\n")
    (root / "LOC_synset_mapping.txt").write_text("".join(f"{w} name{k}, other\n" for k, w in enumerate(WNIDS)))


@pytest.mark.parametrize("layout", [imagenet_sorted, imagenet_devkit, imagenet_kaggle])
def test_imagenet_layouts(data, layout):
    layout(data / "imagenet")
    task = load_task("imagenet", classes=4, size=24)
    assert task.x.shape == (28, 3, 24, 24)
    names = WNIDS if layout is imagenet_sorted else [f"name{k}" for k in range(4)]
    assert list(task.targets) == names
    assert task.y[task.splits["test"]].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert "not comparable" in task.card.traps[0]
    assert verify_source("imagenet") == {"train": "4 classes, 20 photographs", "val": "4 classes, 8 photographs"}
    few = load_task("imagenet", classes=[WNIDS[3], WNIDS[0]], size=8, per_class=4)
    assert (few.n_out, len(few.x)) == (2, 12)


def test_imagenet_refusals(data):
    root = data / "imagenet"
    refusal("imagenet", "ask for access at")
    imagenet_devkit(root)
    refusal("imagenet", "100 classes", "choose 2 to 4")
    refusal("imagenet", "n09999999", classes=["n09999999", WNIDS[0]])
    refusal("imagenet", "size 0", classes=4, size=0)
    kit = root / "ILSVRC2012_devkit_t12"
    (kit / "data" / "meta.mat").write_bytes(b"MATLAB")
    refusal("imagenet", "meta.mat", classes=4)
    shutil.rmtree(kit)
    refusal("imagenet", "flat val/ and no table", classes=4)
    write_devkit(root, [1, 2, 3])
    refusal("imagenet", "ILSVRC2012_val_00000004.JPEG", "in no table", classes=4)
    shutil.rmtree(kit)
    write_devkit(root, [1, 2, 3, 9, 1, 2, 3, 4])
    refusal("imagenet", "class 9", classes=4)
    shutil.rmtree(kit)
    write_devkit(root, [n % 4 + 1 for n in range(8)])
    broken = root / "train" / WNIDS[1] / f"{WNIDS[1]}_2.JPEG"
    broken.write_bytes(broken.read_bytes()[:400])
    refusal("imagenet", str(broken), classes=4)


def weather_folder(root, names, n=6):
    for k, name in enumerate(names):
        for j in range(n):
            picture(root / name / f"{j}.jpg", 10 * k + j, (50 + j, 70))


@pytest.mark.parametrize(("names", "classes"), [
    (("rain", "fog", "snow"), 3), (("Rainy", "Foggy", "Snowy", "Sunny", "Cloudy"), 3), (("rainy", "foggy", "snowy", "sunny", "cloudy"), 5)])
@pytest.mark.parametrize("inside", ["", "RFS Dataset", "a/b"])
def test_weather_folders(data, names, classes, inside):
    weather_folder(data / "weather" / inside, names)
    task = load_task("weather", classes=classes, size=16)
    assert task.targets == ("rainy", "foggy", "snowy", "sunny", "cloudy")[:classes]
    assert (task.x.shape, task.groups) == ((6 * classes, 3, 16, 16), None)
    assert sum(int(v.split()[0]) for v in verify_source("weather").values()) == 6 * len(names)


def test_weather_archive_and_refusals(data, tmp_path):
    refusal("weather", "Dataset Access")
    weather_folder(tmp_path / "photos", ("rain", "fog", "snow"))
    (data / "weather").mkdir()
    with zipfile.ZipFile(data / "weather" / "RFS.zip", "w") as archive:
        for path in sorted((tmp_path / "photos").rglob("*.jpg")):
            archive.write(path, path.relative_to(tmp_path))
        archive.writestr("../evil.jpg", b"x")
    refusal("weather", "RFS.zip", "leads outside")
    assert not (tmp_path / "data").exists()
    with zipfile.ZipFile(data / "weather" / "RFS.zip", "w") as archive:
        for path in sorted((tmp_path / "photos").rglob("*.jpg")):
            archive.write(path, path.relative_to(tmp_path))
    task = load_task("weather", size=8)
    assert len(task.x) == 18 and (tmp_path / "data" / "weather" / "RFS").is_dir()
    assert load_task("weather", size=8).sha256 == task.sha256
    refusal("weather", "no folder for sunny, cloudy", classes=5)
    refusal("weather", "choose one of 3, 5", classes=4)


def test_copied_photographs_stay_together(data):
    weather_folder(data / "weather", ("rain", "fog", "snow"), n=20)
    for k in range(8):
        shutil.copy(data / "weather" / "rain" / f"{k}.jpg", data / "weather" / "rain" / f"copy{k}.jpg")
    task = load_task("weather", size=16)
    assert set(leakage(task.groups, task.splits).values()) == {0.0}


# single pictures


def save(path, array, mode=None, **how):
    image = Image.fromarray(array) if mode is None else Image.fromarray(array).convert(mode)
    image.save(path, **how)
    return path


COLOURS = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_modes_of_pictures(tmp_path, mode):
    ending = "tif" if mode == "CMYK" else "png"
    x = read_picture(save(tmp_path / f"a.{ending}", COLOURS, mode))
    assert (x.shape, x.dtype) == ((20, 30, 3), np.uint8)
    if mode in ("RGB", "RGBA"):
        assert np.array_equal(x, COLOURS)


def test_sixteen_bits_palette_with_hole_and_turned(tmp_path):
    deep = np.arange(600, dtype=np.uint16).reshape(20, 30) * 109
    assert np.array_equal(read_picture(save(tmp_path / "deep.png", deep))[..., 0], deep >> 8)
    assert np.array_equal(read_picture(save(tmp_path / "deep.tif", deep.astype(np.int32)))[..., 0], deep >> 8)
    hole = Image.fromarray(np.zeros((4, 4), np.uint8)).convert("P")
    hole.save(tmp_path / "hole.png", transparency=0)
    assert read_picture(tmp_path / "hole.png").min() == 255
    turned = Image.Exif()
    turned[0x0112] = 6
    save(tmp_path / "turned.jpg", COLOURS, exif=turned)
    assert read_picture(tmp_path / "turned.jpg").shape == (30, 20, 3)


def big_png(path, side):
    """A picture whose header promises side x side pixels."""
    save(path, np.zeros((1, 1), np.uint8))
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    path.write_bytes(content)


def test_pictures_that_are_refused(tmp_path):
    float_tif, empty, page, half = (tmp_path / n for n in ("float.tif", "empty.png", "page.jpg", "half.jpg"))
    save(float_tif, np.zeros((4, 4), np.float32))
    empty.touch()
    page.write_bytes(b"<html>")
    save(half, COLOURS)
    half.write_bytes(half.read_bytes()[:300])
    for side in (12_000, 60_000):
        big_png(tmp_path / f"bomb{side}.png", side)
    said = {"float.tif": "mode F", "empty.png": "no picture", "page.jpg": "no picture", "half.jpg": "cannot be read as a picture",
            "bomb12000.png": "million pixels", "bomb60000.png": "million pixels", "absent.png": "No such file"}
    for name, words in said.items():
        with pytest.raises(InputError, match=words) as caught:
            read_picture(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_every_truncated_picture_is_refused(tmp_path):
    for name in ("a.png", "a.jpg", "a.gif", "a.bmp", "a.tif"):
        whole = save(tmp_path / name, COLOURS).read_bytes()
        for size in range(0, len(whole) - 30, 97):
            (tmp_path / name).write_bytes(whole[:size])
            with pytest.raises(InputError, match=name):
                read_picture(tmp_path / name)


@pytest.mark.skipif(AS_ROOT, reason="root may read every file")
def test_unreadable_picture(tmp_path):
    path = save(tmp_path / "a.png", COLOURS)
    path.chmod(0)
    with pytest.raises(InputError, match="Permission denied"):
        read_picture(path)


# PLAsTiCC


def curves_and_objects(n_each=6, points=30):
    codes = np.repeat(list(CLASSES), n_each)
    ids = np.arange(len(codes)) * 13 + 615
    size = len(codes) * points
    curves = pd.DataFrame({
        "object_id": ids.repeat(points), "mjd": RNG.uniform(59581, 60675, size).round(4), "passband": RNG.integers(0, 6, size),
        "flux": RNG.normal(0, 100, size).round(6), "flux_err": RNG.uniform(0.5, 60, size).round(6), "detected": RNG.integers(0, 2, size)})
    objects = pd.DataFrame({
        "object_id": ids, "ra": 0.1, "decl": -1.0, "gal_l": 1.0, "gal_b": 2.0, "ddf": 1, "hostgal_specz": 0.5, "hostgal_photoz": 0.4,
        "hostgal_photoz_err": 0.1, "distmod": np.where(np.isin(codes, [6, 16, 53, 65, 92]), np.nan, 41.0), "mwebv": 0.02, "target": codes})
    return curves, objects


def write_plasticc(data, kind, curves, objects):
    folder = data / "plasticc"
    folder.mkdir(exist_ok=True)
    if kind == "zenodo":
        curves.rename(columns={"detected": "detected_bool"}).to_csv(folder / "plasticc_train_lightcurves.csv.gz", index=False)
        official = objects.drop(columns=["gal_l", "gal_b"]).rename(columns={"ddf": "ddf_bool"}).assign(true_target=objects.target, true_z=0.5)
        official.to_csv(folder / "plasticc_train_metadata.csv.gz", index=False)
    else:
        curves.to_csv(folder / ("training_set.csv" + kind.removeprefix("kaggle")), index=False)
        objects.to_csv(folder / "training_set_metadata.csv", index=False)


@pytest.mark.parametrize("kind", ["zenodo", "kaggle", "kaggle.gz", "kaggle.zip"])
def test_both_conventions_give_the_same_task(data, monkeypatch, kind):
    curves, objects = curves_and_objects()
    write_plasticc(data, kind, curves, objects)
    if kind == "zenodo":
        publish(monkeypatch, data, "plasticc")
    task = load_task("plasticc")
    assert (task.x.shape, task.n_out) == ((84, 12, 64), 14)
    flux, _, mask = bin_curves(curves, objects.object_id)
    assert np.allclose(task.x, np.concatenate([np.arcsinh(flux / 10), mask], axis=1), atol=1e-5)
    assert [list(CLASSES)[k] for k in task.y] == objects.target.tolist()
    assert task.metric_name == "negative weighted log loss" and task.class_weights[1] == 2
    assert "84 objects and 2,520 measurements" in task.card.traps[-1] and len(task.card.sha256) == 64
    image = load_task("plasticc", form="image", bins=16, photoz=True, window="peak")
    assert image.x.shape == (84, 3, 6, 16) and np.allclose(image.x[:, 2], 0.4)


def test_binning_against_a_plain_loop():
    curves, objects = curves_and_objects(n_each=1, points=200)
    flux, error, mask = bin_curves(curves, objects.object_id, 8)
    for k, name in enumerate(objects.object_id):
        for band in range(6):
            for b in range(8):
                start = 59580 + 137 * b
                rows = curves[(curves.object_id == name) & (curves.passband == band) & (curves.mjd >= start) & (curves.mjd < start + 137)]
                assert mask[k, band, b] == (len(rows) > 0)
                if len(rows):
                    w = rows.flux_err ** -2.0
                    assert np.isclose(flux[k, band, b], (w * rows.flux).sum() / w.sum(), rtol=1e-4)
                    assert np.isclose(error[k, band, b], w.sum() ** -0.5, rtol=1e-4)


def bad_curves():
    def put(column, value):
        def change(curves, objects):
            curves[column] = curves[column].astype(object)
            curves.loc[4, column] = value
            return curves, objects
        return change
    return {
        "text": (put("flux", "n/a!"), "line 6", "flux is 'n/a!'"),
        "nan": (put("flux", None), "line 6", "flux is missing"),
        "infinite": (put("mjd", np.inf), "line 6", "mjd is missing or not finite"),
        "no error": (put("flux_err", 0), "line 6", "flux_err is not above 0"),
        "band": (put("passband", 6), "line 6", "passband is not one of 0 to 5"),
        "no object": (put("object_id", None), "line 6", "object_id is missing"),
        "another time": (put("mjd", 12.5), "day 12.5", "outside of the survey"),
        "column": (lambda c, o: (c.drop(columns="mjd"), o), "no column mjd"),
        "empty": (lambda c, o: (c[:0], o), "has no measurements"),
        "one point": (lambda c, o: (c.drop(c.index[1:30]), o), "line 2", "one point only"),
        "no curve": (lambda c, o: (c[30:], o), "object 615 has no measurements"),
        "all nan": (lambda c, o: (c.assign(flux=np.nan), o), "line 2", "flux is missing"),
        "twice": (lambda c, o: (c, o.assign(object_id=o["object_id"].replace(628, 615))), "line 3", "comes twice"),
        "class": (lambda c, o: (c, o.assign(target=99)), "target is none of the classes"),
        "no target": (lambda c, o: (c, o.drop(columns="target")), "no column target"),
    }


@pytest.mark.parametrize("case", bad_curves())
def test_damaged_light_curves(data, case):
    change, *words = bad_curves()[case]
    write_plasticc(data, "kaggle", *change(*curves_and_objects()))
    refusal("plasticc", *words)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><p>403", b"\x1f\x8b\x08\x00", b"\x00\xff\xfe" * 50])
def test_files_that_are_no_tables(data, content):
    curves, objects = curves_and_objects()
    for name in ("training_set_metadata.csv", "training_set.csv.gz"):
        write_plasticc(data, "kaggle.gz", curves, objects)
        (data / "plasticc" / name).write_bytes(content)
        refusal("plasticc", name)


def test_every_truncated_table_is_refused(data):
    curves, objects = curves_and_objects()
    write_plasticc(data, "kaggle.gz", curves, objects)
    path = data / "plasticc" / "training_set.csv.gz"
    whole = path.read_bytes()
    for size in np.linspace(0, len(whole) - 1, 12).astype(int):
        path.write_bytes(whole[:size])
        refusal("plasticc", "training_set.csv.gz")


def test_checks_take_frames_of_any_index():
    curves, _ = curves_and_objects(n_each=1)
    assert len(check_curves(curves.set_index(np.arange(len(curves))[::-1]))) == len(curves)


def test_features_of_another_shape(data, monkeypatch):
    path = data / "plasticc" / "f.npz"
    path.parent.mkdir()
    np.savez(path, X=np.zeros((80, 5)), target=np.zeros(80, int))
    source = SOURCES["plasticc"]
    copies = dict(source.copies) | {"features": DataFile("f.npz", file_checksum(path), path.stat().st_size)}
    monkeypatch.setitem(SOURCES, "plasticc", replace(source, copies=copies))
    refusal("plasticc", "f.npz", "(80, 5)", form="features")


# CQ500

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'nas_nb[ct]'")


def dicom(hu, z, series, slope=1, intercept=-1024, **changes):
    """One CT slice as a scanner writes it."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = pydicom.Dataset()
    data.file_meta = meta
    tags = {
        "SOPClassUID": CTImageStorage, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID, "Modality": "CT", "SeriesInstanceUID": series,
        "ImagePositionPatient": [0, 0, z], "SliceThickness": 5, "RescaleSlope": slope, "RescaleIntercept": intercept, "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2", "Rows": hu.shape[0], "Columns": hu.shape[1], "BitsAllocated": 16, "BitsStored": 16,
        "HighBit": 15, "PixelRepresentation": 1, "SeriesDescription": "CT Plain"} | changes
    for tag, value in tags.items():
        if value is not None:
            setattr(data, tag, value)
    data.PixelData = ((hu - intercept) / slope).round().astype("<i2").tobytes()
    out = io.BytesIO()
    data.save_as(out, enforce_file_format=True)
    return out.getvalue()


def write_reads(data, n=8):
    columns = {"name": [f"CQ500-CT-{k}" for k in range(n)], "Category": ["B1", "B2"] * (n // 2)}
    columns |= {f"{r}:{f}": RNG.integers(0, 2, n) for r in READERS for f in FINDINGS}
    (data / "cq500").mkdir(exist_ok=True)
    pd.DataFrame(columns).to_csv(data / "cq500" / "reads.csv", index=False)
    return pd.DataFrame(columns)


def scan(patient, n=6, name="CT Plain", **changes):
    """Members of an archive of CQ500."""
    hu = np.full((16, 16), float(patient))
    return {f"CQ500CT{patient} CQ500CT{patient}/Unknown Study/{name}/CT{k:06d}.dcm": dicom(hu + 100 * k, 5.0 * k, f"1.2.{patient}", **changes)
            for k in range(n)}


def write_zip(data, patient, members):
    with zipfile.ZipFile(data / "cq500" / f"CQ500-CT-{patient}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def write_folder(data, members):
    for name, content in members.items():
        path = data / "cq500" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_cq500_archives_and_folders(data, monkeypatch):
    table = write_reads(data)
    for patient in range(8):
        if patient % 2:
            write_zip(data, patient, scan(patient))
        else:
            write_folder(data, scan(patient))
    publish(monkeypatch, data, "cq500")
    task = load_task("cq500", slices=3, size=8)
    assert (task.x.shape, task.y.shape, task.metric_name) == ((24, 3, 8, 8), (24, 14), "macro AUROC")
    assert set(leakage(task.groups, task.splits).values()) == {0.0}
    bone = task.x[:3, 2, 0, 0].astype(int)
    assert np.allclose(bone, np.round(((np.array([100, 300, 500]) - 600) / 2800 + 0.5) * 255), atol=1)
    votes = sum(table[[f"{r}:{f}" for f in FINDINGS]].to_numpy() for r in READERS) >= 2
    assert np.array_equal(task.y[::3], votes)
    assert verify_source("cq500")["scans"] == "8 of 491 patients"


def test_slope_intercept_and_padding(tmp_path):
    hu = np.array([[-1000.0, 0], [40, 1000]])
    for slope, intercept in ((1, 0), (1, -1024), (0.5, -1000), (2, 100)):
        found = read_slice(io.BytesIO(dicom(hu, 0, "1.2", slope, intercept)), "a.dcm").hu
        assert np.allclose(found, hu)
    assert read_slice(io.BytesIO(dicom(hu - 2000, 0, "1.2")), "a.dcm").hu.min() == -1024


BAD_SLICES = {
    "no rescale": ({"RescaleIntercept": None}, "has no tag RescaleIntercept"),
    "no slope": ({"RescaleSlope": None}, "has no tag RescaleSlope"),
    "no place": ({"ImagePositionPatient": None}, "has no tag ImagePositionPatient"),
    "no modality": ({"Modality": None}, "has no tag Modality"),
    "magnet": ({"Modality": "MR"}, "has modality MR, not CT"),
    "colour": ({"SamplesPerPixel": 3}, "3 values a pixel"),
    "size": ({"Rows": 99}, "pixels cannot be decoded"),
    "colours": ({"PhotometricInterpretation": None}, "pixels cannot be decoded"),
}


@pytest.mark.parametrize("case", BAD_SLICES)
def test_bad_slices_are_named(data, monkeypatch, case):
    write_reads(data)
    changes, said = BAD_SLICES[case]
    write_zip(data, 3, scan(3, **changes))
    publish(monkeypatch, data, "cq500")
    refusal("cq500", "CQ500-CT-3.zip", "CT00000", said, slices=2)


def test_bad_scans_are_named(data, monkeypatch):
    write_reads(data)
    publish(monkeypatch, data, "cq500")
    refusal("cq500", "accept the licence agreement")
    members = scan(3)
    names = list(members)
    small = dicom(np.zeros((8, 8)), 50.0, "1.2.3")
    write_zip(data, 3, members | {names[2]: small})
    refusal("cq500", "CQ500-CT-3.zip", "CT000002.dcm", "8 x 8 pixels", slices=2)
    write_zip(data, 3, members)
    refusal("cq500", "no series has 9 slices, the longest has 6", slices=9)
    write_zip(data, 3, members | {names[0]: b"<html>"})
    refusal("cq500", "CT000000.dcm cannot be read as DICOM", slices=2)
    write_zip(data, 3, members | {name: content[:600] for name, content in members.items()})
    refusal("cq500", "CQ500-CT-3.zip", slices=2)
    write_zip(data, 3, members | {"../CT000000.dcm": b""})
    refusal("cq500", "leads outside", slices=2)
    write_zip(data, 3, members)
    path = data / "cq500" / "CQ500-CT-3.zip"
    path.write_bytes(path.read_bytes()[:-40])
    refusal("cq500", "CQ500-CT-3.zip", "no complete zip or tar archive", slices=2)
    refusal("cq500", "at least 1 of each", slices=0)


def test_a_plain_series_is_chosen(data, monkeypatch):
    write_reads(data)
    for patient in range(8):
        plain = scan(patient, 5)
        thin = scan(patient, 9, "CT Thin Plain", SliceThickness=0.6, SeriesInstanceUID="1.9")
        other = scan(patient, 7, "CT BONE", SeriesInstanceUID="1.8", SeriesDescription="CT BONE")
        write_zip(data, patient, thin | other | {name: content for name, content in plain.items()})
    publish(monkeypatch, data, "cq500")
    task = load_task("cq500", slices=5, size=8)
    bone = task.x[:5, 2, 0, 0].astype(int)
    assert np.allclose(bone, np.round(((100 * np.arange(5) - 600) / 2800 + 0.5) * 255), atol=1)


@pytest.mark.parametrize(("change", "words"), [
    (lambda t: t.drop(columns="R1:EDH"), ("no column R1:EDH",)),
    (lambda t: t.assign(name="CQ500-CT-1"), ("line 3", "comes twice")),
    (lambda t: t.assign(**{"R3:SAH": 2}), ("line 2", "R3:SAH", "not 0 or 1")),
    (lambda t: t.assign(**{"R3:SAH": np.nan}), ("line 2", "R3:SAH", "not 0 or 1")),
])
def test_damaged_reads(data, monkeypatch, change, words):
    change(write_reads(data)).to_csv(data / "cq500" / "reads.csv", index=False)
    publish(monkeypatch, data, "cq500")
    refusal("cq500", "reads.csv", *words)
