"""Activations at YOLOv5's address: those of PyTorch under its names, and three from papers.

B batch, C channels, H W cells.
"""

import torch
from torch import Tensor, nn
from torch.nn import Hardswish as Hardswish
from torch.nn import Mish as MemoryEfficientMish  # noqa: F401  PyTorch's keeps only its input for the backward pass
from torch.nn import Mish as Mish
from torch.nn import SiLU as SiLU


class FReLU(nn.Module):
    """Funnel activation (arXiv:2007.11824): the larger of a value and a depth-wise convolution around it.

    Args:
        c1: channels.
        k: side of the surroundings in cells, odd.
    """

    def __init__(self, c1: int, k: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c1, k, 1, k // 2, groups=c1, bias=False)
        self.bn = nn.BatchNorm2d(c1)

    def forward(self, x: Tensor) -> Tensor:
        """Activate (B, C, H, W)."""
        return torch.maximum(x, self.bn(self.conv(x)))


class AconC(nn.Module):
    """ACON-C (arXiv:2009.04759, equation 8): d * sigmoid(beta * d) + p2 * x with d = (p1 - p2) * x, learned by channel.

    Args:
        c1: channels.
    """

    def __init__(self, c1: int) -> None:
        super().__init__()
        self.p1 = nn.Parameter(torch.randn(1, c1, 1, 1))
        self.p2 = nn.Parameter(torch.randn(1, c1, 1, 1))
        self.beta = nn.Parameter(torch.ones(1, c1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Activate (B, C, H, W)."""
        return acon(x, self.p1, self.p2, self.beta)


class MetaAconC(nn.Module):
    """ACON-C whose beta a small network finds for each image and channel (arXiv:2009.04759, section 3.3).

    Args:
        c1: channels.
        k: kernel of the network's two convolutions.
        s: stride of them.
        r: the network has 1 / r of the channels between them, at least r.
    """

    def __init__(self, c1: int, k: int = 1, s: int = 1, r: int = 16) -> None:
        super().__init__()
        c2 = max(r, c1 // r)
        self.p1 = nn.Parameter(torch.randn(1, c1, 1, 1))
        self.p2 = nn.Parameter(torch.randn(1, c1, 1, 1))
        self.fc1 = nn.Conv2d(c1, c2, k, s)
        self.fc2 = nn.Conv2d(c2, c1, k, s)

    def forward(self, x: Tensor) -> Tensor:
        """Activate (B, C, H, W)."""
        beta = self.fc2(self.fc1(x.mean((2, 3), keepdim=True))).sigmoid()  # (B, C, 1, 1)
        return acon(x, self.p1, self.p2, beta)


def acon(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor) -> Tensor:
    """Compute ACON-C of (B, C, H, W) with parameters that broadcast against it."""
    d = (p1 - p2) * x
    return d * (beta * d).sigmoid() + p2 * x
