"""For every test: one thread, so that sums have one order and tests of several processes share few cores.

And no time limit on the examples of a property, since a busy machine is no fault of the code.
"""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

from classwise import registry

os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
torch.set_num_threads(1)
settings.register_profile("unhurried", deadline=None)
settings.register_profile("few", settings.get_profile("unhurried"), max_examples=15)  # for .ci/processors
settings.load_profile("unhurried")


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test register names that are gone afterwards."""
    registry.entries("loss")
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
