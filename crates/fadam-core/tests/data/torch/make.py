#!/usr/bin/env python3
"""Makes the fixtures of tests/import/ beside this file; see README.md.

    python make.py [--fadam FOLDER]

Without --fadam, a folder with fadam.py of github.com/lessw2020/FAdam_PyTorch, the two files of that optimizer stay as they are.
Needs torch and safetensors.
"""

import argparse
import importlib.util
import sys
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).resolve().parent
EXPORT = HERE.parents[4] / "scripts" / "export-torch-optimizer.py"
BEFORE, AFTER = 5, 3


def load(name: str, path: Path):
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        sys.exit(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(name: str, optimizer_of) -> None:
    """Trains BEFORE steps, exports the state, and records AFTER steps more."""
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict(head=nn.Linear(5, 4)))
    optimizer = optimizer_of(model.parameters())

    def step() -> None:
        x, y = torch.randn(16, 5), torch.randn(16, 4)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()

    for _ in range(BEFORE):
        step()
    without = load("export", EXPORT).export(model, optimizer, str(HERE / f"{name}.safetensors"))
    assert without == [], without

    parameters = dict(model.named_parameters())
    tensors = {f"{key}.before": p.detach().clone() for key, p in parameters.items()}
    gradients = {key: [] for key in parameters}
    after = {key: [] for key in parameters}
    for _ in range(AFTER):
        step()
        for key, p in parameters.items():
            gradients[key].append(p.grad.detach().clone())
            after[key].append(p.detach().clone())
    tensors |= {f"{key}.gradients": torch.stack(all_) for key, all_ in gradients.items()}
    tensors |= {f"{key}.after": torch.stack(all_) for key, all_ in after.items()}
    save_file(tensors, HERE / f"{name}-goes-on.safetensors")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fadam", type=Path, help="a folder with fadam.py of github.com/lessw2020/FAdam_PyTorch")
    args = parser.parse_args()
    rates = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    make("adamw", lambda parameters: torch.optim.AdamW(parameters, **rates))
    if args.fadam:
        port = load("fadam", args.fadam / "fadam.py")
        make("fadam", lambda parameters: port.FAdam(parameters, **rates))


if __name__ == "__main__":
    main()
