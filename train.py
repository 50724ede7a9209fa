"""One worker: sync, rollout, loss, share gradients, step.

Mnih et al. (2016), "Asynchronous Methods for Deep Reinforcement Learning"; the advantage of
Schulman et al. (2016), "High-Dimensional Continuous Control Using Generalized Advantage
Estimation".

Three things are not obvious. The loss is a sum over the steps and games of a rollout, not a mean:
the limit of the gradient's norm and the learning rate belong to that. It is differentiated to the
network's values and logits first, and network.py takes the gradient from there to the weights, so
that plain PyTorch and the kernels share everything above it. The LSTM state goes on from rollout to
rollout as a constant, where the gradient is cut; it is zero where a training episode begins.
"""

import itertools
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from environment import Normalizer
from hogwild import Hogwild
from model import flatten_parameters, make_model
from network import make_network
from player import Game, Player, Step, env_seed
from processes import become_child
from schedule import value_at
from utils import TRAIN, game_seed

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
ANNEALED = 0.1  # share of the learning rate that is left after --anneal-steps


class Rollout(NamedTuple):
    """T steps of E games, T <= num_steps."""

    values: Tensor  # (T, E) V of the observation acted upon
    logits: Tensor  # (T, E, actions)
    actions: Tensor  # (T, E)
    rewards: Tensor  # (T, E) clipped to [-1, 1]
    next_values: Tensor  # (T, E) V of what followed, before any reset; 0 after a true end
    ended: Tensor  # (T, E) bool, the training episode ended with this step


def returns_and_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    ended: Tensor,
    gamma: float,
    gae_lambda: float,
    reward_ends_return: bool = False,
) -> tuple[Tensor, Tensor]:
    """n-step discounted returns and generalised advantages, each (T, E).

        R_t = r_t + gamma R_(t+1),  R_T = V(s_T)                     Mnih et al. 2016, algorithm S3
        delta_t = r_t + gamma V(s_(t+1)) - V(s_t)
        A_t = delta_t + gamma lambda A_(t+1),  A_T = 0               Schulman et al. 2016, eq. 16

    Values learn R, as in the classic suite, not A + V; with value_mean_step, R as in
    relative_to_others. With lambda 1 A_t is R_t - V(s_t), the paper's. A return runs to the end of
    the rollout or of the episode, whichever is first, and adds `next_values` there. Nothing flows
    across an end. Arguments as in Rollout.
    reward_ends_return: it ends with the first reward that is not 0, too, and adds nothing there.
    """
    if reward_ends_return:
        scored = rewards != 0
        next_values, ended = torch.where(scored, 0.0, next_values), ended | scored
    returns, advantages = torch.empty_like(rewards), torch.empty_like(rewards)
    following = next_values[-1]
    advantage = torch.zeros_like(following)
    for t in reversed(range(len(rewards))):
        following = rewards[t] + gamma * torch.where(ended[t], next_values[t], following)
        delta = rewards[t] + gamma * next_values[t] - values[t]
        advantage = delta + gamma * gae_lambda * torch.where(ended[t], 0.0, advantage)
        returns[t], advantages[t] = following, advantage
    return returns, advantages


def relative_to_others(returns: Tensor, bias: Tensor) -> Tensor:
    """(T, E) what values learn where the bias of their head follows the mean of the returns.

    A return's difference from the mean of all games at that step, on top of the bias. Nothing in
    it asks all values to rise: Adam would move every weight of the LSTM at full step for that, far
    faster than the bias, and saturate it where returns are large. The mean is taken step by step
    because a return has the fewer rewards in it the later its step, so that within a rollout the
    errors of all games slope together.
    """
    return returns - returns.mean(1, keepdim=True) + bias


def layer_gradients(model: nn.Module) -> Iterator[Tensor]:
    """Views (units, inputs) of the gradients that `centralize` is for: of all weights of a network
    but those of norms, embeddings and transposed convolutions, and of units with one input."""
    for module in model.modules():
        if isinstance(module, (*CONVOLUTIONS, nn.Linear, nn.RNNCellBase, nn.RNNBase)):
            for name, parameter in module.named_parameters(recurse=False):
                if name.startswith("weight") and parameter[0].numel() > 1:
                    yield parameter.grad.flatten(1)


def centralize(gradients: Iterable[Tensor]) -> None:
    """Take off the gradient of each unit its mean over the unit's inputs, in place.

    gradients: (units, inputs) each.

    Gradient centralization (Yong et al., 2020). Where a ReLU has left no input below 0, what the
    inputs have in common asks all weights of a unit to move the same way, and Adam moves each at
    full step: in Breakout-v0 half of conv4's filters are dead after fifty updates without this.
    """
    for gradient in gradients:
        gradient -= gradient.mean(1, keepdim=True)


class Loss(NamedTuple):
    """Parts of the loss, each summed over all steps and games."""

    policy: Tensor  # () without the entropy bonus
    value: Tensor  # ()
    entropy: Tensor  # () of the policy, in nats

    def total(self, entropy_coef: float, value_coef: float) -> Tensor:
        return self.policy - entropy_coef * self.entropy + value_coef * self.value


def a3c_loss(
    values: Tensor, logits: Tensor, actions: Tensor, returns: Tensor, advantages: Tensor
) -> Loss:
    """The loss of a rollout, summed over its steps t and games.

        policy = - sum log pi(a_t | s_t) A_t,  value = 1/2 sum (R_t - V(s_t))^2
        entropy = - sum pi log pi

    values, actions, returns, advantages: (T, E); logits: (T, E, actions). The gradient flows
    through values and logits only.
    """
    log_pi = F.log_softmax(logits, -1)
    entropy = -(log_pi.exp() * log_pi).sum(-1)  # (T, E)
    log_prob = log_pi.gather(-1, actions.unsqueeze(-1)).squeeze(-1)  # (T, E)
    value_loss = 0.5 * (returns - values).pow(2)  # (T, E)
    return Loss(-(log_prob * advantages).sum(), value_loss.sum(), entropy.sum())


def collect(
    player: Player,
    num_steps: int,
    rank: int,
    server: Hogwild,
    seeds: Iterator[np.random.SeedSequence],
) -> Rollout | None:
    """Act for num_steps steps; with a single game, at most until its training episode ends.

    seeds: of the games that begin where one is over. None if the run stops in the middle.
    """
    steps: list[Step] = []
    player.begin()
    for _ in range(num_steps):
        if server.stopped:
            return None
        before = player.steps
        steps.append(player.step(greedy=False))
        for row, game in enumerate(player.games):
            if game.over:
                server.report_game(rank, game.score, game.length, player.steps - before)
                player.start(row, next(seeds))
        server.report(rank, steps=player.steps - before)
        if len(player.games) == 1 and bool(steps[-1].terminated | steps[-1].truncated):
            break
    values, logits, actions, rewards, terminated, truncated, cut_values = map(
        torch.stack, zip(*steps, strict=True)
    )
    # Where a step ended an episode, what is next here belongs to another one, or to a new game: the
    # two lines below put what follows the end in its place, the value at the cut or 0.
    next_values = torch.cat([values[1:], player.value()[None]])
    next_values = torch.where(truncated, cut_values, next_values)
    next_values = torch.where(terminated, 0.0, next_values)
    ended = terminated | truncated
    return Rollout(values, logits, actions, rewards.clamp(-1, 1), next_values, ended)


def scheduled(args: Namespace, steps: int) -> tuple[float, float, float]:
    """Learning rate, gamma and entropy coefficient after so many agent steps of the run.

    A constant learning rate falls linearly over args.anneal_steps, and stays at its lowest.
    """
    lr, gamma, entropy_coef = (
        value_at(value, steps, args.schedule_steps)
        for value in (args.lr, args.gamma, args.entropy_coef)
    )
    progress = min(1.0, steps / args.anneal_steps) if args.anneal_steps else 0.0
    return lr * (1 - (1 - ANNEALED) * progress), gamma, entropy_coef


def train(
    rank: int, args: Namespace, server: Hogwild, make_env: Callable[..., gym.Env]
) -> None:
    """Train until the run stops. Worker `rank` of a run with the options of main.py.

    server: what the processes share; no process of its own.
    make_env: makes one environment, whose observations are (80, 80) uint8 pictures.
    FloatingPointError: the gradient is not finite; the shared weights are left as they were.
    """
    normalizer = Normalizer(server.normalizers[rank])
    # A worker that replaces a dead one, or a resumed run, does not play the same games again.
    origin = server.first_step + int(server.figures["steps"][rank])
    seeds = (game_seed(args.seed, TRAIN, rank, origin, i) for i in itertools.count())
    first_seeds = list(itertools.islice(seeds, args.envs_per_worker))
    games = [
        Game(make_env(seed=env_seed(seed)), normalizer, reseed=False) for seed in first_seeds
    ]
    model = make_model(int(games[0].env.action_space.n), args.hidden_size)
    weights, gradient = flatten_parameters(model)  # the model's parameters are views of these
    eye = next((m for m in model.modules() if isinstance(m, CONVOLUTIONS)), model)
    eye = next(eye.parameters())  # what sees the picture
    matrices = list(layer_gradients(model)) if args.gradient_centralization else []
    lengths = args.distributed_step_size or [args.num_steps]
    num_steps = lengths[rank % len(lengths)]
    network = make_network(model, len(games), num_steps, args.plain)
    player = Player(network, games, args.count_lives, learning=True)
    if args.value_mean_step:
        value_bias = model.critic_linear.bias.detach()  # a view of weights
        bias_place = value_bias.storage_offset()

    for row, seed in enumerate(first_seeds):
        player.start(row, seed)
    server.report(rank, steps=player.steps)

    while not server.stopped:
        server.pull(weights)
        rollout = collect(player, num_steps, rank, server, seeds)
        if rollout is None:
            break
        values, logits, actions, rewards, next_values, ended = rollout
        lr, gamma, entropy_coef = scheduled(args, server.steps)
        returns, advantages = returns_and_advantages(
            rewards, values, next_values, ended, gamma, args.tau, args.reward_ends_return
        )
        values.requires_grad_()  # only now: returns and advantages are constants
        logits.requires_grad_()
        targets = relative_to_others(returns, value_bias) if args.value_mean_step else returns
        loss = a3c_loss(values, logits, actions, targets, advantages)
        d_values, d_logits = torch.autograd.grad(
            loss.total(entropy_coef, args.value_coef), (values, logits)
        )
        gradient.zero_()
        network.backward(d_values, d_logits, ended)  # on to the weights: adds to `gradient`
        centralize(matrices)
        if args.value_mean_step:
            gradient[bias_place] = 0  # it goes its own way, below
        norm = float(gradient.norm())
        server.report_gradient(rank, norm)
        if norm > args.max_grad_norm:
            gradient *= args.max_grad_norm / norm
        server.push(gradient, rank, lr)
        if args.value_mean_step:
            server.approach(bias_place, returns.mean(), args.value_mean_step)
        steps, policy = values.numel(), torch.softmax(logits.detach(), -1)
        server.report(
            rank,
            updates=1,
            policy_loss=loss.policy.item() / steps,
            value_loss=loss.value.item() / steps,
            entropy=loss.entropy.item() / steps,
            policy_deviation=policy.flatten(0, 1).std(0, correction=0).mean().item(),
            cell=player.cx.abs().mean().item(),
            value=values.mean().item(),
            grad_norm=norm,
            clipped=norm > args.max_grad_norm,
            learning_rate=lr,
            blind=norm > 0 and not eye.grad.any(),
        )


def train_process(
    rank: int,
    args: Namespace,
    server: Hogwild,
    make_env: Callable[..., gym.Env],
    errors_to: str | None = None,
) -> None:
    """`train` as the body of a process; errors_to: see processes.become_child."""
    become_child(f"Train Agent: {rank}", errors_to)
    try:
        train(rank, args, server, make_env)
    except FloatingPointError as error:
        sys.exit(f"worker {rank}: {error}")
