#!/usr/bin/env python3
"""Writes the state of a PyTorch optimizer as a file that `NamedOptimizer::import_torch` of fadam-core reads.

Of torch.optim.AdamW, torch.optim.Adam, and FAdam of github.com/lessw2020/FAdam_PyTorch. Where model and optimizer are at
hand, copy this file beside your program as export_torch_optimizer.py:

    from export_torch_optimizer import export
    without = export(model, optimizer, "optimizer.safetensors")

From torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "run.pt"):

    python export-torch-optimizer.py run.pt optimizer.safetensors --kind adamw

Needs torch and safetensors. The weights are not in the file: write those with safetensors.torch.save_model.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
from typing import Any

import torch
from safetensors.torch import save_file

FORMAT = "torch-optimizer"
VERSION = "1"
ADAM_KEYS = ("exp_avg", "exp_avg_sq")
KEYS = {"adamw": ADAM_KEYS, "adam": ADAM_KEYS, "fadam-lessw2020": ("momentum", "fim")}


def export(model: torch.nn.Module, optimizer: torch.optim.Optimizer, path: str, kind: str | None = None) -> list[str]:
    """Writes the state of `optimizer`, by the names of `model.named_parameters()`.

    `kind` is a key of KEYS, for a class derived from one that is known. Returns the names of the parameters that have no
    state, since no gradient ever reached them: the file does not have them. ValueError for what cannot be imported.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    order = []
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        if id(parameter) not in names:
            raise ValueError(f"a parameter of shape {tuple(parameter.shape)} is not among the model's named_parameters()")
        order.append(names[id(parameter)])
    return write(path, kind or kind_of(optimizer), order, optimizer.state_dict())


def export_checkpoint(checkpoint: dict[str, Any], path: str, kind: str) -> list[str]:
    """The same of `{"model": state_dict, "optimizer": state_dict}`, in which an optimizer knows its parameters by number."""
    return write(path, kind, names_of(checkpoint["model"], checkpoint["optimizer"]), checkpoint["optimizer"])


def kind_of(optimizer: torch.optim.Optimizer) -> str:
    """Exactly the classes that are known: others keep averages under the same names and mean something else."""
    if type(optimizer) in (torch.optim.Adam, torch.optim.AdamW):
        decoupled = all(group.get("decoupled_weight_decay") for group in optimizer.param_groups)
        return "adamw" if decoupled or type(optimizer) is torch.optim.AdamW else "adam"
    if type(optimizer).__name__ == "FAdam":
        return "fadam-lessw2020"
    raise ValueError(f"{type(optimizer).__name__} is not one of AdamW, Adam, FAdam; give a kind if it is derived from one")


def names_of(model: dict[str, torch.Tensor], optimizer: dict[str, Any]) -> list[str]:
    """The names in the order of an optimizer's numbers: those that it was built with, or those of a model without buffers."""
    groups = optimizer["param_groups"]
    if all("param_names" in group for group in groups):
        return [name for group in groups for name in group["param_names"]]
    if len(groups) > 1:
        raise ValueError("several parameter groups without names: the order is unknown; use export(model, optimizer, path)")
    names, count = list(model), len(groups[0]["params"])
    if len(names) != count:
        raise ValueError(f"{len(names)} tensors in the model, {count} in the optimizer (buffers?); use export(model, optimizer, path)")
    for index, name in enumerate(names):
        for key, tensor in optimizer["state"].get(index, {}).items():
            if key != "step" and tensor.shape != model[name].shape:
                raise ValueError(f"{name} is {tuple(model[name].shape)}, its {key} {tuple(tensor.shape)}: the order is not the model's")
    return names


def write(path: str, kind: str, names: list[str], state_dict: dict[str, Any]) -> list[str]:
    """Writes the state of the parameters `names`, in the order of the optimizer's numbers; returns those without one."""
    if kind not in KEYS:
        raise ValueError(f"kind {kind!r} is none of {', '.join(KEYS)}")
    tensors, without = {}, []
    for index, name in enumerate(names):
        state = state_dict["state"].get(index)
        if not state:
            without.append(name)
            continue
        check_keys(name, set(state), {"step", *KEYS[kind]})
        tensors[f"{name}.step"] = torch.tensor(int(state["step"]), dtype=torch.int64)
        for key in KEYS[kind]:
            tensors[f"{name}.{key}"] = state[key].detach().cpu().contiguous()
    config = json.dumps(config_of(kind, state_dict["param_groups"]))
    metadata = {"format": FORMAT, "version": VERSION, "optimizer": kind, "config": config}
    save_file(tensors, path, metadata)
    return without


def check_keys(name: str, found: set[str], expected: set[str]) -> None:
    """Whether the state of a parameter is what its kind keeps."""
    if "max_exp_avg_sq" in found:
        reason = "amsgrad divides by the largest second moment so far, which no algorithm of fadam-core keeps"
        raise ValueError(f"{name} has max_exp_avg_sq: {reason}")
    if found != expected:
        raise ValueError(f"the state of {name} is {sorted(found)}, not {sorted(expected)}")


def config_of(kind: str, groups: list[dict[str, Any]]) -> dict[str, Any]:
    """The hyper-parameters; where groups differ, the list of theirs. What the averages depend on may not differ."""
    own = ("betas", "p") if kind == "fadam-lessw2020" else ("betas",)
    config = {}
    for key in dict.fromkeys(("lr", "betas", "eps", "weight_decay", *own)):
        values = [[float(beta) for beta in group[key]] if key == "betas" else float(group[key]) for group in groups]
        same = all(value == values[0] for value in values)
        if not same and key in own:
            raise ValueError(f"the parameter groups have different {key}: {values}; a file has one")
        config[key] = values[0] if same else values
    return config


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help='what torch.save made of {"model": state_dict, "optimizer": state_dict}')
    parser.add_argument("out", help="the safetensors file to write")
    parser.add_argument("--kind", required=True, choices=KEYS, help="the optimizer that made the state")
    parser.add_argument("--model-key", default="model", help='the key of the model\'s state_dict (default "model")')
    parser.add_argument("--optimizer-key", default="optimizer", help='that of the optimizer\'s (default "optimizer")')
    args = parser.parse_args()
    try:
        loaded = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
        parts = {"model": loaded[args.model_key], "optimizer": loaded[args.optimizer_key]}
        without = export_checkpoint(parts, args.out, args.kind)
    except KeyError as missing:
        sys.exit(f"{args.checkpoint} has no key {missing}")
    except (OSError, ValueError, pickle.UnpicklingError) as error:
        sys.exit(f"{args.checkpoint}: {error}")
    for name in without:
        print(f"{name} has no state: no gradient ever reached it", file=sys.stderr)


if __name__ == "__main__":
    main()
