import numpy as np
import pytest
import torch

from interpretability.targets import resolve_target, target_scores

LOGITS = torch.tensor([[1.0, 3.0, 2.0], [5.0, 4.0, 6.0]])


@pytest.mark.parametrize(
    ("target", "scores"),
    [
        (1, [3.0, 4.0]),
        (np.int64(2), [2.0, 6.0]),
        (torch.tensor([0, 2]), [1.0, 6.0]),
        (torch.tensor(1), [3.0, 4.0]),
        (torch.tensor([0, 2], dtype=torch.uint8), [1.0, 6.0]),
        (None, [3.0, 6.0]),
        (lambda logits: logits[:, 2] - logits[:, 0], [1.0, 1.0]),
    ],
)
def test_scores_are_the_chosen_ones(target, scores):
    assert target_scores(LOGITS, target).tolist() == scores


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        (3, ValueError, r"target 3 is out of range: the model has 3 outputs"),
        (-1, ValueError, r"target -1 is out of range"),
        (torch.tensor([0, 7]), ValueError, r"target 7 is out of range"),
        (torch.tensor([0]), ValueError, r"one class per sample, \(2,\); got \(1,\)"),
        (torch.tensor([0.0, 1.0]), TypeError, "class indices"),
        (torch.tensor([True, False]), TypeError, "class indices"),
        (True, TypeError, "bool"),
        (1.5, TypeError, "1.5"),
        ("cat", TypeError, "'cat'"),
        (lambda logits: logits, ValueError, r"one score per sample, \(2,\); it returned \(2, 3\)"),
        (lambda logits: 1.0, ValueError, "float"),
    ],
)
def test_what_is_no_target_is_named(target, error, words):
    with pytest.raises(error, match=words):
        target_scores(LOGITS, target)


def test_logits_must_be_two_dimensional():
    with pytest.raises(ValueError, match=r"\(N, K\), K ≥ 1; it returned \(3,\)"):
        target_scores(torch.zeros(3), 0)
    with pytest.raises(TypeError, match="tuple"):
        resolve_target((LOGITS,), 0)


def test_none_stays_the_class_predicted_first():
    target = resolve_target(LOGITS, None)
    assert target.tolist() == [1, 2]
    assert target_scores(LOGITS.flip(1), target).tolist() == [3.0, 5.0]
