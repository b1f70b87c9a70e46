"""Writes the goldens of `fid` and `quality`: fid_parts, inception, efficientnet_lite0 and quality (.safetensors), and torch_*.

    python make_fid.py                          (pip install torch==2.11.0 torchvision==0.26.0 pytorch-fid==0.3.0
                                                 efficientnet_lite_pytorch==0.1.0 scikit-image==0.26.0 safetensors numpy)
    python make_fid.py foolbox FOLDER OUT       (pip install pillow numpy safetensors)

Weights are no file. A number is a hash of its tensor's name and its place (`hashed`, and the same in `src/fid/test_support.rs`), scaled by what
the name says that it is: so the whole networks are compared, with goldens of a few kilobytes. pytorch-fid's and
efficientnet_lite_pytorch's own networks compute in float64.

fid_parts: resize.K.x, resize.K.y (F.interpolate, bilinear, align_corners = False); pool.x, pool.average (3 x 3, stride 1, padding 1,
count_include_pad = False), pool.max (the same window), pool.max2 (3 x 3, stride 2, no padding).
inception: features [2, 2048] of hashed images u8 [2, 3, 37, 50], and efficientnet_lite0: features [2, 1280], logits [2, 1000] of hashed
images u8 [2, 3, 224, 224]. Both: block.NAME [2, C / 8], of the first image every eighth channel of the first and of a central pixel.
quality: a, b u8 [5, 3, 19, 24], psnr [5] (skimage.metrics.peak_signal_noise_ratio), ssim [5] (structural_similarity with Gaussian
weights of sigma 1.5, population covariance, data range 255, the mean over channels).

The second form packs foolbox's 20 ImageNet images (foolbox==3.3.4, `imagenet_NN_LABEL.jpg` in FOLDER): the centre of each at 224 x 224, bicubic,
as images u8 [20, 3, 224, 224], and labels [20].
"""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

HERE = Path(__file__).parent


def hashed(name, shape):
    """Numbers in [-1, 1) from FNV-1a of the name and splitmix64 of the place."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) % 2**64
    z = np.uint64(seed) + np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0).reshape(shape)


def hashed_images(name, shape):
    return np.floor((hashed(name, shape) + 1.0) * 128.0).astype(np.uint8)


def hashed_weight(name, shape):
    """Kaiming-like weights, scales and variances in [0.5, 1.5), offsets and means in [-0.1, 0.1); rounded to float32."""
    u = hashed(name, shape)
    if name.endswith("running_var") or (name.endswith(".weight") and len(shape) == 1):
        value = 1.0 + 0.5 * u
    elif name.endswith("running_mean") or name.endswith(".bias"):
        value = 0.1 * u
    else:
        value = u * np.sqrt(6.0 / np.prod(shape[1:]))
    return value.astype(np.float32)


def fill(net):
    import torch

    state = {name: torch.tensor(hashed_weight(name, tuple(x.shape))) if x.is_floating_point() else x
             for name, x in net.state_dict().items()}
    net.load_state_dict(state)
    return net.double().eval()


def watch(net, names, blocks):
    """Keeps a few numbers of the outputs of the modules called so."""
    def hook(name):
        def keep(_module, _inputs, y):
            y = y[0, ::8]
            blocks[f"block.{name}"] = np.stack([y[:, 0, 0], y[:, y.shape[1] // 2, y.shape[2] // 2]]).astype(np.float32)
        return keep
    modules = dict(net.named_modules())
    for name in names:
        modules[name].register_forward_hook(hook(name))


def parts():
    import torch
    import torch.nn.functional as F

    t = {}
    for k, (h, w, size) in enumerate([(5, 7, 13), (40, 31, 13), (13, 13, 13), (1, 2, 6), (64, 48, 299)]):
        x = torch.tensor(hashed(f"resize.{k}", (1, 2 if size < 299 else 1, h, w)))
        y = F.interpolate(x.float(), size=(size, size), mode="bilinear", align_corners=False)
        t[f"resize.{k}.x"] = x.float().numpy()
        # Of the large one, some rows.
        t[f"resize.{k}.y"] = y.numpy() if size < 299 else y[:, :, ::23].contiguous().numpy()
    x = torch.tensor(hashed("pool", (2, 3, 6, 7)))
    t["pool.x"] = x.numpy()
    t["pool.average"] = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False).numpy()
    t["pool.max"] = F.max_pool2d(x, 3, 1, 1).numpy()
    t["pool.max2"] = F.max_pool2d(x, 3, 2).numpy()
    save_file(t, HERE / "fid_parts.safetensors")


def inception():
    import pytorch_fid.inception as module
    import torch

    module.load_state_dict_from_url = lambda *args, **kwargs: {}
    strict = torch.nn.Module.load_state_dict
    torch.nn.Module.load_state_dict = lambda self, state, *a, **k: None
    net = module.fid_inception_v3()
    torch.nn.Module.load_state_dict = strict
    fill(net)
    module.fid_inception_v3 = lambda: net
    model = module.InceptionV3([3]).eval()
    t = {}
    names = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]
    names += [f"Mixed_{x}" for x in "5b 5c 5d 6a 6b 6c 6d 6e 7a 7b 7c".split()]
    watch(net, names, t)
    images = hashed_images("inception.images", (2, 3, 37, 50))
    with torch.no_grad():
        features = model(torch.tensor(images).double() / 255)[0].flatten(1)
    t["features"] = features.numpy().astype(np.float32)
    print("inception: features, mean", features.mean().item(), "std", features.std().item())
    save_file(t, HERE / "inception.safetensors")


def efficientnet():
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    net = fill(EfficientNet.from_name("efficientnet-lite0"))
    t = {}
    watch(net, [f"_blocks.{i}" for i in range(16)], t)
    images = hashed_images("efficientnet.images", (2, 3, 224, 224))
    with torch.no_grad():
        x = (torch.tensor(images).double() - 127) / 128
        logits = net(x)
        features = net.extract_features(x).mean((2, 3))
    t["features"], t["logits"] = features.numpy().astype(np.float32), logits.numpy().astype(np.float32)
    print("efficientnet: features, mean", features.mean().item(), "std", features.std().item())
    save_file(t, HERE / "efficientnet_lite0.safetensors")


def quality():
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    n, h, w = 5, 19, 24
    y, x = np.mgrid[:h, :w]
    a, b = [], []
    for k in range(n):
        phase = np.arange(3)[:, None, None]
        smooth = 127 + 90 * np.sin(0.3 * x + 0.2 * k * y + phase) * np.cos(0.15 * y - 0.4 * phase)
        noise = [0.5, 4, 20, 80, 0.0][k] * hashed(f"quality.{k}", (3, h, w))
        a.append(np.clip(np.round(smooth), 0, 255).astype(np.uint8))
        b.append(np.clip(np.round(smooth * (0.9 if k == 4 else 1.0) + noise), 0, 255).astype(np.uint8))
    a, b = np.stack(a), np.stack(b)
    psnr = np.array([peak_signal_noise_ratio(p, q, data_range=255) for p, q in zip(a, b)])
    ssim = np.array([structural_similarity(p, q, channel_axis=0, gaussian_weights=True, sigma=1.5,
                                           use_sample_covariance=False, data_range=255) for p, q in zip(a, b)])
    print("quality", psnr, ssim)
    save_file({"a": a, "b": b, "psnr": psnr, "ssim": ssim}, HERE / "quality.safetensors")


def torch_files():
    """torch_old.pth, torch_zip.pth and torch_file.safetensors: one state dict with strides, a shared storage and integers."""
    import collections

    import torch

    base = torch.arange(12.0) / 8
    state = collections.OrderedDict(
        transposed=(torch.arange(24.0).reshape(4, 3, 2) - 5.5).permute(2, 0, 1), count=torch.tensor([7, -2**40]), scalar=torch.tensor(2.5))
    state["shared.a"], state["shared.b"] = base[:6].reshape(2, 3), base[6:]
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    torch.save(state, HERE / "torch_old.pth", _use_new_zipfile_serialization=False)
    # candle reads no strides but those of a transposed matrix.
    state["transposed"] = state["transposed"].contiguous()
    torch.save(state, HERE / "torch_zip.pth")
    save_file({k: np.array(v.numpy(), order="C") for k, v in state.items()}, HERE / "torch_file.safetensors")


def foolbox(folder, out):
    from PIL import Image

    files = sorted(Path(folder).glob("imagenet_*.jpg"))
    images = []
    for file in files:
        image = Image.open(file).convert("RGB")
        side = min(image.size) * 224 / 256  # the centre, as TensorFlow's EfficientNets are evaluated
        left, top = ((length - side) / 2 for length in image.size)
        image = image.resize((224, 224), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
        images.append(np.asarray(image))
    images = np.stack(images).transpose(0, 3, 1, 2)
    labels = np.array([int(f.stem.rsplit("_", 1)[1]) for f in files])
    save_file({"images": np.ascontiguousarray(images), "labels": labels}, out)
    print(len(files), "images", images.shape)


if __name__ == "__main__":
    if sys.argv[1:2] == ["foolbox"]:
        foolbox(*sys.argv[2:])
    else:
        parts(), quality(), torch_files(), efficientnet(), inception()
