"""Checkpoints that are whole or not there, whatever happens while they are written."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from interpretability.whole_files import whole_file


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint to a temporary name beside its own, then renames it.

    Lightning's own way goes through the system's temporary folder: where that lies on another file system, the
    last step is a copy, which a kill or a full disk cuts short. The folder is made for the first checkpoint
    alone: one that vanishes while the run goes on is an error, not a new and emptier folder.
    """

    def __init__(self) -> None:
        self._folders: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``path``; OSError names it where that fails, and leaves the earlier checkpoint whole."""
        path = Path(path)
        if path.parent not in self._folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._folders.add(path.parent)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with whole_file(path) as partial:
            partial.write_bytes(content.getbuffer())
