"""Every network, on images and on sequences, leaves as a file that answers what the network answers."""

import inspect

import numpy as np
import pytest
import torch

from nas_nb.core import InputError
from nas_nb.data.task import Head
from nas_nb.judge import export
from nas_nb.nets.zoo import ZOO, build_net
from nas_nb.space.genotype import PUBLISHED
from nas_nb.space.spaces import NAS_BENCH_201
from nas_nb.train import Model

CELLS = {"cell of DARTS": (PUBLISHED["DARTS_V2"], 3), "cell of NAS-Bench-201": (NAS_BENCH_201.sample(np.random.default_rng(1)), 5)}
SMALL = {"resnet": {"width": 4, "depth": 8}, "highway": {"width": 4, "depth": 7}, "densenet": {"width": 4, "depth": 10}}
SPECS = {name: {"net": name, **SMALL.get(name, {})} for name in ZOO if name != "cell"} | {
    name: {"net": "cell", "genotype": g.to_json(), "C": 4, "n_cells": n, "auxiliary": True} for name, (g, n) in CELLS.items()}
SPECS = {name: spec for name, spec in SPECS.items() if name in {*SMALL, *CELLS} or {"n_out", "in_channels", "spatial"} <= set(inspect.signature(ZOO[spec["net"]]).parameters)}


def model_of(spec, spatial, kind):
    own = {"y_mean": (3.0, -1.0), "y_std": (2.0, 0.1)} if kind == "regression" else {}
    head = Head(kind, ("a", "b"), "NCHW" if len(spatial) == 2 else "NCL", 3, spatial, (5.0, 6.0, 7.0), (2.0, 3.0, 4.0), **own)
    torch.manual_seed(0)
    return Model(build_net({**spec, **head.sizes}).eval(), head)


@pytest.mark.parametrize(("spatial", "kind"), [((9, 7), "regression"), ((31,), "multilabel")])
@pytest.mark.parametrize("name", SPECS)
def test_every_network_is_traced_for_any_batch(tmp_path, name, spatial, kind):
    model = model_of(SPECS[name], spatial, kind)
    x = 5 + 3 * np.random.default_rng(0).standard_normal((5, 3, *spatial)).astype(np.float32)
    run = export.read_model(export.write_model(export.trace(model), "torch", tmp_path / "m.pt2", model.head))
    for n in (1, 5, 40):
        part = np.resize(x, (n, *x.shape[1:]))
        np.testing.assert_allclose(run(part), export.answers(model, part), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "spatial"), [("cell of DARTS", (9, 7)), ("cell of NAS-Bench-201", (1,)), ("densenet", (31,))])
def test_onnx_answers_as_the_network_does(tmp_path, name, spatial):
    onnx = pytest.importorskip("onnx")
    model = model_of(SPECS[name], spatial, "regression")
    path = export.write_model(export.trace(model), "onnx", tmp_path / "m.onnx", model.head)
    run, x = export.read_model(path), np.random.default_rng(0).standard_normal((3, 3, *spatial)).astype(np.float32)
    np.testing.assert_allclose(run(x), export.answers(model, x), rtol=1e-4, atol=1e-4)
    assert run(x[:1]).shape == (1, 2)
    assert {p.key: p.value for p in onnx.load(path).metadata_props}["gives"] == "values in the targets' unit"


def test_missing_packages_are_one_sentence(monkeypatch):
    monkeypatch.setattr(export.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'nas_nb\[export\]'"):
        export.check_formats(["onnx"])
    export.check_formats(["torch"])
