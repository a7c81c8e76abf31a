"""Which number an explanation explains: one score per sample, chosen from a classifier's logits.

A target is a class index for every sample (int), one index per sample (integer tensor of shape (N,)), a
callable ``logits (N, K) -> (N,)`` that treats every row alike, or None for the class each sample is
predicted to be. Attribution, feature visualisation and attacks all read it here.
"""

import operator
from collections.abc import Callable

import torch
from torch import Tensor

Target = int | Tensor | Callable[[Tensor], Tensor] | None


def resolve_target(logits: Tensor, target: Target) -> Target:
    """Check ``target`` against ``logits`` (N, K); None becomes the predicted classes, a LongTensor (N,).

    A method that evaluates the model at other points than ``x`` resolves first, so that the target
    stays the class predicted at ``x``. Classes are kept on the CPU, where a check does not wait for a GPU.

    Raises:
        ValueError: a class outside 0 … K − 1, as many targets as there are not samples, or logits not (N, K).
        TypeError: not a target at all.
    """
    check_logits(logits)
    samples, classes = logits.shape
    if target is None:
        return logits.detach().argmax(dim=1).cpu()
    target = check_target(target, samples)
    chosen: list[int] = []
    if isinstance(target, Tensor):
        chosen = target.tolist()
    elif isinstance(target, int):
        chosen = [target]
    if out := [index for index in chosen if not 0 <= index < classes]:
        raise ValueError(f"target {out[0]} is out of range: the model has {classes} outputs (0 … {classes - 1})")
    return target


def check_target(target: Target, samples: int) -> Target:
    """``target`` as far as it can be checked without logits; a tensor becomes a LongTensor (N,) of classes.

    Raises as :func:`resolve_target` does.
    """
    if isinstance(target, Tensor):
        return _checked_tensor(target, samples)
    if target is None or callable(target):
        return target
    try:
        index = operator.index(target)
    except TypeError:
        raise TypeError(f"target {target!r} is neither a class index, a tensor of them, a callable nor None") from None
    if isinstance(target, bool):
        raise TypeError(f"target {target!r} is a bool, not a class index")
    return index


def target_scores(logits: Tensor, target: Target) -> Tensor:
    """The score of each sample: (N, K) -> (N,), differentiable. Raises as :func:`resolve_target` does."""
    if target is None:
        check_logits(logits)
        return logits.gather(1, logits.detach().argmax(dim=1, keepdim=True)).squeeze(1)
    target = resolve_target(logits, target)
    if isinstance(target, int):
        return logits[:, target]
    if isinstance(target, Tensor):
        return logits.gather(1, target[:, None].to(logits.device)).squeeze(1)
    scores = target(logits)  # type: ignore[misc]
    if not isinstance(scores, Tensor) or scores.shape != logits.shape[:1]:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"a callable target must return one score per sample, ({len(logits)},); it returned {got}")
    return scores


def log_odds(logits: Tensor, target: int | Tensor) -> Tensor:
    """Log p / (1 − p) of the target class: (N, K) -> (N,), the logit less those of all others   eq. 8.1.

    Its gradient is that of log p divided by 1 − p: the same direction, without underflow where p is near 1.
    Raises as :func:`resolve_target` does, and ValueError where there is one class only.
    """
    check_logits(logits)
    if logits.shape[1] < 2:
        raise ValueError("log-odds need at least two classes; the model has one output")
    own = target_scores(logits, target)
    labels = torch.as_tensor(target, device=logits.device).expand(len(logits))
    return own - logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1)


def repeat_target(target: Target, times: int) -> Target:
    """The target of a batch that is stacked ``times`` over: (x₁ … x_N, x₁ … x_N, …)."""
    return target.repeat(times) if isinstance(target, Tensor) else target


def check_logits(logits: object, samples: int | None = None) -> None:
    """Raise unless ``logits`` is a tensor (N, K), of ``samples`` rows where that is given."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"the model must return logits as one tensor; it returned {type(logits).__name__}")
    if logits.ndim != 2 or not logits.shape[1]:
        raise ValueError(f"the model must return logits of shape (N, K), K ≥ 1; it returned {tuple(logits.shape)}")
    if samples is not None and len(logits) != samples:
        raise ValueError(f"the model returned logits {tuple(logits.shape)} for a batch of {samples}: is x a batch?")


def _checked_tensor(target: Tensor, samples: int) -> Tensor:
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(f"a target tensor holds class indices; got dtype {target.dtype}")
    target = (target.expand(samples) if target.ndim == 0 else target).long().cpu()
    if target.shape != (samples,):
        raise ValueError(f"a target tensor needs one class per sample, ({samples},); got {tuple(target.shape)}")
    return target.clone() if target.is_inference() else target
