"""MNIST's files: damaged ones named and refused, downloads whole or not at all, the split disjoint."""

import functools
import gzip
import hashlib
import http.server
import struct
import threading

import pytest
import torch

from datamodules import DataFileError, MNISTDataModule, mnist_files


def idx(array: torch.Tensor) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.numpy().tobytes())


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """Four small files in MNIST's format, with their own checksums and counts."""
    source = tmp_path / "mirror"
    source.mkdir()
    generator = torch.Generator().manual_seed(0)
    checksums = {}
    monkeypatch.setattr(mnist_files, "COUNTS", {"train": 30, "test": 10})
    for split, (images, labels) in mnist_files.FILES.items():
        n = mnist_files.COUNTS[split]
        contents = {
            images: idx(torch.randint(0, 256, (n, 28, 28), generator=generator, dtype=torch.uint8)),
            labels: idx(torch.arange(n, dtype=torch.uint8) % 10),
        }
        for name, content in contents.items():
            (source / name).write_bytes(content)
            checksums[name] = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(mnist_files, "CHECKSUMS", checksums)
    return source


@pytest.fixture
def mirror(small_mnist):
    """A local server of the small files; ``server.fail`` makes it answer badly."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        fail: str | None = None

        def do_GET(self):
            if Handler.fail == "404":
                self.send_error(404)
            elif Handler.fail == "half":
                content = (small_mnist / self.path.lstrip("/")).read_bytes()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])
            else:
                super().do_GET()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(small_mnist)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", Handler
    server.shutdown()


def installed(source, data_dir):
    folder = mnist_files.raw_folder(data_dir)
    folder.mkdir(parents=True)
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_reads_what_was_written(small_mnist, tmp_path):
    installed(small_mnist, tmp_path / "data")
    images, labels = mnist_files.read_split(tmp_path / "data", "train")
    assert images.shape == (30, 1, 28, 28) and images.dtype == torch.uint8
    assert torch.equal(labels, torch.arange(30) % 10)


def truncated(content):
    return content[: len(content) // 2]


def flipped(content):
    return content[:20] + bytes([content[20] ^ 1]) + content[21:]


@pytest.mark.parametrize("damage", [truncated, flipped, lambda content: b"", lambda content: b"<html>not here</html>"])
@pytest.mark.parametrize("name", [name for pair in mnist_files.FILES.values() for name in pair])
def test_a_damaged_file_is_named(small_mnist, tmp_path, damage, name):
    folder = installed(small_mnist, tmp_path / "data")
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    module = MNISTDataModule(str(tmp_path / "data"), val_size=5)
    module.prepare_data()
    with pytest.raises(DataFileError, match=f"{name} is damaged.*delete it"):
        module.setup()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 5) + b"12345"), "wrong magic number"),
        (gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 2, 28, 28) + bytes(28 * 28)), "promises 2 items"),
        (gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 1, 28, 29) + bytes(28 * 29)), "shape"),
        (gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 1, 28, 28) + bytes(28 * 28))[:-9], "gzip"),
        (b"", "magic number|gzip"),
    ],
    ids=["magic", "count", "shape", "cut short", "empty"],
)
def test_idx_files_that_lie_are_refused(content, message):
    with pytest.raises(DataFileError, match=message):
        mnist_files.read_idx(content, (28, 28))


def test_downloads_what_is_missing_once(mirror, tmp_path):
    address, _ = mirror
    module = MNISTDataModule(str(tmp_path / "data"), val_size=5, mirrors=[address])
    module.prepare_data()
    module.setup()
    assert {split: len(data) for split, data in module.splits.items()} == {"train": 25, "val": 5, "test": 10}
    MNISTDataModule(str(tmp_path / "data"), mirrors=["http://127.0.0.1:9/"]).prepare_data()  # nothing is fetched again


def test_first_runs_started_together_all_succeed(mirror, tmp_path):
    address, _ = mirror
    failures = []

    def first_run():
        try:
            mnist_files.ensure_files(tmp_path / "data", [address])
            mnist_files.read_split(tmp_path / "data", "train")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=first_run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("fail", ["404", "half"])
def test_a_failed_download_leaves_nothing_and_says_what_to_do(mirror, tmp_path, fail):
    address, handler = mirror
    handler.fail = fail
    with pytest.raises(DataFileError) as failure:
        mnist_files.ensure_files(tmp_path / "data", [address])
    message = str(failure.value)
    assert len(message.splitlines()) <= 5
    for name in mnist_files.CHECKSUMS:
        assert name in message
    assert "--data.data_dir" in message and "train.py digits" in message
    left = [path.name for path in mnist_files.raw_folder(tmp_path / "data").iterdir()]
    assert left in ([], [".download.lock"])


def test_a_folder_that_cannot_be_made_is_named(small_mnist, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataFileError, match="file"):
        mnist_files.ensure_files(tmp_path / "file", ["http://127.0.0.1:9/"])


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="val_size must be at least 1"):
        MNISTDataModule(val_size=0)
    with pytest.raises(ValueError, match="val_size must be below"):
        MNISTDataModule(val_size=60_000)


@pytest.mark.real_data
def test_the_official_sets_stay_apart(mnist_dir):
    module = MNISTDataModule(str(mnist_dir))
    module.prepare_data()
    module.setup()
    train, val = module.splits["train"].indices, module.splits["val"].indices
    assert (len(train), len(val), len(module.splits["test"])) == (55_000, 5_000, 10_000)
    assert len(torch.cat([train, val]).unique()) == 60_000
    assert torch.equal(module.splits["test"].targets[:5], torch.tensor([7, 2, 1, 0, 4]))
    # no test image stands among the training images
    test = {image.numpy().tobytes() for image in module.splits["test"].inputs}
    assert len(test) == 10_000
    assert not any(image.numpy().tobytes() in test for image in module.splits["train"].inputs)


def test_what_a_checkpoint_stores_of_it_is_plain_data(tmp_path):
    module = MNISTDataModule(tmp_path)
    torch.save(dict(module.hparams), tmp_path / "hparams.pt")
    assert torch.load(tmp_path / "hparams.pt", weights_only=True)["data_dir"] == str(tmp_path)


def test_a_folder_that_cannot_be_written_is_told_in_two_lines(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataFileError, match="nothing can be written there") as error:
        MNISTDataModule(data_dir=tmp_path / "file").prepare_data()
    assert len(str(error.value).splitlines()) == 2
