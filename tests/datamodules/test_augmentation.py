"""The vectorised affine against closed forms: exact shifts, right angles, areas."""

import math

import pytest
import torch

from datamodules import RandomAffine


def blob(height: int = 21, width: int = 21) -> torch.Tensor:
    """A smooth bump off the centre."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.exp(-((y - 8.0) ** 2 + (x - 12.0) ** 2) / 4).double()[None, None]


class Fixed(RandomAffine):
    """All draws at one end of their range."""

    def __call__(self, images):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "rand", lambda *size, **options: torch.ones(*size, **options))
            return super().__call__(images)


def centroid(image: torch.Tensor) -> tuple[float, float]:
    y, x = torch.meshgrid(*(torch.arange(float(n)).double() for n in image.shape[-2:]), indexing="ij")
    mass = image[0, 0] / image.sum()
    return float((y * mass).sum()), float((x * mass).sum())


def test_no_range_changes_nothing():
    images = torch.rand(3, 2, 9, 13, dtype=torch.float64)
    assert torch.allclose(RandomAffine()(images), images, atol=1e-12)


@pytest.mark.parametrize("shape", [(21, 21), (21, 31)])
def test_a_shift_moves_the_centroid_by_that_many_pixels(shape):
    image = blob(*shape)
    y, x = centroid(image)
    moved_y, moved_x = centroid(Fixed(translate=1 / 21)(image))
    assert moved_y - y == pytest.approx(-1.0, abs=1e-3)
    assert moved_x - x == pytest.approx(-shape[1] / 21, abs=1e-3)


def test_a_right_angle_is_a_rotation_of_the_array():
    image = blob()
    turned = Fixed(degrees=90)(image)
    assert torch.allclose(turned, torch.rot90(image, 1, (2, 3)), atol=1e-9)


def test_angles_survive_in_non_square_images():
    """The distance from the centre is kept by a rotation, whatever the image's sides."""
    image = blob(21, 41)
    for angle in (20, 45):
        turned = Fixed(degrees=angle)(torch.roll(image, 8, 3))
        y, x = centroid(turned)
        y0, x0 = centroid(torch.roll(image, 8, 3))
        assert math.hypot(y - 10, x - 20) == pytest.approx(math.hypot(y0 - 10, x0 - 20), abs=0.02)
        assert math.hypot(y - y0, x - x0) > 0.5


def test_scale_is_the_size_of_what_is_seen():
    image = blob()
    assert float(Fixed(scale=0.5)(image).sum() / image.sum()) == pytest.approx(1.5**2, rel=0.02)


def test_elastic_moves_ink_but_keeps_most_of_it():
    image = blob()
    moved = RandomAffine(elastic=1.0)(image)
    assert float((moved - image).abs().max()) > 0.05
    assert float(moved.sum() / image.sum()) == pytest.approx(1, abs=0.5)


def test_each_image_is_distorted_differently_and_by_the_seed():
    images = blob().repeat(4, 1, 1, 1)
    affine = RandomAffine(10, 0.1, 0.1, 5)
    torch.manual_seed(1)
    first = affine(images)
    torch.manual_seed(1)
    assert torch.equal(first, affine(images))
    assert not torch.allclose(first[0], first[1])


@pytest.mark.parametrize("options", [{"degrees": -1}, {"scale": 1.0}, {"elastic": float("nan")}])
def test_impossible_ranges_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        RandomAffine(**options)
