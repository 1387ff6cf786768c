"""MemBrain v1's network: a small box of density around a point of a membrane -> its distance from particles.

    (B, 1, 12, 12, 12), first axis along the membrane's normal
      -> [conv 3³ without rim, conv 3³ with rim] x 2, each with batch normalisation and ReLU, 32 channels: 12 -> 10 -> 8
      -> linear 32 x 8³ -> outputs, one for each class of particles

100 577 parameters with one output. It sees one point at a time and needs no mesh around it, so a handful of membranes
is enough to train it.

References
----------
Lamm et al., MemBrain: A deep learning-aided pipeline for detection of membrane proteins in cryo-electron tomograms,
Computer Methods and Programs in Biomedicine (2022).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

EDGE, CHANNELS = 12, 32


class SubvolumeNet(nn.Module):
    """MemBrain v1's network: (B, 1, edge, edge, edge) -> (B, outputs)."""

    def __init__(self, *, outputs: int, edge: int = EDGE) -> None:
        super().__init__()
        self.edge, self.outputs = edge, outputs
        self.conv1 = nn.Conv3d(1, CHANNELS, 3)
        self.conv1b = nn.Conv3d(CHANNELS, CHANNELS, 3, padding=1)
        self.conv2 = nn.Conv3d(CHANNELS, CHANNELS, 3)
        self.conv2b = nn.Conv3d(CHANNELS, CHANNELS, 3, padding=1)
        self.batchnorm1, self.batchnorm2, self.batchnorm3, self.batchnorm4 = (
            nn.BatchNorm3d(CHANNELS) for _ in range(4)
        )
        self.mlp1 = nn.Linear(CHANNELS * (edge - 4) ** 3, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of boxes.

        Parameters
        ----------
        x : Tensor, shape (B, 1, edge, edge, edge), float32
            Normalised densities.

        Returns
        -------
        Tensor, shape (B, outputs), float32
            The outputs.
        """
        x = F.relu(self.batchnorm1(self.conv1(x)))
        x = F.relu(self.batchnorm2(self.conv1b(x)))
        x = F.relu(self.batchnorm3(self.conv2(x)))
        x = F.relu(self.batchnorm4(self.conv2b(x)))
        result: Tensor = self.mlp1(x.flatten(start_dim=1))
        return result
