"""One search and one baseline on every data set that has a name: real where it is at hand, else files of the official form."""

from dataclasses import replace

import numpy as np
import pytest
from test_families import (
    cifar_members,
    curves_and_objects,
    dicom,
    imagenet_sorted,
    picture,
    publish,
    tar_pickles,
    write_folder,
    write_idx,
    write_plasticc,
    write_reads,
)

from nas_nb.data.sources import SOURCES, local_path
from nas_nb.judge.study import SCALES, Study
from nas_nb.space.spaces import DARTS

RNG = np.random.default_rng(1)
TINY = replace(SCALES["toy"], search_steps=2, candidate_steps=2, final_steps=4, n_seeds=1, audited=1, samples=160)


def cifar(data, kind):
    filename, folder = {"cifar10": ("cifar-10-python.tar.gz", "cifar-10-batches-py"),
                        "cifar100": ("cifar-100-python.tar.gz", "cifar-100-python")}[kind]
    tar_pickles(data / kind / filename, folder, cifar_members(kind))


def mnist(data, name):
    y = np.arange(400, dtype=np.uint8) % 10
    x = RNG.integers(0, 256, (400, 28, 28), dtype=np.uint8)
    for file, array in zip(SOURCES[name].files, (x[:300], y[:300], x[300:], y[300:]), strict=True):
        write_idx(data / name / file.filename, array)


def plasticc(data, name):
    write_plasticc(data, "zenodo", *curves_and_objects(n_each=12))


def cq500(data, name):
    write_reads(data, 24)
    for patient in range(24):
        folder = f"CQ500CT{patient} CQ500CT{patient}/Unknown Study/CT Plain"
        slices = {f"{folder}/CT{k:06d}.dcm": dicom(RNG.normal(40, 300, (16, 16)), 5.0 * k, f"1.2.{patient}") for k in range(4)}
        write_folder(data, slices)


def weather(data, name):
    for k, kind in enumerate(("rainy", "foggy", "snowy")):
        for j in range(30):
            picture(data / name / kind / f"{j}.jpg", 100 * k + j)


def imagenet(data, name):
    imagenet_sorted(data / name)


OFFICIAL = {"cifar10": cifar, "cifar100": cifar, "mnist": mnist, "fashion_mnist": mnist, "plasticc": plasticc, "cq500": cq500,
            "weather": weather, "imagenet": imagenet}
OPTIONS = {"imagenet": {"classes": 4, "size": 24}, "weather": {"size": 24}, "cq500": {"size": 16, "slices": 3}, "graphene": {"target": "toughness"},
           "cifar100": {"labels": "coarse"}, "head-ct-simulated": {"n": 400, "size": 32}, "weather-simulated": {"n": 300, "size": 24},
           "plasticc-simulated": {"n": 400}, "graphene-simulated": {"n": 600}}


@pytest.mark.parametrize("name", SOURCES)
def test_a_search_and_a_baseline_on(name, tmp_path, monkeypatch):
    if name in OFFICIAL:
        monkeypatch.setenv("NAS_NB_DATA", str(tmp_path / "data"))
        (tmp_path / "data").mkdir()
        OFFICIAL[name](tmp_path / "data", name)
        if SOURCES[name].files:
            publish(monkeypatch, tmp_path / "data", name)
    elif name == "graphene" and local_path(name) is None:
        pytest.skip("the kirigami file is not on this machine (set NAS_NB_DATA)")
    monkeypatch.setitem(SCALES, "tiny", TINY)
    options = OPTIONS.get(name, {})
    study = Study(name, "tiny", runs=tmp_path / "runs", waive="identity" if name in OFFICIAL else "", **options)
    _, found = study.run_darts()
    DARTS.validate(found.genotype)
    for method, genotype in (("darts", found.genotype), ("resnet", None)):
        done = study.train_final(method, study.spec(method, genotype), 0)
        assert np.isfinite(done.result["loss"])
        assert (study.model_folder(method, 0) / "weights.pt").exists()
