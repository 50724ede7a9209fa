"""benchmarks/gradient_noise.py: the estimate against a known mean."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

from gradient_noise import Repeatable, Signal
from test_kernels import (
    Case,
    assert_close,
    fast_only,
    gradient,
    ground_truth,
    make_model,
    moving_pictures,
    play,
    winners_of,
)

SIZES = [20, 40]


def estimates(mean: torch.Tensor, runs: int = 100) -> torch.Tensor:
    """|mean|^2 as estimated from 2 x 100 gradients that resemble the one before, (runs, 3)."""
    found = []
    for _ in range(runs):
        signal = Signal(SIZES)
        noise = torch.zeros(2, len(mean))  # (streams, P)
        for _ in range(100):
            noise = 0.7 * noise + torch.randn_like(noise)
            signal.add(*(mean + noise))
        share, _ = signal.share()
        found.append(share * signal.norm() ** 2)
    return torch.stack(found)


@pytest.mark.parametrize("scale", [0.0, 0.3])
def test_signal_is_unbiased_though_gradients_in_a_row_resemble_each_other(scale):
    torch.manual_seed(1)
    mean = scale * torch.randn(sum(SIZES))
    truth = torch.stack([part.square().sum() for part in (*mean.split(SIZES), mean)])
    found = estimates(mean)
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - truth).abs() < 4 * error).all()
    assert (error < 0.1 + 0.05 * truth).all()


def test_signal_of_a_constant_gradient_is_all_there_is():
    signal = Signal(SIZES)
    gradient = torch.randn(sum(SIZES))
    for _ in range(5):
        signal.add(gradient, gradient)
    assert signal.share()[0].tolist() == pytest.approx([1, 1, 1])
    assert signal.norm()[-1] == pytest.approx(gradient.norm())


@fast_only
def test_the_gradient_of_each_loss_is_that_of_the_rollout():
    model = make_model(hidden_size=64)
    case = Case(model, moving_pictures(6, 2), ended=[(2, 0)])
    net = Repeatable(model, 2, 6)
    play(net, case)
    _, true = ground_truth(model, case, winners_of(net))
    for _ in range(3):
        for name, found in gradient(model, net, case).items():
            assert_close(found, true[name], name)
