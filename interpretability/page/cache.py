"""Pictures kept by what they were made from, so that a second page does not compute them again."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from interpretability.whole_files import whole_file

FORMAT = "backlit picture 1"  # part of every key: pictures of another way of making them are not found


class PictureCache:
    """A folder of lossless PNG files, each named by the hash of everything its picture depends on.

    Args:
        folder: where; by default ``$BACKLIT_CACHE``, else ``~/.cache/backlit``. It is made when first needed.
    """

    def __init__(self, folder: str | Path | None = None):
        chosen = folder or os.environ.get("BACKLIT_CACHE") or Path.home() / ".cache" / "backlit"
        self.folder = Path(chosen).expanduser() / "pictures"

    def get(self, key: str, shape: tuple[int, int, int]) -> Tensor | None:
        """The picture (C, H, W) in [0, 1] under ``key``; None where there is none, or a damaged one."""
        try:
            with Image.open(self._path(key), formats=("PNG",)) as file:
                if file.size != (shape[2], shape[1]):
                    return None
                file.load()
                pixels = np.asarray(file)
        except Exception:  # a damaged file fails in many ways, few of them documented
            return None
        picture = torch.from_numpy(pixels.copy()).float().view(*pixels.shape[:2], -1).permute(2, 0, 1) / 255
        return picture if tuple(picture.shape) == shape and pixels.dtype == np.uint8 else None

    def put(self, key: str, picture: Tensor) -> Tensor:
        """Keep ``picture`` (C, H, W) in [0, 1]; what comes back is what :meth:`get` will give: rounded to 8 bits."""
        levels = (picture.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
        image = Image.fromarray(levels.permute(1, 2, 0).squeeze(2).numpy())
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            image.save(partial, format="PNG")
        return levels.float() / 255

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.png"


def digest(*parts: object) -> str:
    """A hash of ``parts``: strings, numbers, tuples of them, tensors (their bytes)."""
    found = hashlib.blake2b(FORMAT.encode(), digest_size=20)
    for part in parts:
        if isinstance(part, Tensor):
            found.update(f"{part.dtype} {tuple(part.shape)} ".encode())
            found.update(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        else:
            found.update(repr(part).encode())
        found.update(b"\0")
    return found.hexdigest()


def model_digest(model: nn.Module) -> str:
    """A hash of a model's structure and of all its numbers."""
    state: Iterable[tuple[str, Tensor]] = model.state_dict().items()
    return digest(repr(model), *(part for name, values in state for part in (name, values)))
