"""Where and how a run was made: settings, seed, versions, machine, time."""

import os
import platform
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import LightningModule, Trainer

LIBRARIES = ("backlit", "torch", "lightning", "torchvision", "numpy")
MOST_TEXT = 20_000  # characters of settings


def versions() -> dict[str, str]:
    """Python's and the installed libraries'."""
    found = {"Python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def settings(directory: Path, pl_module: LightningModule) -> str:
    """The run's ``config.yaml``, else the module's hyper-parameters, as text."""
    path = directory / "config.yaml"
    if path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace")
    else:
        plain = {str(key): plain_value(value) for key, value in dict(pl_module.hparams).items()}
        text = yaml.safe_dump(plain, allow_unicode=True, sort_keys=False) if plain else ""
    return text[:MOST_TEXT]


def plain_value(value: Any) -> Any:
    """What YAML can write of a hyper-parameter."""
    if isinstance(value, list | tuple):
        return [plain_value(one) for one in value]
    return value if isinstance(value, bool | int | float | str | type(None)) else str(value)


def facts(trainer: Trainer, pl_module: LightningModule, seconds: float) -> list[list[str]]:
    """[name, value] of what one would write beside a result."""
    parameters = sum(p.numel() for p in pl_module.parameters())
    device = pl_module.device
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    rows = [
        ["Model", f"{type(pl_module).__name__}, {parameters:,} parameters"],
        ["Trained", f"{trainer.current_epoch:,} epochs, {trainer.global_step:,} steps, {duration(seconds)}"],
        ["On", f"{on}, {trainer.world_size} process{'es' if trainer.world_size > 1 else ''}, {platform.system()}"],
        ["Seed", os.environ.get("PL_GLOBAL_SEED", "not set")],
        ["Written", datetime.now().strftime("%Y-%m-%d %H:%M")],
    ]
    data = trainer.datamodule  # type: ignore[attr-defined]
    if data is not None:
        rows.insert(1, ["Data", type(data).__name__])
    return rows


def duration(seconds: float) -> str:
    """``3.2 s``, ``4 min 10 s``, ``2 h 5 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
