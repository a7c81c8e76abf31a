"""Pages and figures of images, classes and layers whose names are meant to do harm: all of it is text."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from torch import nn

from browser import browsing, chromedriver
from conftest import missing
from hostile.parse_only import run
from hostile.test_untrusted_files import saved, whole
from interpretability.page import PageOptions, PictureCache, build_page, write_page

RUN = "window.hacked=(window.hacked||0)+1"
NAMES = [
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f"<img src=x onerror='{RUN}'>",
    f'"><svg onload={RUN}>',
    f"'-alert(1)-'<iframe srcdoc='<script>parent.{RUN}</script>'>",
    f"javascript:{RUN}//<a href='javascript:{RUN}'>x</a>",
    "{{ 7*7 }}{% include '/etc/passwd' %}${7*7}",
    f"<!--<script>{RUN}//--></style></title></textarea><script>{RUN}</script>",
    f"&lt;script&gt;\u2028\u2029\u202e\ufeff\\u003cscript\\u003e{RUN}",
    f"<base href='https://example.com/'><meta http-equiv=refresh content='0;url=data:text/html,<script>{RUN}'>",
    "__proto__",
    "constructor",
]
FILE_NAMES = [
    f"<img src=x onerror={RUN}>.png",
    f"\"'><svg onload={RUN}>.png",
    "$\\frac{$ $x$ _{.png",
    "new\nline\x1b]0;title\x07.png",
    "-rf.png",
    "\u202egnp.exe.png",
    "漢字" * 40 + ".png",
    os.fsdecode(b"not \xff utf-8.png"),
    ".png.png",
    "%2e%2e%2f.png",
]


class Net(nn.Module):
    """A small network whose layers have names like the files."""

    def __init__(self):
        super().__init__()
        names = iter(NAMES[:2])
        for inputs, outputs in ((1, 4), (4, 6)):
            block = nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
            self.add_module(next(names).replace(".", "․"), block)
        self.head = nn.Linear(6 * 7 * 7, len(NAMES))

    def forward(self, x):
        *blocks, head = self.children()
        for block in blocks:
            x = block(x)
        return head(x.flatten(1))


def photo(path):
    """A digit with hostile text in every place that a PNG has for text."""
    pixels = np.zeros((40, 40), np.uint8)
    pixels[8:32, 18:23] = 255
    about, exif = PngImagePlugin.PngInfo(), Image.Exif()
    for key, value in zip(("Title", "Comment", "Author", "XML:com.adobe.xmp", "Description"), NAMES):
        about.add_text(key, value.encode("latin-1", "replace"))
        about.add_itxt(key, value)
    exif[0x010E], exif[0x013B] = NAMES[0], NAMES[2]
    Image.fromarray(pixels).save(path, pnginfo=about, exif=exif, icc_profile=NAMES[1].encode())
    assert b"tEXt" in path.read_bytes() and struct.pack(">I", zlib.crc32(b"IEND")) in path.read_bytes()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run whose experiment has a hostile name, and the images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKLIT_CACHE", str(tmp_path / "cache"))
    Path("images").mkdir()
    for name in FILE_NAMES:
        photo(tmp_path / "images" / name)
    checkpoint = tmp_path / "runs" / NAMES[2] / "one" / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    saved(checkpoint, whole())
    return checkpoint


OPTIONS = ["--steps=1", "--pictured=1", "--groups=2", "--layer=stages.0", "--layer=stages.1"]


@pytest.mark.slow
def test_files_of_any_name_are_explained_under_names_that_can_be_written(folder):
    outcome = run("explain saliency", ["images", "--model", str(folder), "--method=Saliency", "--layer=input"])
    assert outcome.code == 0, outcome.error
    assert len(list(Path("runs/saliency").glob("*.png"))) == 2
    outcome.out.encode("utf-8")
    assert all(line.isprintable() for line in outcome.out.splitlines())
    attack = run("explain attack", ["images", "--model", str(folder), "--attack=fgsm", "--method=none"])
    assert attack.code == 0, attack.error
    assert len(list(Path("runs/attack").glob("*-adversarial.png"))) == len(FILE_NAMES)


@pytest.mark.slow
def test_what_stands_in_a_png_beside_its_pixels_is_not_on_the_page(folder):
    plain = Path("plain.png")
    photo(plain)
    assert run("explain page", [str(plain), "--model", str(folder), *OPTIONS]).code == 0
    html = Path("runs/page/plain.html").read_text(encoding="utf-8")
    ours = html.count(RUN.partition("=")[0])  # in the model's name, which stands in the title, the heading and the data
    assert 0 < ours <= 6 and not any(name in html for name in NAMES if "<" in name)
    assert "parent." not in html and "Description" not in html


@pytest.mark.browser
def test_nothing_in_a_hostile_page_runs(folder, chromium, tmp_path, record_promise):
    if chromedriver() is None:
        missing("browser", "no chromedriver on this machine")
    row = record_promise(
        "A page runs no script but its own", "hostile names, classes, layers, metadata", group="Hostile input"
    )
    images = [f"images/{name}" for name in FILE_NAMES[:3]]
    outcome = run("explain page", [*images, "--model", str(folder), *OPTIONS])
    assert outcome.code == 0, outcome.error
    torch.manual_seed(0)
    options = PageOptions(
        layers=[name.replace(".", "․") for name in NAMES[:2]],
        pictured=1,
        steps=1,
        n_groups=2,
        classes=list(range(len(NAMES))),
    )
    for n, names in enumerate((NAMES, NAMES[::-1])):
        html = build_page(
            Net(),
            torch.rand(1, 28, 28),
            names,
            model_name=" ".join(names),
            image_name="".join(names),
            options=options,
            cache=PictureCache(tmp_path / "cache"),
        )
        write_page(html, Path(f"runs/page/own-{n}.html"))
    pages = sorted(Path("runs/page").glob("*.html"))
    assert len(pages) == 5
    with browsing(chromium, tmp_path / "profile") as browser:
        for page in pages:
            browser.open(page)
            scripts = "[...document.scripts].map((script) => script.type + ' ' + (script.src || ''))"
            assert browser.evaluate(scripts) == ["application/json ", "module "], page
            browser.point("#stage", 0.4, 0.6)
            browser.press("ArrowRight", "2", "d", "g", "p", "s", "t")
            assert browser.evaluate("window.hacked ?? null") is None, page
            assert browser.evaluate("location.protocol") == "file:" and browser.complaints() == []
            foreign = "document.querySelectorAll('iframe, base, object, embed, form, [onerror], [onload]').length"
            assert browser.evaluate(foreign) == 0, page
            assert browser.evaluate("[...document.links].every((link) => link.href.startsWith('file:'))"), page
    row["tries"] = len(pages)
