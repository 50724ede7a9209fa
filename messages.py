"""What a training run tells the person: at its beginning, on its way and at its end."""

import argparse
import contextlib
import shlex
import sys
from pathlib import Path

import checkpoint
import options
from environment import CROP_TABLE
from hogwild import Hogwild
from monitor import Figures
from run import Run
from schedule import FOR_EVER, is_schedule, value_at
from utils import available_cores, count, format_time, memory_limit, points


def beginning(run: Run) -> list[str]:
    """The first lines of the log: the options, where the weights are from, what is unusual."""
    args = run.args
    lines = []
    if run.resumed:
        lines.append(f"resumed at agent step {run.server.first_step}: {run.description['command']}")
    lines += [f"{name}: {value}" for name, value in vars(args).items()]
    lines += run.introduction
    moving = [
        name
        for name in options.SCHEDULED
        if is_schedule(vars(args)[name]) or (name == "lr" and args.anneal_steps)
    ]
    if args.load and moving:
        names = ", ".join(map(options.as_typed, moving))
        lines.append(f"--load begins at agent step 0, and so do the schedules of {names}")
    if run.outdated:
        lines.append(f"{run.outdated}; those weights are now {run.set_aside[0][1]}")
    if run.description["policy"] == "sampled":
        idle = run.description["max_idle_steps"]
        cut = f"; a game is cut after {idle} agent steps without a reward" if idle else ""
        lines.append(
            f"{args.env} has no chance in it: evaluations sample their actions, for a greedy "
            f"agent would play the same game over and over{cut}"
        )
    if args.env_config and not CROP_TABLE.samefile(args.env_config):
        has = run.description["game_config"]
        lines.append(f"{args.env_config} is in place of all of {CROP_TABLE.name}: here {has}")
    cores = available_cores()
    workers = options.workers_here(args)
    if workers > cores:
        games = workers * args.envs_per_worker
        lines.append(
            f"{workers} workers are more than {cores} cores: faster with as many games is "
            f"--workers {cores} --envs-per-worker {-(-games // cores)}"
        )
    return lines


def slow(because: str) -> str:
    """A line, if there is a reason; see network.why_plain."""
    return because and f"{because}: training in plain PyTorch, several times slower"


def too_little_memory(args: argparse.Namespace) -> str:
    """A line if all processes together may need more than there is; empty if there is enough.

    For all, for a worker and for a step of a game: a little more than benchmarks/README.md has.
    """
    samples = (max(args.distributed_step_size or [args.num_steps]) + 1) * args.envs_per_worker
    workers = options.workers_here(args)
    needed = 0.87e9 + workers * (68e6 + 0.5e6 * samples)
    limit = memory_limit()
    if needed <= limit:
        return ""
    return (
        f"{count(workers, 'worker')} x {count(args.envs_per_worker, 'game')} need about "
        f"{needed / 1e9:.1f} GB of memory, but there are {limit / 1e9:.1f} GB, and a system that "
        "runs out of it kills processes: give fewer --workers or --envs-per-worker"
    )


def progress(
    server: Hogwild, figures: Figures, machines: str = "", earlier_games: int = 0
) -> str:
    """What the log says about a time in which figures.games training games ended.

    machines: what cluster.Cluster.summary says of those of a run.
    earlier_games: training games of earlier sessions.
    """
    games = earlier_games + int(server.figures["games"].sum())
    line = (
        f"Time {format_time(server.seconds)}, agent steps {server.steps}, "
        f"{figures.speed:.1f} steps/s, {games} training games"
    )
    if figures.games:
        line += f", mean score of the last {figures.games}: {figures.score:.2f}"
    line += f", policy deviation {figures.policy_deviation:.4f}, mean |cx| {figures.cell:.2f}"
    return f"{line}, machines: {machines}" if machines else line


def same_policy(steps: int, figures: Figures) -> str:
    """What the log says where monitor.watch_policy has noticed that for so many agent steps."""
    return (
        f"the policy has hardly differed between observations for {steps:,} agent steps "
        f"(deviation {figures.policy_deviation:.0e}, mean |cx| of the LSTM {figures.cell:.1f}): "
        "if that stays so nothing is learned. Where games do score: begin anew with a lower --lr "
        "if it is above the default, or with --value-mean-step 0.1 where that option is 0"
    )


def blind(steps: int, figures: Figures) -> str:
    """Likewise, of monitor.watch_sight."""
    return (
        f"the agent has seen next to nothing for {steps:,} agent steps: in {figures.blind:.0%} of "
        "the updates no gradient reached the first convolution, as the filters behind it are "
        "dead. Begin anew with --gradient-centralization and a lower --lr, such as 1e-4"
    )


def what_next(run: Run) -> list[str]:
    """After a run that has saved: what ENV.dat holds, and the commands that one wants now."""
    args, server, model = run.args, run.server, run.files.model
    parser = options.build_parser()

    def given(name: str, option: str) -> list[str]:
        value = getattr(args, name)
        return [] if value == parser.get_default(name) else [option, value]

    def command(script: str, *arguments: str) -> str:  # with Python and folder as they were typed
        path = Path(sys.argv[0]).parent / script
        return shlex.join([sys.orig_argv[0], str(path), "--env", args.env, *arguments])

    logs = given("log_dir", "--log-dir")
    resume = [*given("save_model_dir", "--save-model-dir"), *logs]
    if server.steps >= server.max_steps:
        resume += ["--max-steps", "none"]
        if value_at(args.lr, FOR_EVER, args.schedule_steps) == 0:
            resume += ["--lr", "RATE", "--anneal-steps", "0"]  # it would come to 0
    if run.target_reached():
        resume += ["--target-score", "none"]
    if args.ray is not None:
        resume += ["--ray", *filter(None, [args.ray])]
    if args.machines:
        resume += ["--machines", str(args.machines)]
    if args.driver_workers is not None:
        resume += ["--driver-workers", str(args.driver_workers)]
    if args.plain:
        resume += ["--plain"]
    play = [*given("save_model_dir", "--load-model-dir"), *logs]
    play += given("env_config", "--env-config")
    go_on = f"continue:      {command('main.py', '--resume', *resume)}"
    play_best = f"play the best: {command('gym_eval.py', *play)}"
    play_last = f"play the last: {command('gym_eval.py', '--last', *play)}"
    try:
        _, held = checkpoint.load_model(model)
    except ValueError as error:
        return [str(error), go_on, play_last]
    if not held or held["score"] is None:
        return [f"{model} has the last weights: no evaluation counts yet", go_on, play_last]
    games = count(held.get("episodes", args.eval_episodes), "game")
    steps = held["agent_steps"]
    since = "none as good was"
    with contextlib.suppress(OSError):  # where nothing was evaluated, that is true as well
        if not any(row[1] > steps for row in checkpoint.read_csv(run.files.csv)):
            since = "nothing was"
    best = (
        f"{model} has the best weights: mean score {points(held['score'])} of {games}, agent step "
        f"{steps}, {server.steps - steps} before the last; {since} evaluated since"
    )
    return [best, go_on, play_best, play_last]
