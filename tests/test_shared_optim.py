"""The optimizers: torch.optim's arithmetic, on state that processes share."""

import copy
import io
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import options
import shared_optim
from hogwild import Hogwild
from options import OPTIMIZERS, parse
from run import Run, load_options, make_optimizer
from shared_optim import SharedAdam, SharedRMSprop

# Ours, torch.optim's and options common to both. Adam is compared with the plain loop over
# tensors, because ours is fused.
PAIRS = {
    "Adam": (SharedAdam, torch.optim.Adam, {"foreach": False}, {}),
    "Adam, amsgrad": (SharedAdam, torch.optim.Adam, {"foreach": False}, {"amsgrad": True}),
    "Adam, weight decay": (
        SharedAdam, torch.optim.Adam, {"foreach": False},
        {"weight_decay": 0.1, "lr": 3e-3, "betas": (0.8, 0.99), "eps": 1e-8},
    ),
    "RMSprop": (SharedRMSprop, torch.optim.RMSprop, {}, {}),
    "RMSprop, centered": (SharedRMSprop, torch.optim.RMSprop, {}, {"centered": True}),
    "RMSprop, momentum": (SharedRMSprop, torch.optim.RMSprop, {}, {"momentum": 0.9}),
    "RMSprop, all": (
        SharedRMSprop, torch.optim.RMSprop, {},
        {"centered": True, "momentum": 0.5, "weight_decay": 0.1, "alpha": 0.9, "eps": 1e-2},
    ),
}  # fmt: skip
DEFAULTS = {
    SharedAdam: {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-3},
    SharedRMSprop: {"lr": 7e-4, "alpha": 0.99, "eps": 0.1},
}


def gradients(number: int, size: int, seed: int = 0) -> list[torch.Tensor]:
    """Of very different sizes, as those of a first and a late update are."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator) * 10 ** float(i % 5 - 2) for i in range(number)]


def statistics(optimizer) -> list[torch.Tensor]:
    return [tensor for state in optimizer.state.values() for tensor in state.values()]


@pytest.mark.parametrize("name", PAIRS)
def test_200_steps_are_those_of_torch_optim(name):
    shared, reference, plain, options = PAIRS[name]
    start = torch.linspace(-1, 1, 60)
    ours = [nn.Parameter(start[:50].clone()), nn.Parameter(start[50:].clone())]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    optimizer = shared(ours, **options)
    optimizer.share_memory()
    twin = reference(theirs, **(DEFAULTS[shared] | options), **plain)
    for gradient in gradients(200, 60):
        for parameters, stepped in ((ours, optimizer), (theirs, twin)):
            parameters[0].grad, parameters[1].grad = gradient[:50].clone(), gradient[50:].clone()
            stepped.step()
    moved = torch.cat([p.detach() for p in ours]) - start
    assert moved.abs().mean() > 1e-3  # 200 steps go somewhere
    # Fused arithmetic rounds in another order: float32's 1e-7, over 200 steps.
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=2e-6)
        mine_state, other_state = optimizer.state[mine], twin.state[other]
        assert mine_state.keys() == other_state.keys()
        for key, value in mine_state.items():
            torch.testing.assert_close(value, other_state[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_all_statistics_exist_before_the_first_step_and_are_shared(name):
    shared, _, _, options = PAIRS[name]
    parameter = nn.Parameter(torch.zeros(3))
    optimizer = shared([parameter], **options)
    before = {key: tensor.data_ptr() for key, tensor in optimizer.state[parameter].items()}
    optimizer.share_memory()
    assert all(tensor.is_shared() for tensor in statistics(optimizer))
    shared_at = {key: tensor.data_ptr() for key, tensor in optimizer.state[parameter].items()}
    parameter.grad = torch.ones(3)
    optimizer.step()
    after = {key: tensor.data_ptr() for key, tensor in optimizer.state[parameter].items()}
    assert after == shared_at  # nothing was added or replaced
    assert before.keys() == after.keys()


@pytest.mark.parametrize("kind", [SharedAdam, SharedRMSprop])
def test_no_method_of_an_optimizer_imports_what_only_torch_compile_wants(kind):
    code = (
        f"import sys, torch; from shared_optim import {kind.__name__} as kind\n"
        "p = torch.nn.Parameter(torch.ones(2)); one = kind([p]); p.grad = torch.ones(2)\n"
        "one.step(); one.load_state_dict(one.state_dict()); one.step(); one.zero_grad()\n"
        "print(p.tolist() != [1, 1], {'torch._dynamo', 'sympy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(shared_optim.__file__).parent,
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout == "True set()\n"


@pytest.mark.parametrize("name", PAIRS)
def test_a_saved_state_dict_continues_the_run_exactly(name):
    shared, _, _, options = PAIRS[name]
    plan = gradients(40, 20)

    def run(server, plan):
        for gradient in plan:
            server.push(gradient.clone(), rank=0, lr=1e-3)

    def make(parameters):
        return shared(parameters, **options)

    whole = Hogwild(torch.ones(20), make, num_workers=1)
    run(whole, plan)
    first = Hogwild(torch.ones(20), make, num_workers=1)
    run(first, plan[:15])
    file = io.BytesIO()
    torch.save([optimizer.state_dict() for optimizer in first.optimizers], file)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    second = Hogwild(first.parameter, make, num_workers=1, optimizer_states=copy.deepcopy(states))
    assert all(tensor.is_shared() for tensor in statistics(second.optimizers[0]))
    run(second, plan[15:])
    assert torch.equal(second.parameter, whole.parameter)
    assert not torch.equal(second.parameter, first.parameter)


def test_saved_statistics_are_dealt_out_where_there_are_more_optimizers():
    first = Hogwild(torch.zeros(2), SharedAdam, num_workers=1)
    first.push(torch.ones(2), rank=0, lr=1e-3)
    states = [first.optimizers[0].state_dict()]
    second = Hogwild(
        torch.zeros(2), SharedAdam, num_workers=3, num_optimizers=3, optimizer_states=states
    )  # fmt: skip
    second.push(torch.ones(2), rank=2, lr=1e-3)
    steps = [int(one.state[second.parameter]["step"]) for one in second.optimizers]
    assert steps == [1, 1, 2]


def test_options_of_the_resumed_session_beat_the_saved_ones():
    first = Hogwild(torch.ones(2), lambda p: SharedAdam(p, lr=0.5), num_workers=1)
    states = [first.optimizers[0].state_dict()]
    second = Hogwild(
        torch.ones(2), lambda p: SharedAdam(p, lr=0.25), num_workers=1, optimizer_states=states
    )
    assert second.optimizers[0].param_groups[0]["lr"] == 0.25


class SharedSGD(torch.optim.SGD):
    """Has no state: one step moves the parameter by exactly -lr * gradient."""

    def share_memory(self) -> None:
        pass


def test_push_applies_this_updates_gradient_every_time():
    """Neither the first gradient again nor the sum of all; the buffer is the trainer's own."""
    server = Hogwild(torch.zeros(4), lambda p: SharedSGD(p, lr=1.0), num_workers=2)
    weights = torch.zeros(4, requires_grad=True)
    buffer = weights.grad = torch.zeros(4)
    for i, target in enumerate(gradients(6, 4)):
        before = server.parameter.detach().clone()
        buffer.zero_()
        (weights * target).sum().backward()
        server.push(buffer, rank=i % 2, lr=1.0)
        torch.testing.assert_close(server.parameter.detach() - before, -target)
        assert weights.grad is buffer


def test_push_takes_the_learning_rate_of_the_worker():
    server = Hogwild(torch.zeros(2), lambda p: SharedSGD(p, lr=1.0), num_workers=2)
    server.push(torch.ones(2), rank=0, lr=0.25)
    assert server.parameter.tolist() == [-0.25, -0.25]
    server.push(torch.ones(2), rank=1, lr=0.5)
    assert server.parameter.tolist() == [-0.75, -0.75]


def test_an_optimizer_without_a_state_goes_on():
    def make(parameters):
        return SharedSGD(parameters, lr=1.0)

    before = Hogwild(torch.zeros(2), make, num_workers=2)
    before.push(torch.ones(2), rank=0, lr=0.25)
    state = before.optimizers[0].state_dict()
    after = Hogwild(torch.zeros(2), make, num_workers=2, optimizer_states=[state])
    after.push(torch.ones(2), rank=0, lr=0.5)
    assert after.parameter.tolist() == [-0.5, -0.5]


class LateAdam(torch.optim.Adam):
    """As torch.optim's own, it makes its state at the first step."""


class OwnMomentum(SharedSGD):
    """Its state is there from the start, and is another tensor after each step."""

    def __init__(self, parameters, lr=1e-3):
        super().__init__(parameters, lr=lr)
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["momentum"] = torch.zeros_like(parameter)

    def step(self):
        for parameter, state in self.state.items():
            state["momentum"] = 0.9 * state["momentum"] + parameter.grad


@pytest.mark.parametrize("kind", [LateAdam, OwnMomentum])
def test_an_optimizer_whose_statistics_nobody_would_share_is_refused(kind):
    with pytest.raises(ValueError, match=f"^{kind.__name__} makes its state anew when it steps"):
        Hogwild(torch.zeros(2), kind, num_workers=2)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_of_the_command_line_is_the_class_of_its_name(name):
    args = parse(["--env", "Pong-v0", "--optimizer", name])
    made = make_optimizer(args, [nn.Parameter(torch.zeros(2))])
    assert type(made).__name__ == f"Shared{name}"


def test_an_optimizer_without_a_recipe_or_a_class_is_not_taken_for_another(monkeypatch):
    monkeypatch.setattr(options, "OPTIMIZERS", (*OPTIMIZERS, "SGD"))
    with pytest.raises(ValueError, match=r"^recipes.toml has no table \[SGD\]"):
        parse(["--env", "Pong-v0", "--optimizer", "SGD"])
    args = parse(["--env", "Pong-v0"])
    args.optimizer = "SGD"
    with pytest.raises(KeyError, match="SGD"):
        make_optimizer(args, [nn.Parameter(torch.zeros(2))])


def test_push_steps_the_workers_own_optimizer_if_there_is_one_per_worker():
    server = Hogwild(torch.zeros(2), SharedAdam, num_workers=3, num_optimizers=3)
    for rank in (1, 2, 2):
        server.push(torch.ones(2), rank, lr=1e-4)
    steps = [int(optimizer.state[server.parameter]["step"]) for optimizer in server.optimizers]
    assert steps == [0, 1, 2]


AVERAGES = {SharedAdam: ("exp_avg", "exp_avg_sq"), SharedRMSprop: ("square_avg",)}


@pytest.mark.parametrize("make", AVERAGES)
@pytest.mark.parametrize(
    ("workers", "optimizers", "others"), [(2, 2, 0), (3, 1, 6), (1, 1, 1), (2, 2, 2)]
)
def test_one_of_several_optimizers_forgets_as_a_single_one_would(make, workers, optimizers, others):
    """others: workers of other machines. After 5 updates of each optimizer, all the same."""
    server = Hogwild(
        torch.zeros(2), make, workers, optimizers, several_machines=others > 0
    )  # fmt: skip
    if others:
        server.figures["workers"][-1] = others
    parts = (workers + others) * optimizers // workers  # of the run's updates, it sees one
    single = Hogwild(torch.zeros(2), make, num_workers=1)
    for _ in range(5):
        server.push(torch.tensor([1.0, -2.0]), rank=0, lr=1e-3)
    for _ in range(5 * parts):
        single.push(torch.tensor([1.0, -2.0]), rank=0, lr=1e-3)
    for name in AVERAGES[make]:
        found, expected = (s.optimizers[0].state[s.parameter][name] for s in (server, single))
        torch.testing.assert_close(found, expected)


def test_an_average_is_over_a_tenth_of_the_usual_updates_at_least():
    server = Hogwild(torch.zeros(2), SharedAdam, num_workers=64, num_optimizers=64)
    server.push(torch.ones(2), rank=0, lr=1e-3)
    betas = server.optimizers[0].param_groups[0]["betas"]
    assert betas == pytest.approx((0.9**10, 0.999**10))


def adam_step(count: float) -> torch.Tensor:
    """What one step of Adam adds to weights of 0 after so many updates; (100,) float64."""
    parameter = nn.Parameter(torch.zeros(100))
    optimizer = SharedAdam([parameter], eps=0)
    state = optimizer.state[parameter]
    moments, parameter.grad = gradients(2, 100, seed=1)
    state["step"].fill_(count - 1)
    state["exp_avg"].copy_(moments)
    state["exp_avg_sq"].copy_(moments.square() + 1)
    optimizer.step()
    return parameter.detach().double()


def test_a_count_that_stands_still_changes_no_update():
    server = Hogwild(torch.zeros(2), SharedAdam, num_workers=1)
    count = server.optimizers[0].state[server.parameter]["step"]
    count.fill_(2**24 - 1)
    for _ in range(3):
        server.push(torch.ones(2), rank=0, lr=1e-4)
    assert count == 2**24
    assert torch.equal(adam_step(40_000), adam_step(2**24))
    assert not torch.equal(adam_step(1_000), adam_step(2**24))


@pytest.mark.parametrize("missing", [0.0002, 0.01, 0.1])  # share of the counts
@pytest.mark.parametrize("count", [200, 1000, 5000, 20_000])
def test_counts_that_processes_lose_make_an_update_smaller_by_less_than_half_their_share(
    count, missing
):
    smaller = 1 - adam_step(count * (1 - missing)) / adam_step(count)  # (100,)
    rounding = 1e-6
    assert -rounding < smaller.min()
    assert smaller.max() < missing / 2 + rounding


# ---------------------------------------------------------------------------------------------
# Two real processes


def push_on_demand(servers: dict[str, Hogwild], rank: int, pipe) -> None:
    """Body of a process: pushes what the pipe says, answers when it is done; None ends it."""
    torch.set_num_threads(1)
    while (order := pipe.recv()) is not None:
        name, gradient = order
        servers[name].push(torch.tensor(gradient), rank, LEARNING_RATE)
        pipe.send("pushed")


LEARNING_RATE = 3e-3
SERVERS = {
    "Adam": (SharedAdam, {"amsgrad": True}, 1),
    "RMSprop": (SharedRMSprop, {"momentum": 0.9, "centered": True}, 1),
    "Adam per worker": (SharedAdam, {}, 2),
    "RMSprop per worker": (SharedRMSprop, {}, 2),
}
# Who pushes what, in turn.
ORDER = [(turn % 2, gradient) for turn, gradient in enumerate(gradients(8, 5, seed=7))]


@pytest.fixture(scope="module")
def pushed():
    """Servers after two spawned processes, alive at once, have pushed ORDER to each of them."""
    servers = {
        name: Hogwild(torch.ones(5), lambda p, c=c, o=o: c(p, **o), 2, number)
        for name, (c, o, number) in SERVERS.items()
    }
    context = torch.multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for rank in range(2):
        here, there = context.Pipe()
        views = {name: server.for_process(rank) for name, server in servers.items()}
        process = context.Process(target=push_on_demand, args=(views, rank, there), daemon=True)
        process.start()
        there.close()
        pipes.append(here)
        processes.append(process)
    try:
        for name in servers:
            for rank, gradient in ORDER:
                pipes[rank].send((name, gradient.tolist()))
                ready = multiprocessing.connection.wait(
                    [pipes[rank], processes[rank].sentinel], timeout=120
                )
                assert ready == [pipes[rank]], "the process ended or hangs"
                pipes[rank].recv()
        for pipe in pipes:
            pipe.send(None)
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return servers


@pytest.mark.parametrize("name", ["Adam", "RMSprop"])
def test_two_processes_step_one_optimizer_in_the_same_memory(pushed, name):
    optimizer_class, options, _ = SERVERS[name]
    server = pushed[name]
    alone = nn.Parameter(torch.ones(5))
    expected = optimizer_class([alone], LEARNING_RATE, **options)
    for _, gradient in ORDER:
        alone.grad = gradient.clone()
        expected.step()
    torch.testing.assert_close(server.parameter, alone)
    assert not torch.equal(alone, torch.ones(5))
    found = server.optimizers[0].state[server.parameter]
    assert found["step"] == len(ORDER)
    for key, value in expected.state[alone].items():
        torch.testing.assert_close(found[key], value)
        assert value.any()


@pytest.mark.parametrize("name", ["Adam per worker", "RMSprop per worker"])
def test_without_a_shared_optimizer_each_worker_has_its_own_statistics(pushed, name):
    optimizer_class, options, _ = SERVERS[name]
    server = pushed[name]
    together = nn.Parameter(torch.ones(5))
    decay = {"betas": (0.9**2, 0.999**2)} if optimizer_class is SharedAdam else {"alpha": 0.99**2}
    expected = [optimizer_class([together], LEARNING_RATE, **options, **decay) for _ in range(2)]
    for rank, gradient in ORDER:
        together.grad = gradient.clone()
        expected[rank].step()
    torch.testing.assert_close(server.parameter, together)
    for optimizer, twin in zip(server.optimizers, expected, strict=True):
        found = optimizer.state[server.parameter]
        assert found["step"] == len(ORDER) // 2
        for key, value in twin.state[together].items():
            torch.testing.assert_close(found[key], value)
    squares = "exp_avg_sq" if optimizer_class is SharedAdam else "square_avg"
    first, second = (o.state[server.parameter][squares] for o in server.optimizers)
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(("text", "number"), [("False", 3), ("True", 1)])
def test_the_option_shared_optimizer_decides_between_one_and_one_per_worker(tmp_path, text, number):

    argv = ["--shared-optimizer", text, "--workers", "3", "--hidden-size", "8"]
    folders = ["--save-model-dir", str(tmp_path), "--log-dir", str(tmp_path)]
    run = Run(*load_options([*argv, *folders]))
    assert len(run.server.optimizers) == number
    assert not list(tmp_path.iterdir())
    seen = {id(run.server.for_process(rank).optimizers[0]) for rank in range(3)}
    assert len(seen) == number
