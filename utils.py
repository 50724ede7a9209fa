"""Small helpers: seeds, options, logging and times.

Imported before torch by the scripts that train and play, so that it can fix the number of threads
and find the place of a process' title.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is imported
os.environ.setdefault("SPT_NOENV", "1")  # or a title wipes out the environment that /proc shows

import argparse
import contextlib
import difflib
import enum
import logging
import logging.handlers
import math
import multiprocessing
import re
import sys
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path

import loky
import numpy as np
import setproctitle

# It goes where the first variable of the environment is found to lie, which OpenCV may change when
# it is imported, and processes.child_context later.
with contextlib.suppress(UnicodeDecodeError):  # it may cut the last letter in two
    setproctitle.getproctitle()

ERROR = "error: "  # before the message of an error in a log
# First words of a stream key: what the games are played for.
TRAIN, TEST, EVALUATE = range(3)


def game_seed(seed: int, *stream: int) -> np.random.SeedSequence:
    """Source of all chance in one game, or in a row of games: skips, stickiness, no-ops, sampling.

    `stream` says which, for example (EVALUATE, i) for game i of an evaluation; in training it is a
    row, in which only the first game begins with it.
    """
    return np.random.SeedSequence(seed, spawn_key=stream)


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help with the defaults, except where there is none."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, []) else super()._get_help_string(action)


class LineParser(argparse.ArgumentParser):
    """Argument parser whose errors are one line, without the usage before it."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=Help, **kwargs)

    def error(self, message: str):
        unknown = re.match(r"unrecognized arguments: (--\S+)", message)
        if unknown:
            near = difflib.get_close_matches(unknown[1], self._option_string_actions, n=1)
            message += "".join(f"; the nearest is {name}" for name in near)
        self.exit(2, f"{self.prog}: error: {message}\n")


def add_truth(group, *names: str, default: bool | None, help: str) -> None:
    """Add an option with a truth value, given bare or with True or False."""
    group.add_argument(
        *names, type=true_or_false, nargs="?", const=True, default=default,
        metavar="True|False", help=help,
    )  # fmt: skip


def true_or_false(text: str) -> bool:
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def _number(convert: Callable[[str], float], accept: Callable[[float], bool], what: str):
    """Type of an option, for argparse: a number with a condition."""

    def parse(text: str):
        try:
            number = convert(text)
        except ValueError:
            number = math.nan
        if number != number or not accept(number):  # nan; math.isnan fails on huge integers
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return number

    return parse


def whole(text: str) -> int:
    """'2000000', '2M', '500k' or '2e6'. ValueError for anything else."""
    unit = {"k": 1_000, "M": 1_000_000}.get(text[-1:])
    if unit is None and "e" not in text.lower():
        return int(text)
    try:  # of floats 4.1 * 1_000_000 is 4099999.9999999995
        value = Decimal(text[:-1] if unit else text) * (unit or 1)
    except InvalidOperation:
        raise ValueError from None
    if not value.is_finite() or value.adjusted() > 30 or value != value.to_integral_value():
        raise ValueError
    return int(value)


def named(text: str) -> str:
    """The name of a file: not '', which a variable of a script may be that was not set."""
    if not text:
        raise argparse.ArgumentTypeError("'' names no file")
    return text


# Up to 2**53 a whole number is exact as a float, as which processes share their counts.
positive_int = _number(whole, lambda x: 0 < x <= 2**53, "a whole number above 0, and 2**53 at most")
natural_int = _number(whole, lambda x: 0 <= x <= 2**53, "a whole number from 0 to 2**53")
# Of games, runs, processes and what has its own memory, made one by one.
few_int = _number(whole, lambda x: 0 < x <= 10**6, "a whole number above 0, and a million at most")
seed_int = _number(int, lambda x: 0 <= x < 2**63, "a whole number from 0 to 2**63 - 1")
positive_float = _number(float, lambda x: 0 < x < math.inf, "a number above 0")
natural_float = _number(float, lambda x: 0 <= x < math.inf, "a number, 0 or more")
# Seconds or minutes.
positive_time = _number(float, lambda x: 0 < x <= 1e9, "a number above 0, and 1e9 at most")
natural_time = _number(float, lambda x: 0 <= x <= 1e9, "a number from 0 to 1e9")
finite_float = _number(float, math.isfinite, "a finite number")
share = _number(float, lambda x: 0 < x <= 1, "a number above 0, and 1 at most")
unit_interval = _number(float, lambda x: 0 <= x <= 1, "a number from 0 to 1")


def or_none(convert: Callable):
    """Type of a limit, for argparse: `convert`, or the word none."""
    return lambda text: None if text.lower() == "none" else convert(text)


def available_cores() -> int:
    """Cores that this process may use, a container's processor quota included; at least 1."""
    return loky.cpu_count()


def memory_limit() -> float:
    """Bytes that this machine has, or that a container or a batch system allows."""
    limits = [math.inf]
    if hasattr(os, "sysconf"):  # not on Windows
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError):  # Linux only
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds == "":  # version 2
                root, name = "/sys/fs/cgroup", "memory.max"
            elif kinds == "memory":
                root, name = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
            else:
                continue
            group = Path(root + path)  # a container may see its own as the root
            for folder in (group, *group.parents):
                with contextlib.suppress(OSError, ValueError):  # "max"
                    limits.append(int((folder / name).read_text()))
    return min(limits)


def format_time(seconds: float) -> str:
    """As the classic suite writes it, '01h 02m 03s', but hours go on past 24."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60:02d}h {minutes % 60:02d}m {seconds:02d}s"


def count(number: int, noun: str) -> str:
    """'1 game', '2 games'."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def points(score: float) -> str:
    """A score, or a mean of scores, with two decimals at most."""
    return f"{round(score, 2) + 0.0:.2f}".rstrip("0").rstrip(".")  # + 0.0: no "-0"


def in_short(error: Exception) -> str:
    """An error of somebody else's library, which may be pages, in one line of a bounded length."""
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]


def say(text: str) -> None:
    """Print a line at once, or nothing more if standard output cannot be written."""
    try:
        print(text, flush=True)
    except OSError:
        _silence(sys.stdout)


def _silence(stream) -> None:
    """What is written to the stream from now on, and what it still holds, goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class StandardOutput(logging.StreamHandler):
    """Standard output; if its reader has gone (`| head`), nothing more is written, without a word.

    The program goes on: a training run is worth more than its output.
    """

    def __init__(self):
        if hasattr(sys.stdout, "reconfigure"):  # whatever the terminal cannot write becomes a ?
            sys.stdout.reconfigure(errors="replace")
        super().__init__(sys.stdout)

    def handleError(self, record):
        if isinstance(sys.exc_info()[1], OSError):
            _silence(self.stream)
        else:
            super().handleError(record)


class LogFile(logging.handlers.WatchedFileHandler):
    """A log that is a file; if it cannot be written, one line says so and the program goes on.

    terminal: gets that line; None if nobody may write there.
    What a full disk did not take follows once there is room, as far as the file's buffer holds it.
    A file that was removed is made anew, as soon as its folder is there.
    """

    def __init__(self, path: str, terminal: logging.Handler | None):
        super().__init__(path, encoding="utf-8")
        self.path, self.terminal = path, terminal

    def emit(self, record):
        try:
            super().emit(record)
        except OSError:  # the file has gone, and no other can be opened
            self.handleError(record)

    def handleError(self, record):
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif self.terminal:
            text = f"cannot write {self.path}: {error.strerror}; going on without it"
            line = logging.makeLogRecord({"levelno": logging.ERROR, "msg": text})
            self.terminal.handle(line)
            self.terminal = None  # once

    def close(self):
        with contextlib.suppress(OSError):  # what is in its buffer
            super().close()


class Lines(logging.Formatter):
    """The classic suite's lines; errors can be told apart."""

    def __init__(self):
        super().__init__("%(asctime)s : %(message)s")

    def formatMessage(self, record):
        if record.levelno >= logging.ERROR:
            return f"{record.asctime} : {ERROR}{record.message}"
        return super().formatMessage(record)


class Output(enum.Enum):
    """What a program shows in the terminal."""

    LINES = "lines"  # of the log, as they come
    DISPLAY = "display"  # redraws itself; nobody else may write there
    QUIET = "quiet"  # errors alone


def setup_logger(
    name: str,
    path: str,
    output: Output = Output.LINES,
    terminal: logging.Handler | None = None,
) -> logging.Logger:
    """Logger that adds each message, with its time, to the file and maybe prints it.

    terminal: where to print, if not on standard output.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    close_logger(logger)  # of an earlier run in this process
    handlers: list[logging.Handler] = []
    if output is not Output.DISPLAY:
        handlers = [terminal or StandardOutput()]
        handlers[0].setLevel(logging.INFO if output is Output.LINES else logging.ERROR)
    is_main = multiprocessing.parent_process() is None  # its children need not complain as well
    handlers.insert(0, LogFile(path, handlers[0] if handlers and is_main else None))
    for handler in handlers:
        handler.setFormatter(Lines())
        logger.addHandler(handler)
    return logger


def close_logger(logger: logging.Logger) -> None:
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
