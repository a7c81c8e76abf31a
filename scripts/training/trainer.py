"""Lightning's Trainer, with options that tell a number of batches from a fraction of them."""

from datetime import timedelta
from typing import Any

import lightning


class Trainer(lightning.Trainer):
    """Takes ``1`` for one batch and ``1.0`` for all of them.

    A parser tries the types of an option in their order. Lightning's ``Optional[Union[int, float]]`` may have the
    other order: where a package asked for ``Optional[Union[float, int]]`` before, ``typing`` returns that object again.
    """

    def __init__(
        self,
        *,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        overfit_batches: int | float = 0.0,
        val_check_interval: int | float | str | timedelta | dict[str, int] | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            limit_predict_batches=limit_predict_batches,
            overfit_batches=overfit_batches,
            val_check_interval=val_check_interval,
            **kwargs,
        )
