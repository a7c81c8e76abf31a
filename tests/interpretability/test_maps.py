"""Layers as maps: equal to a plain rearrangement of autograd's gradient, or an error that names the readings."""

import itertools
import math

import pytest
import torch
import torchvision
from torch import nn

from interpretability import (
    GradCAM,
    GradCAMPlusPlus,
    GuidedGradCAM,
    Occlusion,
    Saliency,
    ScoreCAM,
    channel,
    visualize,
)
from interpretability.building_blocks import (
    activation_maps,
    channel_attribution,
    neuron_groups,
    semantic_dictionary,
    spatial_attribution,
)
from interpretability.choice import choose_layers


class Transformer(nn.Module):
    """Patches by a convolution or by a rearrangement, ``special`` tokens in front, one mixing block, a read-out."""

    def __init__(self, size=(12, 8), patch=4, special=1, convolution=True, channels=13):
        super().__init__()
        self.patch, self.special, places = patch, special, (size[0] // patch) * (size[1] // patch)
        self.embed = nn.Conv2d(3, channels, patch, patch) if convolution else nn.Linear(3 * patch**2, channels)
        self.reg_token = nn.Parameter(torch.randn(1, special, channels)) if special else None
        self.blocks = nn.Sequential(nn.Linear(channels, channels), nn.Tanh())
        self.mix = nn.Linear(places + special, places + special)
        self.head = nn.Linear(channels, 4)

    def forward(self, x):
        if isinstance(self.embed, nn.Conv2d):
            tokens = self.embed(x).flatten(2).mT
        else:
            tokens = self.embed(nn.functional.unfold(x, self.patch, stride=self.patch).mT)
        if self.reg_token is not None:
            tokens = torch.cat([self.reg_token.expand(len(x), -1, -1), tokens], 1)
        tokens = self.blocks(tokens)
        return self.head(self.mix(tokens.mT).tanh().mean(2))


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.block, self.head = nn.Conv2d(3, 6, 2, 2), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.block(self.embed(x).permute(0, 2, 3, 1)).tanh().mean((1, 2)))


def plain(model, layer, x, target, rearrange):
    """The layer's maps and gradients by autograd alone."""
    outputs = []
    hook = model.get_submodule(layer).register_forward_hook(lambda module, args, output: outputs.append(output))
    logits = model(x)
    hook.remove()
    (gradient,) = torch.autograd.grad(logits[:, target].sum(), outputs[0])
    return rearrange(outputs[0].detach()), rearrange(gradient)


def tokens_on(h, w, special=0):
    return lambda output: output[:, special:].transpose(1, 2).reshape(len(output), -1, h, w)


FAMILIES = {
    "one class token": (Transformer, {}, "blocks", (12, 8), tokens_on(3, 2, 1)),
    "no class token": (Transformer, {"special": 0}, "blocks", (12, 8), tokens_on(3, 2)),
    "registers": (Transformer, {"special": 5}, "blocks", (12, 8), tokens_on(3, 2, 5)),
    "without a convolution": (Transformer, {"convolution": False}, "blocks", (12, 8), tokens_on(3, 2, 1)),
    "channels last": (ChannelsLast, {}, "block", (12, 8), lambda output: output.permute(0, 3, 1, 2)),
    "channels first": (ChannelsLast, {}, "embed", (12, 8), lambda output: output),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    make, options, layer, size, rearrange = FAMILIES[request.param]
    torch.manual_seed(1)
    model = make(**options).double().eval()
    return model, layer, torch.rand(2, 3, *size, dtype=torch.float64), rearrange


def test_class_activation_maps_are_those_of_the_rearranged_gradient(family):
    model, layer, x, rearrange = family
    a, g = plain(model, layer, x, 1, rearrange)
    weighted = (g.mean((2, 3), keepdim=True) * a).sum(1, keepdim=True)
    assert weighted.abs().max() > 0
    torch.testing.assert_close(GradCAM(model, layer, relu=False)(x, 1), weighted, rtol=0, atol=1e-12)
    for method in (GradCAMPlusPlus, ScoreCAM):
        assert method(model, layer)(x, 1).shape == weighted.shape


def test_building_blocks_are_those_of_the_rearranged_gradient(family):
    model, layer, x, rearrange = family
    a, g = plain(model, layer, x, 1, rearrange)
    torch.testing.assert_close(activation_maps(model, layer, x), a, rtol=0, atol=1e-12)
    torch.testing.assert_close(spatial_attribution(model, layer, x, 1), (g * a).sum(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(channel_attribution(model, layer, x, 1), (g * a).sum((2, 3)), rtol=0, atol=1e-12)
    assert torch.equal(semantic_dictionary(model, layer, x, 1).channels[:, 0], a.argmax(1))
    assert neuron_groups(model, layer, x, 2).places.shape[2:] == a.shape[2:]


def test_a_channel_can_be_visualised(family):
    model, layer, x, rearrange = family
    before, after = (visualize(model, channel(layer, 2), x.shape[1:], steps=n, transforms=()) for n in (1, 40))
    rises = [plain(model, layer, images, 1, rearrange)[0][:, 2].mean() for images in (before, after)]
    assert rises[1] > rises[0] + 1e-3


def test_a_page_chooses_such_layers(family):
    model, layer, x, _ = family
    assert any(name.startswith((layer, "embed")) for name in choose_layers(model, x[:1]))


REAL = {
    "swin_t": ("features.7", (64, 96), lambda a: a.permute(0, 3, 1, 2), (2, 3)),
    "vit_b_32": ("encoder.layers.encoder_layer_10", (224, 224), tokens_on(7, 7, 1), (7, 7)),
    "convnext_tiny": ("features.7", (64, 96), lambda a: a, (2, 3)),
    "resnet18": ("layer4", (64, 96), lambda a: a, (2, 3)),
}


@pytest.mark.parametrize("name", REAL)
def test_torchvisions_families(name):
    layer, size, rearrange, places = REAL[name]
    torch.manual_seed(0)
    model, x = torchvision.models.get_model(name).eval(), torch.rand(1, 3, *size)
    for head in (module for module in model.modules() if isinstance(module, nn.Linear) and not module.weight.any()):
        nn.init.normal_(head.weight)  # vision transformers begin with zeros
    a, g = plain(model, layer, x, 3, rearrange)
    expected = (g.mean((2, 3), keepdim=True) * a).sum(1, keepdim=True)
    assert expected.shape[2:] == places and expected.abs().max() > 0
    found = GradCAM(model, layer, relu=False)(x, 3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


TIMM = {
    "deit_tiny_distilled_patch16_224": ({"img_size": 64, "depth": 2}, "blocks.0", (64, 64), (4, 4), 2),
    "vit_small_patch14_reg4_dinov2": ({"img_size": 56, "depth": 2}, "blocks.0", (56, 56), (4, 4), 5),
    "vit_tiny_patch16_224": ({"img_size": (64, 32), "depth": 2}, "blocks.0", (64, 32), (4, 2), 1),
    "mixer_s32_224": ({"img_size": 128}, "blocks.1", (128, 128), (4, 4), 0),
    "eva02_tiny_patch14_224": ({"img_size": 56, "depth": 2}, "blocks.0", (56, 56), (4, 4), 1),
}


@pytest.mark.parametrize("name", TIMM)
def test_timms_families(name):
    timm = pytest.importorskip("timm")
    options, layer, size, grid, special = TIMM[name]
    torch.manual_seed(0)
    model, x = timm.create_model(name, **options).eval(), torch.rand(1, 3, *size)
    for head in (module for module in model.modules() if isinstance(module, nn.Linear) and not module.weight.any()):
        nn.init.normal_(head.weight)
    a, g = plain(model, layer, x, 3, tokens_on(*grid, special))
    expected = (g.mean((2, 3), keepdim=True) * a).sum(1, keepdim=True)
    found = GradCAM(model, layer, relu=False)(x, 3)
    assert found.shape[2:] == grid and expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("last", [False, True])
def test_where_all_axes_are_equally_long_a_changed_corner_tells(last):
    class Cube(nn.Module):  # (N, 16, 16, 16), and no other input fits
        def __init__(self):
            super().__init__()
            self.conv, self.act, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Linear(16**3, 4)

        def forward(self, x):
            maps = self.conv(x)
            return self.head(self.act(maps.permute(0, 2, 3, 1) if last else maps).flatten(1))

    torch.manual_seed(0)
    model, x = Cube().double(), torch.rand(2, 3, 16, 16, dtype=torch.float64)
    a, g = plain(model, "act", x, 1, (lambda output: output.permute(0, 3, 1, 2)) if last else (lambda output: output))
    expected = (g.mean((2, 3), keepdim=True) * a).sum(1, keepdim=True)
    torch.testing.assert_close(GradCAM(model, "act", relu=False)(x, 1), expected, rtol=0, atol=1e-12)


def test_tokens_that_do_not_lie_row_by_row_are_named():
    class Shuffled(Transformer):
        def forward(self, x):
            tokens = self.embed(x).flatten(2).mT.flip(1)
            return self.head(self.blocks(tokens).mean(1))

    with pytest.raises(ValueError, match=r"layer 'blocks' puts out .* do not lie row by row.*maps= a function"):
        GradCAM(Shuffled(special=0), "blocks")(torch.rand(1, 3, 12, 8), 0)


def test_what_is_ambiguous_names_both_readings_and_the_option():
    class Odd(nn.Module):  # neither pair of axes has the proportions of the image, and it takes no other width
        def __init__(self):
            super().__init__()
            self.block, self.head = nn.Identity(), nn.Linear(3 * 8 * 8, 4)

        def forward(self, x):
            return self.head(self.block(x.reshape(len(x), 4, 3, 16)).flatten(1))

    model, x = Odd(), torch.rand(2, 3, 8, 8)
    with pytest.raises(
        ValueError, match=r"channels first or channels last .*maps='channels_first' or maps='channels_last'"
    ):
        GradCAM(model, "block")(x, 0)
    first, last = (GradCAM(model, "block", maps=how)(x, 0) for how in ("channels_first", "channels_last"))
    assert (first.shape, last.shape) == ((2, 1, 3, 16), (2, 1, 4, 3))
    own = spatial_attribution(model, "block", x, 0, maps=lambda output: output.flatten(2)[..., None])
    assert own.shape == (2, 48, 1)
    with pytest.raises(ValueError, match=r"maps= made \(2, 4, 48\)"):
        GradCAM(model, "block", maps=lambda output: output.flatten(2))(x, 0)
    with pytest.raises(ValueError, match="unknown layout of maps 'chanels_last'; did you mean 'channels_last'"):
        GradCAM(model, "block", maps="chanels_last")(x, 0)


def test_tokens_that_the_user_says_take_the_largest_grid():
    model = Transformer(special=3).double()
    model.reg_token = None
    model.front = nn.Parameter(torch.zeros(3, 13, dtype=torch.float64))  # nothing in its name says what it is
    model.forward = lambda x: model.head(
        model.blocks(torch.cat([model.front.expand(len(x), 3, 13), model.embed(x).flatten(2).mT], 1)).mean(1)
    )
    x = torch.rand(2, 3, 12, 8, dtype=torch.float64)
    with pytest.raises(ValueError, match="0 special tokens makes 9 tokens"):
        GradCAM(model, "blocks")(x, 1)
    assert GradCAM(model, "blocks", maps="tokens")(x, 1).shape == (2, 1, 3, 2)


def test_signals_are_one_row():
    model = nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 5, 3, stride=2), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(5, 3),
    ).double()  # fmt: skip
    x = torch.rand(2, 2, 20, dtype=torch.float64)
    for layer, length in (("0", 20), ("1", 20), ("2", 9)):
        a, g = plain(model, layer, x, 1, lambda output: output)
        expected = (g.mean(2, keepdim=True) * a).sum(1, keepdim=True)
        found = GradCAM(model, layer, relu=False)(x, 1)
        assert found.shape == (2, 1, 1, length) and found.abs().max() > 0
        torch.testing.assert_close(found[:, :, 0], expected, rtol=0, atol=1e-12)
    assert GuidedGradCAM(model, "2")(x, 1).shape == x.shape
    assert ScoreCAM(model, "2")(x, 1).shape == (2, 1, 1, 9)


def test_a_vector_has_one_place():
    assert activation_maps(nn.Sequential(nn.Identity()), "0", torch.rand(2, 5)).shape == (2, 5, 1, 1)


def test_a_layer_on_whose_places_nothing_depends_is_warned_about():
    class ReadsClassToken(Transformer):
        def forward(self, x):
            tokens = torch.cat([self.reg_token.expand(len(x), -1, -1), self.embed(x).flatten(2).mT], 1)
            return self.head(self.blocks(tokens)[:, 0])

    with pytest.warns(UserWarning, match="depends on no place of layer 'blocks'"):
        GradCAM(ReadsClassToken(), "blocks")(torch.rand(1, 3, 12, 8), 0)


def by_a_loop(score, point, window, stride, place):
    """Occlusion with every window by a loop over its corners; ``place`` puts a mask over places onto the point."""
    sizes = place.sizes
    ranges = [range(0, -(-(size - w) // s) * s + 1, s) for size, w, s in zip(sizes, window, stride)]
    total, count = torch.zeros(len(point), *sizes).to(point), torch.zeros(sizes)
    for corner in itertools.product(*ranges):
        mask = torch.zeros(sizes, dtype=torch.bool)
        mask[tuple(slice(start, start + w) for start, w in zip(corner, window))] = True
        drop = score(point) - score(torch.where(place(mask), 0.0, point))
        total += drop.view(-1, *[1] * len(sizes)) * mask
        count += mask
    return total / count


@pytest.mark.parametrize(
    ("shape", "window", "stride"),
    [((7,), (3,), (2,)), ((2, 9), (4,), (2,)), ((2, 5, 6), (2, 3), (1, 2)), ((2, 3, 4, 5), (2, 2, 3), (1, 2, 2))],
)
def test_occlusion_of_vectors_signals_images_and_volumes(shape, window, stride):
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 3), nn.Tanh()).double()
    x = torch.rand(2, *shape, dtype=torch.float64)

    class Place:
        sizes = shape if len(shape) == 1 else shape[1:]

        def __call__(self, mask):
            return mask if len(shape) == 1 else mask[None]

    expected = by_a_loop(lambda point: model(point)[:, 1], x, window, stride, Place())
    expected = expected if len(shape) == 1 else expected[:, None].expand_as(x)
    assert expected.abs().max() > 0
    found = Occlusion(model, window=window, stride=stride)(x, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=rf"window has 4 numbers for {len(window)} axes"):
        Occlusion(model, window=(1, 1, 1, 1))(x, 1)


def test_occlusion_of_tokens_covers_patches_and_leaves_special_tokens_alone():
    torch.manual_seed(0)
    model, x = Transformer(special=2).double().eval(), torch.rand(2, 3, 12, 8, dtype=torch.float64)
    tokens = model.blocks(torch.cat([model.reg_token.expand(2, -1, -1), model.embed(x).flatten(2).mT], 1)).detach()

    class Place:
        sizes = (3, 2)

        def __call__(self, mask):
            return torch.cat([torch.zeros(2, dtype=torch.bool), mask.flatten()])[:, None]

    score = lambda tokens: model.head(model.mix(tokens.mT).tanh().mean(2))[:, 1]  # noqa: E731
    expected = by_a_loop(score, tokens, (2, 1), (1, 1), Place()).detach()
    found = Occlusion(model, "blocks", window=(2, 1), stride=1)(x, 1)
    assert found.shape == tokens.shape and expected.abs().max() > 0 and not found[:, :2].any()
    torch.testing.assert_close(found[:, 2:, 0], expected.flatten(1), rtol=0, atol=1e-12)


def test_layers_of_a_scripted_module_are_refused_in_one_line():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    scripted, x = torch.jit.script(net.eval()), torch.rand(1, 3, 8, 8)
    assert Saliency(scripted)(x, 1).abs().max() > 0
    for model, layer in ((scripted, "0"), (nn.Sequential(scripted), "0.0")):
        with pytest.raises(ValueError, match=rf"layer '{layer}' lies inside a scripted module") as error:
            GradCAM(model, layer)(x, 0)
        assert "\n" not in str(error.value)
