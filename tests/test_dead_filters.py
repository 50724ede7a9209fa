"""benchmarks/dead_filters.py counts the filters that were killed, and training kills few."""

import functools
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

from dead_filters import layers

from environment import CROP_TABLE, Normalizer, game_config, make_env, read_config
from hogwild import Hogwild
from model import A3Clstm, flatten_parameters
from options import build_parser, complete
from shared_optim import SharedAdam
from train import train


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


@functools.cache
def begun_training(centralization: bool) -> list[str]:
    """What `layers` says of random play, after 50 updates in Breakout-v0 in this process."""
    torch.set_num_threads(1)
    env_id = "Breakout-v0"
    args = build_parser().parse_args(["--env", env_id, "--workers", "1", "--envs-per-worker", "8"])
    args = complete(args)
    args.gradient_centralization = centralization
    make = functools.partial(make_env, env_id, game_config(read_config(CROP_TABLE), env_id), 4)
    torch.manual_seed(args.seed)
    model = A3Clstm(int(make().action_space.n), args.hidden_size)
    weights, _ = flatten_parameters(model)
    server = Hogwild(weights, SharedAdam, 1, max_steps=50 * 8 * args.num_steps)
    train(0, args, server, make)
    server.pull(weights)
    normalizer = Normalizer(server.normalizer(), frozen=True)
    env, rng, pictures = make(seed=1), np.random.default_rng(1), []
    picture, _ = env.reset(seed=1)
    for _ in range(50):
        for _ in range(4):
            picture, _, terminated, truncated, _ = env.step(int(rng.integers(env.action_space.n)))
            if terminated or truncated:
                picture, _ = env.reset()
        pictures.append(torch.from_numpy(normalizer.observe(picture[None]).copy()))
    return layers(model, torch.stack(pictures).view(-1, 1, 80, 80))


def test_the_first_updates_kill_filters_where_gradients_are_whole():
    """So the next test is of something that happens."""
    assert int(begun_training(False)[3].split()[0]) > 20


def test_the_first_updates_kill_few_filters_where_gradients_are_centralized():
    assert int(begun_training(True)[3].split()[0]) < 8
    deviations = [float(begun_training(kind)[3].split()[-1]) for kind in (True, False)]
    assert deviations[0] > 3 * deviations[1]
