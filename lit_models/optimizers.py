"""The update rules by hand, as `torch.optim.Optimizer` subclasses: `SGD`, `Adam`, `AdamW`.

Their state has the names and shapes of torch's own, so they go on from its checkpoints. Inside, each group's
gradients and state lie one after another in a few flat buffers, so that an update is a handful of large
operations however many small parameters there are. The buffers belong to the optimiser: neither a parameter nor
its ``.grad`` is ever tied to them, so moving, copying or reloading a model cannot break an update.
"""

import math
import operator
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor


class Flat:
    """One group's working memory: gradient and state in flat buffers, with views shaped as the parameters."""

    def __init__(self, params: list[Tensor], state: dict[Tensor, dict[str, Any]], slots: tuple[str, ...]):
        if len({(p.dtype, p.device) for p in params}) > 1:
            raise ValueError("the parameters of one group must share one dtype and device")
        self.params = params
        self.gradient, self.gradients = self._buffer()
        self.names = slots
        self.slots, self.views = [], []
        for slot in slots:
            buffer, views = self._buffer()
            self.slots.append(buffer)
            self.views.append(views)
            for p, view in zip(params, views):
                if slot in state[p]:
                    view.copy_(state[p][slot])
                state[p][slot] = view
        steps = {float(state[p].get("step", 0.0)) for p in params}
        if len(steps) > 1:
            raise ValueError(f"the parameters of one group were updated unequally often: {sorted(steps)} times")
        self.step = torch.tensor(steps.pop())  # one tensor, which all of the group's parameters share
        for p in params:
            state[p]["step"] = self.step
        self._state = state

    def _buffer(self) -> tuple[Tensor, list[Tensor]]:
        sizes = [p.numel() for p in self.params]
        buffer = self.params[0].new_zeros(sum(sizes))
        return buffer, [part.view(p.shape) for part, p in zip(buffer.split(sizes), self.params)]

    def holds(self, params: list[Tensor]) -> bool:
        """Whether this is still the memory of ``params`` and of the optimiser's state."""
        if len(params) != len(self.params) or not all(map(operator.is_, params, self.params)):
            return False
        if (params[0].device, params[0].dtype) != (self.gradient.device, self.gradient.dtype):
            return False
        state = self._state[params[0]]
        return state.get("step") is self.step and all(state[s] is v[0] for s, v in zip(self.names, self.views))


class FlatOptimizer(torch.optim.Optimizer):
    """Gathers a group's gradients into one buffer and leaves the rest to `_update`."""

    SLOTS: ClassVar[tuple[str, ...]] = ()

    def __init__(self, params: Any, defaults: dict[str, Any]):
        super().__init__(params, defaults)
        self._flats: dict[int, Flat] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._flats = {}

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        result = None if closure is None else closure()
        with torch.no_grad():
            for index, group in enumerate(self.param_groups):
                params = [p for p in group["params"] if p.grad is not None]
                if not params:
                    continue
                flat = self._flats.get(index)
                if flat is None or not flat.holds(params):
                    flat = self._flats[index] = Flat(params, self.state, self._slots(group))
                torch._foreach_copy_(flat.gradients, [p.grad for p in params])
                flat.step += 1
                self._update(flat, group)
        return result

    _step_with_hooks = torch.optim.Optimizer.profile_hook_step(_step)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        hooked = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        return self._step_with_hooks(closure) if hooked else self._step(closure)

    # torch would wrap every step in a profiler's record, which costs as much as a tiny network's whole update
    step.hooked = True  # type: ignore[attr-defined]

    def _slots(self, group: dict[str, Any]) -> tuple[str, ...]:
        return self.SLOTS

    def _update(self, flat: Flat, group: dict[str, Any]) -> None:
        """Change the parameters; the gradient's buffer may be overwritten on the way."""
        raise NotImplementedError


class SGD(FlatOptimizer):
    """Gradient descent with heavy-ball or Nesterov momentum (eq. 2.1 to 2.3; Sutskever et al. 2013).

    Args:
        params: parameters or groups of them.
        lr: the learning rate η, not negative.
        momentum: μ in [0, 1).
        nesterov: look ahead along the momentum; needs a positive momentum.
    """

    SLOTS = ("momentum_buffer",)

    def __init__(self, params: Any, lr: float = 1e-2, momentum: float = 0.0, nesterov: bool = False):
        _check_range("lr", lr, 0.0, math.inf)
        _check_range("momentum", momentum, 0.0, 1.0)
        if nesterov and momentum == 0:
            raise ValueError("nesterov needs a positive momentum")
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov})

    def _slots(self, group: dict[str, Any]) -> tuple[str, ...]:
        return self.SLOTS if group["momentum"] else ()

    def _update(self, flat: Flat, group: dict[str, Any]) -> None:
        g, change, momentum = flat.gradient, flat.gradients, group["momentum"]  # θ ← θ − η g   eq. 2.1
        if momentum:
            v = flat.slots[0].mul_(momentum).add_(g)  # v ← μ v + g   eq. 2.2
            if group["nesterov"]:
                g.add_(v, alpha=momentum)  # g + μ v   eq. 2.3
            else:
                change = flat.views[0]
        torch._foreach_add_(flat.params, change, alpha=-group["lr"])


class Adam(FlatOptimizer):
    """Adam (eq. 2.4 to 2.6; Kingma & Ba 2015, algorithm 1).

    Args:
        params: parameters or groups of them.
        lr: the learning rate η, not negative.
        betas: β₁ and β₂, decay of the first and second moment, each in [0, 1).
        eps: ε, added to the root of the corrected second moment.
    """

    SLOTS = ("exp_avg", "exp_avg_sq")

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, **more: Any
    ):
        _check_range("lr", lr, 0.0, math.inf)
        for name, beta in zip(("betas[0]", "betas[1]"), betas):
            _check_range(name, beta, 0.0, 1.0)
        _check_range("eps", eps, 0.0, math.inf)
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, **more})

    def _update(self, flat: Flat, group: dict[str, Any]) -> None:
        (beta1, beta2), step = group["betas"], flat.step.item()
        g, (m, v) = flat.gradient, flat.slots
        root = math.sqrt(1 - beta2**step)
        m.lerp_(g, 1 - beta1)  # m ← β₁ m + (1 − β₁) g   eq. 2.4
        v.lerp_(g.mul_(g), 1 - beta2)  # v ← β₂ v + (1 − β₂) g²   eq. 2.4
        torch.sqrt(v, out=g).add_(group["eps"] * root)
        scale = -group["lr"] * root / (1 - beta1**step)
        torch._foreach_addcdiv_(flat.params, flat.views[0], flat.gradients, value=scale)  # eq. 2.6


class AdamW(Adam):
    """Adam with decoupled weight decay: w ← (1 − η λ) w before each update (eq. 2.7; Loshchilov & Hutter 2019).

    Args:
        params: parameters or groups of them.
        lr: the learning rate η, not negative.
        betas: decay of the first and second moment, each in [0, 1).
        eps: added to the root of the second moment, after its correction.
        weight_decay: λ, not negative.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ):
        _check_range("weight_decay", weight_decay, 0.0, math.inf)
        super().__init__(params, lr, betas, eps, weight_decay=weight_decay)

    def _update(self, flat: Flat, group: dict[str, Any]) -> None:
        if group["weight_decay"]:
            torch._foreach_mul_(flat.params, 1 - group["lr"] * group["weight_decay"])  # eq. 2.7
        super()._update(flat, group)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise unless low ≤ value < high."""
    if not low <= value < high:
        raise ValueError(f"{name} must be in [{low:g}, {high:g}), not {value}")


OPTIMIZERS = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


def average_over_ranks(parameters: list[Tensor], strategy: Any) -> None:
    """Replace each ``.grad`` by its mean over the processes, in one exchange (eq. 1.21)."""
    trained = [(p, p.grad.flatten()) for p in parameters if p.grad is not None]
    flat = strategy.reduce(torch.cat([gradient for _, gradient in trained]), reduce_op="mean")
    for (p, _), mean in zip(trained, flat.split([p.numel() for p, _ in trained])):
        p.grad = mean.view(p.shape)
