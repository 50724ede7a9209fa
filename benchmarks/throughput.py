"""Agent steps per second of the suite and of a plain reference, alternating in one run.

    python benchmarks/throughput.py --env Pong-v0 --workers 2 --envs-per-worker 8

The plain reference is the same network, algorithm and environment, written as one would at first:
one game per worker, autograd through each step, Adam tensor by tensor. On both sides no games are
played for evaluation, environments count the steps that reach the emulator, and the clock is that
of this process. Quote ratios of medians; the machine is never quiet.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # isort: skip  # before torch: sets the number of threads

import contextlib
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterator

import gymnasium as gym
import torch
import torch.multiprocessing
import torch.nn.functional as F

import main
import train as training
from environment import Normalizer, game_config, make_env, read_config
from hogwild import Hogwild
from model import A3Clstm, flatten_parameters
from network import FastNetwork, compile_kernels
from options import ENVS_PER_WORKER, build_parser, complete
from player import Game, Player
from processes import become_child
from shared_optim import SharedAdam

CONFIG = Path(main.__file__).with_name("config.json")


class CountSteps(gym.Wrapper):
    """Counts steps in shared memory: slot `rank`, written by one process."""

    def __init__(self, env: gym.Env, counts: torch.Tensor, rank: int):
        super().__init__(env)
        self.counts, self.rank = counts, rank

    def step(self, action):
        self.counts[self.rank] += 1
        return super().step(action)


def counted_env(
    env_id: str, counts: torch.Tensor, rank: int, seed: int | None = None
) -> gym.Env:
    env = make_env(env_id, game_config(read_config(CONFIG), env_id), seed=seed)
    return CountSteps(env, counts, rank)


class PlainAdam(torch.optim.Adam):
    """Adam tensor by tensor, with shared state."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=1e-4, eps=1e-3, foreach=False, fused=False)
        for p in self.param_groups[0]["params"]:
            self.state[p] = {
                "step": torch.zeros(()).share_memory_(),
                "exp_avg": torch.zeros_like(p).share_memory_(),
                "exp_avg_sq": torch.zeros_like(p).share_memory_(),
            }


def plain_worker(rank: int, args, shared: A3Clstm, optimizer: PlainAdam, make: Callable) -> None:
    """The classic algorithm, with today's correct handing over of gradients. Runs until killed."""
    become_child(f"Plain Agent: {rank}")
    env, normalizer = make(rank), Normalizer()
    model = A3Clstm(int(env.action_space.n), args.hidden_size)

    def see(picture) -> torch.Tensor:
        return torch.from_numpy(normalizer.observe(picture[None])[None])  # (1, 1, 80, 80)

    over = True
    while True:
        model.load_state_dict(shared.state_dict())
        if over:
            state = see(env.reset(seed=rank)[0])
            hx = cx = torch.zeros(1, args.hidden_size)
        hx, cx = hx.detach(), cx.detach()
        values, log_probs, entropies, rewards = [], [], [], []
        for _ in range(args.num_steps):
            value, logit, (hx, cx) = model((state, (hx, cx)))
            probability, log_probability = F.softmax(logit, 1), F.log_softmax(logit, 1)
            action = probability.multinomial(1).detach()
            picture, reward, terminated, truncated, _ = env.step(int(action))
            state, over = see(picture), terminated or truncated
            values.append(value)
            log_probs.append(log_probability.gather(1, action))
            entropies.append(-(log_probability * probability).sum())
            rewards.append(max(-1.0, min(1.0, reward)))
            if over:
                break
        with torch.no_grad():
            following = torch.zeros(1, 1) if over else model((state, (hx, cx)))[0]
        values.append(following)
        policy_loss = value_loss = gae = torch.zeros(1, 1)
        for i in reversed(range(len(rewards))):
            following = args.gamma * following + rewards[i]
            value_loss = value_loss + 0.5 * (following - values[i]).pow(2)
            delta = rewards[i] + args.gamma * values[i + 1].detach() - values[i].detach()
            gae = gae * args.gamma * args.tau + delta
            policy_loss = policy_loss - log_probs[i] * gae - args.entropy_coef * entropies[i]
        model.zero_grad()
        (policy_loss + args.value_coef * value_loss).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        for ours, theirs in zip(shared.parameters(), model.parameters(), strict=True):
            ours.grad = theirs.grad
        optimizer.step()


def suite_worker(rank: int, args, server: Hogwild, make: Callable) -> None:
    training.train_process(rank, args, server, functools.partial(make, rank))


@contextlib.contextmanager
def running(targets: list[Callable]) -> Iterator[None]:
    """Processes that run meanwhile, one per target."""
    context = torch.multiprocessing.get_context("spawn")
    processes = [context.Process(target=target, daemon=True) for target in targets]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def steps_per_second(side: str, args) -> float:
    """Over args.seconds, from the time on when every worker has made its first steps."""
    counts = torch.zeros(args.workers, dtype=torch.int64).share_memory_()
    make = functools.partial(counted_env, args.env, counts)
    model = A3Clstm(int(make(0).action_space.n), args.hidden_size)
    if side == "plain":
        model.share_memory()
        optimizer = PlainAdam(model.parameters())
        targets = [
            functools.partial(plain_worker, rank, args, model, optimizer, make)
            for rank in range(args.workers)
        ]
    else:
        server = Hogwild(flatten_parameters(model)[0], SharedAdam, args.workers)
        targets = [
            functools.partial(suite_worker, rank, args, server.for_process(rank), make)
            for rank in range(args.workers)
        ]
    warm = 2 * args.num_steps * (args.envs_per_worker if side == "suite" else 1)
    with running(targets):
        while int(counts.min()) < warm:
            time.sleep(0.05)
        before, start = int(counts.sum()), time.perf_counter()
        time.sleep(args.seconds)
        return (int(counts.sum()) - before) / (time.perf_counter() - start)


def parts(args) -> dict[str, float]:
    """Milliseconds per agent step by part, in one process that has its core to itself."""
    counts = torch.zeros(1, dtype=torch.int64)
    make = functools.partial(counted_env, args.env, counts, 0)
    model = A3Clstm(int(make().action_space.n), args.hidden_size)
    server = Hogwild(flatten_parameters(model)[0], SharedAdam, 1)
    seconds: dict[str, float] = {}
    inside: list[float] = []  # of the running functions, the time in those that they call

    def timed(owner, name: str, part: str) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def wrapper(*args, **keywords):
            start = time.perf_counter()
            inside.append(0.0)
            try:
                return function(*args, **keywords)
            finally:
                elapsed = time.perf_counter() - start
                seconds[part] = seconds.get(part, 0.0) + elapsed - inside.pop()
                if inside:
                    inside[-1] += elapsed

        setattr(owner, name, wrapper)

    patches = [
        (FastNetwork, "act", "acting: network"),
        (FastNetwork, "evaluate", "bootstrap: network"),
        (FastNetwork, "backward", "gradient: network"),
        (Game, "act", "environment"),
        (Game, "observation", "normaliser"),
        (Player, "begin", "begin of a rollout"),
        (Player, "start", "new games"),
        (Hogwild, "pull", "copy weights"),
        (Hogwild, "push", "optimizer"),
    ]
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    for patch in patches:
        timed(*patch)
    timed_pull, starts = Hogwild.pull, []

    def pull(server: Hogwild, weights: torch.Tensor) -> None:
        if not starts:  # the first rollout; the games have been made
            seconds.clear()
            starts.extend((time.perf_counter(), int(counts.sum())))
        timed_pull(server, weights)

    Hogwild.pull = pull
    server.max_steps = args.part_steps
    training.train(0, args, server, make)
    start, steps_before = starts
    seconds["everything else"] = time.perf_counter() - start - sum(seconds.values())
    for owner, name, function in originals:
        setattr(owner, name, function)
    return {part: 1000 * s / (int(counts.sum()) - steps_before) for part, s in seconds.items()}


def matrix_product_speed() -> float:
    """GFLOP/s of a float32 product of two 1024 x 1024 matrices on one thread; best of 20."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = min(_seconds(lambda: a @ b) for _ in range(20))
    return 2 * 1024**3 / best / 1e9


def _seconds(function: Callable) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def run() -> None:
    parser = utils.LineParser(prog=Path(__file__).name, description=__doc__.split("\n")[0])
    number = utils.positive_int
    parser.add_argument("--env", default="Pong-v0", metavar="ID", help="environment id")
    parser.add_argument("--workers", type=number, default=2, help="processes of each side")
    parser.add_argument(
        "--envs-per-worker", type=number, default=ENVS_PER_WORKER, help="of the suite"
    )
    parser.add_argument("--rounds", type=number, default=5, help="alternations")
    parser.add_argument("--seconds", type=utils.positive_float, default=10.0, help="of each side")
    parser.add_argument("--part-steps", type=number, default=3200, help="for the parts")
    own = parser.parse_args()
    options = ["--env", own.env, "--envs-per-worker", str(own.envs_per_worker)]
    args = complete(build_parser().parse_args(options))  # the recipe
    _, args.gamma, args.entropy_coef = training.scheduled(args, steps=0)  # numbers for both sides
    vars(args).update(vars(own))
    if args.part_steps < args.num_steps * args.envs_per_worker:
        parser.error(f"--part-steps: at least {args.num_steps * args.envs_per_worker}, a rollout")
    try:
        make_env(args.env, game_config(read_config(CONFIG), args.env)).close()
    except ValueError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    compile_kernels()
    print(f"{args.env}, {args.workers} workers x {args.envs_per_worker} games", flush=True)
    speed: dict[str, list[float]] = {"plain": [], "suite": []}
    for side in itertools.islice(itertools.cycle(speed), 2 * args.rounds):
        speed[side].append(steps_per_second(side, args))
        print(f"{side} {speed[side][-1]:.1f} steps/s", flush=True)
    plain, suite = (statistics.median(speed[side]) for side in ("plain", "suite"))
    print(f"median: plain {plain:.1f}, suite {suite:.1f} steps/s, ratio {suite / plain:.2f}")
    gemm = matrix_product_speed()
    # 118 MFLOP forward and 236 backward per step, if all of it were computed densely.
    dense = 0.354 * suite / args.workers
    print(
        f"matrix product {gemm:.0f} GFLOP/s on one core; the suite does the work of "
        f"{dense:.0f} dense GFLOP/s on each, {100 * dense / gemm:.0f} % of that"
    )
    for part, milliseconds in sorted(parts(args).items(), key=lambda item: -item[1]):
        print(f"{milliseconds:7.3f} ms per step: {part}")


if __name__ == "__main__":
    run()
