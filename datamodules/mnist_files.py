"""The four MNIST files: found, checked, or downloaded once; never trusted half-written.

Names, mirrors and checksums are torchvision's. The compressed files are checked against them at every
start and read straight from gzip, so that no half-unpacked file can be mistaken for a whole one.
"""

import gzip
import hashlib
import io
import math
import os
import sys
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torchvision.datasets import MNIST

CHECKSUMS = dict(MNIST.resources)  # file name -> md5
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
SHAPES = {"images": (28, 28), "labels": ()}
COUNTS = {"train": 60_000, "test": 10_000}
IDX_UNSIGNED_BYTE = 0x08
DOWNLOAD_TIMEOUT_SECONDS = 20.0
PAUSES_SECONDS = (1.0, 2.0)  # before every mirror is asked again
QUIET_SECONDS = 3.0  # how long a download takes before it tells how far it is
BLOCK_BYTES = 1 << 16


class DataFileError(OSError):
    """A data file that is missing, damaged, or not what its name says; the message names it."""


def raw_folder(data_dir: str | Path) -> Path:
    """Where torchvision keeps the files, and so where they are looked for here."""
    return Path(data_dir) / "MNIST" / "raw"


def ensure_files(data_dir: str | Path, mirrors: Sequence[str] = tuple(MNIST.mirrors)) -> None:
    """Download what is missing, one process at a time.

    Raises:
        DataFileError: the files are neither there nor to be had; the message says what to do.
    """
    folder = raw_folder(data_dir)
    if all((folder / name).exists() for name in CHECKSUMS):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataFileError(
            f"MNIST is not in {folder}, and nothing can be written there ({error.strerror});\n"
            "name another folder above MNIST/raw with --data.data_dir"
        ) from error
    try:
        with FileLock(folder / ".download.lock"):
            for name in CHECKSUMS:
                if not (folder / name).exists():
                    _download(name, folder, mirrors)
    except OSError as error:
        raise DataFileError(_how_to_get(folder, error)) from error


def _how_to_get(folder: Path, error: OSError) -> str:
    images, labels = zip(*FILES.values())
    return (
        f"MNIST is not in {folder} and could not be downloaded ({error})\n"
        f"put {', '.join(images)},\n"
        f"{', '.join(labels)} into {folder},\n"
        "or name the folder above MNIST/raw with --data.data_dir;\n"
        "the experiment 'digits' runs without them: python scripts/train.py digits"
    )


def _download(name: str, folder: Path, mirrors: Sequence[str]) -> None:
    """Fetch one file from the first mirror that has it whole, asking again those that may only be busy."""
    failures: dict[str, str] = {}
    hopeful = list(mirrors)
    for pause in (*PAUSES_SECONDS, None):
        for mirror in list(hopeful):
            try:
                return _fetch(f"{mirror.rstrip('/')}/{name}", folder / name)
            except (OSError, ValueError, HTTPException) as error:
                failures[mirror] = f"{mirror}: {getattr(error, 'reason', None) or error}"
                if isinstance(error, HTTPError) and 400 <= error.code < 500:  # it does not have it
                    failures[mirror] += f" ({error.code})"
                    hopeful.remove(mirror)
        if pause is None or not hopeful:
            raise DataFileError("; ".join(failures.values()) or "no mirror is given")
        time.sleep(pause)


def _fetch(address: str, path: Path) -> None:
    """Download ``path``; it takes its name only once it is checked. What takes long tells how far it is."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as partial:
        try:
            with urllib.request.urlopen(address, timeout=DOWNLOAD_TIMEOUT_SECONDS) as reply:
                told = time.monotonic()
                while block := reply.read1(BLOCK_BYTES):
                    partial.write(block)
                    if time.monotonic() - told >= QUIET_SECONDS:
                        told = time.monotonic()
                        print(f"downloading {path.name}: {partial.tell() / 1e6:.1f} MB", file=sys.stderr, flush=True)
            partial.close()
            check(Path(partial.name), CHECKSUMS[path.name])
            os.chmod(partial.name, 0o644)
            os.replace(partial.name, path)
        finally:
            Path(partial.name).unlink(missing_ok=True)


def checksum(content: bytes) -> str:
    """MD5, which torchvision gives: against damage, not against forgery."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def check(path: Path, md5: str) -> bytes:
    """The file's bytes, if they have this checksum."""
    content = path.read_bytes()
    found = checksum(content)
    if found != md5:
        raise DataFileError(f"{len(content)} bytes with checksum {found}, not {md5}")
    return content


def read_idx(content: bytes, shape: tuple[int, ...]) -> Tensor:
    """A gzipped IDX array of unsigned bytes, (N, *shape).

    Raises:
        DataFileError: not gzip, cut short, another magic number, or another shape or count than its header says.
    """
    dimensions = 1 + len(shape)
    header = 4 + 4 * dimensions
    most = header + max(COUNTS.values()) * math.prod(shape)
    try:
        raw = gzip.GzipFile(fileobj=io.BytesIO(content)).read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataFileError(f"not a whole gzip file ({error})") from error
    if len(raw) > most:
        raise DataFileError(f"unpacks to more than {most} bytes")
    if len(raw) < header or raw[:4] != bytes([0, 0, IDX_UNSIGNED_BYTE, dimensions]):
        raise DataFileError(f"not an IDX file of unsigned bytes in {dimensions} dimension(s): wrong magic number")
    sizes = tuple(int(size) for size in np.frombuffer(raw, dtype=">u4", count=dimensions, offset=4))
    if sizes[1:] != shape:
        raise DataFileError(f"holds items of shape {sizes[1:]}, not {shape}")
    if len(raw) - header != math.prod(sizes):
        raise DataFileError(f"its header promises {sizes[0]} items, its length does not agree")
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=header).view(sizes)


def read_split(data_dir: str | Path, split: str) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 1, 28, 28) and labels int64 (N,) of ``"train"`` or ``"test"``.

    Raises:
        DataFileError: a file that is missing or not MNIST's; it is named.
    """
    arrays = []
    for name, shape in zip(FILES[split], SHAPES.values()):
        path = raw_folder(data_dir) / name
        try:
            array = read_idx(check(path, CHECKSUMS[name]), shape)
            if len(array) != COUNTS[split]:
                raise DataFileError(f"{len(array)} items, not {COUNTS[split]}")
        except FileNotFoundError as error:
            raise DataFileError(f"{path} is missing") from error
        except DataFileError as error:
            raise DataFileError(f"{path} is damaged: {error}; delete it to have it downloaded again") from error
        arrays.append(array)
    images, labels = arrays[0][:, None], arrays[1].long()
    if int(labels.max()) > 9:
        raise DataFileError(f"{raw_folder(data_dir) / FILES[split][1]} holds a label above 9")
    return images, labels
