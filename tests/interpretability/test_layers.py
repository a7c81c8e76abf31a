import pytest
import torch
from torch import nn

from attribution_networks import Residual, assert_same_state, plain, state_of
from interpretability.layers import capture, evaluating, find_layer, forward_from, forward_to, replace
from interpretability.pixel_model import PixelModel


def test_layers_are_found_by_name_and_unknown_ones_named():
    net = plain()
    assert find_layer(net, "4") is net[4]
    wrapped = PixelModel(Residual(), [0.5] * 3, [0.2] * 3)
    assert find_layer(wrapped, "conv") is find_layer(wrapped, "model.conv") is wrapped.model.conv
    assert find_layer(wrapped, "normalize") is wrapped.normalize
    with pytest.raises(ValueError, match=r"unknown layer 'convs'; did you mean 'conv'.*valid: stem, conv, first"):
        find_layer(wrapped, "convs")
    with pytest.raises(ValueError, match="unknown layer ''"):
        find_layer(net, "")


def test_the_model_comes_back_as_it_was_also_after_an_error():
    net = plain().train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    net[8].bias.grad = torch.ones(5)
    before = state_of(net)
    with pytest.raises(KeyError), torch.no_grad(), evaluating(net):
        assert not any(module.training for module in net.modules())
        assert not any(parameter.requires_grad for parameter in net.parameters())
        assert torch.is_grad_enabled()
        raise KeyError
    assert_same_state(before, net)


def test_it_works_in_inference_mode_but_not_on_a_model_made_there():
    with torch.inference_mode():
        with evaluating(plain()[:0]):
            assert not torch.is_inference_mode_enabled()
        made_here = plain()
        with pytest.raises(ValueError, match="created inside"), evaluating(made_here):
            pass


def test_captured_outputs_are_those_of_a_shorter_network():
    net, x = plain().eval(), torch.rand(2, 3, 9, 7)
    with capture(net, ["1", "4"]) as outputs:
        logits = net(x)
    assert torch.equal(outputs["1"], net[:2](x))
    assert torch.equal(outputs["4"], net[:5](x))
    assert torch.equal(logits, net(x))
    assert not net._forward_hooks and not net[4]._forward_hooks


def test_a_later_in_place_operation_does_not_change_what_was_captured():
    net, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True)), torch.randn(5, 3)
    expected = net[0](x)
    assert (expected < 0).any()
    with torch.no_grad():
        assert torch.equal(forward_to(net, "0", x), expected)


def test_replacing_an_output_goes_on_from_there():
    net, x = plain().eval(), torch.rand(2, 3, 8, 8)
    point = torch.randn_like(net[:5](x))
    assert torch.equal(forward_from(net, "4", point, x), net[5:](point))
    with replace(net, "4", torch.zeros_like):
        assert torch.equal(net(x), net[5:](torch.zeros_like(point)))
    with pytest.raises(ValueError, match=r"layer '4' returns \(2, 6, 2, 2\); cannot put \(1, 6, 2, 2\)"):
        forward_from(net, "4", point[:1], x)


def test_whoever_holds_the_tensor_of_an_in_place_layer_sees_the_replacement():
    class Discarding(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            h = x * 1
            self.relu(h)  # the result is not used, only its effect
            return h * 2

    x = torch.randn(2, 3)
    with torch.no_grad():
        assert torch.equal(forward_from(Discarding(), "relu", torch.ones(2, 3), x), torch.full((2, 3), 2.0))


def test_a_layer_used_twice_and_one_never_used_are_named():
    net, x = Residual("reused"), torch.rand(1, 3, 5, 5)
    with pytest.raises(ValueError, match="layer 'first' runs more than once"):
        forward_to(net, "first", x)
    with pytest.raises(ValueError, match=r"layer 'second' does not run .*; these do: stem, first, conv, head"):
        forward_to(net, "second", x)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_a_layer_may_run_once_in_each_of_several_passes():
    net, x = plain().eval(), torch.rand(1, 3, 8, 8)
    with capture(net, ["0"]) as outputs:
        net(x)
        first = outputs["0"]
        net(x + 1)
    assert not torch.equal(first, outputs["0"])


def test_an_output_that_is_no_tensor_is_named():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 2, batch_first=True)

        def forward(self, x):
            return self.lstm(x)[0][:, -1]

    with pytest.raises(ValueError, match="layer 'lstm' returns a tuple"):
        forward_to(Recurrent(), "lstm", torch.rand(1, 4, 3))
