"""The network: a small U-Net on the frame folded 2 x 2 into channels, one 3 x 3 convolution a step.

What a coarse level has understood of optics and lattice weighs the finer features beside being added to them: how an
atom's image moves with it depends on the aberrations, and a product says so where sums would need many channels.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

# Channels of the raw output; the exported graph adds the activations and the local-maximum test.
HEAT, DY, DX, LOG_SIGMA, COVERED, CLASSES = range(6)  # from CLASSES on, one for each class if there are several

_LOOKS = (2, 1)  # second looks at each level, the finest first


class UNet(nn.Module):
    """(B, C, H, W) normalised frames to (B, 5 + K, H/2, W/2) raw maps; H and W multiples of 2^levels.

    K is the number of classes, 0 of a network of one.
    """

    def __init__(self, channels: int, widths: tuple[int, ...], depth: tuple[int, ...], classes: int = 1):
        super().__init__()
        self.stem = _step(4 * channels, widths[0])
        self.down = nn.ModuleList(_step(a, b, 2) for a, b in pairwise(widths))
        self.encode = nn.ModuleList(
            nn.Sequential(*(_step(w, w) for _ in range(n))) for w, n in zip(widths, depth, strict=True)
        )
        self.rise = nn.ModuleList(nn.Conv2d(b, 2 * a, 1) for a, b in pairwise(widths))
        self.decode = nn.ModuleList(
            nn.Sequential(*(_step(w, w) for _ in range(max(1, 3 - k)))) for k, w in enumerate(widths[:-1])
        )
        self.head = nn.Conv2d(widths[0], CLASSES + (classes if classes > 1 else 0), 1)
        # Made last, so that what comes before begins with the same weights with and without it.
        self.looks = nn.ModuleList(
            nn.ModuleList(_Look(coarse, width) for _ in range(count))
            for (width, coarse), count in zip(pairwise(widths), _LOOKS, strict=False)
        )
        self.deeper = True
        assert self.head.bias is not None
        with torch.no_grad():
            for rise in self.rise:  # at first every feature counts as it is
                rise.bias[: rise.out_channels // 2] += 1
            self.head.bias[HEAT] = -1.5
            self.head.bias[LOG_SIGMA] = 0.5

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.features(frames))

    def features(self, frames: Tensor) -> Tensor:
        """(B, widths[0], H/2, W/2): all but the last convolution."""
        x = self.encode[0](self.stem(nn.functional.pixel_unshuffle(frames, 2)))
        skips = []
        for down, encode in zip(self.down, self.encode[1:], strict=True):
            skips.append(x)
            x = encode(down(x))
        for level in reversed(range(len(skips))):
            coarse = x
            weight, sum_ = _up(self.rise[level](coarse)).chunk(2, dim=1)
            x = self.decode[level](skips[level] * weight + sum_)
            if self.deeper and level < len(self.looks):
                for look in self.looks[level]:
                    x = look(x, coarse)
        return x


class _Look(nn.Module):
    """A second look: a convolution whose features the coarser level weighs, and what follows from them, added.

    It begins as if it were not there, so that it can join a network that is trained.
    """

    def __init__(self, coarse: int, width: int):
        super().__init__()
        self.weigh = nn.Conv2d(coarse, width, 1)
        self.see = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.tell = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        with torch.no_grad():
            self.weigh.bias += 1
            self.tell[1].weight.zero_()

    def forward(self, x: Tensor, coarse: Tensor) -> Tensor:
        seen = nn.functional.relu(self.see(x) * _up(self.weigh(coarse)))
        return nn.functional.relu(x + self.tell(seen))


def _up(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


def _step(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
