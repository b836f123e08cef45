"""A network that is understood: a Gaussian window over bright spots, height for heat, centroid for the offset."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.unet import COVERED, DX, DY, HEAT, LOG_SIGMA

WINDOW_PX = 1.5  # sigma
SPOT_PX = 2.2  # sigma of what the window is laid on: it pulls the centroid to its own centre
LOG_SIGMA_PX = -2.0  # what it says of its errors, right or wrong


class Spots(nn.Module):
    """Normalised frames (B, 1, H, W) to the (B, 5, H/2, W/2) raw maps of a UNet."""

    def __init__(self) -> None:
        super().__init__()
        taps = torch.arange(8) - 3.5  # a cell's centre lies between two pixels
        window = torch.exp(-(taps**2) / 2 / WINDOW_PX**2)
        window /= window.sum()
        wide = (1 + (SPOT_PX / WINDOW_PX) ** 2) * window * taps
        self.moments = nn.Conv2d(1, 3, 8, stride=2, padding=3, bias=False)
        self.head = nn.Conv2d(3, 5, 1)
        with torch.no_grad():
            kernels = [torch.outer(a, b) for a, b in ((window, window), (wide, window), (window, wide))]
            self.moments.weight.copy_(torch.stack(kernels)[:, None])
            self.head.weight.zero_()
            for channel, feature, factor in ((HEAT, 0, 4.0), (DY, 1, 1.0), (DX, 2, 1.0)):
                self.head.weight[channel, feature] = factor
            self.head.bias.zero_()
            self.head.bias[HEAT], self.head.bias[LOG_SIGMA], self.head.bias[COVERED] = -3.5, LOG_SIGMA_PX, -6.0

    def forward(self, frames: Tensor) -> Tensor:
        mean, by_y, by_x = self.moments(torch.relu(frames)).split(1, dim=1)
        some = mean.clamp(min=0.05)
        return self.head(torch.cat([mean, by_y / some, by_x / some], dim=1))
