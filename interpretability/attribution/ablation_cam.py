"""Class activation maps by ablation: what the score loses when a channel of the layer is switched off."""

import torch
from torch import Tensor

from interpretability.attribution.batches import in_batches, stacked
from interpretability.attribution.cam import ChannelByChannel
from interpretability.layers import capture, check_rows, forward_from, separates
from interpretability.maps import reading_of
from interpretability.targets import Target, repeat_target, resolve_target, target_scores


class AblationCAM(ChannelByChannel):
    """Channels weighted by the drop in score when they are set to 0   eq. 4.13.

    Desai and Ramaswamy 2020, "Ablation-CAM", equation 3, without the common factor 1/score, which only scales the map
    (and would turn it over where the score is negative). One forward pass from the layer on per channel, in batches.

    Takes what :class:`ChannelByChannel` takes; ``maps`` a layout, not a function.
    """

    @torch.no_grad()
    def attribute(self, x: Tensor, target: Target) -> Tensor:
        """C forward passes of each sample."""
        if callable(self.maps):
            raise ValueError("AblationCAM needs a layout in maps=, not a function: it has to find its way back")
        with capture(self.model, [self.layer]) as outputs:
            logits = self.model(x.clone())
        target = resolve_target(logits, target)
        point = outputs[self.layer]
        check_rows(point, self.layer, len(x))
        read = reading_of(self.model, self.layer, x, point, self.maps)
        activation = read(point)
        alone = separates(self.model, self.layer, x, point, logits)
        whole = target_scores(logits, target)

        def drops(channels: slice) -> Tensor:
            k = channels.stop - channels.start
            points = stacked(point, k)  # (kN, …), the samples for each channel in turn
            views = read(points).unflatten(0, (k, len(x)))  # they share memory with the points
            for row, channel in enumerate(range(channels.start, channels.stop)):
                views[row, :, channel] = 0
            logits_without = forward_from(self.model, self.layer, points, x[:1] if alone else stacked(x, k))
            without = target_scores(logits_without, repeat_target(target, k)).view(k, len(x))
            return whole - without

        found = list(in_batches(activation.shape[1], x, self.batch_size, "AblationCAM", drops))
        return self.weighted(activation, torch.cat(found).T[:, :, None, None])
