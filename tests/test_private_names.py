"""Private names of libraries that the product relies on: each with its reason, and a check that it is still there."""

import ast
import importlib
import sys
from collections.abc import Callable

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from conftest import ROOT

FOLDERS = ("lit_models", "datamodules", "interpretability", "callbacks", "scripts")


def trainer() -> Trainer:
    return Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")


def convolution():
    """The node of a convolution in autograd's graph."""
    weight = torch.rand(1, 1, 2, 2, requires_grad=True)
    return torch.conv2d(torch.rand(1, 1, 3, 3, requires_grad=True), weight).grad_fn


def product():
    return (torch.rand(2, requires_grad=True) * torch.rand(2, requires_grad=True)).grad_fn


def trial():
    import optuna

    return optuna.create_study().ask()


def parser():
    from jsonargparse import ArgumentParser

    return ArgumentParser()


# name -> (who has it, why there is no public way)
PRIVATE: dict[str, tuple[Callable[[], object], str]] = {
    "_parameters": (nn.Module, "walked for every explanation: parameters() is several times as slow"),
    "_buffers": (nn.Module, "as _parameters"),
    "_modules": (nn.Module, "as _parameters"),
    "_version": (lambda: torch.zeros(1), "whether a tensor was changed in place"),
    "_saved_input": (convolution, "the first convolution's input gradient by its own formula"),
    "_saved_weight": (convolution, "as _saved_input"),
    "_saved_stride": (convolution, "as _saved_input"),
    "_saved_padding": (convolution, "as _saved_input"),
    "_saved_dilation": (convolution, "as _saved_input"),
    "_saved_transposed": (convolution, "as _saved_input"),
    "_saved_groups": (convolution, "as _saved_input"),
    "_saved_self": (product, "whether a scale below the first convolution differs between rows"),
    "_saved_other": (product, "as _saved_self"),
    "_foreach_add_": (lambda: torch, "one launch for all parameters in the hand-written optimisers"),
    "_foreach_addcdiv_": (lambda: torch, "as _foreach_add_"),
    "_foreach_copy_": (lambda: torch, "as _foreach_add_"),
    "_foreach_mul_": (lambda: torch, "as _foreach_add_"),
    "_results": (lambda: trainer().fit_loop.epoch_loop, "an epoch's means, to save them within the epoch"),
    "_logger_connector": (trainer, "log a step before a checkpoint within an epoch"),
    "_data_fetcher": (lambda: trainer().fit_loop, "whether a validation follows a batch"),
    "_is_training_done": (lambda: trainer().fit_loop.epoch_loop, "whether a batch is the run's last"),
    "_should_check_val_fx": (lambda: trainer().fit_loop.epoch_loop, "as _data_fetcher"),
    "_trial_id": (trial, "heartbeats of a trial that another process runs"),
    "_BatchNorm": (lambda: torch.nn.modules.batchnorm, "every batch norm, also synchronised and lazy ones"),
    "_utils": (lambda: importlib.import_module("captum.attr"), "the peer's LRP rules in the benchmark"),
    "_option_string_actions": (parser, "the nearest option to one that is unknown"),
}


def private_names() -> set[str]:
    """Private attributes of anything but self, cls, super() and what the same file defines; private strings too."""
    found: set[str] = set()
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        own |= {node.attr for node in ast.walk(tree) if is_own(node)}
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Attribute) and not is_own(node):
                names = [node.attr]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("_saved"):
                names = [node.value]
            elif isinstance(node, ast.ImportFrom) and node.module not in sys.stdlib_module_names:
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            found |= {name for name in names if name.startswith("_") and not name.startswith("__")} - own
    return found


def is_own(node: ast.AST) -> bool:
    """``self._name``, ``cls._name``, ``super()._name``."""
    if not isinstance(node, ast.Attribute):
        return False
    owner = node.value.func if isinstance(node.value, ast.Call) else node.value
    return isinstance(owner, ast.Name) and owner.id in ("self", "cls", "super")


def test_every_private_name_is_listed_with_its_reason():
    assert private_names() == PRIVATE.keys()
    assert all(len(reason) > 5 for _, reason in PRIVATE.values())


@pytest.mark.parametrize("name", PRIVATE)
def test_the_installed_version_still_has_it(name):
    owner, reason = PRIVATE[name]
    assert hasattr(owner(), name), f"{name} is gone from this version; it was used for: {reason}"
