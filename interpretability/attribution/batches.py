"""Many evaluations of a model in batches of bounded size, with a progress bar where that takes long."""

from collections.abc import Iterator

from torch import Tensor
from tqdm import tqdm

FEWEST_ROWS, MOST_ROWS = 16, 80
MANY_VALUES = 1 << 16  # in a forward pass: where more rows no longer make it quicker, only larger
MOST_EVALUATIONS = 50  # in a forward pass: the usual number of steps, and more steps take no more memory
SILENT_SECONDS = 3.0


def batches(total: int, x: Tensor, batch_size: int | None, what: str) -> Iterator[slice]:
    """Cut ``total`` evaluations of the batch ``x`` into slices of at most ``batch_size`` rows in all.

    By default as many as run fastest: about 16 rows of photos, 80 of digits. A slice holds one evaluation at least.
    """
    fastest = max(FEWEST_ROWS, min(MOST_ROWS, MANY_VALUES // x[0].numel()))
    step = max(1, batch_size // len(x) if batch_size else min(MOST_EVALUATIONS, fastest // len(x)))
    with tqdm(total=total, desc=what, delay=SILENT_SECONDS, leave=False, disable=None) as bar:
        for start in range(0, total, step):
            stop = min(start + step, total)
            yield slice(start, stop)
            bar.update(stop - start)


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
