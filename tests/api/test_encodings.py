"""Encodings that are computed once, and are those of a model without help."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shalabench.api import encoded_once


class Counter(nn.Module):
    """An encoder that counts its calls."""

    encodes_views = True

    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(3, 2), 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x)


@pytest.fixture
def model():
    return nn.Sequential(nn.ModuleDict({"a": Counter(), "b": Counter()})).eval()


def calls(model):
    return [encoder.calls for encoder in model[0].values()]


@torch.inference_mode()
def test_a_view_is_encoded_once_by_each_encoder_and_equals_the_encoding_without(model):
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    first, second = model[0].values()
    expected = first(x), second(x), first(y)
    with encoded_once(model, {"x": x, "y": y}):
        for _ in range(3):
            for found, right in zip((first(x), second(x), first(y)), expected, strict=True):
                assert torch.equal(found, right)
    assert calls(model) == [4, 2]
    assert "forward" not in vars(first)
    first(x)
    assert calls(model) == [5, 2]


@torch.inference_mode()
def test_only_the_very_views_are_remembered(model):
    x, encoder = torch.randn(4, 3), model[0]["a"]
    with encoded_once(model, {"x": x}):
        for _ in range(2):
            encoder(x[:2])
            encoder(x.clone())
    assert calls(model) == [4, 0]


def test_nothing_is_remembered_with_gradients_or_in_training_mode(model):
    x, encoder = torch.randn(4, 3), model[0]["a"]
    with encoded_once(model, {"x": x}):
        assert encoder(x).requires_grad
        assert encoder(x).requires_grad
        with torch.no_grad():
            encoder.train()
            encoder(x)
            encoder(x)
    assert calls(model) == [4, 0]


def test_an_output_for_inference_does_not_reach_other_code(model):
    x, encoder = torch.randn(4, 3), model[0]["a"]
    with encoded_once(model, {"x": x}), torch.no_grad():
        with torch.inference_mode():
            assert encoder(x).is_inference()
        assert not encoder(x).is_inference()


@torch.no_grad()
def test_an_error_ends_the_remembering(model):
    with pytest.raises(ZeroDivisionError), encoded_once(model, {}):
        _ = 1 / 0
    assert all("forward" not in vars(encoder) for encoder in model[0].values())
