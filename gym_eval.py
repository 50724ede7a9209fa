"""Evaluate a saved model: `python gym_eval.py --env Pong-v0`.

Plays N whole games with one set of weights and prints each score, their mean and its standard
error. Game i draws its chance from (seed, i), so the same file plays the same games again; whether
published ones did is said at the end.
"""

from stopping import StopSignal

if __name__ == "__main__":
    stop_signal = StopSignal(at_once=True, code=130).install()  # the imports take seconds

import utils  # noqa: F401, I001  # before torch: sets the number of threads
import atexit
import gc

import options

if __name__ == "__main__":
    gc.disable()  # as in main.py
    atexit.register(gc.freeze)
    options.build_eval_parser().parse_args()  # --help and misspelt options end before torch

import argparse
import contextlib
import fcntl
import functools
import hashlib
import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

import checkpoint
from agent import Agent
from display import can_show, in_foreground, show_cursor
from environment import (
    MAX_NOOPS,
    SKIP_RATE,
    EnvSpec,
    check_skip_rate,
    file_name,
    has_chance,
    idle_limit,
    parse_env_id,
    require_screen,
)
from evaluation import play_in_processes
from monitor import require
from options import Policy
from player import BLOCK, Result, play_games
from record import EMULATOR_RATE, record_game
from utils import (
    EVALUATE,
    available_cores,
    count,
    format_time,
    game_seed,
    points,
    setup_logger,
)

gc.enable()

PARTS = {  # options that say more about another one, and their defaults
    "record": {
        "record_game": "first", "record_from": 0.0, "record_seconds": None, "record_panel": True,
    },
    "render": {"render_freq": 1},
}  # fmt: skip
REFRESHES = 10  # of the bar, per second
SIGN_SECONDS = 30  # without the end of a game, until a line says that games are running


class ShowEvery(gym.Wrapper):
    """Plays every `frequency`-th game in ale-py's window, the others out of sight."""

    def __init__(self, make: Callable[..., gym.Env], frequency: int, seed: int | None = None):
        self.shown, self.hidden = make(render_mode="human", seed=seed), make()
        self.numbers = itertools.cycle(range(frequency))
        super().__init__(self.shown)

    def reset(self, **options):
        self.env = self.hidden if next(self.numbers) else self.shown
        return super().reset(**options)


def division(args: argparse.Namespace) -> tuple[int, int]:
    """How many processes play, and how many games side by side in all of them together."""
    if args.render:
        return 1, 1
    processes = min(args.processes or available_cores(), -(-args.num_episodes // BLOCK))
    side_by_side = min(args.workers or BLOCK * processes, args.num_episodes)
    return min(processes, side_by_side), side_by_side


def protocol(
    args: argparse.Namespace,
    spec: EnvSpec,
    skip_rate: int,
    count_lives: bool,
    max_idle_steps: int | None,
    game_config: dict,
) -> dict:
    """How the games were played; with the model, all that decides about their scores."""
    limit, unit = spec.time_limit, "frames" if spec.no_frameskip else "agent steps"
    if args.max_episode_length:
        limit, unit = args.max_episode_length, "agent steps"
    if spec.no_frameskip:
        skip = [skip_rate]
    else:
        skip = [spec.frame_skip] if isinstance(spec.frame_skip, int) else [*range(*spec.frame_skip)]
    return {
        "frame_skip": skip,  # one of these at each step
        "repeat_action_probability": spec.repeat_action_probability,  # per frame
        "noops_at_start": [1, MAX_NOOPS] if spec.no_frameskip else 0,  # uniform
        "time_limit": f"{limit} {unit}",
        "max_idle_steps": max_idle_steps,  # agent steps without a reward
        "count_lives": count_lives,  # a lost life sets the LSTM's state to zero
        "game_config": game_config,  # what it sees of the screen; whether it presses FIRE
    }


def summarize(
    args: argparse.Namespace, results: Sequence[Result], agent: Agent, chance: bool
) -> dict:
    """The content of ENV_eval.json. standard_error: of the mean; None if there was one game."""
    scores = [result.score for result in sorted(results)]
    one_game = len({(r.score, r.length, r.action_hash) for r in results}) == 1
    no_error = len(scores) == 1 or (one_game and not chance)
    return {
        "env": args.env,
        "trained_on": agent.description.get("env"),  # None if nothing says it
        "episodes": len(scores),
        "seed": args.seed,
        "policy": policy_name(agent.greedy, agent.epsilon),
        **({"epsilon": agent.epsilon} if agent.epsilon else {}),
        "mean": float(np.mean(scores)),
        "standard_error": None if no_error else float(np.std(scores, ddof=1) / len(scores) ** 0.5),
        "median": float(np.median(scores)),
        "min": min(scores),
        "best": max(scores),
        "scores": scores,
        "lengths": [result.length for result in sorted(results)],  # agent steps
        "action_hashes": [result.action_hash for result in sorted(results)],  # sha256
        "cut_by_limit": sum(result.cut for result in results),  # games
        "versions": checkpoint.versions() | {"suite": checkpoint.commit()},
    }


# What of a summary was found; the rest is how it was asked for.
FOUND = {
    "mean", "standard_error", "median", "min", "best", "scores", "lengths", "action_hashes",
    "cut_by_limit", "versions", "speed", "trained_on",
}  # fmt: skip


def write_summary(path: Path, summary: dict) -> str:
    """In place of one of the same evaluation; any other is renamed. Returns a line that says so."""
    text, renamed = json.dumps(summary, indent=2) + "\n", ""
    with alone_in(path.parent):
        if path.exists():
            try:
                same = same_evaluation(json.loads(path.read_text(encoding="utf-8")), summary)
            except (OSError, ValueError, AttributeError):
                same = False
            if not same:
                ((_, aside),) = checkpoint.set_aside([path])
                renamed = f"{path} of another evaluation is now {aside.name}"
        checkpoint.write_atomically(path, lambda file: file.write(text.encode()))
    return renamed


def same_evaluation(old: dict, new: dict, but: Set[str] = frozenset()) -> bool:
    """Whether two summaries differ in nothing but what was found, and in these keys."""
    new = json.loads(json.dumps(new))  # as it is read from a file
    return all(old.get(key) == new[key] for key in new.keys() - FOUND - but)


def published_path(model: Path, policy: str, seed: int) -> Path:
    """Where the published evaluation of published weights is."""
    return model.parent / "evaluations" / f"{model.stem}.{policy}.{seed}.json"


def compare_with_published(model: Path, summary: dict) -> str:
    """A line on whether these games are those of the published evaluation; "" if there is none.

    model: the file of the weights. A part of the games can be compared, too.
    """
    path = published_path(model, summary["policy"], summary["seed"])
    if not path.exists():
        return ""
    known = json.loads(path.read_text(encoding="utf-8"))  # benchmarks/results.py has checked it
    if not same_evaluation(known, summary, but={"weights", "episodes"}):
        return ""
    pairs = list(zip(known["action_hashes"], summary["action_hashes"], strict=False))
    same, games = sum(old == new for old, new in pairs), count(len(pairs), "game")
    if same == len(pairs):
        return f"the same as published, action for action: {games}"
    published = f"{count(known['episodes'], 'game')}, "
    published += f"mean {spread(known['mean'], known['standard_error'])}"
    versions = known["versions"].items() - summary["versions"].items()
    others = ", ".join(f"{name} {version}" for name, version in sorted(versions) if name != "suite")
    return (
        f"action for action the same as published: {same} of {games}; published: {published}"
        + (f", with {others}" if others else "")
    )


def spread(mean: float, error: float | None) -> str:
    """error: the standard error; None if there is none."""
    return f"{mean:.4f}" + (f" ± {error:.4f} (standard error)" if error is not None else "")


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Other evaluations that end at this very moment wait. It leaves no file behind."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: no worse than without
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def histogram(scores: Sequence[float]) -> list[str]:
    """Lines of a bar chart of how often which scores occurred, in at most ten rows."""
    low, high = int(min(scores)), int(max(scores))  # Atari's scores are whole numbers
    if len(set(scores)) <= 10:
        rows = [(f"{score:,.0f}", scores.count(score)) for score in sorted(set(scores))]
    else:
        width = -(-(high + 1 - low) // 10)
        rows = [
            (f"{at:,} to {at + width - 1:,}", sum(at <= score < at + width for score in scores))
            for at in range(low, high + 1, width)
        ]
    margin, most = max(len(label) for label, _ in rows), max(count for _, count in rows)
    return [
        f"{label.rjust(margin)} | {'#' * -(-40 * count // most)} {count}" for label, count in rows
    ]


def report(summary: dict, num_episodes: int) -> list[str]:
    """The lines that close an evaluation; num_episodes: how many games it was to have."""
    error, skip = summary["standard_error"], summary["frame_skip"]
    interrupted = f"interrupted after {summary['episodes']} of {num_episodes}, the shortest: "
    lines = [
        (interrupted if summary["episodes"] < num_episodes else "")
        + f"{count(summary['episodes'], 'game')}, mean {spread(summary['mean'], error)}"
        f", median {points(summary['median'])}, min {points(summary['min'])}, "
        f"best {points(summary['best'])}"
    ]
    if len(set(summary["scores"])) > 1:
        lines += histogram(summary["scores"])
    idle = summary["max_idle_steps"]
    other = summary["trained_on"] not in (summary["env"], None)
    lines += [
        f"{summary['env']} after {checkpoint.in_words(summary['agent_steps'])} agent steps of "
        + (f"training on {summary['trained_on']}, " if other else "training, ")
        + f"{actions(summary['policy'], summary.get('epsilon'))}, seed {summary['seed']}, "
        f"skip of {' or '.join(map(str, skip))} frames, "
        f"sticky actions {summary['repeat_action_probability']:g}, at most {summary['time_limit']}"
        + (f", {idle} without a reward" if idle else ""),
        f"{sum(summary['lengths'])} agent steps, {summary['speed']:.0f} steps/s",
    ]
    if cut := summary["cut_by_limit"]:
        lines.append(f"{count(cut, 'game')} cut by a limit before the end")
    if error is None and summary["episodes"] > 1:
        lines.append(f"{summary['env']} has no chance in it: all games were one and the same game")
    return lines


class SignOfLife:
    """Logs a line when no game has ended for SIGN_SECONDS, nor such a line has been logged."""

    def __init__(self, logger: logging.Logger):
        self.logger = logger
        self.game_ended()

    def game_ended(self) -> None:
        self.next = time.monotonic() + SIGN_SECONDS

    def step(self, running: int, steps: int) -> None:
        if time.monotonic() >= self.next:
            self.logger.info(f"{running} games running, {steps} agent steps so far")
            self.next = time.monotonic() + SIGN_SECONDS


class Above(logging.Handler):
    """Prints lines above a bar, as they are."""

    def __init__(self, console: Console):
        super().__init__()
        self.console = console

    def emit(self, record):
        self.console.print(Text(self.format(record)), soft_wrap=True)


@contextlib.contextmanager
def progress_bar(
    console: Console, total: int, stop_signal: StopSignal
) -> Iterator[Callable[..., None]]:
    """Show a bar below what is printed; call what it yields often, and with how much more is done.

    It is drawn REFRESHES times a second, and not while the terminal is the shell's.
    """
    due = 0.0
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("remaining"), TimeRemainingColumn(),
    )  # fmt: skip
    progress = Progress(
        *columns, console=console, transient=True, auto_refresh=False, redirect_stdout=False
    )

    def advance(text: str | None = None, parts: int = 0) -> None:
        nonlocal due
        if parts:
            progress.update(task, advance=parts, description=text)
        if time.monotonic() >= due and in_foreground(console):
            progress.refresh()
            due = time.monotonic() + 1 / REFRESHES

    with stop_signal.leaving(functools.partial(show_cursor, console)), progress:
        task = progress.add_task("", total=total)
        yield advance


@contextlib.contextmanager
def no_bar(*arguments) -> Iterator[Callable[..., None]]:
    yield lambda text=None, parts=0: None


def check(args: argparse.Namespace) -> tuple[EnvSpec, list[Policy]]:
    """What the id says, and how to play; fills in the id and PARTS where they were not given.

    ValueError: one line about what is wrong with the options.
    """
    policies = options.policies(args)
    for whole, parts in PARTS.items():
        for part, default in parts.items():
            if getattr(args, part) is None:
                setattr(args, part, default)
            elif not getattr(args, whole):
                raise ValueError(f"{options.as_typed(part)} goes with --{whole}; give both")
    if args.load_model and args.last:
        raise ValueError("--load-model says which file to play; leave out --last")
    if args.env is None:
        path = args.load_model
        args.env = checkpoint.trained_on(path, checkpoint.load_any(path)[1]) if path else "Pong-v0"
    if args.record:
        require("av", "--record needs PyAV")
        if len(policies) > 1:
            raise ValueError("--record shows a game of one policy; ask for one at a time")
        folder = args.record.parent
        made = folder.resolve() == Path(args.log_dir).resolve()  # before the first game
        if not made and not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise ValueError(f"{folder}: no folder that can be written")
        if args.record.exists() and not args.record.is_file():
            raise ValueError(f"{args.record}: not a file")
        if args.record_game not in ("first", "best") and args.record_game >= args.num_episodes:
            raise ValueError(
                f"--record-game {args.record_game}: the games are 0 to {args.num_episodes - 1}"
            )
    if args.render:
        if (args.workers or 1) > 1 or (args.processes or 1) > 1:
            raise ValueError("--render plays one game at a time; leave out --workers, --processes")
        require_screen()
    spec = parse_env_id(args.env)
    check_skip_rate(spec, args.skip_rate)
    return spec, policies


def introduce(path: Path, agent: Agent, env_id: str) -> list[str]:
    """Lines about what is going to play."""
    description = agent.description
    lines = checkpoint.introduce(path, description, env_id)
    shipped = checkpoint.PUBLISHED / path.name
    if shipped.exists() and not path.resolve().is_relative_to(checkpoint.PUBLISHED.resolve()):
        lines[0] += "; --published plays the shipped ones"
    if not description:
        lines.append("no description beside it: each game starts a normaliser of its own")
    if agent.slow_because:
        lines.append(f"{agent.slow_because}: playing in plain PyTorch, several times slower")
    return lines


def policy_name(greedy: bool, epsilon: float) -> str:
    """What the summary calls it."""
    return "epsilon-greedy" if epsilon else "greedy" if greedy else "sampled"


def actions(policy: str, epsilon: float | None) -> str:
    """'greedy actions'; 'epsilon-greedy actions (0.01 at random)'."""
    return f"{policy} actions" + (f" ({epsilon:g} at random)" if epsilon else "")


def evaluate(args: argparse.Namespace, stop_signal: StopSignal) -> int:
    """Play, log and summarise, with each policy in turn; returns the exit code.

    ValueError: one line about what is wrong with the arguments.
    """
    spec, policies = check(args)
    name = file_name(spec.env_id)
    path = args.load_model or checkpoint.find_model(
        args.load_model_dir, name, args.published, args.last
    )
    agent = Agent.load(
        path,
        args.env,
        env_config=args.env_config,
        skip_rate=args.skip_rate,
        max_episode_length=args.max_episode_length,
        max_idle_steps=args.max_idle_steps,
        hidden_size=args.hidden_size,
        plain=args.plain,
    )
    # With a description it is that of what was loaded, even if a run has replaced the file since.
    sha256 = agent.description.get("sha256") or hashlib.sha256(path.read_bytes()).hexdigest()

    stop_signal.at_once = False  # from now on the games ask for it
    os.makedirs(args.log_dir, exist_ok=True)
    console = Console()
    log = Path(args.log_dir, f"{name}_mon_log")
    terminal = Above(console) if can_show(console) else None
    logger = setup_logger(log.name, log, terminal=terminal)
    for line in introduce(path, agent, args.env):
        logger.info(line)
    weights = {"weights": path.name, "sha256": sha256}
    for policy in policies:
        if policy.greedy is not None:
            agent.greedy = policy.greedy
        agent.epsilon = policy.epsilon
        ending = ""
        if len(policies) > 1:
            called = policy_name(agent.greedy, agent.epsilon)
            ending = f".{called}" + (f"-{agent.epsilon:g}" if agent.epsilon else "")
        summary_path = Path(args.log_dir, f"{name}_eval{ending}.json")
        code = evaluate_policy(
            args, spec, agent, weights, summary_path, logger, console, stop_signal
        )
        if code:
            break
    return code


def evaluate_policy(
    args: argparse.Namespace,
    spec: EnvSpec,
    agent: Agent,
    weights: dict,
    summary_path: Path,
    logger: logging.Logger,
    console: Console,
    stop_signal: StopSignal,
) -> int:
    """Play as the agent does now, log and summarise; returns the exit code.

    weights: what the summary says about the agent's.
    """
    description, greedy, epsilon = agent.description, agent.greedy, agent.epsilon
    why = ""
    if "policy" in description:
        why = f" (the weights were chosen for {description['policy']} ones)"
    logger.info(actions(policy_name(greedy, epsilon), epsilon) + why)
    bar = progress_bar if can_show(console) and not args.render else no_bar
    sign = SignOfLife(logger)
    results: list[Result] = []
    started = time.monotonic()
    processes, side_by_side = division(args)
    play = functools.partial(
        play_games,
        agent.model,
        functools.partial(ShowEvery, agent.make_env, args.render_freq)
        if args.render
        else agent.make_env,
        [game_seed(args.seed, EVALUATE, i) for i in range(args.num_episodes)],
        agent.normalizer,
        agent.count_lives,
        greedy,
        epsilon=epsilon,
    )
    with bar(console, args.num_episodes, stop_signal) as advance:
        for result in play_in_processes(
            play,
            args.num_episodes,
            processes,
            side_by_side,
            should_stop=lambda: stop_signal.received,
            on_step=sign.step if bar is no_bar else lambda running, steps: advance(),
            plain=agent.plain,
        ):
            results.append(result)
            sign.game_ended()
            mean = np.mean([r.score for r in results])
            logger.info(
                f"game {result.index}, reward sum: {points(result.score)}, length {result.length}, "
                f"reward mean: {mean:.4f}"
            )
            advance(f"mean {mean:.2f}", 1)
    if not results:
        logger.info("interrupted before any game was over")
        return 130
    results.sort()
    skip_rate = args.skip_rate or description.get("skip_rate", SKIP_RATE)
    idle = idle_limit(args.max_idle_steps, spec, agent.actions)
    summary = {
        **summarize(args, results, agent, has_chance(spec, agent.actions, greedy and not epsilon)),
        **protocol(args, spec, skip_rate, agent.count_lives, idle, agent.game_config),
        "agent_steps": checkpoint.all_steps(description),  # of training
        **weights,
        "speed": round(sum(r.length for r in results) / (time.monotonic() - started), 1),
    }
    for line in report(summary, args.num_episodes):
        logger.info(line)
    if len(results) < args.num_episodes:
        return 130  # the last complete evaluation's summary stays
    if renamed := write_summary(summary_path, summary):
        logger.info(renamed)
    if line := compare_with_published(agent.path, summary):
        logger.info(line)
    if not args.record:
        return 0
    if args.record_game == "best":
        shown = max(results, key=lambda result: result.score)
    else:
        shown = results[0 if args.record_game == "first" else args.record_game]
    with bar(console, shown.length, stop_signal) as advance:
        return record(args, agent, shown, logger, lambda: advance("recording", 1), stop_signal)


def record(
    args: argparse.Namespace,
    agent: Agent,
    shown: Result,
    logger: logging.Logger,
    on_step: Callable[[], None],
    stop_signal: StopSignal,
) -> int:
    """Write the video of this game; returns the exit code."""
    recorded = record_game(
        args.record,
        agent,
        args.seed,
        shown.index,
        args.record_panel,
        args.record_from,
        args.record_seconds,
        on_step=on_step,
        should_stop=lambda: stop_signal.received,
    )
    if recorded is None:
        logger.info(f"interrupted: {args.record} was not written")
        return 130
    score, length, frames = recorded
    logger.info(
        f"{args.record}: game {shown.index}, score {points(score)}, {frames} frames, "
        f"{format_time(frames / EMULATOR_RATE)}"
    )
    if (score, length) != (shown.score, shown.length):
        other = points(shown.score)
        logger.error(f"this is not the game of the evaluation, whose score was {other}")
        return 1
    return 0


def main(argv: Sequence[str] | None, stop_signal: StopSignal) -> int:
    """Run gym_eval.py with these arguments; returns the exit code."""
    args = options.build_eval_parser().parse_args(argv)
    torch.set_num_threads(1)
    try:
        return evaluate(args, stop_signal)
    except (ValueError, OSError) as error:
        print(f"gym_eval.py: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(None, stop_signal))
