"""Peak memory in bytes on every system."""

import resource
import sys

import pytest
import torch
from nsff.evaluation import cost


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_peak_memory_is_in_bytes(monkeypatch, platform, unit):
    monkeypatch.setattr(sys, "platform", platform)
    now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert now * unit <= cost.peak_memory_bytes(torch.device("cpu")) <= 1.1 * now * unit
