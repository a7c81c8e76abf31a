"""The gradient itself, and the gradient times what it is taken at."""

from torch import Tensor

from interpretability.attribution.base import Attribution
from interpretability.gradients import gradient_at
from interpretability.targets import Target


class Saliency(Attribution):
    """∂score/∂point, signed   eq. 3.1, 3.2.

    Simonyan, Vedaldi, Zisserman 2013, "Deep inside convolutional networks", section 3. The paper's picture
    is the maximum over channels of its absolute value, which drawing takes.
    """

    additive = False

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """One forward and one backward pass."""
        _, gradient = gradient_at(self.model, self.layer, x, target)
        return gradient


class InputXGradient(Attribution):
    """point · ∂score/∂point   eq. 3.3.

    Shrikumar et al. 2016, "Not just a black box", section 3. Its sum is the score itself in a network of
    ReLUs without biases.
    """

    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """One forward and one backward pass."""
        point, gradient = gradient_at(self.model, self.layer, x, target)
        return point * gradient
