"""Files that subcommands write: whole or not at all."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def write_arrays(path: Path, **arrays: Any) -> Path:
    """Write ``path`` (.npz) with the given arrays."""
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(temporary, path)
    return path


def write_pixels(path: Path, image: "Tensor") -> Path:
    """Write ``path`` (.png) with an image (C, H, W) in [0, 1], every pixel as its nearest 8-bit level."""
    from torchvision.transforms.functional import to_pil_image

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    to_pil_image((image * 255).round().byte()).save(temporary)
    os.replace(temporary, path)
    return path
