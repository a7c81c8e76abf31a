"""Image files that are more than they seem: refused by every entry before a pixel is unpacked."""

import io
import random
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from hostile.parse_only import EXPLANATIONS, run
from hostile.test_untrusted_files import saved, whole
from interpretability.images import FORMATS, MOST_PIXELS, load_digit, load_image, read_image
from interpretability.page import PictureCache

SIDE = 60_000
SUFFIXES = {"PNG": "png", "JPEG": "jpg", "GIF": "gif", "BMP": "bmp", "WEBP": "webp", "TIFF": "tif"}


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, *more):
    """A PNG of a few bytes that says it is this large; its pixels, if anyone asks, are zeros without end."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(10**6), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(more) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def small(kind):
    """A whole image of 20 × 20 pixels."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(file, kind)
    return bytearray(file.getvalue())


def patched(kind, *places):
    """A small image whose header says that its sides are others: (offset, struct format, value) each."""
    content = small(kind)
    for offset, form, value in places:
        struct.pack_into(form, content, offset, value)
    return bytes(content)


def tiff(kind="TIFF"):
    content = small(kind)
    (directory,) = struct.unpack_from("<I", content, 4)
    for n in range(struct.unpack_from("<H", content, directory)[0]):
        place = directory + 2 + 12 * n
        if struct.unpack_from("<H", content, place)[0] in (256, 257):  # ImageWidth, ImageLength
            struct.pack_into("<HHII", content, place, struct.unpack_from("<H", content, place)[0], 4, 1, SIDE)
    return bytes(content)


def jpeg():
    content = small("JPEG")
    place = content.index(b"\xff\xc0") + 5
    struct.pack_into(">HH", content, place, SIDE, SIDE)
    return bytes(content)


def webp():
    """A canvas of 16,383 × 16,383 pixels around a small picture: the most that the format allows."""
    inner = bytes(small("WEBP"))[12:]
    extended = b"VP8X" + struct.pack("<II", 10, 0)[:8] + (16_382).to_bytes(3, "little") * 2
    body = b"WEBP" + extended + inner
    return b"RIFF" + struct.pack("<I", len(body)) + body


BOMBS = {
    "png": png(SIDE, SIDE),
    "just too large.png": png(MOST_PIXELS // 5000 + 1, 5000),
    "jpg": jpeg(),
    "gif": patched("GIF", (6, "<HH"[:2], SIDE), (8, "<H", SIDE)),
    "bmp": patched("BMP", (18, "<i", SIDE), (22, "<i", SIDE)),
    "tif": tiff(),
    "webp": webp(),
    "text.png": png(28, 28, chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(10**8), 9))),
    "international text.png": png(28, 28, chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(10**8), 9))),
    "profile.png": png(28, 28, chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(10**8), 9))),
}


@pytest.fixture
def bomb(request, tmp_path, monkeypatch):
    path = tmp_path / (request.param if "." in request.param else f"bomb.{request.param}")
    path.write_bytes(BOMBS[request.param])
    monkeypatch.chdir(tmp_path)
    return path


every_bomb = pytest.mark.parametrize("bomb", BOMBS, indirect=True, ids=lambda name: name.replace(" ", "-"))


@every_bomb
def test_refused_before_a_pixel_is_unpacked(bomb, monkeypatch, record_promise):
    record_promise("An image file unpacks to no more than it should", bomb.name, 3, group="Hostile input")
    assert bomb.stat().st_size < 200_000
    if "text" not in bomb.name and "profile" not in bomb.name:
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("unpacked"))
    tracemalloc.start()
    for load in (read_image, load_image, load_digit):
        with pytest.raises(ValueError, match=rf"{bomb.name}: not an image that can be read"):
            load(bomb)
    assert tracemalloc.get_traced_memory()[1] < 80e6
    tracemalloc.stop()


@pytest.mark.parametrize("command", [f"explain {name}" for name in EXPLANATIONS if name != "features"])
@pytest.mark.parametrize("bomb", ["png", "tif", "webp"], indirect=True)
def test_refused_by_every_command_line(bomb, command, tmp_path):
    saved(tmp_path / "model.ckpt", whole())
    for model in ("model.ckpt", "squeezenet1_0"):
        outcome = run(command, [str(bomb), "--model", model])
        assert outcome.code == 2 and outcome.error.count("\n") == 1
        assert f"{bomb.name}: not an image that can be read (" in outcome.error and "make it smaller" in outcome.error
    bomb.rename(tmp_path / "folder.png")
    assert run(command, [str(tmp_path), "--model", "model.ckpt"]).code == 2


def test_the_largest_that_is_read_is_a_photo(tmp_path):
    side = int(MOST_PIXELS**0.5)
    (tmp_path / "large.png").write_bytes(png(side, side))
    with pytest.raises(ValueError, match="truncated"):  # its pixels are looked for: it is not too large
        read_image(tmp_path / "large.png")


def test_a_program_is_never_started_for_an_image(tmp_path, monkeypatch):
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    path = tmp_path / "photo.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n%%EOF\n")
    with Image.open(path) as file:
        assert file.format == "EPS"  # what it would be taken for
    monkeypatch.setattr("subprocess.check_call", lambda *args, **kwargs: pytest.fail("started"))
    with pytest.raises(ValueError, match=rf"photo\.png: not an image that can be read; one is {', '.join(FORMATS)}"):
        read_image(path)


def test_a_kept_picture_that_became_a_bomb_is_made_again(tmp_path, monkeypatch):
    cache = PictureCache(tmp_path)
    cache.put("key", torch.zeros(1, 28, 28))
    (kept,) = tmp_path.rglob("*.png")
    kept.write_bytes(png(SIDE, SIDE))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("unpacked"))
    assert cache.get("key", (1, 28, 28)) is None


def damaged(content, pick):
    """A few bytes changed, an end cut or a part doubled."""
    for _ in range(pick.randint(1, 4)):
        place, length = pick.randrange(len(content)), pick.randint(1, 12)
        change = pick.choice((pick.randbytes(length), b"", b"\xff" * length, content[place : place + 40] * 2))
        content = content[:place] + change + content[place + length :]
    return content[: pick.randrange(len(content) + 1)] if pick.random() < 0.2 else content


def fuzz(folder, seed, tries):
    """Read so many damaged images; how many were refused."""
    pick, refused = random.Random(seed), 0
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    for n in range(tries):
        kind = pick.choice(sorted(SUFFIXES))
        file = io.BytesIO()
        mode = pick.choice(("L", "RGB", "P")) if kind != "JPEG" else "RGB"
        options = {} if kind in ("GIF", "BMP") else {"exif": exif}
        Image.effect_noise((24, 20), 60).convert(mode).save(file, kind, **options)
        path = folder / f"{n % 10}.{SUFFIXES[kind]}"
        path.write_bytes(damaged(file.getvalue(), pick))
        for load, shape in ((load_image, (3, 32, 32)), (load_digit, (1, 28, 28))):
            try:
                image = load(path, 32) if load is load_image else load(path)
            except ValueError as error:
                assert str(error).startswith(str(path)), (kind, error)
                refused += 1
            else:
                assert image.shape == shape and image.isfinite().all() and image.min() >= 0 and image.max() <= 1
    return refused


def test_damaged_images_are_read_or_refused(tmp_path):
    assert 100 < fuzz(tmp_path, 0, 300) < 600


@pytest.mark.faults
def test_many_damaged_images_are_read_or_refused(tmp_path, record_promise):
    row = record_promise(
        "A damaged image is read or named", "bytes changed, cut, doubled", 2 * 10_000, group="Hostile input"
    )
    row["figure"] = f"{fuzz(tmp_path, 1, 10_000)} refused"
