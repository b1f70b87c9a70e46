"""Writes vqvae-LOSS.safetensors: losses and gradients of a small ViT VQ-VAE in PyTorch, float64, one file for each loss.

    python make_vqvae.py      (pip install torch==2.11.0 safetensors numpy)

Images are cut into patches by F.unfold, blocks are torch's own modules, and the logit-Laplace loss is torch.distributions'.
There is a final norm in both transformers for cross-entropy and none for the others.

param.NAME (float32, exact), reconstruction.NAME and auxiliary.NAME: parameters by our names, their gradients of the
reconstruction loss and of codebook loss + 0.25 commitment loss, where they have one. images [2, 3, 6, 6] u8, indices [2, 9],
reconstruction, codebook, commitment, and of the logit-Laplace loss l2 and logit_laplace; expected and likeliest
[2, 3, 6, 6]: pictures, not rounded.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

HERE = Path(__file__).parent
torch.set_default_dtype(torch.float64)
B, SIDE, PATCH, CODES, WIDTH, BETA = 2, 6, 2, 6, 3, 0.25
ENCODER, DECODER = (2, 8, 2, 12), (1, 4, 2, 10)     # layers, d, heads, mlp
GRID, PIXELS = SIDE // PATCH, 3 * PATCH * PATCH
OUTPUTS = {"cross-entropy": 256, "l2": 1, "l2+logit-laplace": 2}


def positions(d):
    """Sine and cosine of the row, sine and cosine of the column; each of d / 4 rates."""
    table = torch.zeros(GRID * GRID, d)
    for t in range(GRID * GRID):
        for half, place in enumerate([t // GRID, t % GRID]):
            for k in range(d // 4):
                angle = place * 10000.0 ** (-k / (d // 4))
                table[t, half * d // 2 + k] = math.sin(angle)
                table[t, half * d // 2 + d // 4 + k] = math.cos(angle)
    return table


def model(loss):
    torch.manual_seed(18)
    params = {}

    def param(name, *shape, about=0.0, spread=0.4):
        x = about + spread * torch.randn(*shape)
        params[name] = x.float().double().requires_grad_()
        return params[name]

    def affine(name, out, inner, spread=0.4):
        w, b = param(name + ".weight", out, inner, spread=spread), param(name + ".bias", out)
        return lambda x: F.linear(x, w, b)

    def norm(name, d):
        w, b = param(name + ".weight", d, about=1.0), param(name + ".bias", d)
        return lambda x: F.layer_norm(x, (d,), w, b, 1e-5)

    def block(name, d, heads, mlp):
        n1, out = norm(name + ".attention.norm", d), affine(name + ".attention.out", d, d)
        qkv = param(name + ".attention.qkv.weight", 3 * d, d)
        n2, up, down = norm(name + ".mlp.norm", d), affine(name + ".mlp.up", mlp, d), affine(name + ".mlp.down", d, mlp)

        def run(x):
            cut = lambda y: y.view(B, -1, heads, d // heads).transpose(1, 2)
            q, k, v = map(cut, F.linear(n1(x), qkv).chunk(3, -1))
            p = (q @ k.transpose(2, 3) / math.sqrt(d // heads)).softmax(-1)
            x = x + out((p @ v).transpose(1, 2).reshape(B, -1, d))
            return x + down(torch.tanh(up(n2(x))))

        return run

    def tower(name, layers, d, heads, mlp):
        blocks = [block(f"{name}.blocks.{i}", d, heads, mlp) for i in range(layers)]
        last = norm(name + ".norm", d) if loss == "cross-entropy" else lambda x: x

        def run(x):
            x = x + positions(d)
            for b in blocks:
                x = b(x)
            return last(x)

        return run

    of_patches = affine("encoder.patches", ENCODER[1], PIXELS)
    encoder = tower("encoder", *ENCODER)
    down, codes = affine("quantizer.down", WIDTH, ENCODER[1]), param("quantizer.codes", CODES, WIDTH, spread=1.0)
    up = affine("quantizer.up", DECODER[1], WIDTH)
    decoder = tower("decoder", *DECODER)
    head = affine("decoder.head", PIXELS * OUTPUTS[loss], DECODER[1])
    return params, lambda x: down(encoder(of_patches(x))), codes, lambda y: head(decoder(up(y)))


def pictures(patches):
    return F.fold(patches.transpose(1, 2), SIDE, PATCH, stride=PATCH)


for loss in OUTPUTS:
    params, encode, codes, decode = model(loss)
    images = torch.randint(256, (B, 3, SIDE, SIDE))
    patches = F.unfold(images.double(), PATCH, stride=PATCH).transpose(1, 2)        # channel, row, column
    n, e = F.normalize(encode(patches / 127.5 - 1), dim=-1), F.normalize(codes, dim=-1)
    products = n @ e.T
    index = products.argmax(-1)
    best = products.topk(2, -1).values
    assert (best[..., 0] - best[..., 1]).min() > 1e-4 and len(index.unique()) >= 4, index
    q = e[index]
    codebook, commitment = F.mse_loss(q, n.detach()), F.mse_loss(n, q.detach())
    y = decode(n + (q - n).detach())
    out = {"images": images.to(torch.uint8), "indices": index}
    if loss == "cross-entropy":
        logits = y.view(B, GRID * GRID, PIXELS, 256)
        reconstruction = F.cross_entropy(logits.movedim(-1, 1), patches.long())
        out["likeliest"] = pictures(logits.argmax(-1).double())
        out["expected"] = pictures(logits.softmax(-1) @ torch.arange(256.0))
    elif loss == "l2":
        reconstruction = F.mse_loss(y, patches / 127.5 - 1)
        out["expected"] = pictures((y + 1) * 127.5)
    else:
        mu, ln_sigma = y.chunk(2, -1)
        x = patches / 255
        inner = 0.8 * x + 0.1
        r = (torch.sigmoid(mu) - 0.1) / 0.8
        laplace = torch.distributions.Laplace(mu, ln_sigma.exp()).log_prob(inner.logit())
        nll = (-laplace + (inner * (1 - inner)).log()).mean()
        l2 = F.mse_loss(2 * r - 1, 2 * x - 1)
        reconstruction = 1.5 * l2 + 0.3 * nll
        out |= {"expected": pictures(255 * r), "l2": l2, "logit_laplace": nll}
    out |= {"reconstruction": reconstruction, "codebook": codebook, "commitment": commitment}
    names = list(params)
    for what, value in [("reconstruction", reconstruction), ("auxiliary", codebook + BETA * commitment)]:
        gradients = torch.autograd.grad(value, list(params.values()), retain_graph=True, allow_unused=True)
        out |= {f"{what}.{k}": g for k, g in zip(names, gradients) if g is not None}
    out |= {f"param.{k}": v.float() for k, v in params.items()}
    save_file({k: v.detach().contiguous() for k, v in out.items()}, HERE / f"vqvae-{loss}.safetensors")
    print(loss, reconstruction.item(), codebook.item(), index.tolist(), sum(v.numel() for v in params.values()))
