"""Writes the golden cases of fadam-ops: inputs, outputs and gradients from PyTorch in float64.

    python make.py        (torch 2.11, safetensors; the files are written beside this script)

A file is a case. `x`, `w`, `b`, ...: arguments; `y`: the value; `g`: the gradient of the value; `grad.x`, ...: what
`y.backward(g)` leaves in the arguments. Targets are int64.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

HERE = Path(__file__).parent
torch.manual_seed(20250)
torch.set_default_dtype(torch.float64)


def write(name, f, arguments, constants=None):
    """Runs `f` on the arguments and writes the case."""
    leaves = {k: v.clone().requires_grad_() for k, v in arguments.items()}
    y = f(**leaves)
    g = torch.randn_like(y)
    y.backward(g)
    case = {**arguments, **(constants or {}), "y": y.detach(), "g": g}
    case.update({f"grad.{k}": v.grad for k, v in leaves.items()})
    save_file({k: v.contiguous() for k, v in case.items()}, HERE / f"{name}.safetensors")


def rope(x, cos, sin):
    """On split halves."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def attention(qkv, heads, kv_heads, base=10000.0):
    """Queries of all heads, then keys, then values; each key head serves `heads / kv_heads` query heads."""
    B, T, width = qkv.shape
    d = width // (heads + 2 * kv_heads)
    q, k, v = qkv.split([heads * d, kv_heads * d, kv_heads * d], -1)
    freq = base ** (-torch.arange(0, d, 2) / d)
    ang = torch.arange(T)[:, None] * freq
    cos, sin = ang.cos(), ang.sin()
    q = rope(q.view(B, T, heads, d).transpose(1, 2), cos, sin)
    k = rope(k.view(B, T, kv_heads, d).transpose(1, 2), cos, sin).repeat_interleave(heads // kv_heads, 1)
    v = v.view(B, T, kv_heads, d).transpose(1, 2).repeat_interleave(heads // kv_heads, 1)
    a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return a.transpose(1, 2).reshape(B, T, heads * d)


def alone(f, x, lengths):
    """`f` of the real frames of each utterance, channels in the second place as PyTorch has them, and zeros behind."""
    parts = [f(x[i : i + 1, :n].movedim(-1, 1)).movedim(1, -1) for i, n in enumerate(lengths) if n]
    frames = max(part.shape[1] for part in parts)
    return torch.cat([F.pad(part, [0, 0] * (x.dim() - 2) + [0, frames - part.shape[1]]) for part in parts])


def batch_norm(x, w, b, lengths, moments):
    """F.batch_norm of the real frames of all utterances, one after another, and zeros behind."""
    real = torch.cat([x[i, :n] for i, n in enumerate(lengths)])
    mean, variance = torch.zeros_like(w), torch.zeros_like(w)
    y = F.batch_norm(real, mean, variance, w, b, training=True, momentum=1.0, eps=1e-5)
    moments.update(mean=mean.detach(), variance=variance.detach() * (len(real) - 1) / len(real))
    return torch.stack([F.pad(y, [0, 0, 0, x.shape[1] - len(y)]) for y in y.split(lengths)])


r = torch.randn
write("layer_norm", lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, 1e-5), dict(x=r(3, 2, 10), w=r(10), b=r(10)))
write("rms_norm", lambda x, w: F.rms_norm(x, x.shape[-1:], w, 1e-6), dict(x=r(3, 2, 10), w=r(10)))
write("gelu", lambda x, b: F.gelu(x + b, approximate="tanh"), dict(x=2 * r(4, 9), b=r(9)))
write("silu", lambda x, b: F.silu(x + b), dict(x=2 * r(4, 9), b=r(9)))
for heads, kv_heads in [(2, 2), (4, 2), (3, 1)]:
    f = lambda qkv: attention(qkv, heads, kv_heads)
    write(f"attention-{heads}-{kv_heads}", f, dict(qkv=r(2, 11, (heads + 2 * kv_heads) * 4)))
targets = torch.randint(7, (3, 4))
targets[0, 1] = targets[2, 3] = 1000
loss = lambda x: F.cross_entropy(x.flatten(0, 1), targets.flatten(), ignore_index=1000, label_smoothing=0.1)
write("cross_entropy", loss, dict(x=2 * r(3, 4, 7)), dict(targets=targets))

# Padded batches; the frames beyond hold numbers too.
write("glu", lambda x: F.glu(x, -1), dict(x=2 * r(3, 2, 10)))
lengths = [11, 6, 1]
known = dict(lengths=torch.tensor(lengths))
f = lambda x, w: alone(lambda x: F.conv1d(x, w[:, None], padding=2, groups=4), x, lengths)
write("depthwise_conv1d", f, dict(x=r(3, 11, 4), w=r(4, 5)), known)
moments = dict(known)
f = lambda x, w, b: batch_norm(x, w, b, lengths, moments)
write("batch_norm", f, dict(x=r(3, 11, 4) + 1, w=r(4), b=r(4)), moments)
mean, variance = r(4), r(4) ** 2
f = lambda x, w, b: F.batch_norm(x.movedim(-1, 1), mean, variance, w, b, eps=1e-5).movedim(1, -1)
write("batch_norm_with", f, dict(x=r(3, 11, 4), w=r(4), b=r(4)), dict(mean=mean, variance=variance))
f = lambda x, w, b: alone(lambda x: F.conv2d(x, w.movedim(-1, 1), b, (2, 2), (1, 1)), x, lengths)
write("conv2d", f, dict(x=r(3, 11, 8, 3), w=r(4, 3, 3, 3), b=r(4)), known)
f = lambda x, w, b: alone(lambda x: F.conv2d(x, w.movedim(-1, 1), b, (1, 2), (2, 0)).relu(), x, lengths)
write("conv2d-relu", f, dict(x=r(3, 11, 9, 2), w=r(5, 4, 3, 2), b=r(5)), known)
f = lambda x, w, b: alone(lambda x: F.group_norm(x, 3, w, b, 1e-5), x, lengths)
write("group_norm", f, dict(x=r(3, 11, 6) + 1, w=r(6), b=r(6)), known)

def self_attention(qkv, lengths, heads):
    """Bidirectional, from queries of all heads, then keys, then values; what lies beyond a length gives 0."""
    B, T, width = qkv.shape
    d = width // (3 * heads)
    q, k, v = (x.view(B, T, heads, d).transpose(1, 2) for x in qkv.chunk(3, -1))
    inside = torch.arange(T) < lengths[:, None]
    a = F.scaled_dot_product_attention(q, k, v, attn_mask=inside[:, None, None, :])
    return a.transpose(1, 2).reshape(B, T, heads * d) * inside[:, :, None]


def relative_attention(qkv, r, uv, lengths, heads):
    """The same with Transformer-XL's positions, pair by pair: row T - 1 - (i - j) of r belongs to query i and key j."""
    B, T, width = qkv.shape
    d = width // (3 * heads)
    q, k, v = (x.view(B, T, heads, d) for x in qkv.chunk(3, -1))
    i = torch.arange(T)
    pairs = r[T - 1 - (i[:, None] - i[None, :])].view(T, T, heads, d)
    score = torch.einsum("bihd,bjhd->bhij", q + uv[0], k) + torch.einsum("bihd,ijhd->bhij", q + uv[1], pairs)
    inside = i < lengths[:, None]
    p = (score / d**0.5).masked_fill(~inside[:, None, None, :], -torch.inf).softmax(-1)
    return torch.einsum("bhij,bjhd->bihd", p, v).reshape(B, T, heads * d) * inside[:, :, None]


lengths = torch.tensor([5, 11, 8])
qkv = r(3, 11, 3 * 3 * 4)
write("self_attention", lambda qkv: self_attention(qkv, lengths, 3), dict(qkv=qkv), dict(lengths=lengths))
f = lambda qkv, r, uv: relative_attention(qkv, r, uv, lengths, 3)
write("self_attention-relative", f, dict(qkv=qkv, r=r(21, 12), uv=r(2, 3, 4)), dict(lengths=lengths))

lstm = torch.nn.LSTM(5, 6, batch_first=True)
arguments = dict(x=r(2, 7, 5), w_ih=r(24, 5), w_hh=r(24, 6), b=r(24))


def run(x, w_ih, w_hh, b, state=None):
    """Output and last state of nn.LSTM, with its second bias at 0."""
    weights = dict(weight_ih_l0=w_ih, weight_hh_l0=w_hh, bias_ih_l0=b, bias_hh_l0=torch.zeros_like(b))
    return torch.func.functional_call(lstm, weights, (x,) if state is None else (x, state))


for name, state in [("lstm", None), ("lstm-state", (r(1, 2, 6), r(1, 2, 6)))]:
    last = {k: v[0].detach() for k, v in zip(("h_n", "c_n"), run(**arguments, state=state)[1])}
    first = {} if state is None else {k: v[0] for k, v in zip(("h0", "c0"), state)}
    write(name, lambda **x: run(**x, state=state)[0], arguments, {**first, **last})

# Pictures.
targets = torch.randint(9, (2, 3, 5))
f = lambda x, w, b: F.cross_entropy(F.linear(x, w, b).view(2, 3, 5, 9).movedim(-1, 1), targets, label_smoothing=0.1)
write("grouped_linear_cross_entropy", f, dict(x=r(2, 3, 4), w=r(45, 4), b=r(45)), dict(targets=targets))
data = torch.randint(256, (3, 4, 5)) / 255


def logit_laplace(x):
    """-log of torch.distributions' Laplace, of the logit, and of the logit's derivative."""
    mu, ln_sigma = x.chunk(2, -1)
    inner = 0.8 * data + 0.1
    laplace = torch.distributions.Laplace(mu, ln_sigma.exp()).log_prob(inner.logit())
    return (-laplace + (inner * (1 - inner)).log()).mean()


write("logit_laplace-mean", logit_laplace, dict(x=r(3, 4, 10)), dict(data=data))
z, codes = r(4, 6, 5), r(7, 5)


def quantize(z, codes):
    """Value (straight-through), codebook loss and commitment loss, with torch's own normalize, argmax and mse_loss."""
    n, e = F.normalize(z, dim=-1), F.normalize(codes, dim=-1)
    index = (n @ e.T).argmax(-1)
    q = e[index]
    return n + (q - n).detach(), F.mse_loss(q, n.detach()), F.mse_loss(n, q.detach()), index


assert len(quantize(z, codes)[3].unique()) > 3
index = quantize(z, codes)[3]
write("vector_quantize-codes", lambda x: quantize(x, codes)[0], dict(x=z), dict(codes=codes, index=index))
write("vector_quantize-codebook", lambda x: quantize(z, x)[1], dict(x=codes), dict(z=z, index=index))
write("vector_quantize-commitment", lambda x: quantize(x, codes)[2], dict(x=z), dict(codes=codes, index=index))
