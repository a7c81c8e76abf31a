"""Files that subcommands write: whole or not at all."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def write_arrays(path: Path, **arrays: Any) -> Path:
    """Write ``path`` (.npz) with the given arrays."""
    import numpy as np

    from interpretability.whole_files import whole_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return path


def write_pixels(path: Path, image: "Tensor") -> Path:
    """Write ``path`` (.png) with an image (C, H, W) in [0, 1], every pixel as its nearest 8-bit level."""
    from torchvision.transforms.functional import to_pil_image

    from interpretability.whole_files import whole_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        to_pil_image((image * 255).round().byte()).save(partial, format="PNG")
    return path
