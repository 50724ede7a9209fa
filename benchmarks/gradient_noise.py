"""How much of a saved model's gradient is signal: a line per parameter, policy and value apart.

    python benchmarks/gradient_noise.py --env Pong-v0        # 8 minutes on one core

Two streams of games are played with the saved weights, which stay as they are; rollouts, returns
and losses are those of training, with the normaliser frozen. For the policy loss and the value
loss (neither entropy nor coefficient nor clipping) it prints the root mean square norm of one
update's gradient, and the share of its square that belongs to the mean gradient, with a standard
error, both in 1e-4. Less than two standard errors is nothing seen, and they are too small as far
as updates in a row resemble each other; nan: the loss does not reach this parameter.
1 / share - 1, in updates, is the simple noise scale of McCandlish et al. (2018), "An Empirical
Model of Large-Batch Training". Adam divides by the norm: a large one does not mean a large step.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # isort: skip  # before torch: sets the number of threads

import argparse
import functools
import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

import checkpoint
from agent import build_model
from environment import (
    CROP_TABLE,
    SKIP_RATE,
    Normalizer,
    as_trained,
    file_name,
    game_config,
    make_env,
    read_config,
)
from hogwild import Hogwild
from model import A3Clstm, flatten_parameters
from network import FastNetwork, why_plain
from options import recipe
from player import Game, Player
from shared_optim import SharedAdam
from train import a3c_loss, collect, returns_and_advantages
from utils import TRAIN, game_seed

LOSSES = ("policy", "value")
WARM_UP = 50  # rollouts that are not counted: all games begin together


class Signal:
    """Squared norm of the mean gradient, from two independent streams of gradients.

    A product of gradients from different streams has the expectation |mean|^2, however much
    those of one stream resemble each other. All pairs are used.
    """

    def __init__(self, sizes: list[int]):
        self.sizes = [*sizes, sum(sizes)]  # of each parameter, and of all together
        self.totals = torch.zeros(2, sum(sizes))  # (streams, P)
        self.product, self.spread, self.square = torch.zeros(3, len(self.sizes)).double()
        self.count = 0  # of gradients per stream

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """(P,) twice to their product in each parameter, and in all of them."""
        pairs = zip(a.split(self.sizes[:-1]), b.split(self.sizes[:-1]), strict=True)
        parts = torch.stack([x.dot(y) for x, y in pairs]).double()
        return torch.cat([parts, parts.sum()[None]])

    def add(self, a: Tensor, b: Tensor) -> None:
        """One gradient of each stream, (P,)."""
        new = self.dot(a, self.totals[1]) + self.dot(self.totals[0], b) + self.dot(a, b)
        self.product += new
        self.spread += new**2
        self.square += (self.dot(a, a) + self.dot(b, b)) / 2
        self.totals[0] += a
        self.totals[1] += b
        self.count += 1

    def norm(self) -> Tensor:
        """Root mean square of the gradient's norm; for each parameter, and for all."""
        return (self.square / self.count).sqrt()

    def share(self) -> tuple[Tensor, Tensor]:
        """|mean|^2 as a share of the mean square, and its standard error if it were zero."""
        scale = self.count * self.square
        return self.product / scale, self.spread.sqrt() / scale


class Repeatable(FastNetwork):
    """Whose gradient can be taken more than once: the rollout is acted again after each."""

    def begin(self) -> None:
        super().begin()
        self.acted: list[tuple[Tensor, ...]] = []

    def act(self, obs: Tensor, hx: Tensor, cx: Tensor) -> tuple[Tensor, ...]:
        self.acted.append((obs.clone(), hx.clone(), cx.clone()))
        return super().act(obs, hx, cx)

    def backward(self, d_values: Tensor, d_logits: Tensor, ended: Tensor) -> None:
        super().backward(d_values, d_logits, ended)
        for step in self.acted:
            super().act(*step)


def gradients(
    args: argparse.Namespace, model: A3Clstm, games: list[Game], count_lives: bool, stream: int
) -> Iterator[list[Tensor]]:
    """The gradient of each loss, (P,), rollout by rollout without end."""
    seeds = (game_seed(args.seed, TRAIN, stream, i) for i in itertools.count())
    weights, gradient = flatten_parameters(model)
    server = Hogwild(weights, SharedAdam, 1, num_optimizers=0)  # for what `collect` reports
    network = Repeatable(model, len(games), args.num_steps)
    player = Player(network, games, count_lives, learning=True)
    for row in range(len(games)):
        player.start(row, next(seeds))
    for number in itertools.count():
        rollout = collect(player, args.num_steps, 0, server, seeds)
        if number < WARM_UP:
            continue
        values, logits, actions, rewards, next_values, ended = rollout
        returns, advantages = returns_and_advantages(
            rewards, values, next_values, ended, args.gamma, args.tau, args.reward_ends_return
        )
        outputs = (values.requires_grad_(), logits.requires_grad_())
        loss = a3c_loss(*outputs, actions, returns, advantages)
        found = []
        for name in LOSSES:
            d_values, d_logits = torch.autograd.grad(
                getattr(loss, name), outputs, retain_graph=True, materialize_grads=True
            )
            gradient.zero_()
            network.backward(d_values, d_logits, ended)
            found.append(gradient.clone())
        yield found


def measure(args: argparse.Namespace) -> None:
    """Play, and print the table."""
    if args.tau is None:
        args.tau = recipe(args.env, args.envs_per_worker)["tau"]
    path = checkpoint.find_model(args.load_model_dir, file_name(args.env))
    state_dict, description = checkpoint.load_model(path)
    if description is None:
        raise ValueError(f"{path.with_suffix('.json')} is missing: it holds the normaliser")
    normalizer = Normalizer(np.array(checkpoint.normalizer_state(path, description)), frozen=True)
    config = game_config(read_config(CROP_TABLE), args.env)
    config = as_trained(config, description.get("game_config"))
    config |= {"actions": description["actions"]}
    skip_rate = description.get("skip_rate", SKIP_RATE)
    limit = description.get("max_episode_length")
    make = functools.partial(make_env, args.env, config, skip_rate, limit)
    streams = []
    for stream in range(2):
        model = build_model(path, state_dict, description, description["actions"])
        if reason := why_plain(model):
            raise ValueError(f"needs the kernels, but {reason}")
        games = [Game(make(), normalizer, reseed=False) for _ in range(args.envs_per_worker)]
        count_lives = description.get("count_lives", True)
        streams.append(gradients(args, model, games, count_lives, stream))
    names, sizes = zip(*((name, p.numel()) for name, p in model.named_parameters()), strict=True)
    signals = [Signal(list(sizes)) for _ in LOSSES]
    for _ in range(args.rollouts // 2):
        for signal, a, b in zip(signals, *map(next, streams), strict=True):
            signal.add(a, b)
    print(f"{args.env}, 2 x {args.rollouts // 2} rollouts of {args.num_steps} steps", end=" ")
    print(f"x {args.envs_per_worker} games, lambda {args.tau}; share of the mean in 1e-4")
    print(" " * 22 + "".join(f"{loss + ': norm':>15}       share   +-  " for loss in LOSSES))
    for i, name in enumerate([*names, "all"]):
        print(f"{name:22}", end="")
        for signal in signals:
            share, error = (1e4 * x[i] for x in signal.share())
            print(f"{signal.norm()[i]:15.3g} {share:11.2f} {error:6.2f}", end="")
        print()


def run() -> None:
    parser = utils.LineParser(prog=Path(__file__).name)
    number, fraction = utils.positive_int, utils.unit_interval
    parser.add_argument("--env", default="Pong-v0", metavar="ID", help="environment id")
    parser.add_argument("--load-model-dir", help="of the weights; as in gym_eval.py")
    parser.add_argument("--seed", type=utils.seed_int, default=1, help="of the games")
    parser.add_argument("--rollouts", type=number, default=1024, help="of both streams together")
    parser.add_argument("--num-steps", type=number, default=20, help="agent steps of a rollout")
    parser.add_argument("--envs-per-worker", type=number, default=8, help="games of a rollout")
    parser.add_argument("--gamma", type=fraction, default=0.99, help="discount factor")
    parser.add_argument("--tau", type=fraction, help="lambda of the advantages; as in main.py")
    utils.add_truth(parser, "--reward-ends-return", default=False, help="as in main.py")
    args = parser.parse_args()
    if args.rollouts < 4:
        parser.error("--rollouts: 4 or more")
    torch.set_num_threads(1)
    try:
        measure(args)
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    run()
