"""MNIST's files damaged in every way, and mirrors that answer badly: named, refused, or gone around."""

import gzip
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread

import pytest
import torch

from datamodules import DataFileError, MNISTDataModule, mnist_files
from datamodules.mnist_files import FILES, ensure_files, raw_folder, read_idx, read_split

ROOT = Path(__file__).parents[2]
NAMES = [name for pair in FILES.values() for name in pair]
COUNTS = {"train": 30, "test": 10}


def idx(array: torch.Tensor) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.numpy().tobytes(), mtime=0)


def contents() -> dict[str, bytes]:
    """Four small files in MNIST's format; the same in every process."""
    generator, files = torch.Generator().manual_seed(0), {}
    for split, (images, labels) in FILES.items():
        n = COUNTS[split]
        files[images] = idx(torch.randint(0, 256, (n, 28, 28), generator=generator, dtype=torch.uint8))
        files[labels] = idx(torch.arange(n, dtype=torch.uint8) % 10)
    return files


def believe(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> None:
    """Take ``files`` for MNIST's own: their checksums, their counts."""
    monkeypatch.setattr(mnist_files, "COUNTS", COUNTS)
    monkeypatch.setattr(mnist_files, "CHECKSUMS", {name: mnist_files.checksum(files[name]) for name in files})


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """A data folder with the four files."""
    files = contents()
    believe(monkeypatch, files)
    raw_folder(tmp_path).mkdir(parents=True)
    for name, content in files.items():
        (raw_folder(tmp_path) / name).write_bytes(content)
    return tmp_path


def swapped(name: str) -> bytes:
    """The file that stands beside ``name``: labels for images, the test set for the training set."""
    return contents()[NAMES[NAMES.index(name) ^ 1]]


Damage = Callable[[bytes, str], bytes]
DAMAGES: dict[str, Damage] = {
    "empty": lambda content, name: b"",
    "one byte": lambda content, name: content[:1],
    "truncated": lambda content, name: content[: len(content) // 2],
    "last byte missing": lambda content, name: content[:-1],
    "gzip cut short": lambda content, name: content[:-8],
    "bytes behind its end": lambda content, name: content + b"\0",
    "two files in one": lambda content, name: content * 2,
    "first bit flipped": lambda content, name: bytes([content[0] ^ 1]) + content[1:],
    "swapped with its neighbour": lambda content, name: swapped(name),
    "of the other split": lambda content, name: contents()[NAMES[NAMES.index(name) ^ 2]],
    "unpacked": lambda content, name: gzip.decompress(content),
    "packed twice": lambda content, name: gzip.compress(content),
    "a web page": lambda content, name: b"<!doctype html><title>404</title>",
    "zeros": lambda content, name: bytes(len(content)),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_refused(data_dir, damage, name, record_promise):
    record_promise("A damaged data file is named and refused", damage, group="Data files")
    path = raw_folder(data_dir) / name
    path.write_bytes(DAMAGES[damage](path.read_bytes(), name))
    with pytest.raises(DataFileError, match=rf"{name} is damaged: .+; delete it to have it downloaded again"):
        MNISTDataModule(data_dir, val_size=5).setup()


def test_the_remedy_works(data_dir):
    path = raw_folder(data_dir) / NAMES[0]
    whole = path.read_bytes()
    path.write_bytes(b"")
    with serving(mirror := Mirror()) as address:
        path.unlink()
        module = MNISTDataModule(data_dir, val_size=5, mirrors=[address])
        module.prepare_data()
        module.setup()
    assert path.read_bytes() == whole and mirror.asked == [NAMES[0]]


@pytest.mark.parametrize("name", NAMES)
def test_bits_flipped_anywhere_are_noticed(data_dir, name, record_promise):
    record_promise(
        "A damaged data file is named and refused", "a bit flipped, at random places", 50, group="Data files"
    )
    path, pick = raw_folder(data_dir) / name, random.Random(0)
    whole = path.read_bytes()
    for _ in range(50):
        place = pick.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << pick.randrange(8))]) + whole[place + 1 :])
        with pytest.raises(DataFileError, match=f"{name} is damaged"):
            read_split(data_dir, "train" if "train" in name else "test")


LYING = {
    "wrong magic number": (idx(torch.zeros(30, dtype=torch.uint8)), "images", "wrong magic number"),
    "wrong type": (
        gzip.compress(b"\0\0\x0d\x03" + struct.pack(">3I", 1, 28, 28) + bytes(784)),
        "images",
        "wrong magic",
    ),
    "wrong count": (idx(torch.zeros(29, 28, 28, dtype=torch.uint8)), "images", "29 items, not 30"),
    "fewer items than promised": (
        gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 31) + bytes(30)),
        "labels",
        "promises 31",
    ),
    "four billion items promised": (
        gzip.compress(b"\0\0\x08\x01" + b"\xff" * 4 + bytes(30)),
        "labels",
        "promises 4294967295",
    ),
    "other size of images": (idx(torch.zeros(30, 28, 27, dtype=torch.uint8)), "images", r"shape \(28, 27\)"),
    "header cut": (gzip.compress(b"\0\0\x08"), "labels", "wrong magic number"),
    "labels out of range": (idx(torch.arange(30, dtype=torch.uint8)), "labels", "holds a label above 9"),
    "nothing in it": (gzip.compress(b""), "labels", "wrong magic number"),
}


@pytest.mark.parametrize("lie", LYING)
def test_a_file_that_lies_is_refused_although_its_checksum_is_right(data_dir, monkeypatch, lie, record_promise):
    record_promise("A damaged data file is named and refused", lie, group="Data files")
    content, kind, message = LYING[lie]
    name = FILES["train"][kind == "labels"]
    (raw_folder(data_dir) / name).write_bytes(content)
    believe(monkeypatch, {**contents(), name: content})
    with pytest.raises(DataFileError, match=rf"{name}.*{message}"):
        read_split(data_dir, "train")


def test_a_small_file_does_not_become_gigabytes():
    bomb = gzip.compress(bytes(10**8), 9)
    assert len(bomb) < 10**6
    with pytest.raises(DataFileError, match="unpacks to more than"):
        read_idx(bomb, (28, 28))


# --- mirrors ----------------------------------------------------------------------------------------------


class Mirror:
    """A server of the four files on loopback that answers as it is told.

    Args:
        answers: how each request in turn is answered; the last stands for all that follow.
    """

    def __init__(self, *answers: str):
        self.answers, self.asked, self.lock = list(answers) or ["whole"], [], Lock()

    def next(self, name: str) -> str:
        with self.lock:
            self.asked.append(name)
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class serving:
    """The mirror's address for the length of a block."""

    def __init__(self, mirror: Mirror):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.lstrip("/")
                answer, content = mirror.next(name), contents()[name]
                if answer in ("404", "503"):
                    return self.send_error(int(answer))
                if answer == "hangs up":
                    return None
                self.send_response(200)
                if answer != "half, unannounced":
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if answer == "other":
                    content = bytes(len(content))
                if answer.startswith("half"):
                    content = content[: len(content) // 2]
                for start in range(
                    0, len(content), step := len(content) // 20 + 1 if answer == "slow" else len(content)
                ):
                    self.wfile.write(content[start : start + step])
                    time.sleep(0.01 if answer == "slow" else 0)
                return None

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __exit__(self, *args) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def believed(monkeypatch):
    believe(monkeypatch, contents())
    monkeypatch.setattr(mnist_files, "PAUSES_SECONDS", (0.0, 0.0))


def nothing_left(folder: Path) -> bool:
    return {path.name for path in folder.iterdir()} <= {".download.lock"}


BAD = ("404", "503", "half", "half, unannounced", "other", "hangs up")


@pytest.mark.parametrize("answer", BAD)
def test_the_next_mirror_is_asked(believed, tmp_path, answer, record_promise):
    record_promise("A download goes around a bad mirror", f"it answers: {answer}", len(NAMES), group="Data files")
    bad, good = Mirror(answer), Mirror()
    with serving(bad) as first, serving(good) as second:
        ensure_files(tmp_path, [first, second])
    assert set(bad.asked) == set(NAMES) and good.asked == NAMES
    assert all((raw_folder(tmp_path) / name).read_bytes() == content for name, content in contents().items())


@pytest.mark.parametrize("answer", ["503", "half", "hangs up"])
def test_what_passes_is_tried_again(believed, tmp_path, answer, record_promise):
    record_promise("A download outlasts a mirror's short failure", f"first it answers: {answer}", group="Data files")
    mirror = Mirror(answer, answer, "whole")
    with serving(mirror) as address:
        ensure_files(tmp_path, [address])
    assert mirror.asked[:3] == NAMES[:1] * 3 and len(mirror.asked) == 2 + len(NAMES)


@pytest.mark.parametrize("answer", BAD)
def test_without_a_good_mirror_nothing_is_left_and_the_way_out_is_told(believed, tmp_path, answer, record_promise):
    record_promise("A failed download leaves nothing half there", f"all answer: {answer}", group="Data files")
    with serving(Mirror(answer)) as address, pytest.raises(DataFileError) as failure:
        ensure_files(tmp_path, [address])
    message = str(failure.value)
    assert nothing_left(raw_folder(tmp_path)) and len(message.splitlines()) <= 5
    assert "127.0.0.1" in message and all(name in message for name in NAMES) and "--data.data_dir" in message


def test_a_mirror_that_does_not_have_it_is_not_asked_twice(believed, tmp_path):
    with serving(mirror := Mirror("404")) as address, pytest.raises(DataFileError, match="404"):
        ensure_files(tmp_path, [address])
    assert mirror.asked == NAMES[:1]


def test_a_slow_download_shows_that_it_goes_on(believed, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(mnist_files, "QUIET_SECONDS", 0.0)
    with serving(Mirror("slow")) as address:
        ensure_files(tmp_path, [address])
    assert all(name in capsys.readouterr().err for name in NAMES[:1])


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9", "ftp:/nowhere", "file:///etc", "not an address", "http://[::1"]
)
def test_an_address_that_is_none_is_told(believed, tmp_path, address):
    with pytest.raises(DataFileError, match="could not be downloaded"):
        ensure_files(tmp_path, [address])
    assert nothing_left(raw_folder(tmp_path))


FIRST_RUN = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import pytest
from hostile.test_data_files import believe, contents
patch = pytest.MonkeyPatch()
believe(patch, contents())
from datamodules import MNISTDataModule
data = MNISTDataModule({data_dir!r}, val_size=5, mirrors={mirrors!r})
sys.stdin.read()  # all begin together
images, labels = data.probe_batch("train", 3)
print(len(data.splits["train"]), images.shape[0])
"""


@pytest.mark.processes
def test_first_runs_started_together_on_an_empty_folder_all_succeed(tmp_path, record_promise):
    record_promise(
        "First runs started together share one download", "four processes, a slow and a bad mirror", group="Data files"
    )
    slow, bad = Mirror("slow"), Mirror("half")
    with serving(bad) as first, serving(slow) as second:
        code = FIRST_RUN.format(
            root=str(ROOT), tests=str(ROOT / "tests"), data_dir=str(tmp_path), mirrors=[first, second]
        )
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        runs = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(4)]
        for process in runs:
            process.stdin.close()
        ended = [(process.stdout.read(), process.stderr.read()) for process in runs]
        assert [process.wait() for process in runs] == [0] * 4, ended
    assert [out.strip() for out, _ in ended] == ["25 3"] * 4, ended
    assert slow.asked == NAMES  # fetched once, by whoever came first
    assert {path.name for path in raw_folder(tmp_path).iterdir()} == {*NAMES, ".download.lock"}
