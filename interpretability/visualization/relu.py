"""A ReLU that lets the gradient through where it would otherwise stop the ascent before it has begun."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_PLAIN = {torch.relu, Tensor.relu}
_IN_PLACE = {torch.relu_, Tensor.relu_}


class _PassedReLU(torch.autograd.Function):
    """ReLU; backwards, an image whose whole gradient ReLU would block gets the upward-pushing part (eq. 7.11)."""

    @staticmethod
    def forward(ctx, z: Tensor) -> Tensor:
        ctx.save_for_backward(z > 0)
        return z.clamp(min=0)

    @staticmethod
    def backward(ctx, da: Tensor) -> Tensor:
        (open_,) = ctx.saved_tensors
        dz = da * open_
        blocked = ~dz.flatten(1).any(1)
        if blocked.any():  # the loss falls where its gradient is negative
            dz[blocked] = da[blocked].clamp(max=0) * ~open_[blocked]
        return dz


class PassedReLUs(TorchFunctionMode):
    """Within ``with PassedReLUs():`` every ReLU, as module, function or method, in place or not, is one of these."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Called in place of every torch function."""
        kwargs = kwargs or {}
        if func is F.relu:
            inplace = args[1] if len(args) > 1 else kwargs.get("inplace", False)
            func = torch.relu_ if inplace else torch.relu
            args, kwargs = (args[0] if args else kwargs["input"],), {}
        if func in _PLAIN:
            return _PassedReLU.apply(args[0])
        if func in _IN_PLACE:
            return args[0].copy_(_PassedReLU.apply(args[0]))
        return func(*args, **kwargs)
