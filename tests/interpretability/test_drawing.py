import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from interpretability.drawing import draw_maps, flat_map, save_figure


def panels(figure, row, columns):
    return figure.axes[row * (columns + 1) : row * (columns + 1) + columns]


def test_a_map_is_the_sum_of_contributions_or_the_largest_sensitivity():
    attribution = torch.tensor([[[[1.0]], [[-3.0]]]])
    assert flat_map(attribution).tolist() == [[[-2.0]]]
    assert flat_map(attribution, additive=False).tolist() == [[[3.0]]]
    assert flat_map(torch.ones(2, 5)).shape == (2, 1, 5)
    with pytest.raises(ValueError, match=r"shape \(1, 2, 3\)"):
        flat_map(torch.ones(1, 2, 3))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_row_has_one_raw_scale_and_signed_maps_one_about_zero(channels):
    images = torch.rand(2, channels, 28, 28)
    signed = torch.stack([torch.full((28, 28), -4.0), torch.full((28, 28), 1.0)])
    figure = draw_maps(images, {"signed": signed, "unsigned": signed.abs()}, ["a", "b"])
    for row, limits, colours in ((1, (-4, 4), "RdBu_r"), (2, (0, 4), "viridis")):
        for axes, values in zip(panels(figure, row, 2), (signed, signed.abs())[row - 1]):
            over = axes.images[-1]
            assert over.get_clim() == limits and over.get_cmap().name == colours
            np.testing.assert_array_equal(over.get_array(), values)
            assert over.get_array().shape == (28, 28)
    shown = panels(figure, 0, 2)[0].images[0].get_array()
    np.testing.assert_array_equal(shown, images[0, 0] if channels == 1 else images[0].permute(1, 2, 0))


def test_a_few_extreme_values_do_not_hide_the_rest():
    maps = torch.ones(1, 50, 50)
    maps[0, 0, 0] = 1000
    figure = draw_maps(torch.rand(1, 1, 50, 50), {"row": maps}, ["a"])
    assert panels(figure, 1, 1)[0].images[-1].get_clim() == (0, 1)
    maps[:] = 0
    maps[0, 3, 3] = 7
    figure = draw_maps(torch.rand(1, 1, 50, 50), {"row": maps}, ["a"])
    assert panels(figure, 1, 1)[0].images[-1].get_clim() == (0, 7)


def test_a_map_of_zeros_says_so():
    maps = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)])
    figure = draw_maps(torch.rand(2, 3, 8, 8), {"row": maps}, ["a", "b"])
    zero, one = panels(figure, 1, 2)
    assert [text.get_text() for text in zero.texts] == ["zero everywhere"]
    assert not one.texts
    assert zero.images[-1].get_array().shape == (8, 8)


def test_rows_and_titles_must_be_one_per_image():
    images = torch.rand(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"row 'x' has shape \(1, 8, 8\); 2 maps"):
        draw_maps(images, {"x": torch.rand(1, 8, 8)}, ["a", "b"])
    with pytest.raises(ValueError, match="1 titles for 2 images"):
        draw_maps(images, {}, ["a"])


def test_a_figure_is_written_whole_or_not_at_all(tmp_path):
    figure = draw_maps(torch.rand(1, 1, 8, 8), {"units": torch.rand(1, 1, 5)}, ["a"])
    path = save_figure(figure, tmp_path / "new" / "figure.png")
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG")
    assert save_figure(figure, path.parent.with_name("other") / "figure.pdf").read_bytes().startswith(b"%PDF")

    class Broken(Figure):
        def savefig(self, *args, **kwargs):
            super().savefig(*args, **kwargs)
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_figure(Broken(), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["figure.png"]


def test_maps_that_are_not_finite_are_named_and_half_precision_is_drawn(tmp_path):
    images, maps = torch.rand(1, 1, 8, 8), torch.rand(1, 8, 8)
    save_figure(draw_maps(images.bfloat16(), {"half": maps.bfloat16()}, ["a"]), tmp_path / "half.png")
    assert (tmp_path / "half.png").stat().st_size > 1000
    maps[0, 2, 2] = float("nan")
    with pytest.raises(ValueError, match="row 'broken' holds NaN"):
        draw_maps(images, {"broken": maps}, ["a"])
