import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from interpretability.building_blocks import against, neuron_groups, semantic_dictionary, spatial_attribution
from interpretability.page import PageOptions, PictureCache, build_page, choose_layers, detectors, encoding, write_page
from interpretability.page.builder import offered_classes
from interpretability.page.cache import digest, model_digest
from interpretability.page.encoding import pack

HOSTILE = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(2)>", "a\"b'c&amp;{{ 7*7 }}", "plain"]


def small_net(width=6):
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(width, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Linear(8 * 6 * 8, 4),
    )


def photo():
    return torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(1))


def build(folder, model=None, image=None, names=HOSTILE, image_name="<b>cat</b>.png", **options):
    options = PageOptions(**{"layers": ("0", "1"), "n_groups": 2, "pictured": 3, "steps": 2, **options})
    return build_page(
        model or small_net(),
        photo() if image is None else image,
        names,
        model_name="<net>",
        image_name=image_name,
        options=options,
        cache=PictureCache(folder),
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return build(tmp_path_factory.mktemp("cache"))


class Tags(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.found, self.data, self.open = [], {}, None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, sorted(name for name, _ in attributes)))
        self.open = dict(attributes).get("id") if tag == "script" else tag

    def handle_data(self, text):
        self.data[self.open] = self.data.get(self.open, "") + text


def data_of(html):
    return json.loads(Tags(html).data["data"])


def unpack(packed):
    return np.frombuffer(base64.b64decode(packed["data"]), "<i2").reshape(packed["shape"]) * packed["scale"]


def test_names_with_html_in_them_are_text(page, tmp_path):
    plain = build(tmp_path, names=["a", "b", "c", "d"], image_name="cat.png")
    assert Tags(page).found == Tags(plain).found
    data = data_of(page)
    assert sorted(data["classes"]) == sorted(HOSTILE)
    assert (data["image"], data["model"]) == ("<b>cat</b>.png", "<net>") and "&lt;b&gt;cat&lt;/b&gt;.png" in page


def test_it_needs_nothing_from_outside(page):
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}[^\s\"'<>]*", re.sub(r"base64,[^\"]*", "", page)))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert all(value[:1] == "#" or value[:5] == "data:" for value in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert "default-src 'none'" in page


def test_it_holds_what_the_building_blocks_give(page):
    data, model, x = data_of(page), small_net(), (photo()[None] * 255).round() / 255
    classes = [HOSTILE.index(name) for name in data["classes"]]
    for entry in data["layers"]:
        spatial = unpack(entry["views"][0]["spatial"])
        expected = spatial_attribution(model, entry["name"], x, against(classes[0], classes[1]))[0]
        assert expected.abs().max() > 1e-4
        np.testing.assert_allclose(spatial[0] - spatial[1], expected, atol=1e-3 * float(expected.abs().max()))
        np.testing.assert_allclose(spatial.sum((1, 2)), unpack(entry["views"][0]["channel"]).sum(1), atol=2e-3)
        found = semantic_dictionary(model, entry["name"], x, 5)
        assert (unpack(entry["views"][0]["top"])[0] == found.channels[0, 0].numpy()).all()
        effects = unpack(entry["views"][0]["effects"])
        assert effects.shape == (4, 5, *entry["grid"]) and np.abs(effects).max() > 0


def test_flows_between_groups_add_up_to_the_class(page):
    data, model, x = data_of(page), small_net(), (photo()[None] * 255).round() / 255
    (flow,) = data["flows"]
    for k, name in enumerate(data["classes"]):
        total = float(spatial_attribution(model, "0", x, HOSTILE.index(name)).sum())
        assert unpack(flow)[0, k].sum() == pytest.approx(total, abs=0.02)


def test_twin_is_within_reach_and_shown_as_it_is(page):
    assert 0 < data_of(page)["noise"]["largest"] <= 2


def test_likeliest_classes_are_offered_after_those_wanted():
    logits = torch.tensor([[0.0, 5.0, 1.0, 2.0, 3.0, 4.0, -1.0], [9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    assert offered_classes(logits, [6]) == [6, 1, 0, 5, 4, 3, 2]
    assert offered_classes(logits, []) == [1, 0, 5, 4, 3, 2]
    with pytest.raises(ValueError, match="class 7 is out of range: the model has 7 outputs"):
        offered_classes(logits, [7])


def test_second_page_draws_nothing_anew(tmp_path, monkeypatch):
    first = build(tmp_path)
    calls = []
    monkeypatch.setattr(detectors, "visualize", lambda *args, **kwargs: calls.append(args))
    assert build(tmp_path) == first
    assert not calls


@pytest.mark.parametrize("damage", ["truncated", "garbage", "other size", "empty"])
def test_damaged_pictures_are_made_again(tmp_path, damage):
    first = build(tmp_path)
    pictures = sorted(tmp_path.rglob("*.png"))
    assert len(pictures) > 10
    for path in pictures:
        content = path.read_bytes()
        other = PictureCache(tmp_path / "elsewhere")
        other.put("k" * 8, torch.zeros(3, 5, 5))
        path.write_bytes(
            {
                "truncated": content[: len(content) // 2],
                "garbage": b"\x89PNG" + content[::-1],
                "other size": (tmp_path / "elsewhere" / "pictures" / "kk" / ("k" * 8 + ".png")).read_bytes(),
                "empty": b"",
            }[damage]
        )
    assert build(tmp_path) == first
    assert not list(tmp_path.rglob("*.partial"))


def test_pictures_are_found_by_all_they_depend_on():
    model, other = small_net(), small_net()
    assert model_digest(model) == model_digest(other)
    with torch.no_grad():
        other[3].bias[0] += 1e-6
    assert model_digest(model) != model_digest(other)
    vector = torch.rand(3)
    parts = [("m", "layer", 1), ("m", "layer", 2), ("m", "laye", "r1"), (vector,), (-vector,)]
    assert len({digest(*part) for part in parts}) == 5


def test_cache_keeps_what_it_is_given(tmp_path):
    cache = PictureCache(tmp_path / "a" / "b")
    for channels in (1, 3):
        picture = torch.rand(channels, 4, 7)
        kept = cache.put(f"key{channels}", picture)
        assert torch.equal(cache.get(f"key{channels}", (channels, 4, 7)), kept)
        torch.testing.assert_close(kept, picture, rtol=0, atol=0.5 / 255 + 1e-6)
        assert cache.get(f"key{channels}", (channels, 7, 4)) is None
    assert cache.get("nothing", (3, 4, 7)) is None


def test_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKLIT_CACHE", str(tmp_path))
    PictureCache().put("key", torch.zeros(1, 2, 2))
    assert len(list(tmp_path.rglob("*.png"))) == 1


def test_a_silent_layer_has_no_groups(tmp_path):
    model = small_net()
    with torch.no_grad():
        model[1][0].bias.fill_(-100.0)
    first, second = data_of(build(tmp_path, model=model))["layers"]
    assert first["groups"]["count"] == 2 and second["groups"] is None and second["pictured"] == []


def test_a_digit_page(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 24 * 24, 10))
    data = data_of(build(tmp_path, model=model, image=torch.rand(1, 28, 28), names=["zero"], layers=()))
    assert [layer["name"] for layer in data["layers"]] == ["1"]
    assert set(data["classes"]) <= {"zero", *(f"class {k}" for k in range(1, 10))}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"layers": ("1.3",)}, "unknown layer '1.3'"),
        ({"layers": ("3",)}, "layer '3' has no places"),
        ({"classes": (4,)}, "class 4 is out of range"),
        ({"n_groups": 0}, "n_groups must be at least 1"),
        ({"epsilon": -0.1}, "epsilon"),
        ({"image": torch.full((3, 24, 32), torch.nan)}, "NaN"),
        ({"image": torch.rand(2, 24, 32)}, r"got \(2, 24, 32\)"),
        ({"image": 2 * torch.ones(3, 24, 32)}, r"pixels must lie in \[0, 1\]"),
    ],
)
def test_bad_input_is_told(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **options)


def test_layers_that_a_page_shows_by_itself():
    x = torch.rand(1, 3, 224, 224)
    squeezenet = torchvision.models.squeezenet1_0(weights=None)
    assert choose_layers(squeezenet, x) == ["features.5", "features.8", "features.10", "features.12"]
    resnet = torchvision.models.resnet18(weights=None)
    assert choose_layers(resnet, x) == ["layer1.1", "layer2.1", "layer3.1", "layer4.1"]
    assert choose_layers(resnet, x, count=2) == ["layer3.1", "layer4.1"]
    with pytest.raises(ValueError, match="no layer of Sequential can be read as maps"):
        choose_layers(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.rand(1, 3, 2, 2))


def test_packing_keeps_integers_and_rounds_numbers():
    values = torch.randn(3, 4, dtype=torch.float64)
    np.testing.assert_allclose(unpack(pack(values)), values, atol=float(values.abs().max()) / 32767)
    assert unpack(pack(torch.arange(1000))).tolist() == list(range(1000))
    assert not unpack(pack(torch.zeros(2))).any()


def test_page_is_written_whole(tmp_path):
    path = write_page("<p>ä</p>", tmp_path / "new" / "page.html")
    assert path.read_text(encoding="utf-8") == "<p>ä</p>" and [p.name for p in path.parent.iterdir()] == ["page.html"]


@pytest.mark.real_data
def test_dog_and_cat_are_told_apart(squeezenet_weights, dog_cat_image):
    from interpretability import load_model
    from interpretability.images import load_image

    loaded = load_model("squeezenet1_0", squeezenet_weights)
    model, names = loaded.model, loaded.class_names
    x = load_image(dog_cat_image)[None]
    mastiff, tiger_cat = names.index("bull mastiff"), names.index("tiger cat")
    dog, cat = (slice(0, 6), slice(3, 8)), (slice(6, 13), slice(2, 12))  # of the last layer's 13 × 13 places
    spatial = spatial_attribution(model, "features.12", x, against(mastiff, tiger_cat))[0]
    assert spatial.argmax() == spatial[dog].max().eq(spatial).int().argmax()
    assert spatial.argmin() == spatial[cat].min().eq(spatial).int().argmax()
    found = semantic_dictionary(model, "features.12", x, 5).channels[0]
    head, face = found[:, 2, 5].tolist(), found[:, 8, 9].tolist()
    assert len(set(head) & set(face)) <= 1
    places = neuron_groups(model, "features.12", x, 6).places[0]
    share = places / places.sum((1, 2), keepdim=True)
    assert max(float(one[dog].sum()) for one in share) > 0.5
    assert max(float(one[cat].sum()) for one in share) > 0.5


def test_training_images_that_speak_for_it_are_on_the_page(tmp_path):
    others = torch.rand(9, 3, 24, 32, generator=torch.Generator().manual_seed(2))
    training = torch.cat([others[:4], photo()[None], others[4:]]), torch.arange(10) % 4
    html = build(tmp_path, training=training)
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL).group(1))
    alike, speaking = data["examples"]
    assert alike["images"][0] == {"picture": encoding.picture(training[0][4]), "name": HOSTILE[0]}
    assert len(alike["images"]) == len(speaking["images"]) == 6 and data["candidates"] == 10
    assert "Which training images speak for it?" in html and "<img src=x" not in html
    assert "Which training images speak for it?" not in build(tmp_path)
