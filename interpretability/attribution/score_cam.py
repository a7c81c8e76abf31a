"""Class activation maps without gradients: what the score is when only one channel's region is shown."""

import torch
from torch import Tensor

from interpretability.attribution.batches import in_batches
from interpretability.attribution.cam import ChannelByChannel, upsampled
from interpretability.layers import capture
from interpretability.maps import as_maps
from interpretability.targets import Target, repeat_target, resolve_target, target_scores


class ScoreCAM(ChannelByChannel):
    """Channels weighted by the softmax of the scores of ``x`` seen through each of them   eq. 4.6, 4.7.

    Wang et al. 2020, "Score-CAM", algorithm 1. The score of the black image that the paper subtracts cancels
    in the softmax. One forward pass per channel, in batches.

    Takes what :class:`ChannelByChannel` takes.
    """

    @torch.no_grad()
    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """C forward passes of each sample."""
        with capture(self.model, [self.layer]) as outputs:
            target = resolve_target(self.model(x.clone()), target)
        activation = as_maps(self.model, self.layer, x, outputs[self.layer], self.maps)
        places = tuple(range(2, x.ndim))

        def part(channels: slice) -> Tensor:
            masks = upsampled(activation[:, channels], x)  # (N, k, H, W), of signals (N, k, L)
            low, high = (bound(masks, dim=places, keepdim=True) for bound in (torch.amin, torch.amax))
            masks = torch.where(high > low, (masks - low) / (high - low), 0).transpose(0, 1)  # (k, N, H, W)
            seen = (x * masks[:, :, None]).flatten(0, 1)  # (kN, C, H, W)
            k = len(masks)
            return target_scores(self.model(seen), repeat_target(target, k)).view(k, len(x))

        scores = list(in_batches(activation.shape[1], x, self.batch_size, "ScoreCAM", part))
        weights = torch.cat(scores).T.softmax(dim=1)  # (N, C)
        return self.weighted(activation, weights[:, :, None, None])
