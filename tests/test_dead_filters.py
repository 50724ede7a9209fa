"""benchmarks/dead_filters.py: filters that were killed are the ones it counts."""

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

from dead_filters import layers

from model import A3Clstm


def test_filters_that_nothing_activates_are_dead():
    model = A3Clstm(2, 16)
    with torch.no_grad():
        for conv in (model.conv1, model.conv2, model.conv3, model.conv4):
            conv.weight.abs_()
        model.conv2.bias[:3] = -1e9
        model.conv4.bias[5] = -1e9
    cells = layers(model, torch.rand(4, 1, 80, 80))
    assert [cell.split(";")[0] for cell in cells] == ["0 of 32", "3 of 32", "0 of 64", "1 of 64"]


def test_the_deviation_is_that_of_a_place_over_time():
    model = A3Clstm(2, 16)
    picture = torch.rand(1, 1, 80, 80)
    assert layers(model, picture.expand(4, -1, -1, -1))[0].endswith(", 0.000")
    brighter = torch.cat([picture, picture + 1])
    assert not layers(model, brighter)[0].endswith(", 0.000")
