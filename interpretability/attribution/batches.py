"""Many evaluations of a model in batches of bounded size, with a progress bar where that takes long."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from interpretability.devices import in_portions

T = TypeVar("T")

FEWEST_ROWS, MOST_ROWS = 16, 80
MANY_VALUES = 1 << 16  # in a forward pass: where more rows no longer make it quicker, only larger
MOST_EVALUATIONS = 50  # in a forward pass: the usual number of steps, and more steps take no more memory
MOST_ROWS_OF_A_GPU, MANY_VALUES_OF_A_GPU = 4096, 1 << 25  # which is idle until it has thousands of rows
SILENT_SECONDS = 3.0


def in_batches(total: int, x: Tensor, batch_size: int | None, what: str, evaluate: Callable[[slice], T]) -> Iterator[T]:
    """``evaluate(slice)`` for ``total`` evaluations of the batch ``x``, cut into slices of at most ``batch_size`` rows.

    By default as many rows as run fastest, see :func:`fastest_rows`; fewer when memory runs out. A slice holds one
    evaluation at least.
    """
    rows = batch_size or fastest_rows(x.device, x[0].numel())
    step = max(1, rows // len(x))
    if batch_size is None and x.device.type == "cpu":
        step = min(step, MOST_EVALUATIONS)
    done = 0

    def counted(part: slice) -> T:
        nonlocal done
        found = evaluate(part)
        done = part.stop
        return found

    with tqdm(total=total, desc=what, delay=SILENT_SECONDS, leave=False, disable=None) as bar:
        for found in in_portions(total, step, counted):
            yield found
            bar.update(done - bar.n)


def fastest_rows(device: torch.device, values: int) -> int:
    """Rows of ``values`` numbers in a forward pass: 16 photos or 80 digits for a CPU's cache, a GPU's fill."""
    if device.type == "cpu":
        return max(FEWEST_ROWS, min(MOST_ROWS, MANY_VALUES // values))
    return max(FEWEST_ROWS, min(MOST_ROWS_OF_A_GPU, MANY_VALUES_OF_A_GPU // values))


def stacked(x: Tensor, times: int) -> Tensor:
    """The batch ``x`` (N, …) ``times`` over: (times · N, …)."""
    return x.repeat(times, *[1] * (x.ndim - 1))


def at_least(name: str, value: int, least: int) -> int:
    """``value``, or a ValueError that names the option when it is below ``least``."""
    if value < least:
        raise ValueError(f"{name} must be at least {least}; got {value}")
    return value


def checked_batch_size(batch_size: int | None) -> int | None:
    """``batch_size``, or a ValueError when it is below 1."""
    return None if batch_size is None else at_least("batch_size", batch_size, 1)
