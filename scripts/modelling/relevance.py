"""LRP's ε-rule without ε is gradient × input of another network, in which all is as linear as LRP takes it to be."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from interpretability.attribution.torch_functions import operation_name
from modelling.replicas import Case

SLOPES = {
    "relu", "relu6", "silu", "gelu", "hardswish", "hardsigmoid", "hardtanh", "elu", "sigmoid", "tanh", "clamp", "exp",
    "sqrt", "square", "pow", "reciprocal", "rsqrt", "neg", "rsub",
}  # fmt: skip
PRODUCTS = {"mul", "matmul", "bmm", "einsum"}


def gradient_times_input(case: Case) -> Tensor:
    """H · ∂score/∂h at the normalised image h, in the network as LRP takes it."""
    wanted = [parameter for parameter in case.model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    h = case.model.normalize(case.x).detach().requires_grad_()
    with AsRelevance():
        score = case.model.model(h)[:, case.target].sum()
    for parameter in wanted:
        parameter.requires_grad_(True)
    return h.detach() * torch.autograd.grad(score, h)[0]


class AsRelevance(TorchFunctionMode):
    """Functions of one value keep their ratio f(z) / z, divisors keep their value, factors have a half each."""

    def __init__(self) -> None:
        super().__init__()
        self.scales: list[Tensor] = []  # one over something: what it multiplies has all the relevance

    def is_scale(self, tensor: Tensor) -> bool:
        """Whether it came from nothing but reciprocals."""
        return any(tensor is scale for scale in self.scales)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, operation_name(func)
        changing = [a for a in args if isinstance(a, Tensor) and a.requires_grad]
        own = getattr(self, f"_{name}", None)
        if own is not None and changing:
            result = own(*args, **kwargs)
        elif name in PRODUCTS and len(changing) == 2:
            result = self._product(func, args, kwargs)
        elif (name in SLOPES or name in ("add", "sub")) and len(changing) == 1:
            result = self._slope(func, args, kwargs, changing[0])
        else:
            result = func(*args, **kwargs)
        is_scale = name in ("reciprocal", "rsqrt") or (changing and all(map(self.is_scale, changing)))
        if is_scale and isinstance(result, Tensor):
            self.scales.append(result)
        return result

    def _slope(self, func, args, kwargs, z):
        kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
        with torch.no_grad():
            values = func(*[a.clone() if a is z else a for a in args], **kwargs)
            ratio = torch.where(z == 0, 0, values / z)
        return values + (z - z.detach()) * ratio  # where z is 0 its value is no multiple of z

    def _product(self, func, args, kwargs):
        first, second = (a for a in args if isinstance(a, Tensor))

        def with_fixed(fixed):
            return func(*[a.detach() if a is fixed else a for a in args], **kwargs)

        if self.is_scale(first) != self.is_scale(second):
            return with_fixed(first if self.is_scale(first) else second)
        if first is second:
            return func(*args, **kwargs) / 2  # whose gradient has both factors
        return (with_fixed(first) + with_fixed(second)) / 2

    def _div(self, a, b, **kwargs):
        if not (isinstance(b, Tensor) and b.requires_grad):
            return a / b
        with torch.no_grad():
            ratio = 1 / b if isinstance(a, Tensor) and a.requires_grad else a / b / b
        return (a if isinstance(a, Tensor) and a.requires_grad else b) * ratio

    def _layer_norm(self, x, shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):
        axes = tuple(range(-len(shape), 0))
        return self._affine(x - x.mean(axes, keepdim=True), axes, weight, bias, eps)

    def _rms_norm(self, x, shape, weight=None, eps=None):
        return self._affine(
            x, tuple(range(-len(shape), 0)), weight, None, torch.finfo(x.dtype).eps if eps is None else eps
        )

    def _group_norm(self, x, groups, weight=None, bias=None, eps=1e-5, cudnn_enabled=True):
        parts = x.unflatten(1, (groups, -1))
        axes = tuple(range(2, parts.ndim))
        z = self._affine(parts - parts.mean(axes, keepdim=True), axes, None, None, eps).flatten(1, 2)
        per_channel = (-1, *[1] * (x.ndim - 2))
        return z * weight.view(per_channel) + bias.view(per_channel)

    def _affine(self, centred, axes, weight, bias, eps):
        deviation = (centred.detach().square().mean(axes, keepdim=True) + eps).sqrt()
        z = centred / deviation
        z = z if weight is None else z * weight
        return z if bias is None else z + bias

    def _normalize(self, x, p=2.0, dim=1, eps=1e-12, out=None):
        return x / x.detach().norm(p, dim, keepdim=True).clamp(min=eps)

    def _norm(self, x, p=2, dim=None, keepdim=False, dtype=None):
        with self:
            return x.square().sum(dim, keepdim=keepdim).sqrt()

    def _linalg_vector_norm(self, x, ord=2, dim=None, keepdim=False):
        return self._norm(x, ord, dim, keepdim)

    def _scaled_dot_product_attention(self, q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None):
        with self:
            scores = torch.matmul(q * (q.shape[-1] ** -0.5 if scale is None else scale), k.transpose(-2, -1))
            return torch.matmul((scores if attn_mask is None else scores + attn_mask).softmax(-1), v)

    def _multi_head_attention_forward(self, query, key, value, width, heads, weight, bias, *more, **options):
        out_weight, out_bias = more[4:6]
        n, tokens = query.shape[1], query.shape[0]
        parts = F.linear(query, weight, bias).view(tokens, n, 3, heads, -1).permute(2, 1, 3, 0, 4)
        mixed = self._scaled_dot_product_attention(*parts)
        return F.linear(mixed.permute(2, 0, 1, 3).flatten(2), out_weight, out_bias), None
