"""Writes transducer.safetensors: loss and gradients of a small Conformer transducer in PyTorch, float64.

    python make_transducer.py      (pip install torch==2.11.0 safetensors numpy)

There is no padding and no mask: each utterance is a tensor of its own length, and batch norm takes its moments over
all utterances' frames one after another. Relative positions are gathered from a table by their offset; the loss is
the forward recursion of Graves (2012), differentiated by autograd.

param.NAME and grad.NAME by our names; features [2, 37, 80] padded with 9s, frames [2], targets [2, 4] padded with 0,
labels [2], losses [2]; the gradients are of the sum of the losses. running.NAME: what running mean and variance
become from 0 and 1 with momentum 0.1. evaluated [2]: the losses with those.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(5)
torch.set_default_dtype(torch.float64)
L, D, H, FF, K, C, P, J, V = 2, 16, 2, 24, 5, 3, 6, 10, 7
FRAMES, TARGETS = [37, 22], [[3, 1, 6, 6], [2, 5]]
params = {}


def param(name, *shape, about=0.0):
    params[name] = (about + 0.3 * torch.randn(*shape)).requires_grad_()
    return params[name]


def affine(name, out, inner):
    w, b = param(name + ".weight", out, inner), param(name + ".bias", out)
    return lambda x: F.linear(x, w, b)


def norm(name):
    w, b = param(name + ".weight", D, about=1.0), param(name + ".bias", D)
    return lambda x: F.layer_norm(x, (D,), w, b, 1e-5)


def feed_forward(name):
    n, up, down = norm(name + ".norm"), affine(name + ".up", FF, D), affine(name + ".down", D, FF)
    return lambda x: down(F.silu(up(n(x))))


def sinusoid(offset):
    """Sine and cosine of each rate, next to each other."""
    rates = torch.exp(torch.arange(0, D, 2) * (-math.log(10000.0) / D))
    row = torch.zeros(D)
    row[0::2], row[1::2] = torch.sin(offset * rates), torch.cos(offset * rates)
    return row


def attention(name):
    n, qkv, out = norm(name + ".norm"), affine(name + ".qkv", 3 * D, D), affine(name + ".out", D, D)
    w, uv = param(name + ".positions.weight", D, D), param(name + ".positions.uv", 2, H, D // H)

    def run(x):
        t = len(x)
        q, k, v = (y.view(t, H, D // H).transpose(0, 1) for y in qkv(n(x)).chunk(3, -1))
        table = torch.stack([torch.stack([sinusoid(i - j) for j in range(t)]) for i in range(t)])
        r = F.linear(table, w).view(t, t, H, D // H)
        content = torch.einsum("hid,hjd->hij", q + uv[0][:, None], k)
        position = torch.einsum("hid,ijhd->hij", q + uv[1][:, None], r)
        p = ((content + position) / math.sqrt(D // H)).softmax(-1)
        return out((p @ v).transpose(0, 1).reshape(t, D))

    return run


def convolution(name):
    n, into, out = norm(name + ".norm"), affine(name + ".in", 2 * D, D), affine(name + ".out", D, D)
    taps = param(name + ".depthwise.weight", D, K)
    w, b = param(name + ".inner.weight", D, about=1.0), param(name + ".inner.bias", D)
    running = {"running_mean": torch.zeros(D), "running_var": torch.ones(D)}

    def run(xs, training):
        ys = [F.conv1d(F.glu(into(n(x)), -1).T[None], taps[:, None], padding=K // 2, groups=D)[0].T for x in xs]
        mean, var = running["running_mean"], running["running_var"]
        y = F.batch_norm(torch.cat(ys), mean, var, w, b, training, 0.1, 1e-5)
        return [out(F.silu(y)) for y in y.split([len(x) for x in xs])]

    return run, {f"{name}.inner.{k}": v for k, v in running.items()}


convs = [(param(f"encoder.subsampling.conv.{i}.weight", C, 3, 3, c), param(f"encoder.subsampling.conv.{i}.bias", C))
         for i, c in enumerate([1, C])]
linear = affine("encoder.subsampling.linear", D, C * 20)
blocks, running = [], {}
for i in range(L):
    b = f"encoder.blocks.{i}"
    conv, stats = convolution(b + ".conv")
    running |= stats
    blocks.append((feed_forward(b + ".ff1"), attention(b + ".attention"), conv, feed_forward(b + ".ff2"),
                   norm(b + ".norm")))
embedding = param("prediction.embedding.weight", V, P)
lstm = torch.nn.LSTM(P, P, batch_first=True)
with torch.no_grad():
    for w in lstm.parameters():
        w.copy_(0.3 * torch.randn_like(w))
    lstm.bias_hh_l0.zero_()
of_encoder = affine("joint.encoder", J, D)
of_prediction = param("joint.prediction.weight", J, P)
joint = affine("joint.out", V, J)


def loss(logits, target):
    lp = logits.log_softmax(-1)
    T, U = lp.shape[0], len(target)
    alpha = {(0, 0): torch.zeros(())}
    for t in range(T):
        for u in range(U + 1):
            ways = []
            if t > 0:
                ways.append(alpha[t - 1, u] + lp[t - 1, u, 0])
            if u > 0:
                ways.append(alpha[t, u - 1] + lp[t, u - 1, target[u - 1]])
            if ways:
                alpha[t, u] = torch.logsumexp(torch.stack(ways), 0)
    return -(alpha[T - 1, U] + lp[T - 1, U, 0])


def losses(features, training):
    xs = []
    for x, n in zip(features, FRAMES):
        x = x[None, None, :n]
        for w, b in convs:
            x = F.relu(F.conv2d(x, w.permute(0, 3, 1, 2), b, stride=2, padding=1))
        xs.append(linear(x[0].permute(1, 2, 0).flatten(1)))       # [T, F, C]: frequency before channel
    for ff1, att, conv, ff2, n in blocks:
        xs = [x + 0.5 * ff1(x) for x in xs]
        xs = [x + att(x) for x in xs]
        xs = [x + y for x, y in zip(xs, conv(xs, training))]
        xs = [n(x + 0.5 * ff2(x)) for x in xs]
    out = []
    for x, target in zip(xs, TARGETS):
        p, _ = lstm(embedding[torch.tensor([[0] + target])])
        z = torch.tanh(of_encoder(x)[:, None] + F.linear(p[0], of_prediction)[None])
        out.append(loss(joint(z), target))
    return torch.stack(out)


features = torch.randn(2, 37, 80)
trained = losses(features, True)
trained.sum().backward()
with torch.no_grad():
    evaluated = losses(features, False)
for ours, theirs in [("weight", lstm.weight_ih_l0), ("recurrent", lstm.weight_hh_l0), ("bias", lstm.bias_ih_l0)]:
    params["prediction.lstm.0." + ours] = theirs
features[1, FRAMES[1]:] = 9.0
targets = torch.tensor([t + [0] * (4 - len(t)) for t in TARGETS])
out = {"features": features, "frames": torch.tensor(FRAMES), "targets": targets,
       "labels": torch.tensor([len(t) for t in TARGETS]), "losses": trained.detach(), "evaluated": evaluated}
out |= {f"param.{k}": v.detach().contiguous() for k, v in params.items()}
out |= {f"grad.{k}": v.grad.contiguous() for k, v in params.items()}
out |= {f"running.{k}": v for k, v in running.items()}
save_file(out, Path(__file__).parent / "transducer.safetensors")
print(trained.detach(), evaluated, sum(v.numel() for v in params.values()))
