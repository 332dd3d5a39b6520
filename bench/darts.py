"""How fast is the search, and how much memory does it take, against DARTS written as in a textbook?

Both do the same mathematics from the same weights. The textbook stands below, complete, so that it stays what it is
when the package changes: a module for each candidate, a Python sum over them, one `loss.backward()` for everything,
second order by the published finite difference, images augmented one by one. Before anything is timed, both are
seen to compute the same function, values and gradients. Then they take turns in one process on one thread
(A B A B), the clock is the processor time of the process, and medians are compared. Memory is the peak of a step in
a process of its own, less what the process held before. Quote the ratios; the seconds belong to this machine.

    python bench/darts.py            the table, in about five minutes
    python bench/darts.py --json     and a last line with the ratios, for programs
"""

import argparse
import json
import subprocess
import sys
import time
from statistics import median

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import transforms

from nas_nb.core import Compute
from nas_nb.data.augment import Augment
from nas_nb.data.task import make_task
from nas_nb.search.darts import Darts, DartsRecipe
from nas_nb.search.second_order import leaves_of, mixed_product, with_leaves
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

# the textbook's search


class Textbook:
    def __init__(self, recipe, n_out, in_channels):
        self.recipe, self.order = recipe, recipe.order
        self.net, self.ahead = (TextbookSupernet(recipe.C, recipe.n_cells, n_out, in_channels) for _ in range(2))
        self.weights = self.net.weights()
        self.weight_opt = torch.optim.SGD(self.weights, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
        self.alpha_opt = torch.optim.Adam(self.net.alpha, recipe.lr_alpha, recipe.betas,
                                          weight_decay=recipe.weight_decay_alpha)

    def alpha_step(self, xv, yv, xt, yt):
        self.alpha_opt.zero_grad()
        if self.order == 1: F.cross_entropy(self.net(xv), yv).backward()
        else: self.look_ahead(xv, yv, xt, yt)
        self.alpha_opt.step()

    def look_ahead(self, xv, yv, xt, yt):
        """Liu et al. 2019, eq. 7 and 8, as in the published code: the validation loss of weights one step of SGD
        further, and the finite difference of the gradient with respect to alpha along the gradient there."""
        lr = self.recipe.lr
        grads = torch.autograd.grad(F.cross_entropy(self.net(xt), yt), self.weights)
        with torch.no_grad():
            for there, here in zip(self.ahead.parameters(), self.net.parameters()): there.copy_(here)
            for there, w, g in zip(self.ahead.weights(), self.weights, grads):
                momentum = self.weight_opt.state[w].get("momentum_buffer", torch.zeros_like(w))
                there.copy_(w - lr * (self.recipe.momentum * momentum + g + self.recipe.weight_decay * w))
        self.ahead.zero_grad()
        F.cross_entropy(self.ahead(xv), yv).backward()
        vector = [w.grad for w in self.ahead.weights()]
        R = 0.01 / torch.cat([v.flatten() for v in vector]).norm()
        def move(factor):
            with torch.no_grad():
                for w, v in zip(self.weights, vector): w.add_(v, alpha=float(factor * R))
        def slope(): return torch.autograd.grad(F.cross_entropy(self.net(xt), yt), list(self.net.alpha))
        move(1)
        plus = slope()
        move(-2)
        minus = slope()
        move(1)
        for alpha, there, p, m in zip(self.net.alpha, self.ahead.alpha, plus, minus):
            alpha.grad = there.grad - lr * (p - m) / (2 * R)

    def weight_step(self, xt, yt):
        self.weight_opt.zero_grad()
        F.cross_entropy(self.net(xt), yt).backward()
        nn.utils.clip_grad_norm_(self.weights, self.recipe.clip)
        self.weight_opt.step()

    def step(self, xt, yt, xv, yv):
        self.alpha_step(xv, yv, xt, yt)
        self.weight_step(xt, yt)

# the textbook's images


def cutout(image, length):
    _, H, W = image.shape
    y, x = np.random.randint(H), np.random.randint(W)
    mask = np.ones((H, W), np.float32)
    mask[max(0, y - length // 2):y + length // 2, max(0, x - length // 2):x + length // 2] = 0
    return image * torch.from_numpy(mask)


def one_by_one(normalize, side):
    mean, std = (t.flatten().tolist() for t in (normalize.mean, normalize.std))
    change = transforms.Compose([
        transforms.ToPILImage(), transforms.RandomCrop(side, padding=side // 8), transforms.RandomHorizontalFlip(),
        transforms.ToTensor(), transforms.Normalize(mean, std), lambda image: cutout(image, side // 2)])
    return lambda images: torch.stack([change(image) for image in images])

# the bench


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=16, help="of the first cell (16, as published)")
    parser.add_argument("--cells", type=int, default=8, help="of the supernet (8, as published)")
    parser.add_argument("--batch", type=int, default=16, help="images per step (16; 64 as published)")
    parser.add_argument("--size", type=int, default=32, help="pixels a side (32)")
    parser.add_argument("--rounds", type=int, default=3, help="turns that count, after one that does not (3)")
    parser.add_argument("--json", action="store_true", help="print the ratios as a last line")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    return parser.parse_args()


def recipe_of(args, **changes):
    return DartsRecipe(C=args.channels, n_cells=args.cells, batch=args.batch, **changes)


def make_bench_task(args):
    images = np.random.default_rng(0).integers(0, 256, (200, 3, args.size, args.size), dtype=np.uint8)
    return make_task("random images", images, np.arange(200) % 10, augment=("crop", "hflip", "cutout"))


def search(args, **changes):
    torch.manual_seed(0)
    return Darts(make_bench_task(args), DARTS, recipe_of(args, **changes), compute=Compute())


def textbook(args, **changes):
    torch.manual_seed(0)
    return Textbook(recipe_of(args, **changes), 10, 3)


def batches(args):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, args.batch, 3, args.size, args.size, generator=g)
    y = torch.randint(10, (2, args.batch), generator=g)
    return x[0], y[0], x[1], y[1]


def same_function(ours, theirs, args):
    """Let both start alike, and see in double precision that values and gradients agree: else no ratio means anything."""
    xt, yt = (t[:4] for t in batches(args)[:2])
    supernet, net = ours.supernet, theirs.net
    with torch.no_grad():
        for mine, other in zip(supernet.parameters(), net.parameters(), strict=True): other.copy_(mine)
    results = []
    for network in (supernet.double(), net.double()):
        out = network(xt.double())
        grads = torch.autograd.grad(F.cross_entropy(out, yt), list(network.parameters()), allow_unused=True)
        results.append([out, *grads])
        network.float()
    for mine, other in zip(*results, strict=True):
        if (mine - other).abs().max() > 1e-8 * max(1e-3, other.abs().max()):
            raise SystemExit("the two supernets compute different things: bench/darts.py is out of date")


def cpu_seconds(f):
    start = time.process_time()
    f()
    return time.process_time() - start


def race(runners, rounds):
    """Seconds of each, taking turns; a first turn is not counted."""
    times = {name: [] for name in runners}
    for counts in [False] + [True] * rounds:
        for name, run in runners.items():
            seconds = cpu_seconds(run)
            if counts: times[name].append(seconds)
    return times


def first_order(args):
    theirs = textbook(args)
    ours = {"first_order_plain": search(args, path="stacked"), "first_order_kernels": search(args, path="kernels"),
            "gdas": search(args, path="kernels", relaxation="gdas"),
            "pc_darts": search(args, path="kernels", relaxation="pc_darts")}
    for name in ("first_order_plain", "first_order_kernels"): same_function(ours[name], theirs, args)
    return race_of(theirs, ours, args, args.rounds)


def second_order(args):
    theirs, ours = textbook(args, order=2), search(args, order=2, path="kernels")
    same_function(ours, theirs, args)
    return race_of(theirs, {"second_order_kernels": ours}, args, max(1, args.rounds - 1))


def one_step(searcher, args):
    xt, yt, xv, yv = batches(args)
    if isinstance(searcher, Textbook): return lambda: searcher.step(xt, yt, xv, yv)
    xt, xv = searcher.compute.place(xt), searcher.compute.place(xv)
    def step():
        searcher.alpha_step(xv, yv, *((xt, yt) if searcher.recipe.order == 2 else ()))
        searcher.weight_step(xt, yt)
    return step


def race_of(theirs, ours, args, rounds):
    times = race({"textbook": one_step(theirs, args), **{name: one_step(s, args) for name, s in ours.items()}}, rounds)
    return {name: (times["textbook"], times[name]) for name in ours}


def exact_product(args):
    """The mixed Hessian-vector product, exact against finite difference, on one path."""
    darts = search(args, path="stacked")
    xt, yt, *_ = batches(args)
    xt, mixture = darts.compute.place(xt), darts.draw("alpha")
    def loss(weights, leaves): return darts.loss_of(xt, yt, with_leaves(mixture, leaves), weights)[0]
    vector = [torch.randn_like(w) for w in darts.weights]
    def product(how): return lambda: mixed_product(loss, darts.weights, leaves_of(mixture), vector, how)
    times = race({how: product(how) for how in ("finite_difference", "double_backward")}, max(1, args.rounds - 1))
    return {"exact_hvp": (times["finite_difference"], times["double_backward"])}


def augmentation(args):
    task, n = make_bench_task(args), 192
    normalize = task.normalizer()
    ours, theirs = Augment(task.augment, normalize, task.spatial), one_by_one(normalize, args.size)
    images, g = task.part("train")[0], torch.Generator().manual_seed(0)
    images = images[torch.arange(n) % len(images)]
    times = race({"textbook": lambda: theirs(images), "augment": lambda: ours(images, g)}, max(5, args.rounds))
    return {"augment": (times["textbook"], times["augment"])}


def peak_mb(args):
    """In a process of its own: how much a step needs beyond what the process holds before it, which has seen a small one."""
    kinds = {"textbook": (textbook, {}), "stacked": (search, {"path": "stacked"}), "kernels": (search, {"path": "kernels"}),
             "checkpointed": (search, {"path": "kernels", "checkpoint": True})}
    make, changes = kinds[args.peak]
    searcher = make(args, **changes)
    one_step(searcher, argparse.Namespace(**{**vars(args), "batch": 2}))()
    before, step = resident_mb("VmRSS"), one_step(searcher, args)
    with open("/proc/self/clear_refs", "w") as f: f.write("5")  # the peak begins anew
    for _ in range(2): step()
    print(resident_mb("VmHWM") - before)


def resident_mb(field):
    with open("/proc/self/status") as f: status = dict(line.split(":", 1) for line in f)
    return int(status[field].split()[0]) / 1000


def memory(args):
    def peak(kind):
        size = [f"--{name}={getattr(args, name)}" for name in ("channels", "cells", "batch", "size")]
        done = subprocess.run([sys.executable, __file__, f"--peak={kind}", *size], check=True, text=True, capture_output=True)
        return float(done.stdout.split()[-1])
    return {kind: peak(kind) for kind in ("textbook", "stacked", "kernels", "checkpointed")}


def report(times, peaks, args):
    print(f"CPU seconds, one thread, median (lowest to highest); supernet C {args.channels}, {args.cells} cells, "
          f"batch {args.batch}, 3x{args.size}x{args.size}; torch {torch.__version__}")
    print(f"{'':22} {'textbook':>26} {'nas_nb':>26}")
    ratios = {}
    for name, (theirs, ours) in times.items():
        exact = name == "exact_hvp"
        ratios[name] = median(ours) / median(theirs) if exact else median(theirs) / median(ours)
        cells = [f"{median(t):.4f} ({min(t):.4f} to {max(t):.4f})" for t in (theirs, ours)]
        print(f"{name:22} {cells[0]:>26} {cells[1]:>26} {ratios[name]:7.2f}x{' the finite difference' if exact else ''}")
    print(f"peak memory of a first-order step, MB: textbook {peaks['textbook']:.0f}")
    for kind, name in (("stacked", ""), ("kernels", "memory"), ("checkpointed", "memory_checkpointed")):
        share = peaks[kind] / peaks["textbook"]
        print(f"{name or 'memory_plain':22} {kind:>26} {peaks[kind]:>26.0f} {share:7.2f}x")
        if name: ratios[name] = share
    if args.json: print(json.dumps({name: round(ratio, 3) for name, ratio in ratios.items()}))


def main():
    args = parse()
    torch.set_num_threads(1)
    if args.peak: return peak_mb(args)
    times = {}
    for part in (first_order, second_order, exact_product, augmentation): times |= part(args)
    report(times, memory(args), args)


if __name__ == "__main__":
    main()
