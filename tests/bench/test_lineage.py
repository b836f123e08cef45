"""The network that ours is compared with has the size that was published."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.lineage import ResidualUNet


def test_weights_and_arithmetic_are_the_lineages():
    network = ResidualUNet().to("meta")
    assert sum(values.numel() for values in network.parameters()) == pytest.approx(4.9e6, rel=0.01)
    with FlopCounterMode(display=False) as count:
        maps = network(torch.zeros(1, 1, 512, 512, device="meta"))
    assert count.get_total_flops() == pytest.approx(164e9, rel=0.01)
    assert maps.shape == (1, 5, 512, 512)
