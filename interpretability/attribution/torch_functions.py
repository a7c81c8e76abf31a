"""The names of torch's functions: one for all spellings of an operation, and which operations belong together."""

import inspect
from collections.abc import Callable, Iterable
from functools import cache, wraps
from typing import Any

from torch import Tensor

ACTIVATIONS = (
    "relu", "leaky_relu", "tanh", "sigmoid", "softplus", "gelu", "silu", "elu", "selu", "celu", "mish", "relu6",
    "hardtanh", "hardswish", "hardsigmoid", "logsigmoid", "softsign", "prelu", "clamp", "clamp_min", "clamp_max",
    "threshold", "tanhshrink", "softshrink", "hardshrink",
)  # fmt: skip
REARRANGEMENTS = (
    "flatten", "unflatten", "view", "reshape", "permute", "transpose", "t", "T", "mT", "squeeze", "unsqueeze",
    "getitem", "select", "narrow", "gather", "cat", "concat", "stack", "chunk", "split", "unbind", "pad", "expand",
    "flip", "roll", "movedim", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "contiguous", "clone", "copy",
    "to", "float", "double", "half", "bfloat16", "type", "type_as", "swapaxes", "swapdims", "moveaxis", "view_as",
    "reshape_as", "expand_as", "broadcast_to", "ravel", "tensor_split", "unfold", "repeat", "repeat_interleave", "tile",
    "index_select", "take_along_dim", "diagonal", "tril", "triu", "where", "masked_fill", "rot90",
)  # fmt: skip
DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
AVERAGES = (
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "mean", "sum",
)  # fmt: skip
MIXTURES = ("fold", "interpolate", "upsample", "cumsum")  # fixed weights, like averages
FUNCTIONS = (
    "abs", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "square", "pow", "rpow", "reciprocal", "rdiv", "rtruediv",
    "erf", "sin", "cos",
)  # fmt: skip
MAX_POOLS = (
    "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
)  # fmt: skip
NUMBERS = (
    "item",
    "tolist",
    "numpy",
    "__array__",
    "__float__",
    "__int__",
    "__complex__",
)  # take a value out of a tensor
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
BILINEAR = ("linear", "matmul", "bmm", "einsum", *CONVOLUTIONS, *TRANSPOSED)  # in a value and in weights
SUMS_AND_PRODUCTS = (
    *BILINEAR, *MIXTURES, "bilinear", "addmm", "baddbmm", "tensordot", "add", "sub", "rsub", "neg", "mul", "div",
    "addcmul", "lerp", "embedding",
)  # fmt: skip
SMOOTH = (
    *(name for name in FUNCTIONS if name != "abs"), "std", "var", "var_mean", "norm", "normalize", "vector_norm",
    "linalg_vector_norm", "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm",
    "lp_pool1d", "lp_pool2d", "lp_pool3d", "softmax", "softmin", "log_softmax", "logsumexp", "glu",
    "scaled_dot_product_attention", "multi_head_attention_forward", "cosine_similarity",
)  # fmt: skip
EXTREMES = ("maximum", "minimum", "fmax", "fmin", "max", "min", "amax", "amin")
COMPARISONS = (
    "lt", "le", "gt", "ge", "eq", "ne", "less", "greater", "less_equal", "greater_equal", "isnan", "isinf", "isfinite",
    "logical_and", "logical_or", "logical_not", "logical_xor", "and", "or", "xor", "invert", "bitwise_not", "any",
    "all", "argmax", "argmin", "detach",
)  # fmt: skip
CONSTANTS = (
    "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "new_zeros", "new_ones",
    "new_full", "new_empty", "new_tensor",
)  # fmt: skip
ALIASES = {
    "truediv": "div",
    "divide": "div",
    "multiply": "mul",
    "subtract": "sub",
    "mm": "matmul",
    "log_sigmoid": "logsigmoid",
    "clip": "clamp",
    "special_softmax": "softmax",
    "special_log_softmax": "log_softmax",
    "special_logsumexp": "logsumexp",
    "special_erf": "erf",
    "special_expit": "sigmoid",
}


def tensors_in(values: Iterable) -> list[Tensor]:
    """The tensors among ``values``, looking into lists and tuples."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_in(value)
    return found


@cache
def operation_name(func: Callable) -> str:
    """One name for all spellings: ``Tensor.__iadd__``, ``Tensor.add_`` and ``torch.add`` are ``add``."""
    name = getattr(func, "__name__", str(func))
    if name == "__get__":
        name = getattr(func.__self__, "__name__", name)  # type: ignore[attr-defined]
    if name.startswith("__") and name.endswith("__"):
        name = name[2:-2]
        if _is_augmented(name) or name in {"radd", "rmul"}:
            name = name[1:]
    name = name.removeprefix("_").removesuffix("_").removesuffix("_with_indices")
    return ALIASES.get(name, name)


def changes_in_place(func: Callable, args: tuple, kwargs: dict) -> bool:
    """Whether the call writes into its first argument: ``add_``, ``+=``, ``inplace=True``."""
    name = getattr(func, "__name__", "")
    if name.startswith("__"):
        return _is_augmented(name[2:-2])
    if name.endswith("_") or kwargs.get("inplace"):
        return True
    position = _position_of_inplace(func)
    return position is not None and len(args) > position and bool(args[position])


def _is_augmented(name: str) -> bool:
    return name in {"iadd", "isub", "imul", "itruediv", "imatmul", "ipow", "ifloordiv", "imod", "iand", "ior", "ixor"}


@cache
def on_a_copy(func: Callable) -> Callable:
    """An in-place operation that leaves its first argument alone."""

    @wraps(func)
    def copying(first: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return func(first.clone(), *args, **kwargs)

    return copying


@cache
def _position_of_inplace(func: Callable) -> int | None:
    try:
        names = list(inspect.signature(func).parameters)
    except (ValueError, TypeError):  # most of torch is built in and has no signature, nor the argument
        return None
    return names.index("inplace") if "inplace" in names else None
