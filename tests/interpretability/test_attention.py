"""Attention rollout and gradient-weighted attention against a computation by hand, in every spelling of attention."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18, swin_t, vit_b_32

from interpretability import PixelModel
from interpretability.attribution import AttentionGradient, AttentionRollout

METHODS = (AttentionRollout, AttentionGradient)


class Block(nn.Module):
    """Two heads on tokens of width 4, with a residual connection; attention is spelled in four ways."""

    def __init__(self, spelling: str):
        super().__init__()
        self.spelling = spelling
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        if self.spelling == "module":
            return x + self.attention(x, x, x, need_weights=False)[0]
        n, tokens, _ = x.shape
        projected = F.linear(x, self.attention.in_proj_weight, self.attention.in_proj_bias)
        q, k, v = (part.view(n, tokens, 2, 2).transpose(1, 2) for part in projected.chunk(3, dim=-1))
        if self.spelling == "fused":
            mixed = F.scaled_dot_product_attention(q, k, v)
        elif self.spelling == "eager":
            mixed = (q @ k.mT / math.sqrt(2)).softmax(dim=-1) @ v
        else:  # heads folded into the batch, as older code does
            q, k, v = (part.flatten(0, 1) for part in (q, k, v))
            mixed = torch.bmm(F.softmax(torch.bmm(q, k.mT) / math.sqrt(2), -1), v).unflatten(0, (n, 2))
        return x + self.attention.out_proj(mixed.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """Two layers on 2 x 3 patches with a class token; ``pooled`` reads the mean of all tokens instead of it."""

    def __init__(self, spelling: str = "eager", pooled: bool = False):
        super().__init__()
        self.patches = nn.Conv2d(1, 4, 2, 2)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 4))
        self.blocks = nn.Sequential(Block(spelling), Block(spelling))
        self.head, self.pooled = nn.Linear(4, 3), pooled

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = self.blocks(torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], dim=1))
        return self.head(tokens.mean(1) if self.pooled else tokens[:, 0])


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def network(**options):
    model = Transformer(**options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=1.0)
    return model.eval()


def by_hand(model, image, target):
    """Both methods of one image, in loops over heads and tokens."""
    tokens = model.patches(image[None]).flatten(2)[0].T
    x = torch.cat([model.cls_token[0], tokens])
    attention = []
    for block in model.blocks:
        weight, bias = block.attention.in_proj_weight, block.attention.in_proj_bias
        rows = []
        heads = []
        for head in range(2):
            q, k, v = (
                x @ weight[4 * i + 2 * head : 4 * i + 2 * head + 2].T + bias[4 * i + 2 * head :][:2] for i in range(3)
            )
            heads.append(torch.stack([torch.softmax(q[t] @ k.T / math.sqrt(2), 0) for t in range(7)]))
            rows.append(heads[-1] @ v)
        attention.append(heads)
        x = x + block.attention.out_proj(torch.cat(rows, 1))
    score = model.head(x.mean(0) if model.pooled else x[0])[target]
    rollout, weighted = torch.eye(7), torch.eye(7)
    for heads in attention:
        slopes = torch.autograd.grad(score, heads, retain_graph=True)
        rollout = 0.5 * (torch.eye(7) + (heads[0] + heads[1]) / 2) @ rollout
        kept = sum((slope * head).clamp(min=0) for slope, head in zip(slopes, heads)) / 2
        weighted = weighted + kept @ weighted
    return [(r.mean(0) if model.pooled else r[0])[1:].view(2, 3).detach() for r in (rollout, weighted)]


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("spelling", ["module", "fused", "eager", "folded"])
def test_against_a_computation_by_hand(spelling, pooled):
    model, x = network(spelling=spelling, pooled=pooled), torch.rand(2, 1, 4, 6)
    for n, target in enumerate((2, 0)):
        for method, expected in zip(METHODS, by_hand(model, x[n], target)):
            found = method(model)(x, torch.tensor([2, 0]))
            assert found.shape == (2, 1, 2, 3)
            torch.testing.assert_close(found[n, 0], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("method", METHODS)
def test_tokens_are_put_in_their_places_by_a_function(method):
    model, x = network(), torch.rand(1, 1, 4, 6)
    found = method(model, maps=lambda tokens: tokens[:, 1:].reshape(1, 1, 3, 2))(x, 1)
    torch.testing.assert_close(found.flatten(), method(model)(x, 1).flatten())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["torchvision", "timm", "registers", "eva"])
def test_known_transformers(name, method):
    model = {
        "torchvision": lambda: vit_b_32(image_size=64),
        "timm": lambda: timm.create_model("vit_tiny_patch16_224", img_size=(64, 32), num_classes=5),
        "registers": lambda: timm.create_model("vit_small_patch14_reg4_dinov2", img_size=56, num_classes=5),
        "eva": lambda: timm.create_model("eva02_tiny_patch14_224", img_size=56, num_classes=5),
    }[name]().eval()
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.1)
    size = {"timm": (64, 32), "torchvision": (64, 64)}.get(name, (56, 56))
    found = method(model)(torch.rand(1, 3, *size), 1)
    assert found.shape == (1, 1, size[0] // (16 if name == "timm" else 32 if name == "torchvision" else 14),
                           size[1] // (16 if name == "timm" else 32 if name == "torchvision" else 14))  # fmt: skip
    assert (found >= 0).all() and found.any() and found.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_a_class_token_that_is_called_an_embedding_is_none_of_the_patches(method):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(vision_config=vision, text_config={**sizes, "vocab_size": 50}, num_labels=3)
    model = PixelModel(transformers.CLIPForImageClassification(config).eval(), [0.5] * 3, [0.5] * 3)
    assert method(model)(torch.rand(1, 3, 32, 32), 1).shape == (1, 1, 4, 4)


class Pooled(Transformer):
    """A query of its own attends to the tokens, and the head reads what it gathers."""

    def __init__(self):
        super().__init__()
        self.query, self.gather = nn.Parameter(torch.randn(1, 1, 4)), nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        tokens = self.blocks(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(self.gather(self.query.expand(len(x), -1, -1), tokens, tokens)[0][:, 0])


@pytest.mark.parametrize("method", METHODS)
def test_cross_attention_is_refused(method):
    with pytest.raises(ValueError, match="each attending to all; here attend 6 to 6, 6 to 6, 1 to 6"):
        method(Pooled().eval())(torch.rand(1, 1, 4, 6), 1)


@pytest.mark.parametrize("method", METHODS)
def test_what_has_no_such_attention_is_refused(method):
    with pytest.raises(ValueError, match="needs attention between tokens; this model has none"):
        method(resnet18().eval())(torch.rand(1, 3, 64, 64), 1)
    with pytest.raises(ValueError, match="needs attention between all tokens; here it is within windows"):
        method(swin_t().eval())(torch.rand(1, 3, 64, 64), 1)
    with pytest.raises(ValueError, match="explains the input"):
        method(network(), "blocks")
    with pytest.raises(ValueError, match="must be 'tokens' or a function; got 'channels_last'"):
        method(network(), maps="channels_last")
