"""What does one first-order search step cost, against the same step written as in a textbook?

Both do the same mathematics from the same weights: the DARTS supernet, one alpha step and one weight step. The
textbook one stands below, complete, so that it stays what it is when the package changes: a module for each candidate,
a Python sum over them, one `loss.backward()` for everything. They take turns in one process on one thread (A B A B),
the clock is the processor time of the process, and the medians are compared. Quote the ratios; the seconds belong to
this machine.

    python bench/step.py            the table, in less than a minute
    python bench/step.py --json     and a last line with the ratios, for programs
"""

import argparse
import json
import time
from statistics import median

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from nas_nb.core import Compute
from nas_nb.data.task import make_task
from nas_nb.search.darts import Darts, DartsRecipe
from nas_nb.space.spaces import DARTS

# the textbook's network


def relu_conv_bn(c_in, c_out, kernel=1):
    return nn.Sequential(nn.ReLU(), nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False),
                         nn.BatchNorm2d(c_out, affine=False))


def depthwise(C, kernel, stride, dilation=1):
    padding = dilation * (kernel // 2)
    return [nn.ReLU(), nn.Conv2d(C, C, kernel, stride, padding, dilation, groups=C, bias=False),
            nn.Conv2d(C, C, 1, bias=False), nn.BatchNorm2d(C, affine=False)]


class Zero(nn.Module):
    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        return x[:, :, ::self.stride, ::self.stride] * 0.0


class FactorizedReduce(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.even = nn.Conv2d(c_in, c_out // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(c_in, c_out // 2, 1, 2, bias=False)
        self.bn = nn.BatchNorm2d(c_out, affine=False)

    def forward(self, x):
        x = torch.relu(x)
        return self.bn(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], dim=1))


def candidates(C, stride):
    def norm(): return nn.BatchNorm2d(C, affine=False)
    return nn.ModuleList([
        Zero(stride),
        nn.Sequential(nn.MaxPool2d(3, stride, 1), norm()),
        nn.Sequential(nn.AvgPool2d(3, stride, 1, count_include_pad=False), norm()),
        nn.Identity() if stride == 1 else FactorizedReduce(C, C),
        nn.Sequential(*depthwise(C, 3, stride), *depthwise(C, 3, 1)),
        nn.Sequential(*depthwise(C, 5, stride), *depthwise(C, 5, 1)),
        nn.Sequential(*depthwise(C, 3, stride, dilation=2)),
        nn.Sequential(*depthwise(C, 5, stride, dilation=2))])


class Cell(nn.Module):
    def __init__(self, c_prev_prev, c_prev, C, reduction, reduction_prev):
        super().__init__()
        self.fit0 = FactorizedReduce(c_prev_prev, C) if reduction_prev else relu_conv_bn(c_prev_prev, C)
        self.fit1 = relu_conv_bn(c_prev, C)
        self.edges = nn.ModuleList(candidates(C, 2 if reduction and state < 2 else 1)
                                   for node in range(2, 6) for state in range(node))

    def forward(self, s0, s1, weights):
        states, edge = [self.fit0(s0), self.fit1(s1)], 0
        for _ in range(4):
            total = 0
            for state in states:
                total = total + sum(w * op(state) for w, op in zip(weights[edge], self.edges[edge]))
                edge += 1
            states.append(total)
        return torch.cat(states[2:], dim=1)


class TextbookSupernet(nn.Module):
    def __init__(self, C, n_cells, n_out, in_channels):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, 3 * C, 3, padding=1, bias=False),
                                  nn.BatchNorm2d(3 * C))
        self.cells, c_prev_prev, c_prev, reduction_prev = nn.ModuleList(), 3 * C, 3 * C, False
        for i in range(n_cells):
            reduction = i in (n_cells // 3, 2 * n_cells // 3)
            C = 2 * C if reduction else C
            self.cells.append(Cell(c_prev_prev, c_prev, C, reduction, reduction_prev))
            c_prev_prev, c_prev, reduction_prev = c_prev, 4 * C, reduction
        self.classifier = nn.Linear(c_prev, n_out)
        self.alpha = nn.ParameterList(1e-3 * torch.randn(14, 8) for _ in range(2))
        self.reductions = {n_cells // 3, 2 * n_cells // 3}

    def weights(self):
        return [p for name, p in self.named_parameters() if not name.startswith("alpha")]

    def forward(self, x):
        s0 = s1 = self.stem(x)
        for i, cell in enumerate(self.cells):
            s0, s1 = s1, cell(s0, s1, self.alpha[int(i in self.reductions)].softmax(-1))
        return self.classifier(s1.mean((2, 3)))


class Textbook:
    def __init__(self, recipe, n_out, in_channels):
        self.net, self.clip = TextbookSupernet(recipe.C, recipe.n_cells, n_out, in_channels), recipe.clip
        self.weight_opt = torch.optim.SGD(self.net.weights(), recipe.lr, recipe.momentum,
                                          weight_decay=recipe.weight_decay)
        self.alpha_opt = torch.optim.Adam(self.net.alpha, recipe.lr_alpha, recipe.betas,
                                          weight_decay=recipe.weight_decay_alpha)

    def alpha_step(self, xb, yb):
        self.alpha_opt.zero_grad()
        F.cross_entropy(self.net(xb), yb).backward()
        self.alpha_opt.step()

    def weight_step(self, xb, yb):
        self.weight_opt.zero_grad()
        F.cross_entropy(self.net(xb), yb).backward()
        nn.utils.clip_grad_norm_(self.net.weights(), self.clip)
        self.weight_opt.step()

# the bench


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=16, help="of the first cell (16, as published)")
    parser.add_argument("--cells", type=int, default=8, help="of the supernet (8, as published)")
    parser.add_argument("--batch", type=int, default=8, help="images per step (8; 64 as published)")
    parser.add_argument("--size", type=int, default=32, help="pixels a side (32)")
    parser.add_argument("--rounds", type=int, default=3, help="turns that count, after one that does not (3)")
    parser.add_argument("--json", action="store_true", help="print the ratios as a last line")
    return parser.parse_args()


def contestants(args):
    recipe = DartsRecipe(C=args.channels, n_cells=args.cells, batch=args.batch)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 3, args.size, args.size), dtype=np.uint8)
    task = make_task("random images", images, np.arange(200) % 10)
    torch.manual_seed(0)
    ours, textbook = Darts(task, DARTS, recipe, compute=Compute()), Textbook(recipe, task.n_out, 3)
    give_weights(ours.supernet, textbook.net, torch.randn(2, 3, args.size, args.size))
    return {"textbook": textbook, "nas_nb": ours}


def give_weights(supernet, textbook, x):
    """Let both start alike, and see that they are the same function: else no ratio means anything."""
    pairs = list(zip(supernet.parameters(), textbook.parameters(), strict=True))
    with torch.no_grad():
        for ours, theirs in pairs: theirs.copy_(ours)
        if not torch.allclose(supernet(x), textbook(x), rtol=1e-3, atol=1e-4):
            raise SystemExit("the two supernets compute different things: bench/step.py is out of date")


def cpu_seconds(step, xb, yb):
    start = time.process_time()
    step(xb, yb)
    return time.process_time() - start


def main():
    args = parse()
    torch.set_num_threads(1)
    steppers = contestants(args)
    xb = torch.randn(args.batch, 3, args.size, args.size)
    yb = torch.arange(args.batch) % 10
    batches = {"textbook": xb, "nas_nb": steppers["nas_nb"].compute.place(xb)}
    kinds = ("alpha_step", "weight_step")
    times = {(name, kind): [] for name in steppers for kind in kinds}
    for _ in range(1 + args.rounds):
        for name, stepper in steppers.items():
            for kind in kinds:
                times[name, kind].append(cpu_seconds(getattr(stepper, kind), batches[name], yb))
    rows = {kind: {name: times[name, kind][1:] for name in steppers} for kind in kinds}
    rows["first_order"] = {name: [a + w for a, w in zip(*(rows[kind][name] for kind in kinds))]
                           for name in steppers}
    report(rows, args)


def report(rows, args):
    print(f"CPU seconds, one thread, median of {args.rounds} (lowest to highest); supernet C {args.channels}, "
          f"{args.cells} cells, batch {args.batch}, 3x{args.size}x{args.size}")
    print(f"{'':12} {'textbook':>24} {'nas_nb':>24} {'speed-up':>9}")
    ratios = {}
    for kind, row in rows.items():
        cells = [f"{median(t):.3f} ({min(t):.3f} to {max(t):.3f})" for t in row.values()]
        ratios[kind] = median(row["textbook"]) / median(row["nas_nb"])
        print(f"{kind:12} {cells[0]:>24} {cells[1]:>24} {ratios[kind]:8.2f}x")
    if args.json: print(json.dumps({kind: round(ratio, 3) for kind, ratio in ratios.items()}))


if __name__ == "__main__":
    main()
