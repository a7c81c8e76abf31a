"""Entries for TensorBoard's embedding projector, written as the plain files it reads.

torch's ``add_embedding`` goes through TensorBoard's file layer, which fails when some TensorFlow is
installed, and rewrites the list of entries from its own memory; here entries are only ever added.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from callbacks.figures import copy_file, write_image
from interpretability.whole_files import whole_file

CONFIG = "projector_config.pbtxt"
MAX_THUMBNAIL, MAX_SPRITE = 48, 8192  # pixels; larger sprites are refused by the browser


def write_sprite(path: Path, images: Tensor) -> tuple[int, int]:
    """Thumbnails of images (N, C, H, W) in a square grid; returns the (width, height) of each."""
    n, _, h, w = images.shape
    side = math.ceil(math.sqrt(n))
    scale = min(1.0, MAX_THUMBNAIL / max(h, w), MAX_SPRITE / side / max(h, w))
    height, width = max(1, round(h * scale)), max(1, round(w * scale))
    small = torch.nn.functional.interpolate(images.float(), (height, width), mode="area").clamp(0, 1)
    small = small[:, :3] if small.shape[1] >= 3 else small[:, :1].expand(-1, 3, -1, -1)
    grid = np.zeros((side * height, side * width, 3), dtype=np.uint8)
    for index, thumbnail in enumerate(small.mul(255).byte().permute(0, 2, 3, 1).numpy()):
        top, left = index // side * height, index % side * width
        grid[top : top + height, left : left + width] = thumbnail
    write_image(path, grid)
    return width, height


def write_metadata(path: Path, columns: dict[str, list[str]]) -> None:
    """A table with a header, one row a point, in a folder that is there."""
    rows = ["\t".join(columns), *("\t".join(row) for row in zip(*columns.values()))]
    with whole_file(path) as partial:
        partial.write_text("\n".join(rows) + "\n")


def add_entry(
    directory: Path, name: str, tensors: Path, columns: dict[str, list[str]], sprite: str, size: tuple[int, int]
) -> None:
    """Show ``tensors`` (a table of numbers) in the projector under ``name``, next to all earlier entries.

    Args:
        directory: the run's folder, in which the event files lie.
        name: the entry's name, and its folder under ``projector/``.
        tensors: a tab-separated file, copied.
        columns: label, prediction, … of each point.
        sprite: the file of thumbnails, relative to ``directory``.
        size: (width, height) of a thumbnail.
    """
    folder = directory / "projector" / name
    copy_file(tensors, folder / "tensors.tsv")
    write_metadata(folder / "metadata.tsv", columns)
    entry = (
        f'embeddings {{\n  tensor_name: "{name}"\n  tensor_path: "projector/{name}/tensors.tsv"\n'
        f'  metadata_path: "projector/{name}/metadata.tsv"\n'
        f'  sprite {{\n    image_path: "{sprite}"\n'
        f"    single_image_dim: {size[0]}\n    single_image_dim: {size[1]}\n  }}\n}}\n"
    )
    config = directory / CONFIG
    present = config.read_text() if config.exists() else ""
    if f'tensor_name: "{name}"' not in present:
        with whole_file(config) as partial:
            partial.write_text(present + entry)
