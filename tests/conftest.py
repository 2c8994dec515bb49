"""For every test: one thread, so that sums have one order and tests of several processes share few cores."""

from __future__ import annotations

import os

import torch

os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
torch.set_num_threads(1)
