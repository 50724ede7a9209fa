"""Train an A3C-LSTM agent on an Atari game: `python main.py --env Pong-v0 --workers 32`.

The life of a run, from the first line to the last save: its processes are started, watched and
stopped.
"""

from stopping import StopSignal

if __name__ == "__main__":
    stop_signal = StopSignal(at_once=True).install()  # the imports take seconds

import utils  # noqa: I001  # before torch: sets the number of threads
import atexit
import contextlib
import gc

import options

if __name__ == "__main__":
    gc.disable()  # while modules are loaded, which takes a seventh less time so
    atexit.register(gc.freeze)  # no look for cycles at the end, either: 0.7 s
    with contextlib.suppress(ValueError):  # main() says what is wrong
        given = options.parse(None)  # --help and misspelt options end before torch is there
        if not given.quiet:
            workers = utils.count(options.workers_here(given), "worker")
            games = utils.count(given.envs_per_worker, "game")
            what = "resuming" if given.resume else f"{workers} x {games}; starting"
            utils.say(f"main.py: {given.env}, {what}")

import argparse
import functools
import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import BaseContext

import filelock
import torch
from rich.console import Console

import connection
import kernels
import messages
import network
from display import Display, can_show
from group import Processes
from monitor import Figures, Snapshot, require, watch_policy, watch_sight
from processes import child_context, fork_fork_server
from run import Run, load_options, make_folders
from utils import (
    Output,
    close_logger,
    count,
    format_time,
    in_short,
    points,
    say,
    setup_logger,
)

gc.enable()

PROGRESS_SECONDS = (5, 60)  # from the first update to a line about the speed; then between lines


def watch(
    run: Run,
    processes: Processes,
    stop_signal: StopSignal,
    logger: logging.Logger,
    display: Display | None,
    cluster=None,
) -> bool:
    """Until the run is over: replace what dies, save, report. False if it had to be given up.

    cluster: cluster.Cluster of a run on several machines.

    filelock.Timeout: see Locks.
    """
    server, args = run.server, run.args
    started, last = time.monotonic(), Snapshot.of(server)
    samples = args.envs_per_worker * min(args.distributed_step_size or [args.num_steps])
    watches = (
        (watch_policy(server.steps, samples), messages.same_policy),
        (watch_sight(server.steps), messages.blind),
    )
    next_report = math.inf  # until the first update
    while True:
        processes.wait(0.2)
        if stop_signal.received or server.stopped:
            break
        now = time.monotonic()
        if args.max_minutes and now - started >= 60 * args.max_minutes:
            break
        if reached := run.target_reached():
            logger.info(f"target score {points(args.target_score)} reached: {reached}")
            break
        if not processes.replace_dead(logger):
            return False
        if cluster:
            cluster.log(logger)
            if failure := cluster.failure():
                logger.error(failure)
                return False
        run.locks.keep()
        run.write_games(logger)
        run.save_when_due(logger)
        if next_report == math.inf and server.has_learned:
            logger.info(f"first update after {server.seconds - server.first_second:.0f} s")
            last, next_report = Snapshot.of(server), time.monotonic() + PROGRESS_SECONDS[0]
        if now >= next_report:
            snapshot = Snapshot.of(server)
            figures = Figures.between(last, snapshot)
            machines = cluster.summary() if cluster else ""
            logger.info(messages.progress(server, figures, machines, run.earlier_games))
            for watch, message in watches:
                if steps := watch.check(server.steps, figures):
                    logger.error(message(steps, figures))
            last, next_report = snapshot, now + PROGRESS_SECONDS[1]
        run.boards.write(logger)
        if display:
            display.update()
    return True


def make_processes(
    run: Run, context: BaseContext, stop_signal: StopSignal, output: Output
) -> Processes:
    """The processes of this machine; context: makes them."""
    server, files = run.server, run.files
    errors_to = files.log if output is Output.DISPLAY else None
    test = (run.args, server.for_process(), run.make_test_env, files, run.description, output)
    # The last words of a process: where a display has the terminal, they are in the log.
    reasons = f"why is {'' if errors_to else 'above, the log '}in {files.log}"
    return Processes(
        server, run.args, run.make_env, context, stop_signal, test, errors_to, reasons
    )


def make_cluster(run: Run, processes: Processes):
    """The other machines, as cluster.Cluster; connection.connect comes before."""
    from cluster import Cluster  # imports Ray, which only a run that wants it has to have

    actions = len(run.description["actions"])
    return Cluster(run.server, run.args, run.make_env, actions, processes.workers_alive)


def _reach(logger: logging.Logger, call: Callable[[], None]) -> None:
    """Ask something of other machines, whose faults are many and must not cost this one's save."""
    try:
        call()
    except Exception as error:
        logger.error(f"the other machines cannot be reached: {in_short(error)}")


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
    processes = make_processes(run, context, stop_signal, output)
    try:
        with stop_signal.heard_anywhere():
            cluster = make_cluster(run, processes) if run.args.ray is not None else None
    except Exception as error:  # Ray has many
        close_logger(logger)
        run.undo_prepare_files()
        return _fail(f"cannot start the parameter server: {error}")
    display = Display(run, processes, console, cluster) if output is Output.DISPLAY else None
    healthy = False
    with contextlib.ExitStack() as screen:
        if display:
            screen.enter_context(stop_signal.leaving(display.restore, go_on=display.come_back))
            screen.enter_context(display)
        try:
            if cluster:
                cluster.start()
            if display:  # many processes take long to start
                display.update()
            processes.start()
            healthy = watch(run, processes, stop_signal, logger, display, cluster)
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
            if cluster:
                _reach(logger, cluster.stop)
            processes.stop()
            if cluster:
                _reach(logger, functools.partial(cluster.finish, logger))
    if display:  # errors and the last line are for the terminal as well
        for line in display.errors():
            say(line)
        logger = setup_logger(run.files.log.name, run.files.log)
    saved = finish(run, logger, healthy and not processes.replaced)
    run.boards.write(logger, last=True)
    if saved and run.has_something_to_save and not run.args.quiet:
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
    if not run.has_something_to_save:
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
        address = None
        if args.ray is not None:
            with stop_signal.heard_anywhere():  # a name server may be silent
                address = connection.find(args.ray, args.machines, args.driver_workers)
        run = Run(args, resumed)
        run.locks.check()  # before the kernels are compiled, which takes long
        slow_because = choose_network(run.args, run.model)
        context = child_context(run.args.plain)
        fork_fork_server()
        if address is not None:
            if address and not args.quiet:
                say(f"joining the Ray cluster at {address}")
            with stop_signal.heard_anywhere():
                connection.connect(address)
            stop_signal.install()  # Ray has handlers of its own
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
                with contextlib.suppress(OSError):
                    run.undo_prepare_files()
            return _fail(str(error))
        if resumed and (reached := run.target_reached()):
            run.undo_prepare_files()
            return _fail(
                f"the target score {points(args.target_score)} is reached: {reached}; "
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
