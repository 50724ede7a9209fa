"""The games of one evaluation, spread over several processes.

Every process plays in blocks of rows of its own, see player.play_games, and asks for another game
whenever a row is free: games differ in length, and so all have something to do until the end. A
game is at home in one row of a block, whichever block that is: which process plays it changes
nothing.
"""

import contextlib
import functools
import multiprocessing.connection
import pickle
import time
from collections.abc import Callable, Collection, Iterator
from multiprocessing.connection import Connection
from typing import NamedTuple

from player import Result, in_order
from processes import become_child, child_context, fork_fork_server, how, start_child

STOP_SECONDS = 0.2  # between two questions whether to stop
PROGRESS_SECONDS = 1  # between two messages of a process about its progress


class Progress(NamedTuple):
    """What `on_step` is told, of one process."""

    running: int  # games
    steps: int  # agent steps of all its games so far


def play_in_processes(
    play: Callable[..., Iterator[Result]],
    num_games: int,
    processes: int,
    side_by_side: int,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[int, int], None] = lambda running, steps: None,
    plain: bool = False,
) -> Iterator[Result]:
    """Play games 0 to num_games - 1; yields each when it ends.

    play: player.play_games, all but its arguments that are named here and next_game; it goes to
        each process as a pickle.
    processes: no more than side_by_side. With one, this process plays by itself.
    side_by_side: games at once, in all processes together.
    should_stop: asked all the time; unfinished games are then left out.
    on_step: as in play_games, but called now and then.
    plain: see network.make_network.
    ChildProcessError: one line, if a process has died.
    """
    if processes == 1:
        yield from play(
            side_by_side=side_by_side, should_stop=should_stop, on_step=on_step, plain=plain
        )
        return
    # Weights sent as tensors would be in shared memory, of which a container may have little.
    pickled = pickle.dumps(functools.partial(play, plain=plain))
    context = child_context(plain)
    fork_fork_server()
    next_game = in_order(num_games)
    children: dict[Connection, multiprocessing.Process] = {}  # by our end of the pipe to each
    try:
        for rank in range(processes):
            if should_stop():
                return
            here, there = context.Pipe()
            share = len(range(rank, side_by_side, processes))
            name, arguments = f"evaluation process {rank}", (rank, there, pickled, share)
            children[here] = start_child(
                functools.partial(context.Process, target=_play, name=name, args=arguments)
            )
            there.close()  # what is left of it ends with the child
        progress = dict.fromkeys(children, Progress(0, 0))
        missing = num_games
        while missing and not should_stop():
            for pipe in multiprocessing.connection.wait(list(children), STOP_SECONDS):
                try:
                    message = pipe.recv()
                    if isinstance(message, list):
                        pipe.send(next_game(message))
                except (EOFError, ConnectionError):
                    raise ChildProcessError(_death(children[pipe])) from None
                if isinstance(message, Progress):
                    progress[pipe] = message
                elif isinstance(message, Result):
                    missing -= 1
                    yield message
            found = progress.values()
            on_step(sum(one.running for one in found), sum(one.steps for one in found))
    finally:
        for child in children.values():  # they have nothing to save
            child.kill()
        for child in children.values():
            child.join()


def _death(child: multiprocessing.Process) -> str:
    child.join()
    return f"{child.name} died, {how(child.exitcode)}"


def _play(rank: int, pipe: Connection, pickled: bytes, side_by_side: int) -> None:
    """One of the processes; sends free rows, for which it gets a game, and Result and Progress."""
    become_child(f"Evaluate Agent: {rank}")
    play = pickle.loads(pickled)
    due = 0.0  # the next progress

    def next_game(rows: Collection[int]) -> int | None:
        pipe.send(list(rows))
        return pipe.recv()

    def on_step(running: int, steps: int) -> None:
        nonlocal due
        if running == 0 or time.monotonic() >= due:
            pipe.send(Progress(running, steps))
            due = time.monotonic() + PROGRESS_SECONDS

    with contextlib.suppress(EOFError, ConnectionError):  # the main process has gone
        for result in play(side_by_side=side_by_side, on_step=on_step, next_game=next_game):
            pipe.send(result)
        pipe.recv()  # waits for the others: to end early is to have died
