"""Many runs with one command: games, seeds and variants of the options, each through main.py.

    python experiment.py --env Pong-v0 Breakout-v0 --seeds 3 --max-steps 2M --folder runs/rates \\
        --variant base: --variant low:--lr 1e-4 -- --workers 2

The folder has a folder for each run, experiment.json, and in the end the table results.txt, .csv
and .md. Ctrl-C stops and saves all runs. The same command goes on with those that are not finished,
even after a kill -9: their main.py sees that this program is gone, stops and saves. More games,
seeds and variants may be added to a folder; what has begun there does not change.
"""

from stopping import STOP_WITH_INPUT, StopSignal

if __name__ == "__main__":
    stop_signal = StopSignal(at_once=True, code=130).install()  # the imports take seconds

import utils  # noqa: F401, I001  # before torch: sets the number of threads
import contextlib

import options

if __name__ == "__main__":
    with contextlib.suppress(ValueError):  # main() says what is wrong
        options.parse_experiment(None)  # --help and misspelt options end before torch is there

import argparse
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import filelock
from rich.console import Console
from rich.live import Live
from rich.table import Table

import checkpoint
import scores
from display import can_show, in_foreground, show_cursor
from environment import CROP_TABLE, file_name, game_config, parse_env_id, picture, read_config
from processes import how
from scores import Experiment, Member
from utils import count, format_time, say

REFRESH_SECONDS = 2  # of the table
STOP_SECONDS = 30  # for a run to end by itself, which has 10; this machine may be busy
OUTPUT = "output.txt"  # in the folder of a run: what its main.py said


def plan(args: argparse.Namespace) -> Experiment:
    """All runs that the arguments ask for. ValueError: one line about what is wrong with them."""
    members = []
    for env in args.env:
        env = parse_env_id(env).env_id
        for name, extra in args.variant.items():
            given = [*args.options, *extra]
            digests = _digests(_argv(env, 1, args.max_steps, given))
            seeds = range(1, args.seeds + 1)
            members += [Member(env, name, seed, given, sha256=digests) for seed in seeds]
    if len({str(member) for member in members}) < len(members):
        raise ValueError("--env names a game twice")
    return Experiment(args.folder, args.max_steps, members)


def _argv(env: str, seed: int, max_steps: int, given: list[str]) -> list[str]:
    """The options of a run for main.py."""
    return ["--env", env, "--seed", str(seed), "--max-steps", str(max_steps), *given]


def _digests(argv: list[str]) -> dict[str, str]:
    """sha256 of what lies in files and decides about the run of these options of main.py.

    It is the whole file that an option names, and of the crop table what it says of this game.
    Weights may be missing: runs that have begun need them no more, the others say so themselves.
    ValueError, OSError: one of the options or files cannot be used.
    """
    args = options.parse(argv)
    entry = game_config(read_config(args.env_config or CROP_TABLE), args.env)
    seen = picture(entry) | {"actions": entry.get("actions")}
    contents = {"crop table": json.dumps(seen, sort_keys=True).encode()}
    paths = {"--recipe": args.recipe}
    if args.load:
        with contextlib.suppress(ValueError):
            paths["--load"] = checkpoint.find_model(
                args.load_model_dir, file_name(args.env), args.published
            )
    files = {option: Path(path) for option, path in paths.items() if path and Path(path).exists()}
    contents |= {option: path.read_bytes() for option, path in files.items()}
    return {name: sha256(content).hexdigest() for name, content in contents.items()}


def _edited(member: Member, digests: dict[str, str]) -> str:
    """The first of `_digests` that was another when the run was planned; "" if there is none."""
    differing = (n for n, digest in digests.items() if member.sha256.get(n, digest) != digest)
    return next(differing, "")


def merge(planned: Experiment, found: Experiment) -> Experiment:
    """The planned experiment, with what its folder already has of it.

    A run of which there is nothing yet can get other options, or vanish: the first were mistyped.
    ValueError: that was begun with other arguments.
    """
    here = {str(member): member for member in found.members if _has_begun(member, found.root)}
    wanted = {str(member): member for member in planned.members}
    give = "give another --folder"
    if here and found.max_steps != planned.max_steps:
        raise ValueError(f"{found.root} was begun with --max-steps {found.max_steps}; {give}")
    for name, member in here.items():
        if name not in wanted:
            raise ValueError(f"{found.root} has the run {name}, not asked for now; {give}")
        if member.options != wanted[name].options:
            with_options = " ".join(member.options) or "no options of main.py"
            raise ValueError(f"{found.root} has {name} with {with_options}; {give}")
        if edited := _edited(member, wanted[name].sha256):
            raise ValueError(
                f"{found.root} has {name} with another content of its {edited}; put it back or "
                + give
            )
    return Experiment(
        planned.root, planned.max_steps, [here.get(name, one) for name, one in wanted.items()]
    )


def _has_begun(member: Member, root: Path) -> bool:
    """Whether there is something of a run that would be lost with its options."""
    files = member.files(root)
    kept = member.finished and files.training_csv.exists()  # else it is to begin anew
    return kept or bool(member.commits and files.checkpoint.exists())


class Process:
    """A main.py at work on one run."""

    def __init__(self, experiment: Experiment, member: Member, resume: bool):
        """OSError: its folder or process cannot be made."""
        self.member, self.files = member, member.files(experiment.root)
        folder = member.folder(experiment.root)
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(Path(__file__).with_name("main.py")), "--env", member.env]
        command += ["--save-model-dir", str(folder), "--log-dir", str(folder), "--quiet"]
        if resume:  # all other options are those of its checkpoint
            command += ["--resume", *(["--plain"] if _is_plain(member) else [])]
        else:
            command += ["--seed", str(member.seed), "--max-steps", str(experiment.max_steps)]
            command += member.options
        self.output = folder / OUTPUT
        # A session of its own: the terminal's Ctrl-C reaches this program alone, which passes it
        # on. The pipe ends with this program, however that ends.
        with open(self.output, "ab") as output:
            self.said = output.tell()
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True, env={**os.environ, STOP_WITH_INPUT: "1"},
            )  # fmt: skip

    def last_words(self) -> str:
        """The last line of its output in this session, or how it ended."""
        with open(self.output, "rb") as output:
            output.seek(self.said)
            lines = output.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        code = how(self.process.returncode)
        return f"{code}: {said[-1]}" if said else f"{code}, without a word"


def _is_plain(member: Member) -> bool:
    return options.build_parser().parse_args(member.options).plain


def _errors(log: Path) -> list[str]:
    """What the log of a run has of errors, such as that it learns nothing; none if it is gone."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [error for _, found, error in (line.partition(" : error: ") for line in lines) if found]


class Driver:
    """Starts the runs of an experiment, as many at once as asked for, and follows them."""

    def __init__(self, experiment: Experiment, jobs: int, stop_signal: StopSignal, quiet: bool):
        """quiet: print no lines while it works."""
        self.experiment, self.jobs, self.stop_signal = experiment, jobs, stop_signal
        self.waiting = [member for member in experiment.members if not member.finished]
        self.running: list[Process] = []
        self.failed: dict[str, str] = {}  # why, by the name of the run
        self.say = (lambda text: None) if quiet else say
        self.commit = checkpoint.commit()
        self.notes: dict[str, tuple] = {}  # of each run that has begun: see read

    def check(self) -> None:
        """ValueError: one line, if a run that has not begun here has the checkpoint of another."""
        for member in self.waiting:
            if not member.commits:
                try:
                    self._saved(member)
                except filelock.Timeout as error:
                    raise ValueError(str(error)) from None

    def advance(self) -> bool:
        """Collect what has ended, start what has room. False when nothing is left to do."""
        self._collect()
        while self.waiting and len(self.running) < self.jobs and not self.stop_signal.received:
            self._start(self.waiting.pop(0))
        self.stop_signal.children = [one.process for one in self.running]
        return bool(self.running)

    def _collect(self) -> None:
        for one in [one for one in self.running if one.process.poll() is not None]:
            self.running.remove(one)
            self._ended(one)

    def _start(self, member: Member) -> None:
        try:
            saved = self._saved(member)
            if saved and saved["steps"] >= self.experiment.max_steps:
                self._finish(member, saved)
                return
            if name := _edited(member, _digests(self._plan(member))):
                raise ValueError(f"the content of its {name} has changed")
            if self.commit not in member.commits:
                member.commits.append(self.commit)
                self.experiment.write()
            self.running.append(Process(self.experiment, member, resume=bool(saved)))
        except (ValueError, OSError, filelock.Timeout) as error:
            self._fail(member, str(error))
            return
        where = f"goes on at agent step {saved['steps']}" if saved else "begins"
        self.say(f"{member} {where}")

    def _plan(self, member: Member) -> list[str]:
        return _argv(member.env, member.seed, self.experiment.max_steps, member.options)

    def _saved(self, member: Member) -> dict | None:
        """The checkpoint of a run; None if it has none.

        Waits for a main.py that still saves because an earlier driver was killed.
        filelock.Timeout: it goes on. ValueError: the checkpoint cannot be used, or is of another
        run. A run that has begun here may differ from the plan: its version had other defaults.
        """
        files = member.files(self.experiment.root)
        if not files.checkpoint.exists() and not files.lock.exists():
            return None
        with filelock.FileLock(files.lock, timeout=STOP_SECONDS):
            if not files.checkpoint.exists():
                return None
            try:
                saved = checkpoint.load_checkpoint(files.checkpoint)
                if not member.commits:
                    weights = member.sha256.get("--load")
                    if difference := options.unlike(saved, self._plan(member), weights):
                        raise ValueError(f"{files.checkpoint}: {difference}")
            except ValueError as error:
                raise ValueError(f"{error}; without that file the run begins anew") from None
            return saved

    def _ended(self, one: Process) -> None:
        self.notes.pop(str(one.member), None)  # what it wrote last is yet to be read
        try:
            saved = self._saved(one.member)
        except (ValueError, filelock.Timeout) as error:
            self._fail(one.member, str(error))
            return
        if saved and saved["steps"] >= self.experiment.max_steps:
            self._finish(one.member, saved)
        elif one.process.returncode not in (0, -signal.SIGTERM):  # that meets it before its handler
            self._fail(one.member, one.last_words())
        elif self.stop_signal.received:
            at = saved["steps"] if saved else 0
            self.say(f"{one.member} stopped at agent step {at}")
        elif saved:
            self._fail(one.member, "was stopped by somebody else")
        else:
            few = f"--max-steps {self.experiment.max_steps} is too few for a rollout"
            why = f"by somebody else, or {few}"
            self._fail(one.member, f"stopped before anything was learned: {why}")

    def _finish(self, member: Member, saved: dict) -> None:
        member.steps, member.seconds = saved["steps"], round(saved["seconds"], 1)
        try:
            self.experiment.write()
        except OSError as error:  # its checkpoint says the same when the command is given again
            print(f"experiment.py: error: cannot save: {error}", file=sys.stderr, flush=True)
        self.say(f"{member} finished, {format_time(member.seconds)}; {self.summary()}")
        if errors := _errors(member.files(self.experiment.root).log):
            number = count(len(errors), "error")
            self.say(f"{member}: its log has {number}, the last: {errors[-1]}")

    def _fail(self, member: Member, why: str) -> None:
        self.failed[str(member)] = why
        print(f"experiment.py: error: {member}: {why}", file=sys.stderr, flush=True)

    def stop(self) -> None:
        """Ask all runs to stop, and wait until they have saved."""
        for one in self.running:
            one.process.terminate()
        for one in self.running:
            one.process.wait()
        self._collect()

    def read(self, member: Member) -> tuple[float, int, float]:
        """Seconds and agent steps of a run at the end of its last game, and its score there."""
        rows = checkpoint.read_csv(member.files(self.experiment.root).training_csv)
        steps = max((row[1] for row in rows), default=0)
        seconds = max((row[0] for row in rows), default=0.0)
        return seconds, steps, float(scores.score_at(rows, [steps], self.experiment.max_steps)[0])

    def follow(self) -> None:
        """Read anew what the runs at work have written, and once what others have."""
        at_work = [one.member for one in self.running]
        for member in self.experiment.members:
            if member in at_work or str(member) not in self.notes:
                self.notes[str(member)] = self.read(member)

    def seconds_left(self) -> float:
        """As if each run went on as fast as the runs do on average; nan if that is not known."""
        seconds = sum(note[0] for note in self.notes.values())
        steps = sum(note[1] for note in self.notes.values())
        if not steps:
            return float("nan")
        left = [
            self.experiment.max_steps - self.notes[str(member)][1]
            for member in self.experiment.members
            if not member.finished and str(member) not in self.failed
        ]
        return max([sum(left) / self.jobs, *left]) * seconds / steps

    def summary(self) -> str:
        """One line: how many runs are in which state, time left."""
        members = self.experiment.members
        done = sum(member.finished for member in members)
        texts = [f"{done} of {count(len(members), 'run')} finished", f"{len(self.running)} at work"]
        if self.failed:
            texts.append(f"{len(self.failed)} failed")
        self.follow()
        left = self.seconds_left()
        if left == left and done < len(members):
            texts.append(f"about {format_time(left)} left")
        return ", ".join(texts)

    def table(self) -> Table:
        """One line for each game and variant: which seeds are where."""
        table = Table(title=self.summary(), title_justify="left", title_style="")
        for column in ("game", "variant", "seed: agent steps, score of training games"):
            table.add_column(column)
        for (env, variant), members in self.experiment.groups().items():
            table.add_row(env, variant, ",  ".join(map(self._in_words, members)))
        return table

    def _in_words(self, member: Member) -> str:
        _, steps, score = self.notes[str(member)]
        share = f"{100 * min(1, steps / self.experiment.max_steps):.0f} %"
        if str(member) in self.failed:
            share = "failed"
        elif member.finished:
            share = "done"
        elif member in self.waiting:
            share = "waits" if not steps else f"waits at {share}"
        return f"{member.seed}: {share}" + (f", {score:,.1f}" if steps else "")


def leave_alone() -> None:
    """Ctrl-Z stops this program, but not its runs; from a signal handler."""
    with contextlib.suppress(OSError):
        os.write(1, b"the runs at work go on; they stop and save when this program ends\n")


def run(driver: Driver, stop_signal: StopSignal, console: Console) -> None:
    """Until all runs have ended or a stop is asked for."""
    due = time.monotonic() + REFRESH_SECONDS
    live, restore = contextlib.nullcontext(), lambda: None
    if can_show(console):
        live = Live(console=console, get_renderable=driver.table, auto_refresh=False)
        restore = functools.partial(show_cursor, console)
    with stop_signal.leaving(restore, leave_alone), live:
        try:
            while driver.advance() and not stop_signal.received:
                time.sleep(0.2)
                if isinstance(live, Live) and time.monotonic() >= due:
                    if in_foreground(console):
                        live.refresh()
                    due = time.monotonic() + REFRESH_SECONDS
        finally:
            if driver.running:
                say(f"stopping; {count(len(driver.running), 'run')} to save")
            driver.stop()
            if isinstance(live, Live):
                live.refresh()  # what stays in the terminal


def write_results(experiment: Experiment) -> str:
    """Write the table into the folder, if a run is finished; returns it as text."""
    rows = scores.results(experiment)
    if not rows:
        return ""
    text = scores.as_text(rows)
    contents = {"txt": text, "md": scores.as_markdown(rows), "csv": scores.as_csv(rows)}
    for ending, content in contents.items():
        path = experiment.root / f"results.{ending}"
        checkpoint.write_atomically(path, lambda file, c=content: file.write(c.encode()))
    return text


def main(argv: Sequence[str] | None, stop_signal: StopSignal) -> int:
    """Run experiment.py with these arguments; returns the exit code."""
    try:
        args = options.parse_experiment(argv)
        planned = plan(args)
        args.folder.mkdir(parents=True, exist_ok=True)
        stop_signal.at_once = False
        with filelock.FileLock(args.folder / "experiment.lock", blocking=False):
            if Experiment.path(args.folder).exists():
                planned = merge(planned, Experiment.read(args.folder))
            console = Console()
            driver = Driver(planned, args.jobs, stop_signal, quiet=can_show(console))
            driver.check()
            planned.write()
            run(driver, stop_signal, console)
            text = write_results(planned)
    except filelock.Timeout:
        return _fail(f"another experiment.py is at work in {args.folder}")
    except (ValueError, OSError) as error:
        return _fail(str(error))
    if text:
        say(f"\n{text}\n{args.folder / 'results.txt'}, .csv and .md have this table")
    left = sum(not member.finished for member in planned.members)
    if left:
        say(f"{count(left, 'run')} not finished; the same command goes on with them")
    return 1 if driver.failed else 130 if left else 0


def _fail(reason: str) -> int:
    print(f"experiment.py: error: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(None, stop_signal))
