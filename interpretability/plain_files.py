"""Files of ``torch.save`` from anyone: tensors and plain data are read, and nothing in them is ever run."""

import re
import zipfile
from pathlib import Path
from typing import Any

import torch


def load_plain(path: str | Path) -> Any:
    """What the file holds, on the CPU.

    Raises:
        ValueError: it holds more than tensors and plain data, is damaged, or promises more than its own size; the
            message names the file and says which.
        OSError: no such file, a folder, or no right to read it.
    """
    try:
        _check_archive(Path(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
        _check_sizes(content, Path(path))
        return content
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:  # a damaged or foreign file fails in many ways, none of them documented
        raise ValueError(f"{path} cannot be read safely: {_reason(error)}; nothing in it was run") from None


def _check_archive(path: Path) -> None:
    """An archive of ``torch.save`` is not compressed, so it cannot hold more bytes than it has; its checksums hold."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed, which torch.save never does")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("it says that it holds more bytes than it has")
        if changed := archive.testzip():  # torch does not look
            raise ValueError(f"bytes of {changed} have changed since it was written")


def _check_sizes(content: Any, path: Path) -> None:
    """Tensors hold no more bytes than the file: earlier versions of torch believe whatever size it names."""
    storages, waiting, seen = {}, [content], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor) and value.layout == torch.strided:
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, dict | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            waiting += [*value.values(), *value] if isinstance(value, dict) else value
    if sum(storages.values()) > path.stat().st_size:
        raise ValueError("storage has wrong byte size: it is larger than the file")


def _reason(error: Exception) -> str:
    """One short line; of torch's advice to load such a file all the same, nothing."""
    message = str(error)
    if asked := re.search(r"GLOBAL (\S+)", message):
        return f"it asks for {asked[1]}, which is neither a tensor nor plain data"
    if re.match("it is compressed|it says|bytes of|record size|storage has wrong", message):
        return " ".join(message.split())
    return "it is damaged, or was not written by torch.save"
