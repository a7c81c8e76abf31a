"""What other callbacks have left in a run's folder, as a page can hold it: layouts, saliency, fitted curves."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from callbacks.tsne.drawing import colours
from interpretability.page.encoding import overlay, pack, picture, sheet

MOST_FRAMES = 40
POSITIVE, NEGATIVE = (240, 130, 30), (70, 140, 255)  # the page's colours for and against, on a dark ground
EPOCH = re.compile(r"epoch_(\d+)$")


def epochs_in(folder: Path, most: int = MOST_FRAMES) -> list[tuple[int, Path]]:
    """(epoch, file) of the arrays kept in a folder, in order; evenly thinned to ``most``, the last among them."""
    found = sorted((int(match[1]), path) for path in folder.glob("*.npz") if (match := EPOCH.search(path.stem)))
    if len(found) <= most:
        return found
    return [found[round(place)] for place in np.linspace(0, len(found) - 1, most)]


def read(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays in a file; None where it cannot be read. Nothing in it is run."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, KeyError):
        return None


def layouts(directory: Path, sprites: Iterable[Path], most_points: int = 1000) -> dict[str, Any]:
    """``maps``, one a layer with a frame an epoch, and ``sheets`` of their pictures, which those of a split share."""
    figures, found = directory / "figures", []
    for folder in sorted(path for path in (figures / "tsne").rglob("*") if path.is_dir()):
        frames = epochs_in(folder)
        name = folder.relative_to(figures / "tsne").as_posix()
        found.append(layout(name, "validation", frames, most_points))
    for path in sorted((figures / "test" / "tsne").rglob("*.npz")):
        name = path.relative_to(figures / "test" / "tsne").with_suffix("").as_posix()
        found.append(layout(f"{name}, tested", "test", [(-1, path)], most_points))
    maps = [one for one in found if one is not None]
    shared = {(one["held_out_name"], one["count"]): np.array(one.pop("kept")) for one in maps}
    sheets = [thumbnails(sprites, split, n, keep) for (split, n), keep in shared.items()]
    for one in maps:
        one["sheet"] = list(shared).index((one["held_out_name"], one["count"]))
    return {"maps": maps, "sheets": sheets}


def layout(name: str, held_out: str, frames: list[tuple[int, Path]], most_points: int) -> dict[str, Any] | None:
    """One layer's layouts; None where there is none to read."""
    arrays = [(epoch, content) for epoch, path in frames if (content := read(path)) is not None]
    arrays = [pair for pair in arrays if len(pair[1]["coordinates"]) == len(arrays[-1][1]["coordinates"])]
    if not arrays:
        return None
    last = arrays[-1][1]
    n = len(last["labels"])
    keep = np.unique(np.linspace(0, n - 1, min(n, most_points)).round().astype(int))
    names = [str(word) for word in last["class_names"]]
    shades = colours(len(names))
    return {
        "name": name,
        "held_out_name": held_out,
        "classes": names,
        "colors": ["#" + "".join(f"{round(255 * level):02x}" for level in shade) for shade in shades],
        "labels": last["labels"][keep].tolist(),
        "held_out": last["held_out"][keep].astype(int).tolist(),
        "frames": [
            {
                "epoch": epoch,
                "points": pack(torch.from_numpy(content["coordinates"][keep].astype(np.float32))),
                "predictions": content["predictions"][keep].tolist(),
                "trustworthiness": number(content.get("trustworthiness")),
                "neighbours": number(content.get("knn_embedding")),
            }
            for epoch, content in arrays
        ],
        "count": n,
        "kept": keep.tolist(),
    }


def number(value: Any) -> float | None:
    """A finite number, or None."""
    return float(value) if value is not None and math.isfinite(value) else None


def thumbnails(sprites: Iterable[Path], held_out: str, n: int, keep: np.ndarray) -> dict[str, Any] | None:
    """The pictures of the points, from the sheet that the projector's entries share."""
    for folder in sprites:
        path = folder / f"{held_out}_{n}_thumbnails.png"
        if not path.is_file():
            continue
        side = math.ceil(math.sqrt(n))
        with Image.open(path) as image:
            grid = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1).float() / 255
        height, width = grid.shape[1] // side, grid.shape[2] // side
        if torch.equal(grid[0], grid[1]) and torch.equal(grid[0], grid[2]):
            grid = grid[:1]
        places = [(index // side * height, index % side * width) for index in keep.tolist()]
        return sheet_of([grid[:, top : top + height, left : left + width] for top, left in places])
    return None


def sheet_of(pictures: list[Tensor], quality: int = 80) -> dict[str, Any] | None:
    """Pictures of one size as a sheet with the numbers that find one in it."""
    if not pictures:
        return None
    columns = math.ceil(math.sqrt(len(pictures)))
    height, width = pictures[0].shape[1:]
    return {"sheet": sheet(pictures, columns, quality, effort=0), "columns": columns, "width": width, "height": height}


def saliency(directory: Path, most: int = 20) -> list[dict[str, Any]]:
    """The snapshots of ``figures/saliency*``: the images, and a frame an epoch with a map for each row and image."""
    found = []
    for folder in sorted(path for path in (directory / "figures").glob("saliency*") if path.is_dir()):
        arrays = [(epoch, content) for epoch, path in epochs_in(folder, most) if (content := read(path)) is not None]
        if arrays:
            found.append(snapshots(arrays))
    return found


def snapshots(arrays: list[tuple[int, dict[str, np.ndarray]]]) -> dict[str, Any]:
    """The frames of one set of images; a row's scale is that of its last epoch, so that maps compare."""
    last = arrays[-1][1]
    rows = [key for key in last if key.startswith("row/")]
    names = [str(name) for name in last["names"]]
    frames = []
    for epoch, content in arrays:
        probabilities = content["probabilities"]
        maps = {
            key.removeprefix("row/").replace("\n", ", "): [
                colour(one, float(last[f"scale/{key.removeprefix('row/')}"])) for one in content[key]
            ]
            for key in rows
            if key in content
        }
        best = probabilities.argmax(1)
        said = [[names[k], round(float(p[k]), 4)] for k, p in zip(best, probabilities)]
        frames.append({"epoch": epoch, "maps": maps, "said": said})
    images = torch.from_numpy(last["images"].astype(np.float32))
    return {
        "images": [picture(image) for image in images],
        "labels": [names[k] for k in last["labels"]],
        "frames": frames,
    }


def colour(values: np.ndarray, scale: float) -> str:
    """A map as colour with transparency, on its row's scale."""
    return overlay(torch.from_numpy(values.astype(np.float32)) / (scale or 1.0), POSITIVE, NEGATIVE)


def fits(directory: Path) -> dict[str, Any] | None:
    """The curves of ``figures/regression``: the points of each split, and a frame an epoch."""
    frames = [
        (epoch, content)
        for epoch, path in epochs_in(directory / "figures" / "regression")
        if (content := read(path)) is not None
    ]
    final = read(directory / "figures" / "regression.npz")
    if final is not None:
        frames.append((-1, final))
    if not frames:
        return None
    last = frames[-1][1]
    points = {key.removeprefix("points/"): np.round(last[key], 6).tolist() for key in last if key.startswith("points/")}
    return {
        "points": points,
        "frames": [{"epoch": epoch, "curve": np.round(one["curve"], 5).tolist()} for epoch, one in frames],
    }
