"""A small vision transformer that has learned digits: what explains it is told from what does not."""

from itertools import chain, islice

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from datamodules import MNISTDataModule
from interpretability import PixelModel
from interpretability.evaluation import Settings, evaluate, explainers
from interpretability.page import PageOptions, PictureCache, build_page

pytestmark = pytest.mark.slow
STEPS, BATCH, WIDTH, RATE = 600, 128, 64, 3e-3


class Block(nn.Module):
    """Attention and two layers, both behind a normalisation."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.layers = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x):
        h = self.norm1(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.layers(self.norm2(x))


class VisionTransformer(nn.Module):
    """4 x 4 patches of 7 x 7 pixels, a class token, three blocks."""

    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d(1, WIDTH, 7, 7)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 17, WIDTH))
        self.blocks = nn.Sequential(Block(), Block(), Block())
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x):
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 0])


@pytest.fixture(scope="module")
def trained(mnist_dir):
    """The network on pixels, and test images with their labels."""
    torch.manual_seed(0)
    data = MNISTDataModule(data_dir=mnist_dir, batch_size=BATCH)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    model = VisionTransformer()
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    batches = chain(data.train_dataloader(), data.train_dataloader())
    for x, y in islice(batches, STEPS):  # bytes
        optimizer.zero_grad()
        F.cross_entropy(model(x / 127.5 - 1), y).backward()
        optimizer.step()
        schedule.step()
    images, labels = map(torch.cat, zip(*(batch for _, batch in zip(range(20), data.test_dataloader()))))
    return PixelModel(model.eval(), mean=[0.5], std=[0.5]), images / 255, labels


def test_it_has_learned_to_read(trained):
    model, x, y = trained
    with torch.no_grad():
        assert (model(x).argmax(1) == y).float().mean() >= 0.95


def test_attnlrp_is_told_from_a_random_map(trained):
    model, x, _ = trained
    names = ["LRP attention", "AttentionGradient", "random map"]
    found = evaluate(model, explainers(model, names, 28), x[:96], settings=Settings(n_squares=8, n_noises=1))
    random = found.values["random map"]
    for name in names[:2]:
        for measure, sign in (("deletion", -1), ("insertion", 1)):
            better = sign * (found.values[name][measure] - random[measure])  # of the same images
            assert better.mean() > 3 * better.std() / len(better) ** 0.5, (name, measure, better.mean())
    similar = found.similarity["LRP attention"].mean(dim=1)
    assert similar[-1] < 0.5, similar  # nothing of the map is left when all is random


def test_its_page_points_at_patches(trained, tmp_path):
    model, x, _ = trained
    options = PageOptions(pictured=1, n_groups=2, steps=4)
    named = {"model_name": "a transformer", "image_name": "a digit", "cache": PictureCache(tmp_path)}
    page = build_page(model, x[0], [str(k) for k in range(10)], options=options, **named)
    assert "Attention rollout" in page and "followed from layer to layer to the patches" in page and "blocks." in page
