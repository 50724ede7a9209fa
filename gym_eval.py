"""Evaluate a saved model: `python gym_eval.py --env Pong-v0`.

Plays N whole games with one set of weights and prints each score, their mean and its standard
error. Game i draws its chance from (seed, i), so anybody gets the same scores from the same file.
"""

from stopping import StopSignal

if __name__ == "__main__":
    stop_signal = StopSignal().install()  # the imports take seconds

import utils  # noqa: F401, I001  # before torch: sets the number of threads

import argparse
import functools
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

import checkpoint
from environment import (
    EnvSpec,
    Normalizer,
    file_name,
    game_config,
    make_env,
    parse_env_id,
    read_config,
)
from model import A3Clstm
from player import Result, play_games
from utils import (
    EVALUATE,
    LineParser,
    add_truth,
    game_seed,
    seed_int,
    positive_int,
    setup_logger,
)


def build_parser() -> LineParser:
    parser = LineParser(prog="gym_eval.py", description="Evaluate a saved A3C-LSTM model.")
    games = parser.add_argument_group("games")
    games.add_argument("-ev", "--env", default="Pong-v0", metavar="ID", help="environment id")
    games.add_argument(
        "-ne", "--num-episodes", type=positive_int, default=100, metavar="N",
        help="games to play",
    )
    games.add_argument(
        "--workers", type=positive_int, default=8, metavar="N",
        help="games side by side; the scores do not depend on it",
    )
    games.add_argument(
        "-s", "--seed", type=seed_int, default=1, metavar="S", help="random seed"
    )
    add_truth(
        games, "--stochastic", default=False,
        help="sample actions from the policy instead of taking the most probable one",
    )

    model = parser.add_argument_group("model and files")
    model.add_argument(
        "-lmd", "--load-model-dir", default="trained_models/", metavar="DIR",
        help="folder of the model, ENV.dat",
    )
    model.add_argument(
        "-hs", "--hidden-size", type=positive_int, metavar="N",
        help="LSTM units (default: what the model has)",
    )
    model.add_argument(
        "-lgd", "--log-dir", default="logs/", metavar="DIR", help="folder for logs"
    )

    environment = parser.add_argument_group("environment")
    environment.add_argument(
        "-evc", "--env-config", default=str(Path(__file__).with_name("config.json")),
        metavar="FILE", help="crop table",
    )
    environment.add_argument(
        "-mel", "--max-episode-length", type=positive_int, metavar="N",
        help="agent steps after which a game is cut (default: the limit of the id)",
    )
    environment.add_argument(
        "-sk", "--skip-rate", type=positive_int, metavar="N",
        help="frames per agent step of NoFrameskip ids (default: that of the training)",
    )

    watching = parser.add_argument_group("watching")
    add_truth(
        watching, "-r", "--render", default=False,
        help="show the games in ale-py's window, one after the other",
    )
    watching.add_argument(
        "-rf", "--render-freq", type=positive_int, default=1, metavar="N",
        help="with --render, show every Nth game",
    )
    return parser


class ShowEvery(gym.Wrapper):
    """Plays every `frequency`-th game in ale-py's window, the others out of sight."""

    def __init__(self, make: Callable[..., gym.Env], frequency: int, seed: int | None = None):
        self.shown, self.hidden = make(render_mode="human", seed=seed), make()
        self.numbers = itertools.cycle(range(frequency))
        super().__init__(self.shown)

    def reset(self, **options):
        self.env = self.hidden if next(self.numbers) else self.shown
        return super().reset(**options)


def build_model(path: Path, state_dict: dict, actions: list[str], hidden_size: int | None):
    """The network with these weights. ValueError: one line, if they are for something else."""
    found_actions, found_size = state_dict["actor_linear.weight"].shape
    if found_actions != len(actions):
        raise ValueError(
            f"{path}: for {found_actions} actions, but this game has {len(actions)}: "
            f"{' '.join(actions)}"
        )
    if hidden_size not in (None, found_size):
        raise ValueError(f"{path}: has {found_size} LSTM units, not --hidden-size {hidden_size}")
    model = A3Clstm(found_actions, found_size)
    checkpoint.load_weights(path, model, state_dict)
    return model.eval()


def has_chance(spec: EnvSpec, actions: list[str], greedy: bool) -> bool:
    """Whether games can differ: by skip, stickiness, no-ops at the start, or sampled actions."""
    noops = spec.no_frameskip and "NOOP" in actions
    skips = not isinstance(spec.frame_skip, int)
    return noops or skips or spec.repeat_action_probability > 0 or not greedy


def summarize(args: argparse.Namespace, results: Sequence[Result], chance: bool) -> dict:
    """The content of ENV_eval.json. standard_error: of the mean; None if there was one game."""
    scores = [result.score for result in sorted(results)]
    one_game = len({(r.score, r.length, r.actions) for r in results}) == 1
    no_error = len(scores) == 1 or (one_game and not chance)
    return {
        "env": args.env,
        "episodes": len(scores),
        "seed": args.seed,
        "policy": "sampled" if args.stochastic else "greedy",
        "mean": float(np.mean(scores)),
        "standard_error": None if no_error else float(np.std(scores, ddof=1) / len(scores) ** 0.5),
        "best": max(scores),
        "scores": scores,
        "lengths": [result.length for result in sorted(results)],  # agent steps
        "actions": [result.actions for result in sorted(results)],  # sha256 of each game's actions
        "versions": checkpoint.versions(),
    }


def evaluate(args: argparse.Namespace, stop_signal: StopSignal) -> int:
    """Play, log and summarise. ValueError: one line about what is wrong with the arguments."""
    spec = parse_env_id(args.env)
    name = file_name(spec.env_id)
    path = Path(args.load_model_dir, f"{name}.dat")
    config = game_config(read_config(args.env_config), args.env)
    state_dict, description = checkpoint.load_model(path)
    trained = description or {}
    if description:  # the actions that it was trained with, whatever the crop table says now
        config = config | {"actions": trained["actions"]}
    make = functools.partial(
        make_env,
        args.env,
        config,
        args.skip_rate or trained.get("skip_rate", 4),
        args.max_episode_length,
    )
    actions = make().action_meanings
    model = build_model(path, state_dict, actions, args.hidden_size)
    normalizer = None
    if description:
        state = np.array(checkpoint.normalizer_state(path, description))
        normalizer = Normalizer(state, frozen=True)

    os.makedirs(args.log_dir, exist_ok=True)
    logger = setup_logger(f"{name}_mon_log", Path(args.log_dir, f"{name}_mon_log"))
    logger.info(f"{path}: {trained.get('agent_steps', 'unknown number of')} agent steps")
    if not description:
        logger.info("no description beside it: each game starts a normaliser of its own")
    started = time.monotonic()
    results: list[Result] = []
    for result in play_games(
        model,
        functools.partial(ShowEvery, make, args.render_freq) if args.render else make,
        [game_seed(args.seed, EVALUATE, i) for i in range(args.num_episodes)],
        normalizer,
        trained.get("count_lives", True),
        greedy=not args.stochastic,
        side_by_side=1 if args.render else args.workers,
        should_stop=lambda: stop_signal.received,
    ):
        results.append(result)
        logger.info(
            f"game {result.index}, reward sum: {result.score:g}, length {result.length}, "
            f"reward mean: {np.mean([r.score for r in results]):.4f}"
        )
    if not results:
        return 130
    summary = summarize(args, results, has_chance(spec, actions, not args.stochastic))
    error = summary["standard_error"]
    logger.info(
        f"{len(results)} games, mean {summary['mean']:.4f}"
        + (f" ± {error:.4f} (standard error)" if error is not None else "")
        + f", best {summary['best']:g}, {summary['policy']} actions, seed {args.seed}, "
        f"{sum(summary['lengths']) / (time.monotonic() - started):.0f} steps/s"
    )
    if error is None and len(results) > 1:
        logger.info(f"{args.env} has no chance in it: all games were one and the same game")
    if len(results) < args.num_episodes:
        return 130  # interrupted: the last complete evaluation's summary stays
    text = json.dumps(summary, indent=2) + "\n"
    checkpoint.write_atomically(
        Path(args.log_dir, f"{name}_eval.json"), lambda file: file.write(text.encode())
    )
    return 0


def main(argv: Sequence[str] | None, stop_signal: StopSignal) -> int:
    """Run gym_eval.py with these arguments; returns the exit code."""
    args = build_parser().parse_args(argv)
    torch.set_num_threads(1)
    try:
        return evaluate(args, stop_signal)
    except (ValueError, OSError) as error:
        print(f"gym_eval.py: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(None, stop_signal))
