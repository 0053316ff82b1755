"""What the tests of the experiments share."""

from __future__ import annotations

import torch

torch.set_num_threads(1)  # the networks are tiny: more threads only wait for each other
