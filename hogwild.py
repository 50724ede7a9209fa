"""What the processes of a run share: parameters, optimizers and counters, without any lock.

A worker touches the world outside through three things: it pulls the newest weights, it pushes a
gradient, it reports counts. All three are methods of Hogwild; an engine that trains on several
machines replaces this class and nothing else.

Reference: Niu et al. (2011), "Hogwild!: A Lock-Free Approach to Parallelizing Stochastic Gradient
Descent"; Mnih et al. (2016), "Asynchronous Methods for Deep Reinforcement Learning".
"""

import copy
import os
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

# What a worker counts: of all its steps, ...
COUNTS = ("steps", "updates", "games")  # agent steps, updates, finished training games
# ... sums over its updates (four means over the steps of one update; the gradient's norm before
# clipping; 1 if it was clipped; the step size) ...
OF_UPDATES = (
    "policy_loss", "value_loss", "entropy", "value", "grad_norm", "clipped", "learning_rate",
)  # fmt: skip
OF_GAMES = ("score", "length")  # ... and over its finished games, raw points and agent steps.
# What the test process says: the number of evaluations, the mean score of the last one, the best
# mean score so far (nan: none), agent steps behind the weights that were evaluated last.
OF_EVALUATION = ("evaluations", "last_score", "best_score", "last_steps")

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
            f"the run needs {size // 2**20} MB of shared memory, but {SHARED_MEMORY} has "
            f"{free / 2**20:.0f} MB free; a container wants a larger --shm-size"
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

    Each slot has one writer: the rows `rank` of `figures` and `normalizers` belong to that worker,
    `evaluation` to the test process, `stop_flag` to the main process. Nothing can be held by a
    process that was killed.

    weights: (P,) first weights of the run.
    make_optimizer: called with [parameter]; torch.optim.Optimizer with a share_memory() method.
    num_optimizers: 1, shared by all workers; or one per worker.
    optimizer_states: state dicts to continue from, one per optimizer.
    first_step, first_second: where a resumed run stands.
    max_steps: agent steps of the whole run after which it stops.
    ValueError: there is not enough shared memory, or a state does not fit.
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
    ):
        self.parameter = nn.Parameter(weights.detach().clone())  # (P,)
        self.optimizers = [make_optimizer([self.parameter]) for _ in range(num_optimizers)]
        for optimizer, state in zip(self.optimizers, optimizer_states, strict=False):
            # The statistics continue; the options are those of this session.
            fresh = optimizer.state_dict()
            try:
                found = {name: tensor.shape for name, tensor in state["state"][0].items()}
            except (AttributeError, KeyError, TypeError):
                found = None
            if found != {name: tensor.shape for name, tensor in fresh["state"][0].items()}:
                raise ValueError("the saved state of the optimizer does not fit this run")
            optimizer.load_state_dict({**state, "param_groups": fresh["param_groups"]})
        require_shared_memory(
            self.parameter.nbytes
            + sum(
                tensor.nbytes
                for optimizer in self.optimizers
                for state in optimizer.state.values()
                for tensor in state.values()
            )
        )
        self.parameter.share_memory_()
        for optimizer in self.optimizers:
            optimizer.share_memory()
        self.figures = Table((*COUNTS, *OF_UPDATES, *OF_GAMES), num_workers)
        # Count, mean and standard deviation of environment.Normalizer, per worker.
        self.normalizers = torch.zeros(num_workers, 3, dtype=torch.float64).share_memory_()
        self.evaluation = Table(OF_EVALUATION)
        self.evaluation["last_score"] = self.evaluation["best_score"] = torch.nan
        self.stop_flag = torch.zeros(1, dtype=torch.uint8).share_memory_()
        self.first_step = first_step
        self.first_second = first_second
        self.max_steps = max_steps
        self.started = time.monotonic()  # one clock for all processes of a machine

    def for_process(self, rank: int | None = None) -> "Hogwild":
        """The same shared memory with the optimizer of worker `rank` only, or with none.

        What is sent to a process is one open file per tensor, and there is a limit to them.
        """
        view = copy.copy(self)
        n = len(self.optimizers)
        view.optimizers = [] if rank is None else [self.optimizers[rank % n]]
        return view

    # The worker's three things.

    def pull(self, weights: Tensor) -> None:
        """Copy the newest weights into `weights`, (P,) on any device."""
        weights.copy_(self.parameter.detach())

    def push(self, gradient: Tensor, rank: int, lr: float) -> None:
        """Apply one gradient, (P,) on any device, with one optimizer step of size lr."""
        optimizer = self.optimizers[rank % len(self.optimizers)]
        optimizer.param_groups[0]["lr"] = lr  # this process's copy of the option
        # `.grad` itself is private to each process. It is set anew for every update, so that no
        # gradient is applied twice.
        self.parameter.grad = gradient.to(self.parameter.device)
        optimizer.step()

    def report(self, rank: int, **figures: float) -> None:
        """Add to these figures of this worker."""
        for name, number in figures.items():
            self.figures[name][rank] += number

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
    def seconds(self) -> float:
        """Training time of the run, earlier sessions included."""
        return self.first_second + time.monotonic() - self.started

    def normalizer(self) -> Tensor:
        """(3,) count, mean and standard deviation: the mean over the workers that have begun."""
        begun = self.normalizers[self.normalizers[:, 0] > 0]
        return begun.mean(0) if len(begun) else torch.zeros(3, dtype=torch.float64)

    def stop(self) -> None:
        """Ask all processes to stop. For the main process."""
        self.stop_flag.fill_(1)
