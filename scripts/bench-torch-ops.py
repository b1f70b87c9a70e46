#!/usr/bin/env python3
"""Times single ops of PyTorch, forward and backward, at the shapes of crates/fadam-ops/benches/ops.rs.

    python scripts/bench-torch-ops.py [--threads 2] [--only conv2d] [--seconds 1.0]

Prints a line for each op, `name median_ms`, under the names of the benchmark's groups; what ran is told on the standard error. float32, on
the CPU, eager. The loss is the sum of an op's result, as it is there. Where PyTorch wants channels first, arguments are so from the start;
its convolutions are timed in channels-last memory too, under names of their own. Needs torch (2.5 or later, for grouped heads).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# The decoder of 4.85 M parameters.
BATCH, SEQ, D_MODEL, D_FF, VOCAB = 8, 256, 256, 1024, 4096
HEADS, D_HEAD = 4, 64
# The Conformer of 5.6 M: what its blocks see, and its prediction network.
FRAMES, WIDTH, KERNEL = 100, 144, 31
LABELS, PREDICTION = 21, 320


def draw(*shape: int, std: float = 1.0) -> Tensor:
    return (torch.randn(*shape) * std).requires_grad_()


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on split halves."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def attention(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Causal, of 4 query heads and one key head, from packed q, k, v."""
    q, k, v = qkv.split([HEADS * D_HEAD, D_HEAD, D_HEAD], -1)
    q = rope(q.view(BATCH, SEQ, HEADS, D_HEAD).transpose(1, 2), cos, sin)
    k, v = rope(k[:, None], cos, sin), v[:, None]
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return mixed.transpose(1, 2).reshape(BATCH, SEQ, HEADS * D_HEAD)


def swiglu(x: Tensor) -> Tensor:
    gate, value = x.chunk(2, -1)
    return F.silu(gate) * value


Case = tuple[str, list[Tensor], Callable[[], Tensor]]


def decoder() -> list[Case]:
    x, w = draw(BATCH, SEQ, D_MODEL), draw(D_MODEL)
    cases: list[Case] = [
        ("rms_norm", [x, w], lambda: F.rms_norm(x, (D_MODEL,), w, 1e-6)),
        ("layer_norm", [x, w], lambda: F.layer_norm(x, (D_MODEL,), w, w, 1e-6)),
        ("bias_gelu", [x, w], lambda: F.gelu(x + w, approximate="tanh")),
        ("softmax", [x], lambda: F.softmax(x, -1).square()),
        ("dropout", [x], lambda: F.dropout(x, 0.1)),
    ]
    for name, o, i in [("qkv", 384, 256), ("up", 2048, 256), ("down", 256, 1024)]:
        a, m = draw(BATCH, SEQ, i), draw(o, i, std=0.02)
        cases.append((f"linear {name}", [a, m], lambda a=a, m=m: F.linear(a, m)))
    up = draw(BATCH, SEQ, 2 * D_FF)
    cases.append(("swiglu", [up], lambda: swiglu(up)))
    angles = torch.arange(SEQ)[:, None] * 10_000.0 ** (-torch.arange(0, D_HEAD, 2) / D_HEAD)
    cos, sin = angles.cos(), angles.sin()
    qkv, q = draw(BATCH, SEQ, (HEADS + 2) * D_HEAD), draw(BATCH, HEADS, SEQ, D_HEAD)
    cases.append(("causal_attention", [qkv], lambda: attention(qkv, cos, sin)))
    cases.append(("rope", [q], lambda: rope(q, cos, sin)))
    ids = torch.arange(BATCH * SEQ) * 7919 % VOCAB
    h, table, logits = draw(BATCH * SEQ, D_MODEL), draw(VOCAB, D_MODEL, std=0.02), draw(BATCH * SEQ, VOCAB)
    cases.append(("embedding", [table], lambda: F.embedding(ids, table)))
    cases.append(("linear_cross_entropy", [h, table], lambda: F.cross_entropy(h @ table.T, ids)))
    cases.append(("cross_entropy", [logits], lambda: F.cross_entropy(logits, ids)))
    return cases


def conformer() -> list[Case]:
    both, x, w = draw(BATCH, FRAMES, 2 * WIDTH), draw(BATCH, WIDTH, FRAMES), draw(WIDTH)
    taps = draw(WIDTH, 1, KERNEL, std=0.2)
    cases: list[Case] = [
        ("glu", [both], lambda: F.glu(both, -1)),
        ("batch_norm", [x, w], lambda: F.batch_norm(x, None, None, w, w, training=True, eps=1e-5)),
        ("group_norm", [x, w], lambda: F.group_norm(x, 1, w, w, 1e-5)),
        ("depthwise_conv1d", [x, taps], lambda: F.conv1d(x, taps, padding=KERNEL // 2, groups=WIDTH)),
    ]
    for name, t, f, c_in in [("first", 400, 80, 1), ("second", 200, 40, WIDTH)]:
        for order, suffix in [(torch.contiguous_format, ""), (torch.channels_last, " channels_last")]:
            image, kernel = draw(BATCH, c_in, t, f), draw(WIDTH, c_in, 3, 3, std=0.02)
            image, kernel = (a.detach().contiguous(memory_format=order) for a in (image, kernel))
            bias = draw(WIDTH, std=0.1)
            # The first convolution's input is data, without a gradient.
            leaves = [kernel.requires_grad_(), bias] + ([image.requires_grad_()] if name == "second" else [])
            run = lambda image=image, kernel=kernel, bias=bias: F.conv2d(image, kernel, bias, 2, 1).relu()
            cases.append((f"conv2d {name}{suffix}", leaves, run))
    lstm, labels = torch.nn.LSTM(PREDICTION, PREDICTION, batch_first=True), draw(BATCH, LABELS, PREDICTION)
    cases.append(("lstm", [labels, *lstm.parameters()], lambda: lstm(labels)[0]))
    return cases


def median_ms(leaves: list[Tensor], f: Callable[[], Tensor], seconds: float) -> float:
    """Of at least ten runs, after some that are not counted."""

    def once() -> float:
        for leaf in leaves:
            leaf.grad = None
        start = time.perf_counter()
        y = f()
        (y if y.dim() == 0 else y.sum()).backward()
        return 1e3 * (time.perf_counter() - start)

    end = time.perf_counter() + 0.3
    once()
    while time.perf_counter() < end:
        once()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 10 or time.perf_counter() < end:
        times.append(once())
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch (all)")
    parser.add_argument("--only", default="", help="ops whose name contains this (all)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of timed runs of an op")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {args.threads} threads, float32, CPU", file=sys.stderr)
    cases = [case for case in decoder() + conformer() if args.only in case[0]]
    if not cases:
        sys.exit(f"no op has {args.only!r} in its name")
    for name, leaves, f in cases:
        print(f"{name} {median_ms(leaves, f, args.seconds):.3f}", flush=True)


if __name__ == "__main__":
    main()
