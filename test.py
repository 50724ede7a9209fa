"""The test process: plays whole games with the newest weights, logs the scores, keeps the best."""

import logging
import math
import time
from argparse import Namespace
from collections.abc import Callable

import gymnasium as gym
import numpy as np

import checkpoint
from checkpoint import Files
from environment import Normalizer
from hogwild import Hogwild
from model import flatten_parameters, make_model
from network import has_diverged
from player import play_games
from processes import become_child
from utils import TEST, Output, format_time, game_seed, points, setup_logger

PROGRESS_SECONDS = 60  # between lines about an evaluation that takes long


def test(
    args: Namespace,
    server: Hogwild,
    make_env: Callable[..., gym.Env],
    files: Files,
    description: dict,
    logger: logging.Logger,
) -> None:
    """Evaluate, record and save until the run stops.

    make_env: games of evaluations; see run.Run.make_test_env.
    description: of the run, for ENV.json; see checkpoint.describe. Its "policy" is how evaluations
        choose actions: "greedy" or "sampled".
    """
    model = make_model(len(description["actions"]), args.hidden_size).eval()
    weights, _ = flatten_parameters(model)
    try:
        scores = [row[2] for row in checkpoint.read_csv(files.csv)]  # of earlier sessions
    except OSError as error:
        logger.error(f"cannot read the scores so far: {error}; the reward mean begins anew")
        scores = []
    while not server.stopped and not server.has_learned:
        server.beat()
        time.sleep(0.05)  # nothing has been learned yet
    last_steps, last_seconds = server.steps, server.seconds

    def should_stop() -> bool:
        server.beat()
        return bool(server.stop_flag)

    while not server.stopped:
        began = time.process_time()
        server.pull(weights)
        steps, seconds, normalizer = server.steps, server.seconds, server.normalizer().numpy()
        progress = Progress(logger, steps, args.eval_episodes)
        results = list(
            play_games(
                model,
                make_env,
                [
                    game_seed(args.seed, TEST, len(scores) + i)
                    for i in range(args.eval_episodes)
                ],
                Normalizer(normalizer, frozen=True),
                args.count_lives,
                greedy=description["policy"] == "greedy",
                side_by_side=args.eval_episodes,
                should_stop=should_stop,
                plain=args.plain,
                on_step=progress.update,
            )
        )
        if len(results) < args.eval_episodes:
            break  # stopped in the middle: part of an evaluation says nothing
        results.sort()
        scores += [result.score for result in results]
        score = float(np.mean([result.score for result in results]))
        speed = (server.steps - last_steps) / (server.seconds - last_seconds)
        last_steps, last_seconds = server.steps, server.seconds
        logger.info(
            f"Time {format_time(seconds)}, episode reward {points(score)}, "
            f"episode length {np.mean([r.length for r in results]):.0f}, "
            f"reward mean {np.mean(scores):.4f}, agent steps {steps}, {speed:.1f} steps/s"
            + (", sampled actions" if description["policy"] == "sampled" else "")
        )
        # A disk may be full or gone for a while: the run goes on, and the other file is written.
        try:
            best_score = float(server.evaluation["best_score"])
            if is_best(score, best_score, args.save_score_level) and not has_diverged(model):
                state = checkpoint.describe(description, steps, seconds, normalizer, score)
                checkpoint.save_model(files.model, model.state_dict(), state)
                server.evaluation["best_score"] = score
                if args.save_max:
                    checkpoint.save_model(files.kept(steps), model.state_dict(), state)
        except OSError as error:
            logger.error(f"cannot save: {error}")
        try:
            checkpoint.append_csv(
                files.csv, [(round(seconds, 1), steps, r.score, r.length) for r in results]
            )
        except OSError as error:
            logger.error(f"cannot save: {error}")
        server.count_evaluation(steps, score)
        wake = time.monotonic() + pause(args.eval_interval, time.process_time() - began)
        while not server.stopped and time.monotonic() < wake:
            server.beat()
            time.sleep(0.05)


class Progress:
    """Says in the log how far an evaluation is, each time that PROGRESS_SECONDS have passed.

    steps: agent steps behind its weights.  games: how many it has.
    """

    def __init__(self, logger: logging.Logger, steps: int, games: int):
        self.logger, self.steps, self.games = logger, steps, games
        self.began = time.monotonic()
        self.next = self.began + PROGRESS_SECONDS

    def update(self, running: int, played: int) -> None:
        """See on_step of play_games."""
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + PROGRESS_SECONDS
        self.logger.info(
            f"evaluation of agent step {self.steps} under way for {format_time(now - self.began)}: "
            f"{self.games - running} of {self.games} games ended, {played} agent steps played"
        )


def pause(eval_interval: float | None, evaluation: float) -> float:
    """Seconds until the next evaluation; `evaluation` is the processor time of the last one.

    Without an interval the test process takes a fifth of a core at most, however long games are.
    """
    return max(60.0, 4 * evaluation) if eval_interval is None else eval_interval


def is_best(score: float, best_score: float, save_score_level: float | None) -> bool:
    """Whether an evaluation's mean score is a new best. The newer wins a tie."""
    if save_score_level is not None and score < save_score_level:
        return False
    return math.isnan(best_score) or score >= best_score


def test_process(
    args: Namespace,
    server: Hogwild,
    make_env: Callable[..., gym.Env],
    files: Files,
    description: dict,
    output: Output,
) -> None:
    """`test` as the body of a process; output: what the terminal shows."""
    become_child("Test Agent", files.log if output is Output.DISPLAY else None)
    logger = setup_logger(files.log.name, files.log, output)
    test(args, server, make_env, files, description, logger)
