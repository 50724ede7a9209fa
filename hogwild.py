"""What the processes of a run share: parameters, optimizers and counters, without any lock.

A worker touches the world outside through methods of Hogwild: it pulls the newest weights, pushes a
gradient (and with --value-mean-step moves one weight, `approach`), reports counts and finished
games. The statistics of its normaliser lie here as well. On several machines each has its own
Hogwild, to which all other machines are one more worker: see exchange.py.

Reference: Niu et al. (2011), "Hogwild!: A Lock-Free Approach to Parallelizing Stochastic Gradient
Descent"; Mnih et al. (2016), "Asynchronous Methods for Deep Reinforcement Learning".
"""

import copy
import math
import os
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from shared_optim import forget_as_one_of

# What a worker counts: of all its steps, ...
COUNTS = ("steps", "updates", "games")  # agent steps, updates, finished training games
# ... sums over its updates (three means over the steps of one update; the deviation of an action's
# probability between them, mean over the actions; mean |cx| of the LSTM after them; the mean value;
# the gradient's norm before clipping; 1 if it was clipped; the step size) ...
OF_UPDATES = (
    "policy_loss", "value_loss", "entropy", "policy_deviation", "cell", "value", "grad_norm",
    "clipped", "learning_rate", "blind",
)  # fmt: skip
OF_GAMES = ("score", "length")  # ... and over its finished games, raw points and agent steps.
# Whether its newest gradient was not finite: 1, until one is.
DIVERGED = "diverged"
WORKERS = "workers"  # How many workers its row stands for: 1, but see Hogwild.
# What the test process says: the number of evaluations, the mean score of the last one, the best
# mean score so far (nan: none); and a number that moves as long as it does not hang.
OF_EVALUATION = ("evaluations", "last_score", "best_score", "beats")
# What is kept of each evaluation: agent steps behind its weights, and its mean score. Of so many:
# those of short games follow each other faster than the main process looks.
OF_EVALUATED = ("agent_steps", "score")
EVALUATIONS_KEPT = 256
# What is kept of each finished training game: when it ended (seconds and agent steps of the run),
# raw points, agent steps, and the "steps" of its worker that its last step makes complete.
OF_FINISHED = ("seconds", "agent_steps", "score", "length", "worker_steps")
# The newest finished games of each worker. The main process collects them several times a second;
# while it saves, or is suspended, games of a few steps each must have room for many seconds.
GAMES_KEPT = 4096

SHARED_MEMORY = "/dev/shm"  # where Linux keeps it
SPARE_SHARED_MEMORY = 2**20  # bytes, for counters and the like


def require_shared_memory(size: int) -> None:
    """ValueError if there are not `size` bytes: writing past the end would be a bus error."""
    if not os.path.isdir(SHARED_MEMORY):
        return  # macOS and Windows take it from the ordinary memory
    status = os.statvfs(SHARED_MEMORY)
    free = status.f_bavail * status.f_frsize
    if size + SPARE_SHARED_MEMORY > free:
        raise ValueError(
            f"the run needs {-(-(size + SPARE_SHARED_MEMORY) // 2**20)} MB of shared memory, but "
            f"{SHARED_MEMORY} has {free / 2**20:.0f} MB free; a container wants a larger --shm-size"
        )


def check_optimizer(
    make_optimizer: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer],
) -> None:
    """ValueError: its steps leave the tensors that processes share, so that each has its own."""
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    optimizer = make_optimizer([parameter])

    def places() -> dict:
        state = optimizer.state.get(parameter, {})
        return {name: x.data_ptr() if isinstance(x, Tensor) else x for name, x in state.items()}

    before = places()
    optimizer.step()
    if places() != before:
        raise ValueError(
            f"{type(optimizer).__name__} makes its state anew when it steps, where no other "
            "process sees it; see shared_optim.py"
        )


class Table:
    """Numbers by name in shared memory: float64, exact for whole numbers below 2**53.

    values: (*shape, names). table[name] is a view (*shape) of it.
    """

    def __init__(self, names: Sequence[str], *shape: int):
        self.columns = {name: i for i, name in enumerate(names)}
        self.values = torch.zeros(*shape, len(names), dtype=torch.float64).share_memory_()

    def __getitem__(self, name: str) -> Tensor:
        return self.values[..., self.columns[name]]

    def __setitem__(self, name: str, number: float) -> None:
        self.values[..., self.columns[name]] = number


class Hogwild:
    """Shared memory of one run; pickles to every process, where it is the same memory.

    Each slot has one writer: the rows `rank` of `figures`, `finished` and `normalizers` belong to
    that worker, `evaluation` to the test process, `stop_flag` to the main process. Nothing can be
    held by a process that was killed.

    In a run on several machines there is one row more, that of all workers of all other machines:
    their counts since the run began, and the mean of their normalizers.

    weights: (P,) first weights of the run.
    make_optimizer: called with [parameter]; torch.optim.Optimizer with a share_memory() method.
    num_optimizers: 1, shared by all workers; or one per worker.
    optimizer_states: state dicts to continue from; dealt out over again if there are too few.
    first_step, first_second: where a resumed run stands.
    max_steps: agent steps of the whole run after which it stops.
    several_machines: whether others take part.
    ValueError: there is not enough shared memory, a state does not fit, or an optimizer would not
        share it.
    """

    def __init__(
        self,
        weights: Tensor,
        make_optimizer: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer],
        num_workers: int,
        num_optimizers: int = 1,
        optimizer_states: Sequence[dict] = (),
        first_step: int = 0,
        first_second: float = 0.0,
        max_steps: float = float("inf"),
        several_machines: bool = False,
    ):
        check_optimizer(make_optimizer)
        self.parameter = nn.Parameter(weights.detach().clone())  # (P,)
        self.optimizers = [make_optimizer([self.parameter]) for _ in range(num_optimizers)]
        for i, optimizer in enumerate(self.optimizers if optimizer_states else ()):
            state = copy.deepcopy(optimizer_states[i % len(optimizer_states)])
            # The statistics continue; the options are those of this session.
            fresh = optimizer.state_dict()
            try:
                found = {name: tensor.shape for name, tensor in state["state"].get(0, {}).items()}
            except (AttributeError, KeyError, TypeError):
                found = None
            if found != {name: tensor.shape for name, tensor in fresh["state"].get(0, {}).items()}:
                raise ValueError("the saved state of the optimizer does not fit this run")
            optimizer.load_state_dict({**state, "param_groups": fresh["param_groups"]})
        rows = num_workers + several_machines
        require_shared_memory(
            self.parameter.nbytes
            + sum(
                tensor.nbytes
                for optimizer in self.optimizers
                for state in optimizer.state.values()
                for tensor in state.values()
            )
            + 8 * rows * GAMES_KEPT * len(OF_FINISHED)
        )
        self.parameter.share_memory_()
        for optimizer in self.optimizers:
            optimizer.share_memory()
        self.figures = Table((*COUNTS, *OF_UPDATES, *OF_GAMES, DIVERGED, WORKERS), rows)
        self.figures[WORKERS][:num_workers] = 1
        self.workers_per_optimizer = num_workers / max(1, num_optimizers)
        # Game i of a worker, counted by its "games", is in place i % GAMES_KEPT.
        self.finished = Table(OF_FINISHED, rows, GAMES_KEPT)
        # Count, mean and standard deviation of environment.Normalizer, per worker.
        self.normalizers = torch.zeros(rows, 3, dtype=torch.float64).share_memory_()
        self.evaluation = Table(OF_EVALUATION)
        self.evaluation["last_score"] = self.evaluation["best_score"] = torch.nan
        # Evaluation i is in place i % EVALUATIONS_KEPT.
        self.evaluated = Table(OF_EVALUATED, EVALUATIONS_KEPT)
        self.stop_flag = torch.zeros(1, dtype=torch.uint8).share_memory_()
        self.first_step = first_step
        self.first_second = first_second
        self.max_steps = max_steps
        self.start_clock()

    def start_clock(self) -> None:
        """The training time of this session begins now, for processes that are made from now on."""
        self.started = time.monotonic()  # one clock for all processes of a machine

    def for_process(self, rank: int | None = None) -> "Hogwild":
        """The same shared memory with the optimizer of worker `rank` only, or with none.

        What is sent to a process is one open file per tensor, and there is a limit to them.
        """
        view = copy.copy(self)
        n = len(self.optimizers)
        view.optimizers = [] if rank is None else [self.optimizers[rank % n]]
        return view

    # For a worker.

    def pull(self, weights: Tensor) -> None:
        """Copy the newest weights into `weights`, (P,)."""
        weights.copy_(self.parameter.detach())

    def push(self, gradient: Tensor, rank: int, lr: float) -> None:
        """Apply one gradient, (P,), with one optimizer step of size lr."""
        optimizer = self.optimizers[rank % len(self.optimizers)]
        # This process's copies of the options. A shared optimizer sees every update, one of a
        # worker's own only one in as many as there are workers.
        optimizer.param_groups[0]["lr"] = lr
        forget_as_one_of(optimizer, float(self.figures[WORKERS].sum()) / self.workers_per_optimizer)
        # `.grad` itself is private to each process. It is set anew for every update, so that no
        # gradient is applied twice.
        self.parameter.grad = gradient
        optimizer.step()

    def approach(self, place: int, target: Tensor, share: float) -> None:
        """Move the weight at this place of the vector by a share of its way to `target`."""
        self.parameter.detach()[place].lerp_(target, share)

    def report(self, rank: int, **figures: float) -> None:
        """Add to these figures of this worker."""
        for name, number in figures.items():
            self.figures[name][rank] += number

    def report_gradient(self, rank: int, norm: float) -> None:
        """FloatingPointError: it is not finite."""
        self.figures[DIVERGED][rank] = not math.isfinite(norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient's norm is {norm}")

    def report_game(self, rank: int, score: float, length: int, steps: int) -> None:
        """Report a finished training game of raw `score` and so many agent steps.

        steps: of this worker, up to the end of the game, that it has yet to report. It reports
        games first: whoever sees a step counted sees the games that had ended by then.
        """
        place = int(self.figures["games"][rank]) % GAMES_KEPT
        worker_steps = float(self.figures["steps"][rank]) + steps
        game = (self.seconds, self.steps + steps, score, length, worker_steps)
        self.finished.values[rank, place] = torch.tensor(game, dtype=torch.float64)
        # The game is there: now it counts. At once, or a mean over games would be wrong in between.
        columns = [self.figures.columns[name] for name in ("games", *OF_GAMES)]
        self.figures.values[rank, columns] += torch.tensor((1, score, length), dtype=torch.float64)

    # What everybody may read.

    @property
    def stopped(self) -> bool:
        """Whether the run is to stop. Read at every step."""
        return bool(self.stop_flag) or self.steps >= self.max_steps

    @property
    def steps(self) -> int:
        """Agent steps of the run over all workers, earlier sessions included."""
        return self.first_step + int(self.figures["steps"].sum())

    @property
    def has_learned(self) -> bool:
        """Whether there was an update in this session."""
        return bool(self.figures["updates"].any())

    @property
    def diverged(self) -> bool:
        """Whether there is a worker whose newest gradient was not finite."""
        return bool(self.figures[DIVERGED].any())

    @property
    def seconds(self) -> float:
        """Training time of the run, earlier sessions included."""
        return self.first_second + time.monotonic() - self.started

    def normalizer(self) -> Tensor:
        """(3,) count, mean and standard deviation: the mean over the workers that have begun."""
        begun = (self.normalizers[:, 0] > 0).double()
        workers = self.figures[WORKERS] * begun
        if not workers.any():  # no other machine has reported yet, and this one has no worker
            workers = begun
        return workers @ self.normalizers / workers.sum().clamp(min=1)

    def count_evaluation(self, agent_steps: int, score: float) -> None:
        """For the test process: the weights of that step have this mean score."""
        place = int(self.evaluation["evaluations"]) % EVALUATIONS_KEPT
        self.evaluated["agent_steps"][place] = agent_steps
        self.evaluated["score"][place] = score
        self.evaluation["last_score"] = score
        self.evaluation["evaluations"] += 1  # last, as it says that the others are there

    def evaluations_after(self, seen: int) -> tuple[int, list[tuple[int, float]]]:
        """How many evaluations there were, and agent steps and mean score of those after `seen`.

        The newest EVALUATIONS_KEPT, in the order in which they were played.
        """
        number = int(self.evaluation["evaluations"])
        places = [i % EVALUATIONS_KEPT for i in range(max(seen, number - EVALUATIONS_KEPT), number)]
        steps, scores = self.evaluated["agent_steps"], self.evaluated["score"]
        return number, [(int(steps[i]), float(scores[i])) for i in places]

    def beat(self) -> None:
        """The test process does not hang. Workers say that by their steps."""
        self.evaluation["beats"] += 1

    def stop(self) -> None:
        """Ask all processes to stop. For the main process."""
        self.stop_flag.fill_(1)


class FinishedGames:
    """Gives the main process each finished training game once, in order of agent steps.

    steps: of the run; exactly the games whose last step is among them have been given.
    lost: how many were overwritten before they were collected.
    """

    def __init__(self, server: Hogwild):
        self.server = server
        self.steps = server.steps
        self.lost = 0
        self.seen = [0] * len(server.finished.values)  # games of each worker
        # (rank, OF_FINISHED) of games that have been reported but not yet their last step.
        self.early: list[tuple[int, list[float]]] = []

    def collect(self, last: bool = False) -> list[tuple[float, int, float, int]]:
        """Games that have ended since the last call: seconds, agent steps, score, length.

        last: the workers have ended; one that was killed may not have reported its last step.
        """
        counted = self.server.figures["steps"].tolist()  # before the games: see report_game
        new = [(rank, game) for rank in range(len(self.seen)) for game in self._new(rank)]
        before, self.steps = self.steps, self.server.first_step + int(sum(counted))
        games, self.early = self.early + new, []
        given = []
        for rank, game in games:
            seconds, steps, score, length, worker_steps = game
            if worker_steps <= counted[rank] or last:
                # The worker read the clock of the others a moment before or after we did.
                steps = min(max(int(steps), before + 1), self.steps)
                given.append((round(seconds, 1), steps, score, int(length)))
            else:
                self.early.append((rank, game))
        return sorted(given, key=lambda row: (row[1], row[0]))

    def _new(self, rank: int) -> list[list[float]]:
        """What a worker has finished since the last call, (games, OF_FINISHED)."""
        counter = self.server.figures["games"]
        begin, end = self.seen[rank], int(counter[rank])
        self.seen[rank] = end
        if begin == end:
            return []
        places = torch.arange(max(begin, end - GAMES_KEPT), end) % GAMES_KEPT
        games = self.server.finished.values[rank, places].tolist()
        # Meanwhile the worker may have gone on, and be about to count one that it has written.
        whole = min(end, max(begin, int(counter[rank]) + 1 - GAMES_KEPT))
        self.lost += whole - begin
        return games[len(games) - (end - whole) :]
