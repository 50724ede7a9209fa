"""The live display of a training run in a terminal."""

import contextlib
import math
import os
import re
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

import checkpoint
from monitor import Figures, Window
from options import workers_here
from utils import ERROR, count, format_time

REFRESH_SECONDS = 1
LEARNING_SECONDS, SCORE_SECONDS = 30, 300  # of the means that are shown
RECENT = 10  # evaluations of the mean that is shown
CLEARLY = 3  # standard errors of a difference
MAX_WIDTH = 100  # columns
# The alternate screen, empty and without cursor; the ordinary one with its cursor.
ENTER_SCREEN, LEAVE_SCREEN = b"\x1b[?1049h\x1b[H\x1b[?25l", b"\x1b[?1049l\x1b[?25h"
BLOCKS = " ▁▂▃▄▅▆▇█"


def can_show(console: Console) -> bool:
    """Whether this is our terminal, can redraw itself and has the signs of the curve."""
    return (
        console.file.isatty()
        and console.is_terminal
        and not console.is_dumb_terminal
        and console.encoding.lower().replace("-", "") == "utf8"
        and in_foreground(console)
    )


def in_foreground(console: Console) -> bool:
    """Whether the terminal is this program's, not that of the shell that started it with `&`."""
    try:
        return os.tcgetpgrp(console.file.fileno()) == os.getpgrp()
    except (AttributeError, OSError):  # Windows; a terminal that is not the controlling one
        return True


def show_cursor(console: Console) -> None:
    """On a new line, below a bar or table of rich's; from a signal handler."""
    os.write(console.file.fileno(), b"\x1b[?25h\n")


def draw_curve(values: Sequence[float], width: int, height: int) -> list[str]:
    """Lines of a bar chart, the topmost first; one column per value, or per mean of several.

    The lowest value is one eighth of a line high, so that it can be seen.
    """
    count = min(width, len(values))
    columns = np.array([part.mean() for part in np.array_split(np.array(values, float), count)])
    span = columns.max() - columns.min()
    levels = 8 * height - 1
    heights = 1 + np.rint((columns - columns.min()) / span * levels if span else 0 * columns)
    return [
        "".join(BLOCKS[int(min(max(h - 8 * line, 0), 8))] for h in heights)
        for line in reversed(range(height))
    ]


def number(value: float, form: str = ".2f") -> str:
    """The value, or a dash for nan."""
    return "-" if math.isnan(value) else format(value, form)


def in_tenths(score: float) -> str:
    """A score, to a tenth: '-20.5', '1,200'; a dash for nan."""
    return number(score, ",.1f").removesuffix(".0")


def beats_first(evaluations: np.ndarray) -> bool:
    """Whether one of the evaluations, rows of checkpoint.by_evaluation, is clearly above the first.

    Those of a single game have no standard error: any that is higher counts.
    """
    if not len(evaluations):
        return False
    scores, errors = evaluations[:, 2], np.nan_to_num(evaluations[:, 3])
    return bool((scores - scores[0] > CLEARLY * np.hypot(errors, errors[0])).any())


class Display:
    """Shows a run on the terminal's alternate screen, which leaves what was there before as it was.

    run: run.Run.  processes: group.Processes.  cluster: cluster.Cluster.
    Use it as a context; call `update` as often as you like.
    """

    def __init__(self, run, processes, console: Console, cluster=None):
        self.run, self.processes, self.console, self.cluster = run, processes, console, cluster
        self.server, self.args = run.server, run.args
        self.live = Live(
            console=console, screen=True, auto_refresh=False,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        self.learning = Window(self.server, LEARNING_SECONDS)
        self.playing = Window(self.server, SCORE_SECONDS)
        rows = checkpoint.read_csv(run.files.csv)  # of earlier sessions
        evaluations = checkpoint.by_evaluation(rows)
        self.scores = evaluations[:, 2].tolist()  # one per evaluation
        self.evaluations = 0  # of this session, in self.scores
        # Whether it plays as it began, by chance.
        self.is_new = run.description["loaded"] is None and not beats_first(evaluations)
        self.started = time.monotonic()
        self.next_update = 0.0
        self.state = "starting"
        self.on_screen = True
        self.log_start = log_size(run.files.log)  # the lines before say how the run began

    def __enter__(self) -> "Display":
        self.live.start()
        return self

    def __exit__(self, *error) -> None:
        self.state = "stopped"
        # The terminal may have gone; and a fault in drawing must not keep the run from its save.
        with contextlib.suppress(Exception):
            self.live.stop()
        with contextlib.suppress(Exception):
            self.console.print(self._view())  # what stays in the terminal

    def restore(self) -> None:
        """Leave the alternate screen at once, from a signal handler; `update` enters it again."""
        self.on_screen = False
        os.write(self.console.file.fileno(), LEAVE_SCREEN)

    def come_back(self) -> None:
        """After Ctrl-Z: draw at once, if the run is in front again."""
        self.next_update = 0.0

    def errors(self) -> list[str]:
        """Lines about errors that any process has written into the log."""
        lines = read_lines(self.run.files.log, self.log_start)
        return [line for line in lines if f" : {ERROR}" in line]

    def stopping(self) -> None:
        self.state, self.next_update = "stopping", 0.0
        self.update()

    def update(self) -> None:
        """Draw anew, at most every REFRESH_SECONDS."""
        now = time.monotonic()
        if now < self.next_update:
            return
        self.next_update = now + REFRESH_SECONDS
        if self.state == "starting" and self.server.has_learned:
            self.state = ""
        self.evaluations, evaluated = self.server.evaluations_after(self.evaluations)
        if evaluated:
            self.scores += [score for _, score in evaluated]
            with contextlib.suppress(OSError):  # then it stays new until the next evaluation
                rows = checkpoint.read_csv(self.run.files.csv) if self.is_new else []
                self.is_new &= not beats_first(checkpoint.by_evaluation(rows))
        if not in_foreground(self.console):
            return
        with contextlib.suppress(OSError):  # the terminal has gone; the run goes on
            if not self.on_screen:
                self.on_screen = True
                os.write(self.console.file.fileno(), ENTER_SCREEN)
            self.live.update(self._screen(), refresh=True)

    def _screen(self) -> RenderableType:
        """The view and, below it, the newest lines of the log in what is left of the terminal."""
        width, height = self.console.size
        view = self._view()
        options = self.console.options.update(height=None)
        free = height - len(self.console.render_lines(view, options))
        if free < 2:
            return view
        rows: list[Text] = []
        for line in read_lines(self.run.files.log, self.log_start, 300 * free)[-free:]:
            style = "red" if f" : {ERROR}" in line else "dim"
            line = re.sub(r"^\d{4}-\d\d-\d\d (\d\d:\d\d:\d\d),\d{3} : ", r"\1 ", line)
            indent = " " * len("hh:mm:ss ") if width > 40 else ""
            parts = textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False)
            rows += [Text(part, style, no_wrap=True) for part in parts]
        return Group(view, *rows[-free:])

    def _view(self) -> Panel:
        args, server = self.args, self.server
        width, height = self.console.size
        width = min(width, MAX_WIDTH)
        learning, playing = self.learning.read(), self.playing.read()
        best = float(server.evaluation["best_score"])

        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True, min_width=len("gradient"))
        table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_row("steps", self._progress())
        table.add_row("speed", f"{learning.speed:,.0f} steps/s" + self._remaining(learning))
        recent = self.scores[-RECENT:]
        score = "none yet"
        if recent:
            score = f"[bold]last {in_tenths(recent[-1])}[/]   mean of {len(recent)} "
            score += f"{in_tenths(np.mean(recent))}   best {in_tenths(best)}"
        games = count(args.eval_episodes, f"{self.run.description['policy']} game")
        table.add_row("score", f"{score}   [dim]{games} each[/]")
        if self.is_new:
            near = f", here near {in_tenths(self.scores[0])}" if self.scores else ""
            table.add_row("", f"[dim]a new agent plays as by chance{near}[/]")
        table.add_row(
            "training",
            f"score {number(playing.score)}   length {number(playing.length, '.0f')}"
            f"   [dim]of {count(playing.games, 'game')} with sampled actions[/]",
        )
        table.add_row(
            "policy",
            f"entropy {number(learning.entropy)}   deviation "
            f"{number(learning.policy_deviation, '.4f')}   value {number(learning.value)}   "
            f"mean |cx| {number(learning.cell)}",
        )
        table.add_row(
            "gradient",
            f"norm {number(learning.grad_norm, '.1f')}   "
            f"{number(100 * learning.clipped, '.0f')} % clipped at {args.max_grad_norm:g}",
        )
        if self.state != "stopped":
            self._add_processes(table)
        body: list[RenderableType] = [table]
        if len(self.scores) > 1:
            body += ["", *self._curve(width - 4, 4 if height < 32 else 8)]
        title = f"[bold]{args.env}[/]  {format_time(server.seconds)}  {self.state}"
        return Panel(
            Group(*body), title=title.strip(), title_align="left",
            width=width, border_style="dim", padding=(0, 1),
        )  # fmt: skip

    def _add_processes(self, table: Table) -> None:
        args = self.args
        alive = self.processes.workers_alive()
        all_workers = workers_here(args)
        workers = f"{alive} of {all_workers} alive, {count(args.envs_per_worker, 'game')} each"
        table.add_row("workers", workers if alive == all_workers else f"[bold red]{workers}[/]")
        if self.cluster:
            table.add_row("machines", self.cluster.summary())
        saved = "-"
        if self.run.has_saved:
            ago = time.monotonic() - self.run.saved_at
            saved = f"{ago:.0f} s ago   [dim]{escape(str(self.run.files.checkpoint))}[/]"
        table.add_row("saved", saved)

    def _progress(self) -> RenderableType:
        steps = f"{self.server.steps:,}"
        if not self.args.max_steps:
            return steps
        row = Table.grid(padding=(0, 2))
        row.add_column(no_wrap=True)
        bar = Bar(self.args.max_steps, 0, min(self.server.steps, self.args.max_steps), width=20)
        row.add_row(f"{steps} of {self.args.max_steps:,}", bar)
        return row

    def _remaining(self, learning: Figures) -> str:
        """Time to the nearest limit of the run, as far as it can be known."""
        seconds = []
        if self.state == "stopped":
            return ""
        if self.args.max_minutes:
            seconds.append(60 * self.args.max_minutes - (time.monotonic() - self.started))
        if self.args.max_steps and learning.speed > 0:
            seconds.append((self.args.max_steps - self.server.steps) / learning.speed)
        return f"   {format_time(max(0.0, min(seconds)))} remaining" if seconds else ""

    def _curve(self, width: int, height: int) -> list[Text]:
        """The scores of all evaluations, with the highest and the lowest of them at the side."""
        highest, lowest = (number(f(self.scores), ".1f") for f in (max, min))
        margin = max(len(highest), len(lowest))
        labels = [highest, *[""] * (height - 2), lowest]
        lines = draw_curve(self.scores, max(1, width - margin - 1), height)
        return [
            Text.assemble((label.rjust(margin) + " ", "dim"), (line, "cyan"))
            for label, line in zip(labels, lines, strict=True)
        ]


def log_size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def read_lines(path: Path, start: int, at_most: int = 2**24) -> list[str]:
    """Lines of a log from byte `start` on, of its last `at_most` bytes; none if it is not there."""
    try:
        with open(path, "rb") as file:
            begin = max(start, file.seek(0, os.SEEK_END) - at_most)
            file.seek(begin)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return lines if begin == start else lines[1:]  # the first one was cut
