import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms._presets import ImageClassification

from interpretability.images import load_digit, load_image


def picture(width=300, height=260):
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows % 256, columns % 256, (rows * columns) % 256], axis=-1).astype(np.uint8)


def saved(tmp_path, array, name="image.png", **options):
    path = tmp_path / name
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(path, **options)
    return path


def test_an_image_is_read_as_torchvisions_preset_would(tmp_path):
    path = saved(tmp_path, picture())
    preset = ImageClassification(crop_size=224, mean=(0, 0, 0), std=(1, 1, 1))
    expected = preset(Image.open(path))
    assert expected.std() > 0.1
    assert torch.equal(load_image(path), expected)
    assert load_image(path, 32).shape == (3, 32, 32)


def test_grey_alpha_palette_and_16_bit_images_are_read_as_they_look(tmp_path):
    grey = picture()[..., 0]
    expected = load_image(saved(tmp_path, np.stack([grey] * 3, axis=-1)))
    assert torch.equal(load_image(saved(tmp_path, grey, "grey.png")), expected)
    assert torch.allclose(load_image(saved(tmp_path, grey.astype(np.uint16) * 257, "deep.png")), expected)
    clear = np.dstack([picture(), np.zeros((260, 300), np.uint8)])
    assert torch.equal(load_image(saved(tmp_path, clear, "clear.png")), torch.ones(3, 224, 224))
    palette = Image.fromarray(np.zeros((30, 30), np.uint8), "P")
    palette.putpalette([0, 0, 0])
    assert load_image(saved(tmp_path, palette, "p.png", transparency=0), 16).eq(1).all()


def test_exif_orientation_is_applied(tmp_path):
    turned = Image.fromarray(picture())
    exif = turned.getexif()
    exif[0x0112] = 6  # to be shown turned a quarter clockwise
    path = saved(tmp_path, turned, "turned.png", exif=exif)
    expected = load_image(saved(tmp_path, np.rot90(picture(), -1).copy(), "upright.png"))
    assert torch.equal(load_image(path), expected)


@pytest.mark.parametrize("size", [(1, 50), (8000, 20), (1, 1), (3, 8000)])
def test_extreme_shapes_are_read_without_gigabytes(tmp_path, size):
    path = saved(tmp_path, Image.new("RGB", size, (255, 0, 0)))
    image = load_image(path)
    assert image.shape == (3, 224, 224)
    assert image[0].eq(1).all() and image[1:].eq(0).all()


def test_what_is_no_image_is_named(tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("not an image")
    whole = saved(tmp_path, picture()).read_bytes()
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole[: len(whole) // 2])
    empty = tmp_path / "empty.png"
    empty.touch()
    for path in (text, cut, empty):
        with pytest.raises(ValueError, match=f"{path.name}: not an image that can be read"):
            load_image(path)
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        load_image(tmp_path / "absent.png")


@pytest.mark.parametrize("inverted", [False, True])
def test_a_photo_of_a_digit_becomes_what_mnist_shows(tmp_path, inverted):
    photo = np.full((400, 300), 205, np.uint8)
    photo += (np.arange(300) // 20).astype(np.uint8)  # uneven light
    photo[60:180, 200:220] = 30  # a 1 off the middle, 120 × 20 pixels
    image = load_digit(saved(tmp_path, 255 - photo if inverted else photo))
    assert image.shape == (1, 28, 28)
    rows, columns = (image[0] > 0.5).nonzero().T
    assert rows.max() - rows.min() + 1 == 20
    assert columns.max() - columns.min() + 1 in (3, 4)
    mass = image[0] / image.sum()
    assert abs(float((mass.sum(1) * torch.arange(28)).sum()) - 13.5) <= 0.5
    assert abs(float((mass.sum(0) * torch.arange(28)).sum()) - 13.5) <= 0.5
    assert image[0, :4].eq(0).all()


def test_a_digit_that_is_already_as_mnist_shows_it_stays_close(tmp_path):
    image = torch.zeros(28, 28)
    image[4:24, 7:21] = 1
    image[7:21, 10:18] = 0
    again = load_digit(saved(tmp_path, (image * 255).byte().numpy()))
    assert (again[0] - image).abs().mean() < 0.01


def test_an_image_without_ink_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"image\.png: no digit"):
        load_digit(saved(tmp_path, np.full((50, 50), 128, np.uint8)))


def test_paper_without_a_digit_is_named(tmp_path):
    shadow = np.tile(np.linspace(190, 235, 300), (400, 1))
    noise = np.random.default_rng(0).normal(200, 12, (400, 300))
    for name, paper in (("shadow.png", shadow), ("noise.png", noise)):
        path = saved(tmp_path, paper.clip(0, 255).astype(np.uint8), name)
        with pytest.raises(ValueError, match=f"{name}: no digit in it that stands out"):
            load_digit(path)
        paper[100:300, 140:160] = 20
        drawn = load_digit(saved(tmp_path, paper.clip(0, 255).astype(np.uint8), name))
        assert (drawn[0] > 0.5).any(dim=1).sum() == 20


@pytest.mark.parametrize("inverted", [False, True])
def test_light_that_falls_off_across_the_paper_hides_no_digit(tmp_path, inverted):
    rows, columns = np.mgrid[0:1:400j, 0:1:300j]
    photo = 232 - 70 * columns - 45 * rows - 20 * columns * rows
    photo += np.random.default_rng(0).normal(0, 4, photo.shape)
    empty = saved(tmp_path, photo.clip(0, 255).astype(np.uint8), "empty.png")
    with pytest.raises(ValueError, match=r"empty\.png: no digit in it that stands out"):
        load_digit(empty)
    photo[120:280, 150:160] = 45
    photo = photo.clip(0, 255).astype(np.uint8)
    image = load_digit(saved(tmp_path, 255 - photo if inverted else photo))
    rows, columns = (image[0] > 0.5).nonzero().T
    assert rows.max() - rows.min() + 1 == 20
    assert columns.max() - columns.min() + 1 <= 3


def test_a_tight_crop_that_touches_every_border_is_still_a_digit(tmp_path):
    ring = np.full((60, 40), 240, np.uint8)
    rows, columns = np.mgrid[-1:1:60j, -1:1:40j]
    ring[(np.hypot(rows, columns) < 1.1) & (np.hypot(rows, columns) > 0.7)] = 30
    image = load_digit(saved(tmp_path, ring))
    assert image[0, 14, 14] == 0 and (image[0] > 0.5).any(dim=1).sum() == 20


def test_floating_point_pixels_are_refused_instead_of_read_as_black(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.full((30, 30), 0.5, np.float32)), "float.tiff")
    with pytest.raises(ValueError, match=r"float\.tiff: floating-point pixels"):
        load_image(path)
