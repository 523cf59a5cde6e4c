"""The evaluation context: batches, their random numbers, progress and stopping."""

from __future__ import annotations

import pytest
import torch

from shalabench.api import EvalContext


def context(report=lambda done, total: None):
    return EvalContext(torch.device("cpu"), 0, report=report)


def test_a_batch_gets_its_items_and_their_random_numbers():
    items = torch.tensor([5, 3, 8, 1, 9])
    whole, parts = (
        context().map(lambda i, rng: i + rng.uniform(len(i)), items, size, "a", 1)
        for size in (5, 2)
    )
    assert torch.equal(whole, parts)
    assert torch.equal(whole, items + context().rng("a", 1).uniform(5))


def test_tensors_by_name_are_joined_and_later_batches_may_leave_some_out():
    def make(index, rng):
        values = {"all": index[:, None]}
        return values | ({"first": index} if rng.first == 0 else {})

    joined = context().map(make, 5, 2)
    assert joined["all"].tolist() == [[0], [1], [2], [3], [4]]
    assert joined["first"].tolist() == [0, 1]


def test_progress_adds_up_over_calls_and_report_may_stop():
    calls = []

    class Stop(Exception):
        pass

    def report(done, total):
        calls.append((done, total))
        if done >= 5:
            raise Stop

    own = context(report)
    own.expect(7)
    own.map(lambda index, _: index, 3, 2)
    with pytest.raises(Stop):
        own.map(lambda index, _: index, 4, 2)
    assert calls == [(2, 7), (3, 7), (5, 7)]
