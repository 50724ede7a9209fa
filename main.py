"""Train an A3C-LSTM agent on an Atari game: `python main.py --env Pong-v0 --workers 32`.

The life of a run, from the first line to the last save: its processes are started, watched and
stopped.
"""

from stopping import StopSignal

if __name__ == "__main__":
    stop_signal = StopSignal(at_once=True).install()  # the imports take seconds

import utils  # noqa: I001  # before torch: sets the number of threads
import contextlib

import options

if __name__ == "__main__":
    with contextlib.suppress(ValueError):  # main() says what is wrong
        given = options.parse(None)  # --help and misspelt options end before torch is there
        if not given.quiet:
            workers = utils.count(given.workers, "worker")
            games = utils.count(given.envs_per_worker, "game")
            what = "resuming" if given.resume else f"{workers} x {games}; starting"
            utils.say(f"main.py: {given.env}, {what}")

import argparse
import collections
import functools
import logging
import math
import multiprocessing.connection
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import BaseContext

import filelock
import torch
from rich.console import Console

import kernels
import messages
import network
from display import Display, can_show
from hogwild import Hogwild
from monitor import Figures, SamePolicy, Snapshot, require
from processes import Pulse, child_context, end_fork_server, how, start_child
from run import Run, load_options, make_folders
from test import test_process
from train import train_process
from utils import (
    Output,
    close_logger,
    count,
    format_time,
    say,
    setup_logger,
)

PROGRESS_SECONDS = (5, 60)  # from the first update to a line about the speed; then between lines
STOP_SECONDS = 5  # for the processes to end by themselves; of 10 in which a run has to end
MAX_REPLACEMENTS = 10  # of processes that died, in any REPLACEMENT_SECONDS
REPLACEMENT_SECONDS = 600


class Processes:
    """The test process and the workers: started, replaced when they die, stopped."""

    def __init__(
        self, run: Run, context: BaseContext, stop_signal: StopSignal, output: Output
    ):
        """context: makes processes."""
        server, args, make_env = run.server, run.args, run.make_env
        errors_to = run.files.log if output is Output.DISPLAY else None
        self.makers: list[Callable[[], multiprocessing.Process]] = [
            functools.partial(
                context.Process,
                target=test_process,
                name="test process",
                args=(
                    args,
                    server.for_process(),
                    run.make_test_env,
                    run.files,
                    run.description,
                    output,
                ),
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
        self.pulses: list[Pulse] = []
        self.server = server
        # When, at most REPLACEMENT_SECONDS ago, and which.
        self.replaced: list[tuple[float, list[str]]] = []
        # The last words of a process: where a display has the terminal, they are in the log.
        self.reasons = f"why is {'' if errors_to else 'above, the log '}in {run.files.log}"
        self.stop_signal = stop_signal
        stop_signal.children = self.running

    def start(self) -> None:
        """Start all of them, or as many as there are when a stop is asked for."""
        self.stop_signal.on_stop = end_fork_server  # it may load for long before the first
        for maker in self.makers:
            process = None if self._stopping() else start_child(maker, self._stopping)
            if not process:
                break
            self.running.append(process)
            self.pulses.append(Pulse())
            self.stop_signal.on_stop = None

    def _stopping(self) -> bool:
        return self.stop_signal.received

    def wait(self, seconds: float) -> None:
        """Until a process has ended, at most so long."""
        sentinels = [process.sentinel for process in self.running if process.is_alive()]
        multiprocessing.connection.wait(sentinels, timeout=seconds)

    def workers_alive(self) -> int:
        return sum(process.is_alive() for process in self.running[1:])  # the first one tests

    def replace_dead(self, logger: logging.Logger) -> bool:
        """Start anew whatever has died or hangs. False if that has happened too often.

        What dies at the same time dies of one cause, such as the end of the fork server, which
        takes all others along: it counts once.
        """
        self._kill_hanging(logger)
        if all(process.is_alive() for process in self.running):
            return True
        time.sleep(0.1)  # for those that die with it
        dead = [i for i, process in enumerate(self.running) if not process.is_alive()]
        now, names = time.monotonic(), [self.running[i].name for i in dead]
        recent = [(t, those) for t, those in self.replaced if now - t < REPLACEMENT_SECONDS]
        self.replaced = [*recent, (now, names)]
        give_up = len(self.replaced) > MAX_REPLACEMENTS
        for i, name in zip(dead, names, strict=True):
            then = self._why_give_up(now) if give_up else "starting another"
            logger.error(f"{name} died, {how(self.running[i].exitcode)}; {then}")
        if give_up:
            return False
        for i in dead:  # if the fork server died, they may be alive: this tells them to end
            self.running[i].close()
        for done, i in enumerate(dead):
            another = None
            try:
                another = None if self._stopping() else start_child(self.makers[i], self._stopping)
            finally:
                if not another:  # nobody may ask the closed ones anything
                    left = dead[done:]
                    self.running[:] = [p for j, p in enumerate(self.running) if j not in left]
            if not another:
                break
            self.running[i], self.pulses[i] = another, Pulse()
        return True

    def _why_give_up(self, now: float) -> str:
        deaths = collections.Counter(name for _, names in self.replaced for name in names)
        return (
            f"giving up after {deaths.total()} deaths in {now - self.replaced[0][0]:.0f} s ("
            + ", ".join(f"{name}: {n}" for name, n in deaths.most_common())
            + f"); {self.reasons}"
        )

    def _kill_hanging(self, logger: logging.Logger) -> None:
        """End what has made no step for long; it is then replaced like any other dead process."""
        beats = [self.server.evaluation["beats"], *self.server.figures["steps"]]
        for process, pulse, beat in zip(self.running, self.pulses, beats, strict=False):
            if pulse.stands_still(float(beat), time.monotonic()):
                logger.error(f"{process.name} hangs, no step for {pulse.limit} s; killing it")
                process.kill()
                process.join()

    def stop(self, server: Hogwild) -> None:
        """Ask every process to end, and end those that do not.

        Before the first update there is nothing to wait for: many workers on few cores take long
        to start, and see the flag only then.
        """
        server.stop()
        deadline = time.monotonic() + (STOP_SECONDS if server.has_learned else 0)
        for process in self.running:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in self.running:
            process.kill()
        for process in self.running:
            process.join()


def watch(
    run: Run,
    processes: Processes,
    stop_signal: StopSignal,
    logger: logging.Logger,
    display: Display | None,
) -> bool:
    """Until the run is over: replace what dies, save, report. False if it had to be given up.

    filelock.Timeout: see Locks.
    """
    server, args = run.server, run.args
    started, last = time.monotonic(), Snapshot.of(server)
    same_policy = SamePolicy(server.steps)
    next_report = math.inf  # until the first update
    while True:
        processes.wait(0.2)
        if stop_signal.received or server.stopped:
            break
        now = time.monotonic()
        if args.max_minutes and now - started >= 60 * args.max_minutes:
            break
        if reached := run.target_reached():
            logger.info(f"target score {args.target_score:g} reached: {reached}")
            break
        if not processes.replace_dead(logger):
            return False
        run.locks.keep()
        run.write_games(logger)
        run.save_when_due(logger)
        if next_report == math.inf and server.has_learned:
            logger.info(f"first update after {server.seconds - server.first_second:.0f} s")
            last, next_report = Snapshot.of(server), now + PROGRESS_SECONDS[0]
        if now >= next_report:
            snapshot = Snapshot.of(server)
            figures = Figures.between(last, snapshot)
            logger.info(messages.progress(server, figures))
            if same_policy.check(server.steps, figures):
                logger.error(messages.same_policy(figures))
            last, next_report = snapshot, now + PROGRESS_SECONDS[1]
        run.write_curves(logger)
        if display:
            display.update()
    return True


def run_to_end(
    run: Run, context: BaseContext, stop_signal: StopSignal, slow_because: str
) -> int:
    """Start the processes, watch them, stop them, save. Returns the exit code.

    context: makes processes.  slow_because: see choose_network.
    """
    console = Console()
    output = Output.LINES
    if run.args.quiet:
        output = Output.QUIET
    elif can_show(console):
        output = Output.DISPLAY
    logger = setup_logger(run.files.log.name, run.files.log, output)
    for line in messages.beginning(run):
        logger.info(line)
    for line in filter(None, (messages.slow(slow_because), messages.too_little_memory(run.args))):
        logger.info(line)
        if output is Output.DISPLAY:  # which gives the screen back as it was
            say(line)
    run.server.start_clock()
    processes = Processes(run, context, stop_signal, output)
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
        except filelock.Timeout:
            close_logger(logger)  # the log is now that of another run
            raise
        except OSError as error:
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
        for line in display.errors():
            say(line)
        logger = setup_logger(run.files.log.name, run.files.log)
    saved = finish(run, logger, healthy and not processes.replaced)
    run.write_curves(logger, last=True)
    if saved and run.server.has_learned and not run.args.quiet:
        for line in messages.what_next(run):
            say(line)
    return 0 if saved and healthy else 1


def finish(run: Run, logger: logging.Logger, healthy: bool) -> bool:
    """The last save, after all other processes have ended. False if the weights are unusable.

    filelock.Timeout: see Locks.
    healthy: no process failed; otherwise the log, which may say why, stays in any case.
    """
    run.locks.keep()
    server = run.server
    where = f"Time {format_time(server.seconds)}, agent steps {server.steps}, stopped"
    if not server.has_learned:
        keep_log = not healthy and not run.resumed  # a resumed run keeps it anyway
        logger.info(f"{where} before anything was learned; the files are as they were")
        if keep_log:
            logger.error(f"the log is now {run.files.failed_log}")
        close_logger(logger)
        if keep_log:
            run.files.log.replace(run.files.failed_log)
        run.undo_prepare_files()
        return True
    run.write_games(logger, last=True)
    try:
        run.save(last=True)
    except (FloatingPointError, OSError) as error:
        kept = "no checkpoint was saved before"
        if run.saved_steps is not None:
            kept = f"--resume goes on from agent step {run.saved_steps}, {run.files.checkpoint}"
        logger.error(f"{where}, not saved: {error}; {kept}")
        return False
    logger.info(f"{where}, saved {run.files.checkpoint}")
    return True


def main(argv: Sequence[str] | None, stop_signal: StopSignal) -> int:
    """Run main.py with these arguments; returns the exit code."""
    try:
        args, resumed = load_options(argv)
        if args.tensorboard_logger:
            require("torch.utils.tensorboard", "--tensorboard-logger needs TensorBoard")
        if args.track:
            require(args.track, f"--track {args.track} needs {args.track}")
        run = Run(args, resumed)
        run.locks.check()  # before the kernels are compiled, which takes long
        slow_because = choose_network(run.args, run.model)
        context = child_context(run.args.plain)
        stop_signal.at_once = False
        if stop_signal.received:
            return 0
        make_folders(args.save_model_dir, args.log_dir)
        run.locks.take()
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
            if resumed:
                with contextlib.suppress(OSError):  # rows of a full disk stay in ENV.dropped.csv
                    run.undo_prepare_files()
            return _fail(str(error))
        if resumed and (reached := run.target_reached()):
            run.undo_prepare_files()
            return _fail(
                f"the target score {args.target_score:g} is reached: {reached}; "
                "give another --target-score, or none"
            )
        if not args.quiet:
            for old, new in run.set_aside if not resumed else ():
                say(f"{old} of an earlier run is now {new.name}")
            for path, kept in run.damaged:
                say(f"{path} had lines that are no rows; as it was, it is now {kept.name}")
            for path, rows, kept in run.dropped:
                newer = count(rows, "row")
                say(f"{path} had {newer} newer than the checkpoint; they are now in {kept.name}")
        return run_to_end(run, context, stop_signal, slow_because)
    except filelock.Timeout:
        return _fail(
            f"{run.files.lock} or {run.files.log_lock} was removed and another run has it now; "
            "this one has ended and writes nothing more"
        )
    finally:
        run.locks.release()


def choose_network(args: argparse.Namespace, model: torch.nn.Module) -> str:
    """Set args.plain, for all processes, if the kernels do not serve this network; returns why.

    Compiles them once, before the workers load them from the cache on disk.
    """
    if args.plain:
        return ""
    with contextlib.nullcontext() if args.quiet else kernels.announced(say):
        reason = network.why_plain(model)
    args.plain = bool(reason)
    return reason


def _fail(reason: str) -> int:
    print(f"main.py: error: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(None, stop_signal))
