"""Train an A3C-LSTM agent on an Atari game: `python main.py --env Pong-v0 --workers 32`.

The command line, the shared model and optimizer, and the processes: started, watched, stopped.
"""

from stopping import STOP_SIGNALS, StopSignal

if __name__ == "__main__":
    stop_signal = StopSignal(at_once=True).install()  # the imports take seconds

import utils  # noqa: F401, I001  # before torch: sets the number of threads

import argparse
import contextlib
import copy
import functools
import logging
import math
import multiprocessing.connection
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from pathlib import Path

import filelock
import torch
import torch.multiprocessing
from rich.console import Console

import checkpoint
import kernels
from checkpoint import Files
from display import Display, can_show
from environment import (
    CROP_TABLE,
    SKIP_RATE,
    check_skip_rate,
    file_name,
    game_config,
    game_name,
    make_env,
    parse_env_id,
    read_config,
)
from hogwild import (
    BEST_SCORE,
    EVALUATIONS,
    GAMES,
    LAST_SCORE,
    UPDATES,
    Hogwild,
    require_shared_memory,
)
from model import A3Clstm, flatten_parameters
from monitor import Figures, Snapshot, TensorBoard, require
from shared_optim import SharedAdam, SharedRMSprop
from test import test_process
from train import train_process
from utils import (
    LineParser,
    Output,
    add_truth,
    available_cores,
    close_logger,
    finite_float,
    format_time,
    natural_float,
    natural_int,
    or_none,
    positive_float,
    positive_int,
    seed_int,
    setup_logger,
    unit_interval,
)

# fork can hang once torch has started threads; spawn imports torch once for every process.
START_METHOD = (
    "forkserver" if "forkserver" in torch.multiprocessing.get_all_start_methods() else "spawn"
)
PROGRESS_SECONDS = (10, 60)  # until the first line about the speed; then between lines
CHECKPOINT_SECONDS = 60  # between checkpoints; one follows each evaluation as well
STOP_SECONDS = 8  # for the processes to end by themselves
MAX_REPLACEMENTS = 10  # of processes that died, in any REPLACEMENT_SECONDS
REPLACEMENT_SECONDS = 600
ENVS_PER_WORKER = 8  # by measurement, see benchmarks/README.md
# Defaults with one game per worker, those of the classic suite; with several, where a larger batch
# carries a longer step and has a larger gradient; and in games where other values were seen to
# learn, see benchmarks/README.md. A rate of 3e-4 is only where it was: in MsPacman it saturates the
# LSTM within 0.2 M steps, and nothing is learned then.
ONE_GAME = {
    "lr": 1e-4,
    "anneal_steps": 0,
    "tau": 1.0,
    "entropy_coef": 0.01,
    "max_grad_norm": 40.0,
}
SEVERAL_GAMES = ONE_GAME | {"anneal_steps": 10_000_000, "max_grad_norm": 200.0}
LITTLE_ENTROPY = {"lr": 3e-4, "tau": 0.95, "entropy_coef": 0.001}
OF_GAME = {  # with several games per worker
    "Pong": {"lr": 3e-4},
    "Breakout": LITTLE_ENTROPY,
    "SpaceInvaders": LITTLE_ENTROPY,
    "BeamRider": LITTLE_ENTROPY,
}
RMSPROP_LR = 7e-4
ADAM_EPS = 1e-3


def recipe(env_id: str, envs_per_worker: int) -> dict[str, float]:
    """The defaults of learning that depend on the game and on how many of it a worker plays."""
    if envs_per_worker == 1:
        return ONE_GAME
    return SEVERAL_GAMES | OF_GAME.get(game_name(env_id), {})


def defaults(name: str) -> str:
    """What the help says about an option of a recipe."""
    text = str(ONE_GAME[name])
    if SEVERAL_GAMES[name] != ONE_GAME[name]:
        text += f" with one game per worker, {SEVERAL_GAMES[name]} with several"
    games: dict[float, list[str]] = {}
    for game, values in OF_GAME.items():
        if name in values:
            games.setdefault(values[name], []).append(game)
    for value, those in games.items():
        text += f"; {value} with several games per worker in {', '.join(those)}"
    return text


def build_parser() -> LineParser:
    parser = LineParser(prog="main.py", description="Train an A3C-LSTM agent on an Atari game.")
    run = parser.add_argument_group("run")
    run.add_argument("-ev", "--env", default="Pong-v0", metavar="ID", help="environment id")
    run.add_argument(
        "-w", "--workers", type=positive_int, default=available_cores(), metavar="N",
        help="training processes; by default one per core",
    )
    run.add_argument(
        "--envs-per-worker", type=positive_int, metavar="N",
        help="games that a worker steps together as one batch "
        f"(default: {ENVS_PER_WORKER}, or 1 with more workers than cores)",
    )
    run.add_argument("-s", "--seed", type=seed_int, default=1, metavar="S", help="random seed")
    run.add_argument(
        "--max-steps", type=or_none(positive_int), metavar="N",
        help="stop after N agent steps over all workers, earlier sessions included; "
        "none lifts the limit of a resumed run",
    )
    run.add_argument(
        "--max-minutes", type=positive_float, metavar="M", help="stop after M minutes"
    )
    run.add_argument(
        "--target-score", type=or_none(finite_float), metavar="S",
        help="stop when the mean score of an evaluation reaches S; none lifts it",
    )
    add_truth(run, "--resume", default=False, help="continue the run of --save-model-dir")
    add_truth(
        run, "-ld", "--load", default=False,
        help="start from the weights in --load-model-dir, with a new optimizer at step 0",
    )

    learning = parser.add_argument_group("learning")
    learning.add_argument(
        "-l", "--lr", type=positive_float, metavar="LR",
        help=f"learning rate (default: {defaults('lr')}; {RMSPROP_LR} with RMSprop)",
    )
    learning.add_argument(
        "--anneal-steps", type=natural_int, metavar="N",
        help="agent steps of the run over which every learning rate falls to a tenth, where it "
        f"stays; 0 keeps it as it is (default: {defaults('anneal_steps')})",
    )
    learning.add_argument(
        "-g", "--gamma", type=unit_interval, default=0.99, metavar="G", help="discount factor"
    )
    add_truth(
        learning, "--reward-ends-return", default=False,
        help="what follows a reward counts for nothing that was done before it; for games where "
        "each reward decides a rally, such as Pong, with a --gamma of 0.998 or more; elsewhere it "
        "makes short-sighted",
    )
    learning.add_argument(
        "-t", "--tau", type=unit_interval, metavar="T",
        help=f"lambda of generalised advantage estimation (default: {defaults('tau')})",
    )
    learning.add_argument(
        "-ec", "--entropy-coef", type=natural_float, metavar="EC",
        help=f"weight of the policy's entropy (default: {defaults('entropy_coef')})",
    )
    learning.add_argument(
        "-vc", "--value-coef", type=natural_float, default=0.5, metavar="VC",
        help="weight of the value loss",
    )
    learning.add_argument(
        "--max-grad-norm", type=positive_float, metavar="N",
        help="a gradient with a larger norm is scaled down to it "
        f"(default: {defaults('max_grad_norm')})",
    )
    learning.add_argument(
        "-ns", "--num-steps", type=positive_int, default=20, metavar="N",
        help="agent steps in a rollout, per game",
    )
    learning.add_argument(
        "-o", "--optimizer", choices=("Adam", "RMSprop"), default="Adam", help="optimizer"
    )
    learning.add_argument(
        "--adam-eps", type=positive_float, metavar="E",
        help=f"added to the root of Adam's second moment, for Adam alone (default: {ADAM_EPS:g})",
    )
    add_truth(learning, "-a", "--amsgrad", default=False, help="AMSGrad variant of Adam")
    add_truth(
        learning, "-so", "--shared-optimizer", default=True,
        help="one optimizer with shared statistics; False gives each worker its own",
    )
    learning.add_argument(
        "-dss", "--distributed-step-size", type=positive_float, nargs="+", default=[], metavar="LR",
        help="learning rates dealt out to the workers in turn; not together with --lr",
    )
    learning.add_argument(
        "-hs", "--hidden-size", type=positive_int, default=512, metavar="N", help="LSTM units"
    )

    game = parser.add_argument_group("environment")
    game.add_argument(
        "-evc", "--env-config", metavar="FILE",
        help="crop table (default: config.json beside main.py)",
    )
    game.add_argument(
        "-mel", "--max-episode-length", type=or_none(positive_int), metavar="N",
        help="agent steps after which a game is cut; none, the default, is the limit of the id",
    )
    add_truth(
        game, "--count-lives", default=True, help="a lost life ends the training episode"
    )
    game.add_argument(
        "--skip-rate", type=positive_int, metavar="N",
        help=f"frames per agent step of NoFrameskip ids, and of no others (default: {SKIP_RATE})",
    )

    evaluation = parser.add_argument_group("evaluation and files")
    evaluation.add_argument(
        "--eval-interval", type=or_none(natural_float), metavar="SECONDS",
        help="pause between evaluations; none, the default, is 4 times the processor time of the "
        "last one, and 60 at least",
    )
    evaluation.add_argument(
        "--eval-episodes", type=positive_int, default=8, metavar="N", help="games per evaluation"
    )
    evaluation.add_argument(
        "--save-score-level", type=or_none(finite_float), metavar="S",
        help="mean score below which no evaluation counts as the best; none, the default, is no "
        "level",
    )
    add_truth(
        evaluation, "-sm", "--save-max", default=False,
        help="keep every new best as ENV.step-N.dat beside ENV.dat",
    )
    evaluation.add_argument(
        "-lmd", "--load-model-dir", default="trained_models/", metavar="DIR", help="for --load"
    )
    evaluation.add_argument(
        "-smd", "--save-model-dir", default="trained_models/", metavar="DIR",
        help="for weights and checkpoint",
    )
    evaluation.add_argument("-lg", "--log-dir", default="logs/", metavar="DIR", help="for logs")
    add_truth(
        evaluation, "-tl", "--tensorboard-logger", default=False,
        help="write curves, weight histograms and the graph to LOG_DIR/tensorboard",
    )
    add_truth(
        evaluation, "-q", "--quiet", default=False,
        help="print nothing but errors; the log has everything",
    )
    return parser


class Run:
    """A run: its shared memory, its files and its processes.

    server: what the processes share.  files: where it writes.
    """

    def __init__(self, args: argparse.Namespace, resumed: dict | None):
        """Build everything that can fail, and touch nothing on disk.

        ValueError: one line about what is wrong with the arguments or the files they name.
        """
        self.args = args
        spec = parse_env_id(args.env)
        config = game_config(read_config(args.env_config or CROP_TABLE), args.env)
        self.make_env = functools.partial(
            make_env, args.env, config, args.skip_rate, args.max_episode_length
        )
        actions = self.make_env().action_meanings
        self.files = Files.of(file_name(spec.env_id), args.save_model_dir, args.log_dir)
        self.description = {
            "env": args.env,
            "actions": actions,
            "count_lives": args.count_lives,
            "hidden_size": args.hidden_size,
            "skip_rate": args.skip_rate,
            "max_episode_length": args.max_episode_length,
            "episodes": args.eval_episodes,
            "seed": args.seed,
            "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
            "versions": checkpoint.versions(),
            "loaded": None,  # the weights that this run started from, see checkpoint.origin
        }
        torch.set_num_threads(1)
        torch.manual_seed(args.seed)
        # At least the LSTM's weights and one moment, before any of it is made; Hogwild checks all.
        require_shared_memory(2 * 4 * (4 * args.hidden_size) * (1024 + args.hidden_size))
        self.model = A3Clstm(len(actions), args.hidden_size)
        normalizer = [0.0, 0.0, 0.0]
        if resumed:
            checkpoint.load_weights(self.files.checkpoint, self.model, resumed["model"])
            normalizer = checkpoint.normalizer_state(self.files.checkpoint, resumed)
            self.description["loaded"] = resumed.get("loaded")
        elif args.load:
            path = Path(args.load_model_dir, self.files.model.name)
            state_dict, description = checkpoint.load_model(path)
            checkpoint.load_weights(path, self.model, state_dict)
            self.description["loaded"] = checkpoint.origin(description or {})
            if description:
                normalizer = checkpoint.normalizer_state(path, description)
                if description["actions"] != actions:
                    raise ValueError(
                        f"{path}: for the actions {' '.join(description['actions'])}, but this "
                        f"game has {' '.join(actions)}; see 'actions' of the crop table"
                    )
        self.weights, _ = flatten_parameters(self.model)
        self.server = Hogwild(
            self.weights,
            self._make_optimizer,
            args.workers,
            1 if args.shared_optimizer else args.workers,
            _as_list(resumed["optimizer"]) if resumed else [],
            resumed["steps"] if resumed else 0,
            resumed["seconds"] if resumed else 0.0,
            args.max_steps or math.inf,
        )
        self.server.normalizers[:] = torch.tensor(normalizer, dtype=torch.float64)
        if resumed:
            self.server.evaluation[BEST_SCORE] = self._best_score(resumed)
        self.set_aside: list[tuple[Path, Path]] = []  # files of an earlier run: old, new name
        self.dropped_csv: bytes | None = None  # content before --resume dropped rows
        self.board: TensorBoard | None = None
        self.board_failed = False
        self.saved_at = time.monotonic()
        self.has_saved = False
        self.saved_evaluations = 0

    def _best_score(self, resumed: dict) -> float:
        """Score of the weights in ENV.dat, nan if there is none.

        The test process saves by itself: a run that was killed may have left a better score there
        than the checkpoint knows of.
        """
        if not self.files.model.exists():
            return math.nan
        scores = [resumed["best_score"]]
        try:
            _, description = checkpoint.load_model(self.files.model)
            scores.append(description["score"] if description else None)
        except ValueError:
            pass  # out of step: killed between the two files
        return max((score for score in scores if score is not None), default=math.nan)

    def _make_optimizer(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        if self.args.optimizer == "Adam":
            return SharedAdam(
                parameters, self.args.lr, eps=self.args.adam_eps, amsgrad=self.args.amsgrad
            )
        return SharedRMSprop(parameters, lr=self.args.lr)

    def save(self, last: bool = False) -> None:
        """Write the checkpoint; with the last weights as the model, if nothing was a best.

        last: no other process writes any more.
        """
        server = self.server
        server.pull(self.weights)
        if not self.weights.isfinite().all():
            raise FloatingPointError("the weights are not finite; the files stay as they were")
        evaluations = int(server.evaluation[EVALUATIONS])  # one that ends during the save is newer
        steps, seconds, normalizer = server.steps, server.seconds, server.normalizer().tolist()
        best_score = float(server.evaluation[BEST_SCORE])
        # A copy, because workers go on changing the moments.
        optimizers = copy.deepcopy([optimizer.state_dict() for optimizer in server.optimizers])
        content = {
            "model": {name: tensor.clone() for name, tensor in self.model.state_dict().items()},
            "optimizer": optimizers[0] if self.args.shared_optimizer else optimizers,
            "steps": steps,
            "seconds": seconds,
            "best_score": None if math.isnan(best_score) else best_score,
            "normalizer": dict(zip(("count", "mean", "std"), normalizer, strict=True)),
            "args": vars(self.args),
            "loaded": self.description["loaded"],
            "description": self.description,
        }
        data = checkpoint.to_bytes(content)
        checkpoint.write_atomically(self.files.checkpoint, lambda file: file.write(data))
        if last and math.isnan(best_score):
            description = checkpoint.describe(self.description, steps, seconds, normalizer, None)
            checkpoint.save_model(self.files.model, self.model.state_dict(), description)
        self.saved_at, self.has_saved = time.monotonic(), True
        self.saved_evaluations = evaluations

    def save_when_due(self, logger: logging.Logger) -> None:
        """Checkpoint after each evaluation and every CHECKPOINT_SECONDS."""
        evaluated = int(self.server.evaluation[EVALUATIONS]) > self.saved_evaluations
        if evaluated or time.monotonic() - self.saved_at > CHECKPOINT_SECONDS:
            try:
                self.save()
            except OSError as error:  # the disk may be full for a while; the run goes on
                logger.error(f"cannot save: {error}; trying again")
                self.saved_at = time.monotonic()
                self.saved_evaluations = int(self.server.evaluation[EVALUATIONS])

    def write_tensorboard(self, logger: logging.Logger, last: bool = False) -> None:
        """What is new, if the run is to be seen in TensorBoard. last: the run has ended."""
        if not self.args.tensorboard_logger or not self.server.counts[:, UPDATES].any():
            return  # a run that learned nothing leaves no files
        try:
            if self.board is None:
                folder = self.files.tensorboard
                self.board = TensorBoard(folder, self.server, self.model, self.weights)
            self.board.update(last)
        except Exception as error:  # of the disk, or of a library that the run can do without
            if not self.board_failed:
                logger.error(f"cannot write for TensorBoard: {error!r}; the run goes on")
            self.board_failed = True

    def prepare_files(self, resumed: dict | None) -> None:
        """Make room for this run's files. The caller holds the lock.

        ValueError, OSError: a file of the run cannot be read, renamed or written.
        """
        for path in self.files.leftovers():
            path.unlink()
        if resumed:
            if checkpoint.load_checkpoint(self.files.checkpoint)["steps"] != resumed["steps"]:
                raise ValueError(f"{self.files.checkpoint}: written anew meanwhile; try again")
            open(self.files.log, "ab").close()  # OSError now rather than in the middle
            # Rows newer than the checkpoint belong to steps that will be played again.
            rows = checkpoint.read_csv(self.files.csv, up_to_step=resumed["steps"])
            if self.files.csv.exists():
                self.dropped_csv = self.files.csv.read_bytes()
            checkpoint.rewrite_csv(self.files.csv, rows)
            return
        self.set_aside = checkpoint.set_aside(self.files.existing())

    def undo_prepare_files(self) -> None:
        """Remove this run's files and give those of an earlier run their names back."""
        if self.server.first_step:
            if self.dropped_csv is not None:
                content = self.dropped_csv
                checkpoint.write_atomically(self.files.csv, lambda file: file.write(content))
            return
        for path in [*self.files.existing(), *self.files.leftovers()]:
            path.unlink()
        for old, new in self.set_aside:
            new.rename(old)


def _as_list(value) -> list:
    return value if isinstance(value, list) else [value]


class Processes:
    """The test process and the workers: started, replaced when they die, stopped."""

    def __init__(self, run: Run, stop_signal: StopSignal, output: Output):
        context = torch.multiprocessing.get_context(START_METHOD)
        if START_METHOD == "forkserver":
            context.set_forkserver_preload(["preload"])
        server, args, make_env = run.server, run.args, run.make_env
        errors_to = run.files.log if output is Output.DISPLAY else None
        self.makers: list[Callable[[], multiprocessing.Process]] = [
            functools.partial(
                context.Process,
                target=test_process,
                name="test process",
                args=(args, server.for_process(), make_env, run.files, run.description, output),
            )
        ]
        for rank in range(args.workers):
            self.makers.append(
                functools.partial(
                    context.Process,
                    target=train_process,
                    name=f"worker {rank}",
                    args=(rank, args, server.for_process(rank), make_env, errors_to),
                )
            )
        self.running: list[multiprocessing.Process] = []
        self.replaced: list[float] = []  # when, at most REPLACEMENT_SECONDS ago
        self.stop_signal = stop_signal
        stop_signal.children = self.running

    def start(self) -> None:
        # Where the fork server looks for `preload`: here and, since it runs as `python -c`, not in
        # the current folder, which may hold modules with the names of ours.
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        os.environ["PYTHONSAFEPATH"] = "1"
        for maker in self.makers:
            if not self.stop_signal.received:
                self.running.append(_start(maker()))

    def wait(self, seconds: float) -> None:
        """Until a process has ended, at most so long."""
        sentinels = [process.sentinel for process in self.running if process.is_alive()]
        multiprocessing.connection.wait(sentinels, timeout=seconds)

    def workers_alive(self) -> int:
        return sum(process.is_alive() for process in self.running[1:])  # the first one tests

    def replace_dead(self, logger: logging.Logger) -> bool:
        """Start anew whatever has died. False if that has happened too often."""
        for i, process in enumerate(self.running):
            if process.is_alive():
                continue
            now = time.monotonic()
            self.replaced = [t for t in self.replaced if now - t < REPLACEMENT_SECONDS] + [now]
            if len(self.replaced) > MAX_REPLACEMENTS:
                logger.error(f"{process.name} died, exit code {process.exitcode}; giving up")
                return False
            logger.error(f"{process.name} died, exit code {process.exitcode}; starting another")
            self.running[i] = _start(self.makers[i]())
        return True

    def stop(self, server: Hogwild) -> None:
        """Ask every process to end, and end those that do not.

        Before the first update there is nothing to wait for: many workers on few cores take long
        to start, and see the flag only then.
        """
        server.stop()
        deadline = time.monotonic() + (STOP_SECONDS if server.counts[:, UPDATES].any() else 0)
        for process in self.running:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in self.running:
            process.kill()
        for process in self.running:
            process.join()


def _start(process: multiprocessing.Process) -> multiprocessing.Process:
    """Start a process that Ctrl-C and the like do not reach, not even before it can ignore them.

    The signals are blocked meanwhile; the child inherits that, and here they arrive afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        process.start()
        return process
    resource_tracker.ensure_running()  # it unblocks signals when it starts
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    return process


def watch(
    run: Run,
    processes: Processes,
    stop_signal: StopSignal,
    logger: logging.Logger,
    display: Display | None,
) -> bool:
    """Until the run is over: replace what dies, save, report. False if it had to be given up."""
    server, args = run.server, run.args
    started, last = time.monotonic(), Snapshot.of(server)
    next_report = started + PROGRESS_SECONDS[0]
    while True:
        processes.wait(0.2)
        if stop_signal.received or server.stopped:
            break
        now = time.monotonic()
        if args.max_minutes and now - started >= 60 * args.max_minutes:
            break
        score = float(server.evaluation[LAST_SCORE])  # nan before the first evaluation
        if args.target_score is not None and score >= args.target_score:
            break
        if not processes.replace_dead(logger):
            return False
        run.save_when_due(logger)
        if now >= next_report:
            snapshot = Snapshot.of(server)
            logger.info(progress_line(server, Figures.between(last, snapshot)))
            last, next_report = snapshot, now + PROGRESS_SECONDS[1]
        run.write_tensorboard(logger)
        if display:
            display.update()
    return True


def progress_line(server: Hogwild, figures: Figures) -> str:
    """What the log says about a time in which figures.games training games ended."""
    games = int(server.counts[:, GAMES].sum())
    line = (
        f"Time {format_time(server.seconds)}, agent steps {server.steps}, "
        f"{figures.speed:.1f} steps/s, {games} training games"
    )
    if figures.games:
        line += f", mean score of the last {figures.games}: {figures.score:.2f}"
    return line


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, dict | None]:
    """The options, and the checkpoint to continue if there is one.

    With --resume, an option on the command line beats the saved one, which beats the default.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    one_rate = args.lr is not None
    if one_rate and args.distributed_step_size:
        raise ValueError("--distributed-step-size stands in place of --lr; leave out one of them")
    spec = parse_env_id(args.env)
    check_skip_rate(spec, args.skip_rate)
    args = complete(args)
    if not args.resume:
        return args, None
    if args.load:
        raise ValueError("--resume brings back its own weights; leave out --load")
    files = Files.of(file_name(spec.env_id), args.save_model_dir, args.log_dir)
    path = files.checkpoint
    try:
        resumed = checkpoint.load_checkpoint(path)
    except ValueError as error:
        if files.model.exists():
            instead = shlex.join(["--load", "--load-model-dir", str(files.model.parent)])
            error = f"{error}; {instead} instead of --resume begins anew with {files.model.name}"
        raise ValueError(error) from None
    saved = {"anneal_steps": 0, **resumed["args"]}  # older checkpoints come from a constant rate
    if one_rate:  # it stands in place of a saved list of rates
        saved["distributed_step_size"] = []
    if saved.get("optimizer") != "Adam":
        saved.pop("adam_eps", None)  # earlier versions took it with any optimizer
    session = ("resume", "load", "max_minutes", "save_model_dir", "quiet")  # not of the run
    parser.set_defaults(**{k: v for k, v in saved.items() if k in vars(args) and k not in session})
    args = parser.parse_args(argv)
    for name in ("optimizer", "amsgrad", "shared_optimizer", "hidden_size"):
        if getattr(args, name) != saved.get(name):
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{path}: the run has {option} {saved.get(name)}; that cannot change")
    args = complete(args)
    if args.max_steps and args.max_steps <= resumed["steps"]:
        raise ValueError(
            f"{path}: the run is at {resumed['steps']} agent steps; give a larger --max-steps"
        )
    return args, resumed


def run_to_end(run: Run, stop_signal: StopSignal) -> int:
    """Start the processes, watch them, stop them, save. Returns the exit code."""
    console = Console()
    output = Output.LINES
    if run.args.quiet:
        output = Output.QUIET
    elif can_show(console):
        output = Output.DISPLAY
    logger = setup_logger(run.files.log.name, run.files.log, output)
    if run.server.first_step:
        logger.info(f"resumed at agent step {run.server.first_step}: {run.description['command']}")
    else:
        for name, value in vars(run.args).items():
            logger.info(f"{name}: {value}")
    cores = available_cores()
    if run.args.workers > cores:
        games = run.args.workers * run.args.envs_per_worker
        logger.info(
            f"{run.args.workers} workers are more than {cores} cores: faster with as many games is "
            f"python main.py --env {run.args.env} --workers {cores} "
            f"--envs-per-worker {-(-games // cores)}"
        )
    processes = Processes(run, stop_signal, output)
    display = Display(run, processes, console) if output is Output.DISPLAY else None
    healthy = False
    with display or contextlib.nullcontext():
        if display:
            stop_signal.before_exit = display.restore
        try:
            if display:  # many processes take long to start
                display.update()
            processes.start()
            healthy = watch(run, processes, stop_signal, logger, display)
        except FloatingPointError as error:
            logger.error(str(error))
        except Exception:
            logger.exception("the main process failed")  # what was learned is saved all the same
        finally:
            with contextlib.suppress(Exception):  # a display that fails must not keep it from that
                if display:
                    display.stopping()
            processes.stop(run.server)
    if display:  # errors and the last line are for the terminal as well
        stop_signal.before_exit = None
        with contextlib.suppress(OSError):  # the terminal may have gone
            print(*display.errors(), sep="", end="", flush=True)
        logger = setup_logger(run.files.log.name, run.files.log)
    saved = finish(run, logger, healthy and not processes.replaced)
    run.write_tensorboard(logger, last=True)
    return 0 if saved and healthy else 1


def finish(run: Run, logger: logging.Logger, healthy: bool) -> bool:
    """The last save, after all other processes have ended. False if the weights are unusable.

    healthy: no process failed; otherwise the log, which may say why, stays in any case.
    """
    server = run.server
    where = f"Time {format_time(server.seconds)}, agent steps {server.steps}, stopped"
    if not server.counts[:, UPDATES].any():
        keep_log = not healthy and not server.first_step  # a resumed run keeps it anyway
        logger.info(f"{where} before anything was learned; the files are as they were")
        if keep_log:
            logger.error(f"the log is now {run.files.failed_log}")
        close_logger(logger)
        if keep_log:
            run.files.log.replace(run.files.failed_log)
        run.undo_prepare_files()
        return True
    try:
        run.save(last=True)
    except (FloatingPointError, OSError) as error:
        logger.error(f"{where}, not saved: {error}")
        return False
    logger.info(f"{where}, saved {run.files.checkpoint}")
    return True


def main(argv: Sequence[str] | None, stop_signal: StopSignal) -> int:
    """Run main.py with these arguments; returns the exit code."""
    try:
        args, resumed = parse(argv)
        if args.tensorboard_logger:
            require("torch.utils.tensorboard", "--tensorboard-logger needs TensorBoard")
        run = Run(args, resumed)
        prepare_kernels(args.quiet)
        stop_signal.at_once = False
        if stop_signal.received:
            return 0
        make_folders(args.save_model_dir, args.log_dir)
        lock = filelock.FileLock(run.files.lock, blocking=False)
        log_lock = filelock.FileLock(f"{run.files.csv.with_suffix('.lock')}", blocking=False)
        lock.acquire()
        if Path(args.log_dir).resolve() != Path(args.save_model_dir).resolve():
            log_lock.acquire()
    except filelock.Timeout:
        return _fail(
            f"another run is writing {run.files.model} or {run.files.log}; "
            "give another --save-model-dir and --log-dir"
        )
    except (ValueError, OSError) as error:
        return _fail(str(error))
    try:
        try:
            run.prepare_files(resumed)
        except (ValueError, OSError) as error:
            return _fail(str(error))
        if not args.quiet:
            for old, new in run.set_aside:
                print(f"{old} of an earlier run is now {new.name}")
        return run_to_end(run, stop_signal)
    finally:
        lock.release()
        log_lock.release()


def complete(args: argparse.Namespace) -> argparse.Namespace:
    """Fill in the defaults that depend on other options."""
    if args.envs_per_worker is None:
        args.envs_per_worker = 1 if args.workers > available_cores() else ENVS_PER_WORKER
    if args.amsgrad and args.optimizer != "Adam":
        raise ValueError("--amsgrad is a variant of Adam; leave it out with --optimizer RMSprop")
    if args.adam_eps and args.optimizer != "Adam":
        raise ValueError("--adam-eps belongs to Adam; leave it out with --optimizer RMSprop")
    if args.adam_eps is None and args.optimizer == "Adam":
        args.adam_eps = ADAM_EPS
    args.skip_rate = args.skip_rate or SKIP_RATE
    if args.lr is None and args.optimizer == "RMSprop":
        args.lr = RMSPROP_LR
    for name, value in recipe(args.env, args.envs_per_worker).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def prepare_kernels(quiet: bool) -> None:
    """Compile the kernels once, before the workers load them from the cache on disk."""
    if kernels.HAVE_NUMBA and not quiet:
        cache = kernels.features.stats.cache_path
        if cache is None:
            print("compiling the kernels; no folder can keep them", flush=True)
        elif not any(Path(cache).glob("kernels.*.nbi")):
            print("compiling the kernels; a few seconds, the first time only", flush=True)
    kernels.compile_kernels()


def make_folders(*folders: str) -> None:
    """ValueError, with none of them made, if one cannot be made or written."""
    for folder in map(Path, folders):
        existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        if not existing.is_dir():
            raise ValueError(f"{existing}: not a folder")
        if not os.access(existing, os.W_OK):
            raise ValueError(f"{existing}: no permission to write")
    for folder in folders:
        os.makedirs(folder, exist_ok=True)


def _fail(reason: str) -> int:
    print(f"main.py: error: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(None, stop_signal))
