"""Many evaluations of a model in batches of bounded size, with a progress bar where that takes long."""

from collections.abc import Iterator

from torch import Tensor
from tqdm import tqdm

BATCH_SIZE = 16  # rows in a forward pass: larger ones are slower, out of the caches
SILENT_SECONDS = 3.0


def batches(total: int, samples: int, batch_size: int, what: str) -> Iterator[slice]:
    """Cut ``total`` evaluations of ``samples`` rows each into slices of at most ``batch_size`` rows.

    A slice holds one evaluation at least, so memory never grows with ``total``.
    """
    step = max(1, batch_size // samples)
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
