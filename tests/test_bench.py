"""The benches run at toy sizes and give the numbers they promise; how large these are is for the benches to say."""

import json
import math
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEYS = {"first_order_plain", "first_order_kernels", "second_order_kernels", "gdas", "pc_darts", "augment", "memory",
        "memory_checkpointed", "exact_hvp"}


def last_line(*command):
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_the_bench_gives_every_ratio():
    ratios = json.loads(last_line("bench/darts.py", "--channels=8", "--cells=3", "--batch=8", "--size=16", "--rounds=1", "--json"))
    assert set(ratios) == KEYS
    assert all(math.isfinite(ratio) and ratio > 0 for ratio in ratios.values())


def test_the_gpu_bench_counts_and_estimates():
    found = json.loads(last_line("bench/gpu.py", "--device=cpu", "--channels=4", "--cells=3", "--batch=4", "--size=8",
                                 "--rounds=1", "--json"))
    assert found["search_minutes"] > 0
    assert all(row["launches"] > 0 and row["seconds"] > 0 for row in found["rows"].values())
