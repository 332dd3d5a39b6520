"""How fast is a search step on a GPU, and how long would the published search take there?

The same textbook as in bench/darts.py, eager and in float32, against the package: eager, with the channels last, in bfloat16,
and recorded as a CUDA graph. Each step of first order is one alpha step and one weight step on a batch of 64. Times are
wall-clock medians of steps between two synchronizations; launches are the kernels that torch.profiler saw in one step.
The best of ours is multiplied up to the published search, 50 epochs of 25,000 + 25,000 images.

    python bench/gpu.py              the table, in a few minutes; without a GPU it says so and ends
    python bench/gpu.py --json       and a last line with the numbers, for programs
"""

import argparse
import json
import time
from statistics import median

import torch
from darts import Textbook, batches, make_bench_task, recipe_of
from torch.profiler import ProfilerActivity, profile

from nas_nb.core import Compute, pick_compute
from nas_nb.search.darts import Darts
from nas_nb.search.running import GraphedStep
from nas_nb.space.spaces import DARTS

OURS = {"eager": {}, "channels last": {"channels_last": True}, "bf16": {"precision": "bf16"},
        "bf16, channels last": {"precision": "bf16", "channels_last": True}}


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=16, help="of the first cell (16, as published)")
    parser.add_argument("--cells", type=int, default=8, help="of the supernet (8, as published)")
    parser.add_argument("--batch", type=int, default=64, help="images per step (64, as published)")
    parser.add_argument("--size", type=int, default=32, help="pixels a side (32)")
    parser.add_argument("--rounds", type=int, default=10, help="steps that count, after five that do not (10)")
    parser.add_argument("--json", action="store_true", help="print the numbers as a last line")
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    return parser.parse_args()


def textbook(args, compute):
    torch.manual_seed(0)
    theirs = Textbook(recipe_of(args), 10, 3)
    theirs.net.to(compute.device)
    return theirs.step


def ours(args, compute, graphs=False):
    torch.manual_seed(0)
    darts = Darts(make_bench_task(args), DARTS, recipe_of(args, path="stacked"), compute=compute)
    return GraphedStep(darts.step) if graphs else darts.step


def contestants(args):
    """Name -> how the step is made and where it runs; built one at a time, since all would not fit on a small GPU."""
    def place(**how): return Compute(args.device, **{"channels_last": False, **how})
    runs = {"textbook": (textbook, place())}
    runs |= {name: (ours, place(**how)) for name, how in OURS.items()}
    if args.device != "cpu":
        graphed = {f"{name}, CUDA graph": how for name, how in OURS.items()}
        runs |= {name: (lambda args, compute: ours(args, compute, graphs=True), place(**how)) for name, how in graphed.items()}
    return runs


def timed(step, batch, compute, rounds):
    """Seconds of a step."""
    seconds = []
    for turn in range(5 + rounds):
        compute.synchronize()
        start = time.perf_counter()
        step(*batch)
        compute.synchronize()
        if turn >= 5: seconds.append(time.perf_counter() - start)
    return seconds


def launches(step, batch, compute):
    """Calls that give work to the device in one step: kernels, copies and graphs."""
    cuda = compute.device != "cpu"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as seen:
        step(*batch)
        compute.synchronize()
    names = ("cudaLaunchKernel", "cuLaunchKernel", "cudaMemcpyAsync", "cudaMemsetAsync", "cudaGraphLaunch")
    return sum(e.count for e in seen.key_averages() if not cuda or e.key.startswith(names))


def measure(args):
    rows = {}
    for name, (make, compute) in contestants(args).items():
        xt, yt, xv, yv = batches(args)
        batch = [compute.place(t) for t in (xt, yt, xv, yv)]
        if compute.device != "cpu": torch.cuda.reset_peak_memory_stats()
        step = make(args, compute)
        seconds = timed(step, batch, compute, args.rounds)
        memory = torch.cuda.max_memory_allocated() / 1e6 if compute.device != "cpu" else None
        rows[name] = {"seconds": median(seconds), "low": min(seconds), "high": max(seconds),
                      "launches": launches(step, batch, compute), "peak_mb": memory}
        del step
    return rows


def report(rows, args):
    where = torch.cuda.get_device_name() if args.device != "cpu" else "a CPU, for trying this bench only"
    print(f"first-order step on {where}: supernet C {args.channels}, {args.cells} cells, batch {args.batch}, "
          f"3x{args.size}x{args.size}; torch {torch.__version__}")
    print(f"{'':32} {'ms, median (lowest to highest)':>32} {'launches':>9} {'peak MB':>8} {'faster':>7}")
    for name, row in rows.items():
        times = f"{1e3 * row['seconds']:.1f} ({1e3 * row['low']:.1f} to {1e3 * row['high']:.1f})"
        memory = "" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
        print(f"{name:32} {times:>32} {row['launches']:>9} {memory:>8} {rows['textbook']['seconds'] / row['seconds']:6.2f}x")
    best = min((name for name in rows if name != "textbook"), key=lambda name: rows[name]["seconds"])
    minutes = 50 * (25_000 // args.batch) * rows[best]["seconds"] / 60
    print(f"50 epochs on 25,000 + 25,000 images at this batch: {minutes:.1f} minutes of steps ({best})")
    if args.json:
        print(json.dumps({"best": best, "speed_up": rows["textbook"]["seconds"] / rows[best]["seconds"],
                          "search_minutes": minutes, "rows": rows}))


def main():
    args = parse()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("bench/gpu.py: PyTorch sees no GPU here, so there is nothing to measure.")
        return
    pick_compute(args.device)
    report(measure(args), args)


if __name__ == "__main__":
    main()
