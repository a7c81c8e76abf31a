"""Weights from a file into a model: state dicts, Lightning checkpoints and safetensors; nothing in them is run."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path

from torch import Tensor, nn

from interpretability.names import listing
from interpretability.plain_files import load_plain

PREFIXES = ("model.", "net.", "module.", "_orig_mod.")  # what Lightning, DataParallel and torch.compile put in front
INSIDE = ("state_dict", "model_state_dict")  # where checkpoints keep the state dict
FIRST_KEYS = 3
MOST_PREFIXES = 3


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load the weights in the file ``path`` into ``model``; a prefix common to all names is recognised.

    Raises:
        ValueError: the file holds no state dict, or one that does not fit; the message shows the first names of each.
        OSError: no such file, or no right to read it.
    """
    state = read_state_dict(path)
    wanted = model.state_dict()
    fitting = without_prefix(state, wanted)
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}  # files of old do not have them
    for what, names in (
        ("lacks", wanted.keys() - fitting.keys() - counters),
        ("has unknown", fitting.keys() - wanted.keys()),
        ("has other shapes for", {k for k in wanted if k in fitting and wanted[k].shape != fitting[k].shape}),
    ):
        if names:
            there, due = (", ".join(list(keys)[:FIRST_KEYS]) for keys in (state, wanted))
            raise ValueError(
                f"{path}: does not fit {type(model).__name__}: it {what} {listing(sorted(names), 120)}"
                f" (the file begins with {there}; the model with {due})"
            )
    model.load_state_dict(fitting, strict=False)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors in a file by name, on the CPU. Raises as :func:`load_weights` does."""
    if Path(path).suffix == ".safetensors":
        return _read_safetensors(Path(path))
    state = load_plain(path)
    for key in INSIDE:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: holds no state dict (tensors by parameter name)")
    return state


def without_prefix(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` without a prefix common to the model's names, such as ``module._orig_mod.``, if more names fit so."""
    prefixes = ["".join(parts) for depth in range(MOST_PREFIXES + 1) for parts in product(PREFIXES, repeat=depth)]
    found = (
        {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        for prefix in prefixes
    )
    return max(found, key=lambda names: len(names.keys() & wanted.keys()))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise ValueError(f"{path} needs safetensors: pip install safetensors") from None
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return load_file(path, device="cpu")
    except Exception as error:  # its own error class, or torch's
        raise ValueError(f"{path} is damaged, or no safetensors file ({str(error).splitlines()[0]})") from None
