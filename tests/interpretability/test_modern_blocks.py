"""LRP and DeepLift through normalisation, softmax, products, attention and gates, against loops and closed forms."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import convnext_tiny, efficientnet_b0, regnet_y_400mf, swin_t, vit_b_32

from interpretability.attribution import LRP, DeepLift
from interpretability.attribution.difference_rules import log_sum_exp_slopes, softmax_rule
from interpretability.attribution.lrp_mixing import taylor_rule


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


class Spelled(nn.Module):
    """A model written as a function, with the modules that it uses; what it returns is flattened."""

    def __init__(self, function, *modules: nn.Module):
        super().__init__()
        self.function, self.used = function, nn.ModuleList(modules)

    def forward(self, x):
        return self.function(x).flatten(1)


def randomised(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.eval()


class RootMean(nn.Module):
    """RMS normalisation as transformers write it."""

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Transposed(nn.Module):
    """Channels second, as group normalisation wants them."""

    def forward(self, x):
        return x.mT


class Halves(nn.Module):
    """A layer of the two halves of each token."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x[..., :3], x[..., 3:])


class GatedUnit(nn.Module):
    """SwiGLU."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 10), nn.Linear(5, 6)

    def forward(self, x):
        a, b = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(a) * b)


def attended(x: Tensor, **options) -> Tensor:
    q, k, v = x[:, None, :, :2], x[:, None, :, 2:4], x[:, None, :, 4:]
    return F.scaled_dot_product_attention(q, k, v, **options)


def grouped_attention(x: Tensor) -> Tensor:
    q, k = x[..., :4].unflatten(2, (2, 2)).transpose(1, 2), x[:, None, :, 4:]
    return F.scaled_dot_product_attention(query=q, key=k, value=k * 2, enable_gqa=True)


def multi_head(**options) -> nn.Module:
    attention = randomised(nn.MultiheadAttention(6, 2, batch_first=True, **options))
    return Spelled(lambda x: attention(x, x, x)[0], attention)


MASK = torch.tensor([[0.0, -torch.inf, 1.0], [0.3, 0.0, -torch.inf], [0.0, 0.0, 0.0]])
BLOCKS = {  # of tokens (N, 3, 6)
    "layer_norm": lambda: Spelled(randomised(nn.LayerNorm(6))),
    "layer_norm of two axes": lambda: Spelled(randomised(nn.LayerNorm((3, 6)))),
    "rms_norm": lambda: Spelled(randomised(nn.RMSNorm(6))),
    "rms_norm by hand": lambda: Spelled(randomised(RootMean(6))),
    "group_norm": lambda: Spelled(nn.Sequential(Transposed(), randomised(nn.GroupNorm(3, 6)))),
    "instance_norm": lambda: Spelled(randomised(nn.InstanceNorm1d(3, affine=True))),
    "instance_norm, running": lambda: Spelled(randomised(nn.InstanceNorm1d(3, affine=True, track_running_stats=True))),
    "torch.instance_norm": lambda: Spelled(lambda x: torch.instance_norm(x, *[None] * 4, True, 0.1, 1e-5, False)),
    "local_response_norm": lambda: Spelled(nn.LocalResponseNorm(2, alpha=0.5)),
    "normalize": lambda: Spelled(lambda x: F.normalize(x, dim=-1)),
    "norm of order 3": lambda: Spelled(lambda x: x.norm(p=3, dim=-1)),
    "vector_norm": lambda: Spelled(lambda x: torch.linalg.vector_norm(x, dim=1)),
    "var and std": lambda: Spelled(lambda x: x.var(dim=1) * x.std(-1, unbiased=False)[:, :1]),
    "cosine_similarity": lambda: Spelled(lambda x: F.cosine_similarity(x[..., :3], x[..., 3:], dim=-1)),
    "softmax": lambda: Spelled(lambda x: x.softmax(-1)),
    "softmax function": lambda: Spelled(lambda x: F.softmax(x, dim=1)),
    "log_softmax": lambda: Spelled(nn.LogSoftmax(dim=1)),
    "softmin": lambda: Spelled(nn.Softmin(dim=1)),
    "logsumexp": lambda: Spelled(lambda x: x.logsumexp(1)),
    "product": lambda: Spelled(lambda x: x[..., :3] * x[..., 3:]),
    "product by keywords": lambda: Spelled(lambda x: torch.add(input=torch.mul(input=x, other=x), other=x)),
    "product that broadcasts": lambda: Spelled(lambda x: x * x[:, :1]),
    "quotient": lambda: Spelled(lambda x: x[..., :3] / (x[..., 3:].square() + 1)),
    "one over": lambda: Spelled(lambda x: 1 / (x.square() + 1)),
    "matmul": lambda: Spelled(lambda x: x @ x.mT),
    "bmm": lambda: Spelled(lambda x: torch.bmm(x, x.mT)),
    "baddbmm": lambda: Spelled(lambda x: torch.baddbmm(x[:, :, :3], x, x.mT, beta=0.5, alpha=2)),
    "einsum": lambda: Spelled(lambda x: torch.einsum("nti,nsi->nts", x, x)),
    "einsum, listed, of a constant": lambda: Spelled(lambda x: torch.einsum("ij,ntj->nti", [WEIGHT, x])),
    "matmul with the input second": lambda: Spelled(lambda x: WEIGHT[:4, :3] @ x),
    "addcmul and lerp": lambda: Spelled(lambda x: torch.lerp(x, torch.addcmul(x, x, x, value=0.5), 0.3)),
    "bilinear": lambda: Spelled(Halves(randomised(nn.Bilinear(3, 3, 4)))),
    "linear of computed weights": lambda: Spelled(lambda x: F.linear(x, WEIGHT) * F.linear(x, WEIGHT).sigmoid()),
    "attention": lambda: Spelled(attended),
    "attention, masked": lambda: Spelled(lambda x: attended(x, attn_mask=MASK)),
    "attention, causal": lambda: Spelled(lambda x: attended(x, is_causal=True, scale=0.7)),
    "attention, boolean mask": lambda: Spelled(lambda x: attended(x, attn_mask=MASK > -1)),
    "attention, grouped queries": lambda: Spelled(grouped_attention),
    "multi-head attention": multi_head,
    "multi-head attention, key sizes": lambda: multi_head(kdim=6, vdim=6, bias=False),
    "encoder layer": lambda: Spelled(
        randomised(nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 2))
    ),
    "glu": lambda: Spelled(lambda x: F.glu(x, -1)),
    "swiglu": lambda: Spelled(randomised(GatedUnit())),
    "tanhshrink": lambda: Spelled(nn.Tanhshrink()),
    "transposed convolution": lambda: Spelled(
        randomised(nn.ConvTranspose1d(3, 4, 3, stride=2, padding=1, output_padding=1))
    ),
    "interpolation": lambda: Spelled(lambda x: F.interpolate(x, size=9, mode="linear") ** 2),
    "unfold and fold": lambda: Spelled(
        lambda x: F.fold(F.unfold(x[:, None].tanh(), 2, stride=1), (3, 6), 2, stride=1)
    ),
    "lp pooling": lambda: Spelled(lambda x: F.lp_pool1d(x.abs() + 0.1, 3, 2)),
    "lp pooling of maps": lambda: Spelled(lambda x: F.lp_pool2d(x[:, None], 2, (2, 3), stride=1)),
    "roll and windows": lambda: Spelled(
        lambda x: x.roll(1, 1).unflatten(2, (2, 3)).transpose(1, 2).reshape(-1, 3).softmax(-1).reshape(len(x), -1)
    ),
    "gather, index_select, repeat": lambda: Spelled(
        lambda x: (
            torch.cat([x, x.gather(1, INDEX.expand(len(x), 1, 6)), x.index_select(1, PLACE)], 1).repeat(1, 2, 1).tanh()
        )
    ),
    "positions and a class token": lambda: Spelled(
        lambda x: (torch.cat([x.new_ones(len(x), 1, 6), x], dim=1) + 0.3 * WEIGHT[:4]).softmax(1)
    ),
    "maxima": lambda: Spelled(lambda x: torch.maximum(x[:, 0], x[:, 1]) + torch.minimum(x[:, 1], x[:, 2]) + x.amax(1)),
}  # fmt: skip
WEIGHT = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
INDEX = torch.tensor([[[2, 0, 1, 1, 2, 0]]])
PLACE = torch.tensor([2])


# --- DeepLift's sum -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("name", BLOCKS)
def test_deeplift_sums_to_the_difference(name, rows):
    model, x, baseline = BLOCKS[name](), torch.randn(2, 3, 6), torch.randn(rows, 3, 6)
    weights = torch.randn(model(x).shape[1])
    difference = ((model(x) - model(baseline.expand_as(x))) @ weights).detach()
    assert difference.abs().min() > 1e-6
    found = DeepLift(model, baseline=baseline)(x, lambda z: z @ weights)
    torch.testing.assert_close(found.flatten(1).sum(dim=1), difference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in BLOCKS if name != "maxima"])
def test_near_the_baseline_multipliers_are_the_gradient(name):
    model, x = BLOCKS[name](), torch.randn(2, 3, 6)
    near = (x + 1e-6 * torch.randn_like(x)).requires_grad_()
    weights = torch.randn(model(x).shape[1])
    (gradient,) = torch.autograd.grad((model(near) @ weights).sum(), near)
    found = DeepLift(model, baseline=x)(near.detach(), lambda z: z @ weights)
    torch.testing.assert_close(found / (near - x).detach(), gradient, rtol=1e-4, atol=1e-4)


def test_softmax_slopes_equal_those_of_its_parts():
    """exp, sum, log and exp again, in loops and without care for overflow   eq. 5.20, 5.21."""
    x, x0, m = torch.randn(4), torch.randn(4), torch.randn(4)
    total, total0 = sum(map(math.exp, x.tolist())), sum(map(math.exp, x0.tolist()))
    change = math.log(total) - math.log(total0)
    slopes = [
        (math.exp(a) - math.exp(b)) / (a - b) * change / (total - total0) for a, b in zip(x.tolist(), x0.tolist())
    ]
    torch.testing.assert_close(log_sum_exp_slopes(x, x0, 0), torch.tensor(slopes), rtol=1e-12, atol=0)
    expected = torch.zeros(4)
    for i in range(4):
        log_p, log_p0 = float(x[i]) - math.log(total), float(x0[i]) - math.log(total0)
        slope = (math.exp(log_p) - math.exp(log_p0)) / (log_p - log_p0)
        for j in range(4):
            expected[j] += m[i] * slope * ((i == j) - slopes[j])
    torch.testing.assert_close(softmax_rule(m, x, x0, 0), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("scale", [1e-12, 1e3])
def test_softmax_slopes_neither_overflow_nor_cancel(scale):
    x, x0, m = torch.randn(5) * scale, torch.randn(5) * scale, torch.randn(5)
    found = softmax_rule(m, x, x0, 0)
    difference = float(m @ (x.softmax(0) - x0.softmax(0)))
    assert found.isfinite().all()
    assert float(found @ (x - x0)) == pytest.approx(difference, rel=1e-3 if scale < 1 else 1e-9)


@pytest.mark.parametrize("centred", [True, False])
def test_normalisation_equals_the_one_written_out(centred):
    norm = randomised(nn.LayerNorm(6) if centred else nn.RMSNorm(6, eps=1e-5))

    def by_hand(x):
        c = x - x.mean(-1, keepdim=True) if centred else x
        z = c / (c.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight
        return z + norm.bias if centred else z

    x, baseline, weights = torch.randn(2, 3, 6), torch.randn(1, 3, 6), torch.randn(18)
    expected = DeepLift(Spelled(by_hand, norm), baseline=baseline)(x, lambda z: z @ weights)
    found = DeepLift(Spelled(norm), baseline=baseline)(x, lambda z: z @ weights)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


NETWORKS = {
    "vit_b_32": lambda: vit_b_32(image_size=64),
    "swin_t": swin_t,
    "convnext_tiny": convnext_tiny,
    "efficientnet_b0": efficientnet_b0,
    "regnet_y_400mf": regnet_y_400mf,
    "eva02": lambda: timm.create_model("eva02_tiny_patch14_224", img_size=56, num_classes=10),
    "swin of timm": lambda: timm.create_model("swin_tiny_patch4_window7_224", img_size=64),
    "convnextv2_atto": lambda: timm.create_model("convnextv2_atto"),
    "resnest14d": lambda: timm.create_model("resnest14d"),
}


def prepared(name: str) -> tuple[nn.Module, Tensor]:
    """A network with random weights, its batch norms calibrated so that no signal dies."""
    model = NETWORKS[name]().double()
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.1)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    size = 56 if name == "eva02" else 64
    with torch.no_grad():
        model.train()(torch.rand(4, 3, size, size))
    return model.eval(), torch.rand(1, 3, size, size)


@pytest.mark.parametrize("name", NETWORKS)
def test_deeplift_sums_to_the_difference_on_whole_networks(name):
    model, x = prepared(name)
    for baseline in (torch.zeros(1), torch.rand_like(x)):
        with torch.no_grad():
            difference = (model(x) - model(baseline.expand_as(x)))[:, 1]
        assert difference.abs() > 1e-6
        found = DeepLift(model, baseline=baseline)(x, 1).flatten(1)
        rounding = 1e-14 * float(found.abs().sum())  # parts of either sign may be many times the difference
        torch.testing.assert_close(found.sum(dim=1), difference, rtol=1e-9, atol=1e-12 + rounding)


# --- LRP ----------------------------------------------------------------------------------------------------


def without_constants(model: nn.Module) -> nn.Module:
    """No bias, no class token or position that would take a share."""
    constant = ("bias", "q_bias", "v_bias", "in_proj_bias", "class_token", "cls_token", "pos_embed", "pos_embedding")
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in constant:
            nn.init.zeros_(parameter)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_without_biases_conserve_the_score(name):
    model, x = prepared(name)
    rule = "attention_values" if name in ("vit_b_32", "swin_t", "swin of timm", "eva02", "resnest14d") else "epsilon"
    score = without_constants(model)(x)[:, 1].detach()
    found = LRP(model, rule=rule, epsilon=0)(x, 1).flatten(1)
    # relative to all relevance: at ε = 0 parts of either sign may be many times the score, which rounding follows
    torch.testing.assert_close(found.sum(dim=1), score, rtol=0, atol=1e-9 * float(found.abs().sum()))
    assert (found.sum(dim=1) - score).abs() < 1e-6 * score.abs()


def test_softmax_is_attnlrps_taylor_term():
    """R_i = x_i (R_i − p_i Σ_j R_j), from the Jacobian, in loops   eq. 5.18."""
    x, r = torch.randn(5), torch.randn(5)
    p = x.softmax(0)
    expected = torch.zeros(5)
    for i in range(5):
        for j in range(5):
            expected[i] += x[i] * p[j] * (float(i == j) - p[i]) * r[j] / p[j]
    torch.testing.assert_close(taylor_rule(r, x, p, 0), expected, rtol=1e-12, atol=1e-14)
    leak = sum(r[j] * (1 - x[j] + p @ x) for j in range(5))  # eq. 5.19
    torch.testing.assert_close(r.sum() - expected.sum(), leak)
    weights = torch.randn(5)
    found = LRP(Spelled(lambda x: x.softmax(1)))(x[None], lambda z: z @ weights)
    torch.testing.assert_close(found[0], taylor_rule(p * weights, x, p, 0))


def test_masked_scores_get_no_relevance():
    x = torch.tensor([[1.0, -torch.inf, 0.5]])
    found = taylor_rule(torch.tensor([[0.3, 0.0, 0.2]]), x, x.softmax(1), 1)
    assert found.isfinite().all() and found[0, 1] == 0


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_attention_equals_attnlrp_in_loops(epsilon):
    """One head: halves for A and v, Taylor for the softmax, halves again for q and k   eq. 5.17, 5.18."""
    q, k, v, weights = torch.randn(3, 2), torch.randn(3, 2), torch.randn(3, 2), torch.randn(3, 2)
    s = (q @ k.T) / math.sqrt(2)
    a = s.softmax(1)
    out = a @ v

    def stabilised(z):
        return z + math.copysign(epsilon, z)

    ra, rv, rq, rk = (torch.zeros_like(t) for t in (a, v, q, k))
    for i in range(3):
        for c in range(2):
            for j in range(3):
                part = 0.5 * a[i, j] * v[j, c] / stabilised(float(out[i, c])) * out[i, c] * weights[i, c]
                ra[i, j] += part
                rv[j, c] += part
    for i in range(3):
        for j in range(3):
            rs = s[i, j] * (ra[i, j] - a[i, j] * ra[i].sum())
            for c in range(2):
                part = 0.5 * q[i, c] * k[j, c] / math.sqrt(2) / stabilised(float(s[i, j])) * rs
                rq[i, c] += part
                rk[j, c] += part
    x = torch.cat([q, k, v], dim=1)[None]
    found = LRP(Spelled(attended), epsilon=epsilon)(x, lambda z: (z * weights.flatten()).sum(1))
    torch.testing.assert_close(found[0], torch.cat([rq, rk, rv], dim=1), rtol=1e-9, atol=1e-12)


def test_attention_values_are_shared_by_kept_weights():
    x, weights = torch.randn(1, 3, 6), torch.randn(6)
    a, v = ((x[0, :, :2] @ x[0, :, 2:4].T) / math.sqrt(2)).softmax(1), x[0, :, 4:]
    expected = torch.zeros(3, 6)
    for i in range(3):
        for j in range(3):
            for c in range(2):
                expected[j, 4 + c] += a[i, j] * v[j, c] * weights[2 * i + c]
    found = LRP(Spelled(attended), rule="attention_values", epsilon=0)(x, lambda z: z @ weights)
    torch.testing.assert_close(found[0], expected, rtol=1e-9, atol=1e-12)


NORMS = {
    "layer_norm": (lambda: nn.LayerNorm(6), [(n, t, slice(None)) for n in range(2) for t in range(3)]),
    "rms_norm": (lambda: nn.RMSNorm(6), [(n, t, slice(None)) for n in range(2) for t in range(3)]),
    "instance_norm": (
        lambda: nn.InstanceNorm1d(3, affine=True), [(n, t, slice(None)) for n in range(2) for t in range(3)],
    ),
    "group_norm": (lambda: nn.GroupNorm(1, 3), [(n, slice(None), slice(None)) for n in range(2)]),
}  # fmt: skip


@pytest.mark.parametrize("name", NORMS)
def test_normalisation_equals_attnlrp_in_loops(name):
    """With σ held fixed an affine map, whose contributions each have their share   eq. 5.15."""
    make, groups = NORMS[name]
    norm, x, weights, epsilon = randomised(make()), torch.randn(2, 3, 6), torch.randn(2, 3, 6), 0.01
    z, expected = norm(x).detach(), torch.zeros(2, 3, 6)
    scale = norm.weight.detach() if name.endswith(("layer_norm", "rms_norm")) else norm.weight.detach()[:, None]
    scale = scale.expand(3, 6)
    for group in groups:
        values, w = x[group].flatten(), scale[group[1:]].flatten()
        shares = (weights[group] * z[group] / (z[group] + epsilon * z[group].sign())).flatten()
        n = len(values)
        mean = 0.0 if name == "rms_norm" else values.mean()
        eps = torch.finfo(torch.float64).eps if name == "rms_norm" else 1e-5
        sigma = math.sqrt(float((values - mean).square().mean()) + eps)
        off = 0 if name == "rms_norm" else 1 / n
        part = torch.zeros(n)
        for i in range(n):
            for j in range(n):
                part[i] += w[j] / sigma * ((i == j) - off) * values[i] * shares[j]
        expected[group] = part.view(expected[group].shape)
    found = LRP(Spelled(norm), epsilon=epsilon)(x, lambda y: (y * weights.flatten(1)).sum(1))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    kept = LRP(Spelled(norm), rule="z_plus")(x, lambda y: (y * weights.flatten(1)).sum(1))
    torch.testing.assert_close(kept, z * weights, rtol=1e-9, atol=1e-12)


def test_gates_are_halves_and_divisors_only_scale():
    x = torch.randn(2, 6)
    product = LRP(Spelled(lambda x: x[:, :3] * x[:, 3:]))(x, lambda z: z.sum(1))
    half = (x[:, :3] * x[:, 3:]) / 2
    torch.testing.assert_close(product, torch.cat([half, half], 1))
    for spelling in (
        lambda x: x[:, :3] / x[:, 3:].exp(),
        lambda x: x[:, :3] * x[:, 3:].exp().reciprocal(),
        lambda x: (2 * x[:, 3:]).exp().rsqrt().to(x.dtype) * x[:, :3],
    ):
        found = LRP(Spelled(spelling))(x, lambda z: z.sum(1))
        torch.testing.assert_close(found, torch.cat([x[:, :3] / x[:, 3:].exp(), torch.zeros(2, 3)], 1))


def test_rms_normalisation_by_hand_is_that_of_torch_where_nothing_is_centred():
    by_hand, norm, x = RootMean(6), nn.RMSNorm(6, eps=1e-6), torch.randn(2, 3, 6)
    expected = LRP(Spelled(norm), epsilon=0)(x, 4)
    torch.testing.assert_close(LRP(Spelled(by_hand), epsilon=0)(x, 4), expected)


@pytest.mark.parametrize(
    "name", [name for name in BLOCKS if "softm" not in name and name != "positions and a class token"]
)
def test_blocks_of_linear_parts_conserve(name):
    """No constant takes a share where there are no biases and the weights of attention are kept."""
    if name in ("one over", "roll and windows", "addcmul and lerp"):
        pytest.skip("adds constants, or a softmax head")
    model, x = without_constants(BLOCKS[name]()), torch.randn(2, 3, 6)
    z = model(x).detach()
    weights = torch.randn(z.shape[1])
    found = LRP(model, rule="attention_values", gamma=0, epsilon=0)(x, lambda z: z @ weights)
    torch.testing.assert_close(found.flatten(1).sum(1), z @ weights, rtol=1e-9, atol=1e-9)


def test_transposed_convolution_equals_its_matrix():
    from relevance_replicas import as_matrix, redistribute

    layer, x = randomised(nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1)), torch.randn(2, 2, 3, 4)
    m, b = as_matrix(layer, (2, 3, 4))
    constants = {"epsilon": 0.01, "gamma": 0.3, "alpha": 1.7, "beta": 0.7}
    for rule in ("epsilon", "gamma", "z_plus", "alpha_beta"):
        expected = redistribute(rule, x.flatten(1), m, b, x.flatten(1) @ m.T + b, **constants).view_as(x)
        found = LRP(Spelled(layer), rule=rule, **constants)(x, lambda z: z.sum(dim=1))
        torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "mixing",
    [
        lambda x: F.interpolate(x, size=9, mode="linear"),
        lambda x: F.fold(F.unfold(x[:, None], 2), (3, 6), 2),
        lambda x: x.cumsum(1),
    ],
)
def test_mixtures_share_as_linear_layers_do(mixing):
    from relevance_replicas import as_matrix, redistribute

    x = torch.randn(2, 3, 6)
    m, b = as_matrix(Spelled(mixing), (3, 6))
    constants = {"epsilon": 0.01, "gamma": 0.3, "alpha": 1.7, "beta": 0.7}
    expected = redistribute("epsilon", x.flatten(1), m, b, x.flatten(1) @ m.T, **constants).view_as(x)
    found = LRP(Spelled(mixing), epsilon=0.01)(x, lambda z: z.sum(dim=1))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", [LRP, DeepLift])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_batch_is_its_samples(name, method):
    model, x = BLOCKS[name](), torch.randn(3, 3, 6)
    together = method(model)(x, 1)
    assert together.any() or name == "positions and a class token"
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], method(model)(x[i : i + 1], 1), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("method", [LRP, DeepLift])
def test_in_inference_mode_and_single_precision(method):
    model, x = BLOCKS["encoder layer"](), torch.randn(2, 3, 6)
    expected = method(model)(x, 1)
    with torch.inference_mode():
        torch.testing.assert_close(method(model)(x, 1), expected)
    torch.testing.assert_close(method(model.float())(x.float(), 1).double(), expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("method", [LRP, DeepLift])
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: attended(x, dropout_p=0.1), "dropout of attention is on in eval mode"),
        (lambda x: nn.MultiheadAttention(6, 2, add_bias_kv=True)(x, x, x)[0].flatten(1), "add_bias_kv"),
        (lambda x: x.logsumexp((1, 2)), "logsumexp over more than one axis"),
    ],
)
def test_what_is_refused_is_named(model, message, method):
    with pytest.raises(ValueError, match=message):
        method(Spelled(model))(torch.randn(2, 3, 6), 0)


def into_a_slice(x):
    z = x.new_zeros(len(x), 4, 6)
    z[:, 1:].copy_(x)
    return z.sum(1) + x.mean(1)


def added_to_a_slice(x):
    z = x.new_zeros(len(x), 4, 6)
    view = z[:, 1:]
    view += x
    return z.relu().sum(1) + x.mean(1)


@pytest.mark.parametrize("method", [LRP, DeepLift])
@pytest.mark.parametrize("function", [into_a_slice, added_to_a_slice])
def test_what_is_written_into_a_view_of_a_constant_is_not_lost_without_a_word(function, method):
    with pytest.raises(ValueError, match="reads a view of a tensor that was changed in place"):
        method(Spelled(function))(torch.randn(2, 3, 6), 1)


def test_deeplift_of_a_model_that_goes_through_its_samples_one_by_one():
    model, x = Spelled(lambda x: torch.stack([one * one.sigmoid() for one in x])), torch.randn(3, 3, 6)
    found = DeepLift(model)(x, 2).flatten(1).sum(1)
    torch.testing.assert_close(found, model(x)[:, 2] - model(torch.zeros_like(x))[:, 2], rtol=1e-12, atol=1e-14)
