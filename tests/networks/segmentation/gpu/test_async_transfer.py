"""Values of a device on their way to the host."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from membrain_cloud.networks.segmentation.gpu.async_transfer import Later


def test_values_of_a_cpu_are_there_at_once() -> None:
    later = Later(torch.tensor([1.0, 2.5]))
    assert later.wait() == [1.0, 2.5]
    np.testing.assert_array_equal(later.array(), np.array([1.0, 2.5], np.float32))


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_convolution_of_few_channels_is_there_for_its_widths() -> None:
    from membrain_cloud.networks.segmentation.gpu.convolution import can_convolve

    assert can_convolve(32, 32)
    assert not can_convolve(1000, 32)
