"""A gradient search from outside: killed and resumed, ended politely, shared by two processes, imported from a bare install."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from nas_nb.core import CPU, Budget, Compute
from nas_nb.data.sources import load_task
from nas_nb.data.task import make_task
from nas_nb.run import RunFolder
from nas_nb.search.darts import Darts, DartsRecipe
from nas_nb.search.relaxations import RELAXATIONS, Dirichlet, Gumbel, Relaxation, Stage
from nas_nb.search.second_order import HESSIANS
from nas_nb.space.spaces import DARTS

SMALL = DartsRecipe(C=4, n_cells=3, batch=24, lr_alpha=3e-3)
EPOCHS = 3  # of which the staged search has two in its first stage and one in its second
STAGED = Relaxation("staged", Dirichlet(), partial=2, stages=(
    Stage(0.5, skip_dropout=0.3), Stage(0.5, keep=3, partial=1, keep_weights=True, skip_dropout=0.2)))
SEARCHES = {
    "first order": (SMALL, None),
    "second order": (replace(SMALL, order=2), None),
    "exact second order": (replace(SMALL, order=2, hessian="double_backward"), None),
    "sampled": (SMALL, Relaxation("gdas", Gumbel())),
    "staged": (SMALL, STAGED),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in the other processes of these tests: sums of two threads are rounded otherwise than those of one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def task():
    return replace(load_task("digits").subset(210), augment=("crop",))


def start(name, **kwargs):
    recipe, relaxation = SEARCHES[name]
    return Darts(task(), DARTS, recipe, seed=3, compute=CPU, relaxation=relaxation, **kwargs)


def traced(darts, path):
    """Make a search write down, before each step, where it is, its random state, its batches and its alphas."""
    step = darts.step

    def noting(*batch):
        tensors = [torch.get_rng_state(), *batch, *darts.supernet.alphas()]
        line = [darts.at.epoch, darts.at.step, *(float(t.detach().double().sum()) for t in tensors), torch.get_rng_state().tolist()]
        with open(path, "a") as f: f.write(json.dumps(line) + "\n")
        return step(*batch)

    darts.step = noting
    return darts


def trace(path):
    return {(e, s): rest for e, s, *rest in map(json.loads, path.read_text().splitlines())}


def assert_same(one, other):
    """Bit by bit equal, through all dicts and lists."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one: assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other): assert_same(a, b)
    elif isinstance(one, torch.Tensor): assert torch.equal(one, other)
    else: assert one == other


def untimed(history):
    return [(t.number, t.genotype, t.value, t.extra) for t in history.trials]


HEAD = """import os, signal, sys
sys.path.insert(0, {tests!r})
import test_darts as t
from nas_nb.core import Budget
from nas_nb.search import darts as d
"""
DIE = """d.SAVE_EVERY_S = {every}
darts, calls = t.traced(t.start({name!r}), {trace!r}), []
step = darts.step
def dying(*batch):
    calls.append(1)
    if len(calls) == {at}: os.kill(os.getpid(), signal.{signal})
    return step(*batch)
darts.step = dying
darts.run(Budget(epochs=t.EPOCHS), {folder!r})
"""


def run_script(text, env=None):
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})})


def die(folder, name, at, how="SIGKILL", every=600.0):
    """A search in a process of its own that a signal ends in its step number `at`."""
    script = HEAD + DIE
    process = run_script(script.format(tests=os.path.dirname(__file__), name=name, at=at, signal=how, every=every,
                                       trace=str(folder / "trace.jsonl"), folder=str(folder / "run")))
    _, err = process.communicate(timeout=600)
    return process.returncode, err


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Searches that nobody interrupted, each made once: history, state and trace."""
    made = {}

    def get(name):
        if name not in made:
            path = tmp_path_factory.mktemp("whole") / "trace.jsonl"
            darts = traced(start(name), path)
            made[name] = darts.run(Budget(epochs=EPOCHS)), darts.state(), trace(path)
        return made[name]

    return get


@pytest.mark.parametrize(("name", "every"), [(name, 600.0) for name in SEARCHES] + [("second order", 0.0), ("staged", 0.0)])
def test_a_killed_search_goes_on_as_if_nothing_had_happened(tmp_path, whole, name, every):
    """Killed in the middle of the last epoch; it goes on from that epoch's start, or from the very step if that was kept."""
    n = start(name).n_steps()
    assert n >= 3
    code, err = die(tmp_path, name, at=2 * n + 2, every=every)
    assert code == -signal.SIGKILL, err
    kept = RunFolder(tmp_path / "run").load("checkpoint.pt")
    assert kept["epochs"] == 2
    assert (kept["darts"]["at"] or {"step": 0})["step"] == (0 if every else 1)
    first = trace(tmp_path / "trace.jsonl")
    (tmp_path / "trace.jsonl").unlink()
    resumed = traced(start(name), tmp_path / "trace.jsonl")
    history, state, steps = whole(name)
    assert untimed(resumed.run(Budget(epochs=EPOCHS), tmp_path / "run")) == untimed(history)
    assert_same(resumed.state(), state)
    second = trace(tmp_path / "trace.jsonl")
    assert min(second) == (2, 0 if every else 1)
    assert {**first, **second} == steps


def test_a_search_that_is_asked_to_end_keeps_its_step(tmp_path, whole):
    code, err = die(tmp_path, "sampled", at=2, how="SIGTERM")
    assert code == 128 + signal.SIGTERM
    assert "go on at step 3 of epoch 1" in err
    kept = RunFolder(tmp_path / "run").load("checkpoint.pt")["darts"]["at"]
    assert (kept["epoch"], kept["step"]) == (0, 2)
    resumed = start("sampled")
    assert untimed(resumed.run(Budget(epochs=EPOCHS), tmp_path / "run")) == untimed(whole("sampled")[0])
    assert_same(resumed.state(), whole("sampled")[1])


def test_a_resumed_search_with_another_random_state_is_noticed(tmp_path, whole):
    """The comparison above sees a checkpoint whose random state, or loader position, is wrong."""
    assert die(tmp_path, "sampled", at=5, every=0.0)[0] == -signal.SIGKILL
    run = RunFolder(tmp_path / "run")
    for break_it in (lambda at: at["random"][0].bitwise_xor_(torch.tensor(1, dtype=torch.uint8)), lambda at: at.update(step=at["step"] - 1)):
        kept = run.load("checkpoint.pt")
        break_it(kept["darts"]["at"])
        run.save("checkpoint.pt", kept)
        try: assert untimed(start("sampled").run(Budget(epochs=EPOCHS), tmp_path / "run")) != untimed(whole("sampled")[0])
        except RuntimeError: pass


PAIR = """import torch
torch.set_num_threads(1)
darts = t.doubled(accelerator=True)
assert darts.processes.n == 2, darts.processes.n
history = darts.run(Budget(epochs=2), {folder!r} or None)
if darts.processes.index == 0: torch.save({{"state": darts.state(), "losses": [[r.extra["train_loss"], r.extra["valid_loss"], r.value]
                                                                          for r in history.trials]}}, {out!r})
"""
PAIRS = {
    "first": (SMALL, None), "gdas": (SMALL, Relaxation("gdas", Gumbel())), "second": (replace(SMALL, order=2), None),
    "exact": (replace(SMALL, order=2, hessian="double_backward"), None), "snas": (SMALL, RELAXATIONS["snas"]),
}


def doubled(name=None, **kwargs):
    """A search in float64: with half of the batch in each of two processes, or with all of it in one."""
    recipe, relaxation = PAIRS[name or os.environ["PAIR"]]
    recipe = recipe if kwargs else replace(recipe, batch=2 * recipe.batch)
    darts = Darts(task(), DARTS, replace(recipe, path="stacked"), seed=3, compute=CPU, relaxation=relaxation, **kwargs)
    darts.supernet.double()
    darts.task = SimpleNamespace(loss=cross_entropy, score=darts.task.score, describe=darts.task.describe)  # a task's own loss is float32
    return darts


def close(one, other, eps):
    for a, b in zip(one, other, strict=True):
        assert (a - b).abs().max().item() <= eps * (1 + b.abs().max().item())


@pytest.mark.parametrize("name", list(PAIRS))
def test_two_processes_take_the_steps_of_one_with_the_doubled_batch(tmp_path, name):
    pytest.importorskip("accelerate")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true", "PAIR": name}
    text = (HEAD + PAIR).format(tests=os.path.dirname(__file__), out=str(tmp_path / "pair.pt"), folder=str(tmp_path / "run"))
    pair = [run_script(text, {**env, "RANK": str(i), "LOCAL_RANK": str(i)}) for i in range(2)]
    ends = [process.communicate(timeout=600) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], ends[0][1][-3000:] + ends[1][1][-3000:]
    found = torch.load(tmp_path / "pair.pt", weights_only=True)
    alone = doubled(name)
    history = alone.run(Budget(epochs=2))
    close([t.double() for t in found["state"]["supernet"].values()], [t.double() for t in alone.supernet.state_dict().values()], 1e-9)
    close([torch.tensor(found["losses"])], [torch.tensor([[r.extra["train_loss"], r.extra["valid_loss"], r.value] for r in history.trials])], 1e-9)
    moved = max((a - b).abs().max().item() for a, b in zip(alone.supernet.alphas(), doubled(name).supernet.alphas()))
    assert moved > 1e-3


def test_a_search_imports_with_nothing_but_the_basics():
    blocked = ["accelerate", "numba", "ipywidgets", "IPython", "graphviz", "seaborn", "papermill", "pooch", "tqdm", "torchvision", "optuna"]
    text = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in blocked) + "import nas_nb.search.darts"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "regression"])
def test_all_ways_of_the_second_order_learn_every_kind_of_target(kind):
    rng = np.random.default_rng(0)
    x, measured = rng.random((80, 1, 3, 5), dtype=np.float32), rng.random((80, 2))
    y = {"multiclass": np.arange(80) % 3, "multilabel": (measured > 0.5).astype(int), "regression": measured}[kind]
    targets, steps = make_task("arrays", x, y), {}
    for how in HESSIANS:
        darts = Darts(targets, DARTS, replace(SMALL, order=2, hessian=how), seed=3, compute=CPU)
        darts.epoch(0, 1)
        steps[how] = torch.cat([alpha.detach().flatten() for alpha in darts.supernet.alphas()])
    assert torch.allclose(steps["double_backward"], steps["forward_over_reverse"], atol=1e-3)
    assert not torch.equal(steps["double_backward"], steps["finite_difference"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("order", [1, 2])
def test_steps_recorded_as_cuda_graphs_are_the_steps_themselves(order):
    recipe = replace(SMALL, order=order)
    graphed, plain = (Darts(task(), DARTS, recipe, seed=3, compute=Compute("cuda"), graphs=g) for g in ("on", "off"))
    for e in range(2):
        for key, value in plain.epoch(e, 2).items(): assert graphed.epoch(e, 2)[key] == pytest.approx(value, abs=2e-2) if key != "valid_score" else True
    for a, b in zip(graphed.supernet.alphas(), plain.supernet.alphas()): assert (a - b).abs().mean().item() < 3e-3
