"""Layer-wise relevance propagation: the score is shared out, layer by layer, among what it was made of.

The rules are in ``lrp_rules.py``, how a model's operations come to obey them in ``lrp_operations.py``, the
derivations in chapter 5 of docs/maths.md.
"""

from functools import partial

import torch
from torch import Tensor, nn

from interpretability.attribution import lrp_mixing, lrp_rules
from interpretability.attribution.base import Attribution
from interpretability.attribution.lrp_operations import RelevanceOperations
from interpretability.attribution.lrp_rules import Rule
from interpretability.attribution.operations import own_copy, passing_through
from interpretability.names import unknown
from interpretability.targets import Target, target_scores

Composite = dict[str, str]  # kind of operation -> name of its rule

COMPOSITES: dict[str, Composite] = {
    "epsilon": {"linear": "epsilon", "convolution": "epsilon", "norm": "epsilon"},
    "gamma": {"linear": "gamma", "convolution": "gamma", "norm": "identity"},
    "z_plus": {"linear": "z_plus", "convolution": "z_plus", "norm": "identity"},
    "alpha_beta": {"linear": "alpha_beta", "convolution": "alpha_beta", "norm": "identity"},
    "epsilon_gamma": {"linear": "epsilon", "convolution": "gamma", "norm": "identity"},
    "epsilon_plus": {"linear": "epsilon", "convolution": "z_plus", "norm": "identity"},
    "epsilon_alpha_beta": {"linear": "epsilon", "convolution": "alpha_beta", "norm": "identity"},
    "attention": {"linear": "epsilon", "convolution": "gamma", "norm": "epsilon"},
    "attention_values": {"linear": "epsilon", "convolution": "gamma", "norm": "epsilon", "softmax": "kept"},
}
SOFTMAX = {"taylor": lrp_mixing.taylor_rule, "kept": lrp_mixing.kept_rule}  # the first where a composite names none


class LRP(Attribution):
    """The relevance of each element of the point: shares of the score, by the rules of a composite   eq. 5.1.

    Bach et al. 2015, "On pixel-wise explanations for non-linear classifier decisions by layer-wise relevance
    propagation"; Montavon et al. 2019, "Layer-wise relevance propagation: an overview". Shifts and scales by
    constants, the normalisation of pixels among them, pass relevance on; a batch norm is merged into the
    layer right before it. Softmax and products: Achtibat et al. 2024, "AttnLRP: attention-aware layer-wise relevance
    propagation for transformers"; eq. 5.14 to 5.18.

    Args:
        model, layer: as for every attribution.
        rule: a key of ``COMPOSITES``: one rule for all layers, or ε for linear and another for convolutions. For
            transformers ``attention`` is AttnLRP with γ for the patches; ``attention_values`` takes the weights of
            attention as they are, so that all relevance goes to the values and none is lost in softmax.
        epsilon, gamma, alpha, beta: the rules' constants; α − β = 1.

    Raises:
        ValueError: an unknown rule, constants out of range, or an operation of the model without a rule.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        *,
        rule: str = "epsilon",
        epsilon: float = 1e-6,
        gamma: float = 0.25,
        alpha: float = 2.0,
        beta: float = 1.0,
    ):
        super().__init__(model, layer)
        if rule not in COMPOSITES:
            raise unknown("rule", rule, COMPOSITES)
        for name, value in {"epsilon": epsilon, "gamma": gamma, "beta": beta}.items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be at least 0; got {value}")
        if abs(alpha - beta - 1) > 1e-9:
            raise ValueError(f"alpha − beta must be 1, or relevance is not conserved; got {alpha} − {beta}")
        rules: dict[str, Rule] = {
            "epsilon": partial(lrp_rules.epsilon_rule, epsilon=epsilon),
            "gamma": partial(lrp_rules.gamma_rule, gamma=gamma, epsilon=epsilon),
            "z_plus": partial(lrp_rules.z_plus_rule, epsilon=epsilon),
            "alpha_beta": partial(lrp_rules.alpha_beta_rule, alpha=alpha, beta=beta, epsilon=epsilon),
            "identity": lrp_rules.identity_rule,
        }
        named = {"softmax": "taylor", **COMPOSITES[rule]}
        self.softmax = SOFTMAX[named.pop("softmax")]
        self.rules = {kind: rules[name] for kind, name in named.items()} | {"average": rules["epsilon"]}
        self.epsilon = epsilon

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """One forward pass that remembers what it added up, and one backward pass of relevance."""
        x = own_copy(x).requires_grad_()
        operations = RelevanceOperations(self.rules, self.softmax, self.epsilon, x)
        with passing_through(self.model, self.layer, x) as points, operations:
            logits = self.model(x)
        logits = operations.finished(logits)
        relevance = _relevance_of(logits, target)
        if not logits.requires_grad:
            raise ValueError("the logits do not depend on x through operations that LRP can follow")
        (attribution,) = torch.autograd.grad(logits, points[-1], relevance, allow_unused=True, materialize_grads=True)
        return attribution.contiguous()


def _relevance_of(logits: Tensor, target: Target) -> Tensor:
    """What each logit contributes to the score: logits · ∂score/∂logits, (N, K)   eq. 5.1."""
    leaf = logits.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(target_scores(leaf, target).sum(), leaf)
    return logits.detach() * gradient
