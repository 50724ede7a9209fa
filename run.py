"""A run: what it builds, saves and restores, and the files of an earlier one."""

import argparse
import contextlib
import copy
import functools
import logging
import math
import os
import secrets
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import filelock
import torch

import checkpoint
import options
from checkpoint import Files
from environment import (
    CROP_TABLE,
    as_trained,
    file_name,
    game_config,
    has_chance,
    idle_limit,
    make_env,
    parse_env_id,
    picture,
    read_config,
)
from hogwild import FinishedGames, Hogwild, require_shared_memory
from model import flatten_parameters, make_model
from monitor import Boards, TensorBoard, Tracker
from network import has_diverged
from schedule import value_at
from shared_optim import SharedAdam, SharedRMSprop
from utils import points

CHECKPOINT_SECONDS = 60  # between checkpoints; one follows each evaluation as well


def load_options(argv: Sequence[str] | None) -> tuple[argparse.Namespace, dict | None]:
    """The options, and the checkpoint to continue if there is one.

    ValueError: one line about what is wrong with either.
    """
    args = options.parse(argv)
    if Path(args.save_model_dir).resolve().is_relative_to(checkpoint.PUBLISHED.resolve()):
        raise ValueError(f"{args.save_model_dir}: for the published models; no run writes there")
    if not args.resume:
        return args, None
    files = Files.of(file_name(args.env), args.save_model_dir, args.log_dir)
    try:
        resumed = checkpoint.load_checkpoint(files.checkpoint)
    except ValueError as error:
        if files.model.exists():
            instead = shlex.join(["--load", "--load-model-dir", str(files.model.parent)])
            error = f"{error}; {instead} instead of --resume begins anew with {files.model.name}"
        elif not files.checkpoint.exists():
            error = f"{error}; begin without --resume"
        raise ValueError(error) from None
    trained = resumed["args"].get("env", args.env)
    if file_name(str(trained)) != files.model.stem:
        raise ValueError(f"{files.checkpoint}: of a run of {trained}, not of {args.env}")
    args = options.parse_resumed(argv, files.checkpoint, resumed)
    _refuse_logs_of_another_run(args, resumed, files.checkpoint)
    return args, resumed


def _refuse_logs_of_another_run(args: argparse.Namespace, resumed: dict, path: Path) -> None:
    """ValueError if `path` is a copy: the run that it was copied from goes on with its logs."""
    saved = {"save_model_dir": args.save_model_dir, "log_dir": args.log_dir, **resumed["args"]}
    original = Path(saved["save_model_dir"], path.name)
    same_logs = Path(saved["log_dir"]).resolve() == Path(args.log_dir).resolve()
    if same_logs and original.exists() and not original.samefile(path):
        raise ValueError(
            f"{path}: a copy of {original}, to whose run {args.log_dir} belongs; give a --log-dir "
            "of its own (with a copy of the logs in it, they go on)"
        )


class Locks:
    """Lock files, `flock`ed so that no other run writes what they stand for.

    filelock.Timeout: another run holds one of them.
    """

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths
        self.held: dict[Path, tuple[filelock.BaseFileLock, os.stat_result]] = {}

    def take(self) -> None:
        """OSError: a file cannot be made."""
        for path in self.paths:
            self._take(path)

    def _take(self, path: Path) -> None:
        lock = filelock.FileLock(path, blocking=False)
        lock.acquire()
        before, self.held[path] = self.held.get(path), (lock, path.stat())
        if before:
            before[0].release()

    def check(self) -> None:
        """Ask for those that are there, and make none."""
        for path in filter(Path.exists, self.paths):
            with filelock.FileLock(path, blocking=False):
                pass

    def keep(self) -> None:
        """Take those anew that somebody has removed, or another run could take them, too."""
        for path, (_, mine) in self.held.items():
            try:
                if not path.exists() or not os.path.samestat(path.stat(), mine):
                    self._take(path)
            except filelock.Timeout:
                raise
            except OSError:  # the folder has gone as well
                continue

    def release(self) -> None:
        for lock, _ in self.held.values():
            lock.release()


class Run:
    """A run: its shared memory and its files; its processes are in group.py.

    server: what the processes share.  files: where it writes.
    """

    def __init__(self, args: argparse.Namespace, resumed: dict | None):
        """Build everything that can fail, and touch nothing on disk.

        ValueError: one line about what is wrong with the arguments or the files they name.
        """
        self.args = args
        self.resumed = resumed is not None
        config = game_config(read_config(args.env_config or CROP_TABLE), args.env)
        if resumed and not args.env_config:  # whatever config.json says now
            config = as_trained(config, _rules(resumed).get("game_config"))
        self.make_env = functools.partial(
            make_env, args.env, config, args.skip_rate, args.max_episode_length
        )
        actions = self.make_env().action_meanings
        max_idle_steps = idle_limit(args.max_idle_steps, parse_env_id(args.env), actions)
        self.make_test_env = functools.partial(self.make_env, max_idle_steps=max_idle_steps)
        self.files = Files.of(file_name(args.env), args.save_model_dir, args.log_dir)
        self.description = _describe(args, config, actions, max_idle_steps)
        self.description["sessions"] = _sessions(resumed, self.description)
        torch.set_num_threads(1)
        torch.manual_seed(args.seed)
        # At least an LSTM's recurrent weights and one moment, before any of it is made; Hogwild
        # checks all.
        require_shared_memory(2 * 4 * (4 * args.hidden_size) * args.hidden_size)
        self.model = make_model(len(actions), args.hidden_size)
        if args.value_mean_step and "critic_linear.bias" not in self.model.state_dict():
            raise ValueError(
                "--value-mean-step moves critic_linear.bias, which model.py has not; give 0, and a "
                "--lr that is safe with that"
            )
        self.introduction: list[str] = []  # of the weights that it starts from
        normalizer = self._load_weights(resumed)
        self.weights, _ = flatten_parameters(self.model)
        workers = options.workers_here(args)
        self.server = Hogwild(
            self.weights,
            functools.partial(make_optimizer, args),
            workers,
            1 if args.shared_optimizer else max(1, workers),
            _as_list(resumed["optimizer"]) if resumed else [],
            resumed["steps"] if resumed else 0,
            resumed["seconds"] if resumed else 0.0,
            args.max_steps or math.inf,
            several_machines=args.ray is not None,
        )
        self.server.normalizers[:] = torch.tensor(normalizer, dtype=torch.float64)
        self.outdated = ""  # why the best score of an earlier session does not count
        if resumed:
            self.server.evaluation["best_score"], self.outdated = self._best_score(resumed)
        self.finished_games = FinishedGames(self.server)
        # Scores of the newest training games, earlier sessions included.
        self.last_scores: deque[float] = deque(maxlen=options.TARGET_GAMES)
        # Rows of games that are not yet in the CSV.
        self.unwritten: list[tuple] = list((resumed or {}).get("unwritten", ()))
        self.earlier_games = 0  # training games of earlier sessions, of those that the CSV has
        self.games_failed = False  # the last attempt to write them
        locks = {file.parent.resolve(): file for file in (self.files.log_lock, self.files.lock)}
        self.locks = Locks([*locks.values()])
        self.set_aside: list[tuple[Path, Path]] = []  # files of an earlier run: old, new name
        # Content before --resume dropped rows, None without a file; copies of damaged files.
        self.csv_before: dict[Path, bytes | None] = {}
        self.damaged: list[tuple[Path, Path]] = []  # name, that of the copy
        self.dropped: list[tuple[Path, int, Path]] = []  # name, how many rows, where they are now
        # By which a tracker knows this run, in all its sessions.
        self.record_id = (resumed or {}).get("record_id") or secrets.token_hex(4)
        self.boards = Boards(self.server, self._makers_of_boards())
        self.saved_at = time.monotonic()
        self.saved_steps = resumed["steps"] if resumed else None  # those of the checkpoint on disk
        self.has_saved = False
        self.saved_evaluations = 0

    def _load_weights(self, resumed: dict | None) -> list[float]:
        """Those that the run starts from, if there are any, into the model.

        Returns their normaliser's state. ValueError: one line about what is wrong with them.
        """
        if resumed:
            path, state_dict, trained = self.files.checkpoint, resumed["model"], _rules(resumed)
            self.description["loaded"] = resumed.get("loaded")
        elif self.args.load:
            name = file_name(self.args.env)
            path = checkpoint.find_model(self.args.load_model_dir, name, self.args.published)
            state_dict, trained = checkpoint.load_model(path)
            self.introduction = checkpoint.introduce(path, trained, self.args.env)
            self.description["loaded"] = checkpoint.origin(path, trained)
        else:
            return [0.0, 0.0, 0.0]
        checkpoint.check_actions(path, state_dict, trained, self.description["actions"])
        checkpoint.load_weights(path, self.model, state_dict)
        if not trained:  # weights alone
            return [0.0, 0.0, 0.0]
        self._say_other_picture(path, trained)
        return checkpoint.normalizer_state(path, resumed or trained)

    def _say_other_picture(self, path: Path, trained: dict) -> None:
        """In the introduction, if the weights of this file were trained on another picture."""
        own = self.description["game_config"]
        before = picture(as_trained(own, trained.get("game_config")))
        if before != own and not checkpoint.of_another_game(trained, self.args.env):
            self.introduction.append(f"{path}: trained with {before}, and goes on with {own}")

    def _best_score(self, resumed: dict) -> tuple[float, str]:
        """Score of the weights in ENV.dat, nan if there is none; and why it does not count, if so.

        The test process saves by itself: a run that was killed may have left a better score there
        than the checkpoint knows of. A score counts under the rules that it was measured under.
        """
        if not self.files.model.exists():
            return math.nan, ""
        found = [(resumed["best_score"], _rules(resumed))]
        try:
            _, description = checkpoint.load_model(self.files.model)
            found += [(description["score"], description)] if description else []
        except ValueError as error:  # what nobody can play is no best that has to be reached
            return math.nan, f"the best weights so far cannot be used: {error}"
        scores = [
            (score, checkpoint.changed_rules(rules, self.description))
            for score, rules in found
            if score is not None
        ]
        counting = [score for score, changes in scores if not changes]
        if counting or not scores:
            return max(counting, default=math.nan), ""
        score, changes = max(scores)
        return math.nan, f"the best score so far, {points(score)}, no longer counts: {changes}"

    def save(self, last: bool = False) -> None:
        """Write the checkpoint; with the last weights as the model, if nothing was a best.

        Its agent steps are those whose training games `write_games` has written, or has yet to
        write where a full disk kept it from that.

        last: no other process writes any more.
        FloatingPointError: nothing can be learned from the weights any more, or a worker has just
            found that; all files stay as they were.
        """
        server = self.server
        server.pull(self.weights)
        if server.diverged or has_diverged(self.model):
            raise FloatingPointError(
                "the training has diverged, values or gradients are not finite (try a lower --lr)"
            )
        # An evaluation that ends during the save is newer.
        evaluations = int(server.evaluation["evaluations"])
        steps, seconds = self.finished_games.steps, server.seconds
        normalizer = server.normalizer().tolist()
        best_score = float(server.evaluation["best_score"])
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
            "record_id": self.record_id,
            "unwritten": self.unwritten,
        }
        data = checkpoint.to_bytes(content)
        checkpoint.write_atomically(self.files.checkpoint, lambda file: file.write(data))
        self.saved_at, self.has_saved, self.saved_steps = time.monotonic(), True, steps
        self.saved_evaluations = evaluations
        if last and math.isnan(best_score):
            description = checkpoint.describe(self.description, steps, seconds, normalizer, None)
            checkpoint.save_model(self.files.model, self.model.state_dict(), description)
        if last:
            checkpoint.mend_leftovers(self.files)  # of a test process that was killed

    def write_games(self, logger: logging.Logger, last: bool = False) -> None:
        """Add the training games that have ended to their CSV, or try again with the next ones.

        last: the workers have ended.
        """
        new = self.finished_games.collect(last)
        self.last_scores += [row[2] for row in new]
        self.unwritten += new
        if self.finished_games.lost:  # the main process was suspended, say
            lost, self.finished_games.lost = self.finished_games.lost, 0
            logger.error(f"{self.files.training_csv} lacks {lost} games: collected too late")
        if not self.unwritten:
            return
        try:
            checkpoint.append_csv(self.files.training_csv, self.unwritten)
            self.unwritten, self.games_failed = [], False
        except OSError as error:  # the disk may be full for a while; the run goes on
            if last:
                logger.error(
                    f"cannot save {len(self.unwritten)} training games: {error}; --resume will"
                )
            elif not self.games_failed:
                logger.error(f"cannot save training games: {error}; trying again")
            self.games_failed = True

    @property
    def has_something_to_save(self) -> bool:
        """Whether it has learned, or had less than a rollout left when it was resumed."""
        at_its_end = self.resumed and self.server.steps >= self.server.max_steps
        return self.server.has_learned or at_its_end

    def target_reached(self) -> str:
        """What has reached --target-score, in words; "" if nothing has."""
        args, scores = self.args, self.last_scores
        if args.target_score is None:
            return ""
        score = float(self.server.evaluation["last_score"])  # nan before the first evaluation
        if args.target != "training" and score >= args.target_score:
            return f"{points(score)}, mean of {args.eval_episodes} games of an evaluation"
        if args.target != "evaluation" and len(scores) == options.TARGET_GAMES:
            mean = sum(scores) / options.TARGET_GAMES
            if mean >= args.target_score:
                return (
                    f"{mean:.2f}, mean of the last {options.TARGET_GAMES} training games; their "
                    f"weights are those of {self.files.checkpoint}, which gym_eval.py --last plays"
                )
        return ""

    def save_when_due(self, logger: logging.Logger) -> None:
        """Checkpoint after each evaluation and every CHECKPOINT_SECONDS."""
        if not self.server.has_learned:
            return
        evaluated = int(self.server.evaluation["evaluations"]) > self.saved_evaluations
        if evaluated or time.monotonic() - self.saved_at > CHECKPOINT_SECONDS:
            try:
                self.save()
            except (FloatingPointError, OSError) as error:
                # A full disk may have room again, a worker find its next gradient finite.
                logger.error(f"cannot save: {error}; trying again")
                self.saved_at = time.monotonic()
                self.saved_evaluations = int(self.server.evaluation["evaluations"])

    def _config(self) -> dict:
        """What this session trains with, for those who look at its curves."""
        return {
            **vars(self.args),
            "command": self.description["command"],
            "versions": self.description["versions"],
        }

    def _makers_of_boards(self) -> dict[str, Callable[[], TensorBoard | Tracker]]:
        args, makers = self.args, {}
        if args.tensorboard_logger:
            makers["TensorBoard"] = lambda: TensorBoard(
                self.files.tensorboard, self.server, self.model, self.weights, self._config()
            )
        if args.track:
            name = str(self.files.log.with_name(file_name(args.env)))
            folder = str(self.files.log.parent)
            makers[args.track] = lambda: Tracker(
                args.track, self.server, name, self.record_id, self._config(), folder
            )
        return makers

    def prepare_files(self, resumed: dict | None) -> None:
        """Make room for this run's files. The caller holds the lock.

        ValueError, OSError: a file of the run cannot be read, renamed or written.
        """
        checkpoint.mend_leftovers(self.files)
        if resumed:
            if checkpoint.load_checkpoint(self.files.checkpoint)["steps"] != resumed["steps"]:
                raise ValueError(f"{self.files.checkpoint}: written anew meanwhile; try again")
            open(self.files.log, "ab").close()  # OSError now rather than in the middle
            paths = (self.files.csv, self.files.training_csv)
            self.csv_before = {
                p: p.read_bytes() if p.exists() else None
                for path in paths
                for p in (path, checkpoint.dropped(path))
            }
            for path in paths:
                # Newer rows belong to steps that will be played again.
                rows = checkpoint.read_csv(path)
                if newer := sum(row[1] > resumed["steps"] for row in rows):
                    self.dropped.append((path, newer, checkpoint.dropped(path)))
                if path.exists() and (kept := checkpoint.mend_csv(path, resumed["steps"])):
                    self.damaged.append((path, kept))
            rows = checkpoint.read_csv(self.files.training_csv)
            written = set(rows)
            self.unwritten = [row for row in self.unwritten if row not in written]
            rows += self.unwritten
            self.earlier_games = len(rows)
            if not checkpoint.changed_rules(_rules(resumed), self.description):
                self.last_scores += [row[2] for row in rows]
            if self.outdated:  # what has that score is kept; the next evaluation is the best
                paths = (self.files.model, self.files.model.with_suffix(".json"))
                self.set_aside = checkpoint.set_aside([path for path in paths if path.exists()])
            return
        self.set_aside = checkpoint.set_aside(self.files.existing())
        try:
            open(self.files.log, "ab").close()  # likewise
        except OSError:
            self.undo_prepare_files()
            raise

    def undo_prepare_files(self) -> None:
        """Remove this run's files and give those of an earlier run their names back."""
        if self.resumed:
            for path, content in self.csv_before.items():
                if content is None:
                    path.unlink(missing_ok=True)
                elif path.read_bytes() != content:
                    with contextlib.suppress(OSError):  # a full disk: they stay in ENV.dropped.csv
                        checkpoint.write_atomically(path, lambda file, c=content: file.write(c))
            for _, kept in self.damaged:
                kept.unlink()
        else:
            for path in [*self.files.existing(), *self.files.leftovers()]:
                path.unlink()
        for old, new in self.set_aside:
            new.rename(old)


def make_optimizer(
    args: argparse.Namespace, parameters: Sequence[torch.nn.Parameter]
) -> torch.optim.Optimizer:
    """A new one goes here and into options.OPTIMIZERS; its rate, into recipes.toml."""
    lr = value_at(args.lr, 0, args.schedule_steps)  # each update brings its own
    classes = {
        "Adam": functools.partial(SharedAdam, eps=args.adam_eps, amsgrad=args.amsgrad),
        "RMSprop": SharedRMSprop,
    }
    return classes[args.optimizer](parameters, lr=lr)


def _describe(
    args: argparse.Namespace, config: dict, actions: list[str], max_idle_steps: int | None
) -> dict:
    """What the files of a run say of it; its sessions apart. max_idle_steps: in evaluations."""
    chance = has_chance(parse_env_id(args.env), actions, greedy=True)
    return {
        "env": args.env,
        "actions": actions,
        "game_config": picture(config),
        "count_lives": args.count_lives,
        "hidden_size": args.hidden_size,
        # With which the evaluations of a run choose its best weights. Greedy, an id without
        # chance would play one game over and over.
        "policy": "greedy" if chance else "sampled",
        "skip_rate": args.skip_rate,
        "max_episode_length": args.max_episode_length,
        "max_idle_steps": max_idle_steps,
        "episodes": args.eval_episodes,
        "seed": args.seed,
        "workers": args.workers,
        "envs_per_worker": args.envs_per_worker,
        "options": {name: getattr(args, name) for name in options.recipe_options()},
        "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": checkpoint.versions() | {"suite": checkpoint.commit()},
        "loaded": None,  # the weights that this run started from, see checkpoint.origin
    }


def _rules(resumed: dict) -> dict:
    """What has the checkpoint.RULES of that session; earlier versions wrote no description."""
    return resumed.get("description") or resumed["args"]


def _sessions(resumed: dict | None, description: dict) -> list[dict]:
    """What each session of the run was started with, and at which agent step; this one is the last.

    Earlier versions kept the last one's description alone.
    """
    sessions, first_step = [], 0
    if resumed:
        before = resumed.get("description") or {}
        known = isinstance(before.get("sessions"), list)
        sessions = before["sessions"] if known else [_session(before, None)]
        first_step = resumed["steps"]
    return [*sessions, _session(description, first_step)]


def _session(description: dict, first_step: int | None) -> dict:
    """first_step: None if not known."""
    keys = ("command", "workers", "envs_per_worker", "options", "versions")
    return {"first_step": first_step, **{key: description.get(key) for key in keys}}


def _as_list(value) -> list:
    return value if isinstance(value, list) else [value]


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
