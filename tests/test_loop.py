"""The search loop with real pools: finishing order shuffled, killed and resumed in both modes, a worker that dies."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import pytest

from nas_nb.core import Budget, Cost
from nas_nb.estimate.trial import SimulatedScore, Trial
from nas_nb.search.evolution import Evolution
from nas_nb.search.halving import Halving, Hyperband
from nas_nb.search.local_search import LocalSearch
from nas_nb.search.loop import History, search
from nas_nb.search.pareto import ParetoEvolution
from nas_nb.search.random_search import RandomSearch
from nas_nb.search.reinforce import Reinforce
from nas_nb.space.spaces import DARTS, NAS_BENCH_201, S1

SCORE = SimulatedScore(NAS_BENCH_201)
N = Budget(evaluations=60)
STRATEGIES = {
    "random": RandomSearch, "local": LocalSearch, "best neighbour": lambda s: LocalSearch(s, first=False), "evolution": Evolution,
    "reinforce": Reinforce, "halving": lambda s: Halving(s, 1, 9), "hyperband": lambda s: Hyperband(s, 1, 9),
    "pareto": lambda s: ParetoEvolution(s, ("size",)),
}


class Reordered(Executor):
    """A pool whose answers come out in random order, whichever of its workers was the quickest."""

    def __init__(self, pool, seed=0):
        self.pool, self._max_workers, self.dice = pool, pool._max_workers, random.Random(seed)
        self.lock, self.computed, self.n_inside, self.finished = threading.RLock(), [], 0, []

    def submit(self, function, *args, **kwargs):
        outer = Future()
        with self.lock: self.n_inside, outer.number = self.n_inside + 1, self.n_inside + len(self.finished)
        self.pool.submit(function, *args, **kwargs).add_done_callback(lambda inner: self.computed_one(outer, inner))
        return outer

    def computed_one(self, outer, inner):
        """Once everything inside is computed, let one out, any one."""
        with self.lock:
            self.computed.append((outer, inner))
            while self.computed and len(self.computed) == self.n_inside:
                chosen, result = self.computed.pop(self.dice.randrange(len(self.computed)))
                self.n_inside -= 1
                self.finished.append(chosen.number)
                chosen.set_result(result.result())


def told(history):
    return [(t.number, t.asked, t.genotype, t.value, t.fidelity, t.error) for t in history.trials]


def sums(genotype, epochs=1):
    """An evaluation whose time differs from candidate to candidate, some of which fail."""
    n = int(genotype.key, 16)
    if n % 11 == 0: raise ArithmeticError("loss is NaN")
    sum(range(n % 20_000))
    return replace(SCORE(genotype, epochs), cost=Cost(1, epochs, 1.0))


@pytest.mark.parametrize("name", STRATEGIES)
def test_one_worker_and_four_give_the_same_history(name):
    searcher = STRATEGIES[name](NAS_BENCH_201)
    alone = search(searcher, sums, N, seed=5, ahead=4)
    with ThreadPoolExecutor(1) as pool: one = search(searcher, sums, N, 5, pool, ahead=4)
    with ThreadPoolExecutor(4) as pool:
        shuffled = Reordered(pool)
        four = search(searcher, sums, N, 5, shuffled, ahead=4)
        default = search(searcher, sums, N, 5, pool)
    assert told(alone) == told(one) == told(four)
    assert [t.asked for t in four.trials] == list(range(60))
    assert sorted(shuffled.finished) == list(range(60)) != shuffled.finished
    serial = told(search(searcher, sums, N, 5))
    assert told(default) == serial  # nothing is read off the pool
    if name != "random": assert serial != told(alone)


def test_processes_give_the_same_history_too():
    searcher = Evolution(NAS_BENCH_201)
    alone = search(searcher, sums, N, seed=5, ahead=4)
    for n in (1, 4):
        with ProcessPoolExecutor(n) as pool:
            assert told(search(searcher, sums, N, 5, Reordered(pool, seed=n), ahead=4)) == told(alone)


def test_a_loop_that_told_in_the_order_of_completion_would_be_noticed():
    with ThreadPoolExecutor(4) as pool:
        history = search(Evolution(NAS_BENCH_201), sums, N, 5, Reordered(pool), ahead=4, deterministic=False)
    asked = [t.asked for t in history.trials]
    assert sorted(asked) == list(range(60)) != asked
    assert told(history) != told(search(Evolution(NAS_BENCH_201), sums, N, 5, ahead=4))


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_was_told_in_any_order_is_replayed(tmp_path, name):
    """A run cut short after any trial goes on with the same searcher state: the trials that stand there stay, in their order."""
    searcher = STRATEGIES[name](NAS_BENCH_201)
    with ThreadPoolExecutor(4) as pool:
        live = search(searcher, sums, N, 5, Reordered(pool), tmp_path, 4, deterministic=False)
    lines = (tmp_path / "history.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 60
    for cut in (1, 31):
        (tmp_path / "history.jsonl").write_bytes(b"".join(lines[:cut]))
        with ThreadPoolExecutor(4) as pool:
            again = search(searcher, sums, N, 5, Reordered(pool, seed=cut), tmp_path, 4, deterministic=False)
        assert told(again)[:cut] == told(live)[:cut]
        assert len({t.asked for t in again.trials}) == 60
    assert told(search(searcher, sums, N, 5, folder=tmp_path, ahead=4, deterministic=False)) == told(again)


KILLED = """import os, signal, sys
sys.path.insert(0, {tests!r})
import test_loop as t
from concurrent.futures import ThreadPoolExecutor
calls = []
def dying(genotype, **fidelity):
    calls.append(1)
    if len(calls) == 25: os.kill(os.getpid(), signal.SIGKILL)
    return t.sums(genotype, **fidelity)
dying.__qualname__ = "sums"
pool = ThreadPoolExecutor(4)
t.search(t.STRATEGIES[{name!r}](t.NAS_BENCH_201), t.Named(dying), t.N, 5, t.Reordered(pool), {folder!r}, 4, {mode})
"""


class Named:
    """An evaluation under one name, so that the run that was killed and the one that goes on are the same run."""

    def __init__(self, evaluate): self.evaluate = evaluate

    def __repr__(self): return "sums"

    def __call__(self, genotype, **fidelity): return self.evaluate(genotype, **fidelity)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("name", ["evolution", "hyperband"])
def test_killed_with_candidates_in_flight_and_continued(tmp_path, name, mode):
    script = KILLED.format(tests=os.path.dirname(__file__), name=name, folder=str(tmp_path / "run"), mode=mode)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    before = (tmp_path / "run" / "history.jsonl").read_bytes()
    n = len(before.splitlines())
    assert 15 <= n < 25
    evaluated = []

    def counted(genotype, **fidelity):
        evaluated.append(genotype)
        return sums(genotype, **fidelity)

    searcher = STRATEGIES[name](NAS_BENCH_201)
    with ThreadPoolExecutor(2) as pool: history = search(searcher, Named(counted), N, 5, pool, tmp_path / "run", 4, mode)
    assert len(history.trials) == 60 and len(evaluated) == 60 - n
    assert (tmp_path / "run" / "history.jsonl").read_bytes().startswith(before)
    if mode: assert told(history) == told(search(searcher, sums, N, 5, ahead=4))


def test_a_damaged_last_line_is_evaluated_again(tmp_path):
    history = search(Evolution(NAS_BENCH_201), SCORE, N, 5, folder=tmp_path)
    path = tmp_path / "history.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    assert told(search(Evolution(NAS_BENCH_201), SCORE, N, 5, folder=tmp_path)) == told(history)
    assert len(path.read_bytes().splitlines()) == 60


def dies(genotype):
    os._exit(1)


def test_a_dead_worker_ends_the_search_with_one_sentence_and_leaves_the_folder(tmp_path):
    with ProcessPoolExecutor(2) as pool, pytest.raises(RuntimeError, match="a worker died after 0 trials"):
        search(Evolution(NAS_BENCH_201), Named(dies), N, 5, pool, tmp_path, 2)
    assert len(search(Evolution(NAS_BENCH_201), Named(sums), N, 5, folder=tmp_path, ahead=2).trials) == 60


def test_an_interrupted_search_leaves_no_candidates_in_the_queue():
    started, heard = [], threading.Event()

    def interrupted(genotype):
        started.append(genotype)
        if len(started) == 3: raise KeyboardInterrupt
        if len(started) > 3: heard.wait(60)
        return SCORE(genotype)

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(KeyboardInterrupt):
            search(RandomSearch(NAS_BENCH_201), interrupted, Budget(evaluations=1000), 0, pool, ahead=100)
        heard.set()
    assert len(started) <= 4


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("space", [DARTS, S1, NAS_BENCH_201], ids=lambda s: s.name)
def test_every_strategy_stays_in_its_space_and_survives_failures(space, name):
    dice = random.Random(0)

    def luck(genotype, epochs=None):
        space.validate(genotype)
        if dice.random() < 0.4: raise ArithmeticError("loss is NaN")
        return SimulatedScore(space)(genotype, epochs)

    history = search(STRATEGIES[name](space), luck, Budget(evaluations=150), seed=1, ahead=3)
    assert len(history.trials) == 150 and 30 < len(history.failed) < 90
    assert not any("InputError" in t.error for t in history.failed)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_ends_or_goes_on_where_everything_fails_at_first(name):
    searcher = STRATEGIES[name](NAS_BENCH_201)
    searcher.start(0)
    for i in range(40):
        asked = searcher.ask()
        if asked is None: break
        genotype, epochs = (asked.genotype, asked.epochs) if hasattr(asked, "epochs") else (asked, None)
        searcher.tell(Trial(genotype, None if i < 30 else 0.5, Cost(1), error="NaN" if i < 30 else None, fidelity=epochs, extra={"size": 1.0}))
    assert i == 39


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_small_space_is_no_trap(name):
    """With 25 members, a strategy ends, or repeats itself until the budget is spent."""
    few = [[op in ("skip_connect", "nor_conv_3x3", "none", "avg_pool_3x3", "nor_conv_1x1") if edge < 2 else op == "nor_conv_3x3"
            for op in NAS_BENCH_201.operations] for edge in range(6)]
    small = NAS_BENCH_201.restricted([few])
    assert small.count() == 25
    for ahead in (1, 4):
        history = search(STRATEGIES[name](small), SimulatedScore(small), Budget(evaluations=200), seed=0, ahead=ahead)
        assert 25 <= len(history.trials) <= 200
        if name == "halving": assert [t.fidelity for t in history.trials].count(9) == 3  # brackets of 9, 9 and 7, each played to its end
        assert len({t.genotype for t in history.trials}) >= (25 if name not in ("reinforce", "evolution") else 10)


def test_a_history_is_read_back_as_it_was(tmp_path):
    history = search(Hyperband(NAS_BENCH_201, 1, 9), SCORE, N, 5, folder=tmp_path)
    read = History([Trial.from_json(json.loads(line)) for line in (tmp_path / "history.jsonl").read_text().splitlines()])
    assert read == history
    assert read.chosen.fidelity == 9
