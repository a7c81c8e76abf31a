"""``--device``: where a command computes."""

import argparse
import re
from typing import TYPE_CHECKING

import console

if TYPE_CHECKING:
    import torch

DEVICES = "auto, cpu, cuda or cuda:N"


def add_argument(group: "argparse.ArgumentParser | argparse._ArgumentGroup", default: str = "auto") -> None:
    """The option itself."""
    group.add_argument("--device", default=default, help=f"where to compute: {DEVICES}; auto takes a GPU that is there")


def chosen(name: str) -> "torch.device":
    """The device called ``name``; ``auto`` is a GPU where there is one.

    Raises:
        UserError: no such device; says which there are.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise console.UserError(f"--device must be {DEVICES}; got {name!r}")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if count else torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    if not count:
        raise console.UserError(f"--device {name}: there is no CUDA device that this torch can use; try --device cpu")
    index = int(name.partition(":")[2] or torch.cuda.current_device())
    if index >= count:
        there = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise console.UserError(f"--device {name}: there is no such device, only {there}")
    return torch.device("cuda", index)
