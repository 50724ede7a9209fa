"""What model.py says is what is computed: edited networks, other networks, Numba out of order."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_kernels import fast_only, windows
from torch import nn

import checkpoint
import kernels
import main
import network
import options
from model import A3Clstm, flatten_parameters
from network import FastNetwork, PlainNetwork, make_network, why_plain
from run import load_options

PROJECT = Path(kernels.__file__).parent
DIFFERS = "model.py computes something else than kernels.py"
OTHER = "model.py makes another network than kernels.py computes"


# ---------------------------------------------------------------------------------------------
# The comparison


def same(x):
    return x


def edited(
    picture=same, activation=F.relu, pool=F.max_pool2d, features=same, state=same, cx=same,
    value=same, logit=same,
):  # fmt: skip
    """A3Clstm.forward with some of its parts replaced."""

    def forward(self, inputs):
        x, before = inputs
        x = picture(x)
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = activation(pool(conv(x), 2))
        after = self.lstm(features(x.flatten(1)), state(before))
        after = (after[0], cx(after[1]))
        return value(self.critic_linear(after[0])), logit(self.actor_linear(after[0])), after

    return forward


def without_a_pixel(x):
    mask = torch.ones(80, 80)
    mask[40, 40] = 0.0
    return x * mask


def from_the_second_call_on(self, inputs):
    value, logit, after = edited()(self, inputs)
    self.calls = getattr(self, "calls", 0) + 1
    return value * (1 if self.calls == 1 else 2), logit, after


def picture_of_the_step_before(self, inputs):
    x, state = inputs
    seen, self.last = getattr(self, "last", x), x
    return edited()(self, (seen, state))


def critic_that_teaches_nothing_below(self, inputs):
    _, logit, after = edited()(self, inputs)
    return self.critic_linear(after[0].detach()), logit, after


def without_a_bias(self, inputs):
    _, logit, after = edited()(self, inputs)
    return F.linear(after[0], self.critic_linear.weight), logit, after


EDITS = {
    "blind": edited(picture=torch.zeros_like),
    "a pixel is not seen": edited(picture=without_a_pixel),
    "mirrored": edited(picture=lambda x: x.flip(3)),
    "scaled value": edited(value=lambda x: x * 1.001),
    "scaled logits": edited(logit=lambda x: x * 1.001),
    "bounded logits": edited(logit=torch.tanh),
    "wide bound of the value": edited(value=lambda x: x.clamp(-50, 50)),
    "noise": edited(logit=lambda x: x + 0.01 * torch.randn_like(x)),
    "dropout": edited(features=lambda x: F.dropout(x, 0.05)),
    "leaky ReLU": edited(activation=lambda x: F.leaky_relu(x, 0.01)),
    "ReLU6": edited(activation=F.relu6),
    "SiLU": edited(activation=F.silu),
    "mean pooling": edited(pool=F.avg_pool2d),
    "normalised features": edited(features=lambda x: F.layer_norm(x, x.shape[1:])),
    "skip connection": edited(features=lambda x: x + x.roll(64, 1)),
    "no memory": edited(state=lambda pair: tuple(map(torch.zeros_like, pair))),
    "bounded memory": edited(cx=lambda x: x.clamp(-5, 5)),
    "wide bound of the memory": edited(cx=lambda x: x.clamp(-50, 50)),  # it reaches hundreds
    "features learn nothing": edited(features=torch.Tensor.detach),
    "another network from the second call on": from_the_second_call_on,
    "picture of the step before": picture_of_the_step_before,
    "critic that teaches nothing below": critic_that_teaches_nothing_below,
    "no bias": without_a_bias,
}


@fast_only
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_forward_is_noticed(edit, monkeypatch):
    monkeypatch.setattr(A3Clstm, "forward", EDITS[edit])
    assert why_plain(A3Clstm(3, 16)) == DIFFERS


@fast_only
def test_a_forward_that_is_only_written_in_another_way_stays_fast(monkeypatch):
    monkeypatch.setattr(A3Clstm, "forward", edited())
    assert why_plain(A3Clstm(3, 16)) == ""


def wrap_around(model):
    model.conv2.padding_mode = "circular"


def freeze(model):
    model.conv1.requires_grad_(False)


def hook(model):
    model.critic_linear.register_forward_hook(lambda module, inputs, output: output + 0.1)


@fast_only
@pytest.mark.parametrize("change", [wrap_around, freeze, hook], ids=lambda x: x.__name__)
def test_a_layer_that_computes_something_else_is_noticed(change):
    model = A3Clstm(3, 16)
    change(model)
    assert why_plain(model) == DIFFERS


def more_channels(model):
    model.conv2, model.conv3 = nn.Conv2d(32, 48, 5, padding=1), nn.Conv2d(48, 64, 4, padding=1)


def smaller_kernel(model):
    model.conv1 = nn.Conv2d(1, 32, 3, padding=1)


def no_bias(model):
    model.conv4 = nn.Conv2d(64, 64, 3, padding=1, bias=False)


def larger_lstm(model):
    model.lstm = nn.LSTMCell(1024, 32)


def own_parameter(model):
    model.temperature = nn.Parameter(torch.ones(1))


def statistics(model):
    model.norm = nn.BatchNorm2d(32)


def double(model):
    model.double()


def elsewhere(model):
    model.to("meta")


def gradient_hook(model):
    model.lstm.weight_hh.register_hook(lambda gradient: 0.1 * gradient)


def late_gradient_hook(model):
    model.lstm.weight_hh.register_post_accumulate_grad_hook(lambda p: p.grad.zero_())


def subclass(model):
    model.__class__ = type("Sub", (A3Clstm,), {})


@fast_only
@pytest.mark.parametrize(
    "change",
    [
        more_channels, smaller_kernel, no_bias, larger_lstm, own_parameter, statistics, double,
        elsewhere, gradient_hook, late_gradient_hook, subclass,
    ],
    ids=lambda change: change.__name__,
)  # fmt: skip
def test_a_network_that_the_kernels_do_not_fit_is_plain_whatever_was_decided(change):
    model = A3Clstm(3, 16)
    change(model)
    assert why_plain(model) == OTHER
    assert type(make_network(model, 2, 3, False)) is PlainNetwork


@fast_only
@pytest.mark.parametrize(
    ("num_actions", "hidden_size"), [(3, 512), (4, 16), (6, 24), (9, 10), (14, 512), (18, 17)]
)
def test_the_network_of_model_py_is_fast(num_actions, hidden_size, monkeypatch):
    """With margin: it is another computer's rounding that must pass, too."""
    for name in ("SAME_OUTPUT", "SAME_GRADIENT"):
        monkeypatch.setattr(network, name, getattr(network, name) / 4)
    model = A3Clstm(num_actions, hidden_size)
    assert why_plain(model) == ""
    assert type(make_network(model, 2, 3)) is FastNetwork
    assert type(make_network(model, 2, 3, plain=True)) is PlainNetwork


def test_pictures_of_another_size_are_for_plain_pytorch(monkeypatch):
    monkeypatch.setattr(network, "OBS_SHAPE", (1, 84, 84))  # with as many features
    assert why_plain(A3Clstm(3, 16)) == (kernels.NUMBA_FAULT or OTHER)


@fast_only
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_the_comparison_works_whatever_the_caller_is_in(around):
    with around():
        assert why_plain(A3Clstm(3, 16)) == ""


@fast_only
@pytest.mark.parametrize("shape", [(2, 1, 96, 96), (2, 2, 80, 80), (1, 1, 80, 80), (2, 80, 80)])
def test_a_picture_of_another_shape_is_refused_not_misread(shape):
    network, state = make_network(A3Clstm(3, 16), 2, 3), torch.zeros(2, 2, 16)
    for play in (network.act, network.evaluate):
        with pytest.raises(ValueError, match=re.escape(f"{shape} in place of (2, 1, 80, 80)")):
            play(torch.zeros(shape), *state)


@fast_only
def test_the_verdict_does_not_depend_on_the_weights_nor_change_them():
    for seed in range(3):
        torch.manual_seed(seed)
        model = A3Clstm(6, 16).eval()
        weights, gradient = flatten_parameters(model)
        weights *= (0.0, 1.0, 1e6)[seed]
        before, chance = weights.clone(), torch.get_rng_state()
        assert why_plain(model) == ""
        assert torch.equal(weights, before)
        assert not gradient.any()
        assert torch.equal(torch.get_rng_state(), chance)


@fast_only
def test_no_winner_of_a_window_in_the_comparison_is_a_near_tie(monkeypatch):
    """float32 is wrong by 3e-6 of the mean there."""
    seen = []

    class Spy(PlainNetwork):
        def act(self, obs, hx, cx):
            seen.append((self.model, obs))
            return super().act(obs, hx, cx)

    monkeypatch.setattr(network, "PlainNetwork", Spy)
    assert network.kernels_agree(A3Clstm(3, 16))
    model, x = seen[-1][0].double(), torch.cat([obs for _, obs in seen]).double()
    with torch.no_grad():
        for conv in (model.conv1, model.conv2, model.conv3, model.conv4):
            y = conv(x)
            first, second = windows(y).topk(2, -1).values.unbind(-1)
            lead = torch.where(first > 0, first - second.clamp(min=0), -first)
            assert lead.min() > 1.5e-5 * y.abs().mean()
            x = F.relu(F.max_pool2d(y, 2))


# ---------------------------------------------------------------------------------------------
# The programs

OTHER_NETWORK = '''
import torch
import torch.nn.functional as F
from torch import nn


class Other(nn.Module):
    """No convolution, no memory, and none of A3Clstm's names."""

    def __init__(self, num_actions, hidden_size):
        super().__init__()
        self.hidden_size = hidden_size
        self.body = nn.Linear(64, hidden_size)
        self.drop = nn.Dropout(0.1)
        self.value = nn.Linear(hidden_size, 1)
        self.policy = nn.Linear(hidden_size, num_actions)

    def forward(self, inputs):
        x, state = inputs
        x = self.drop(torch.relu(self.body(F.avg_pool2d(x, 10).flatten(1))))
        return self.value(x), self.policy(x), state
'''
SMALL = [
    "--workers", "1", "--envs-per-worker", "2", "--num-steps", "5", "--hidden-size", "24",
    "--max-episode-length", "20", "--eval-interval", "0", "--eval-episodes", "1",
]  # fmt: skip


def program(folder: Path, script: str, *options: str, **environment: str) -> str:
    """What it prints; it must end without an error."""
    done = subprocess.run(
        [sys.executable, str(folder / script), *options],
        cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=200,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def suite(tmp_path) -> Path:
    """A copy of the suite, to be edited."""
    for path in [*PROJECT.glob("*.py"), *PROJECT.glob("*.json"), *PROJECT.glob("*.toml")]:
        shutil.copy2(path, tmp_path)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_another_network_takes_three_lines_and_is_trained_resumed_and_played(suite):
    suite.joinpath("other.py").write_text(OTHER_NETWORK)
    edit(suite / "model.py", "import torch\n", "import torch\nfrom other import Other\n")
    edit(
        suite / "model.py",
        "    return A3Clstm(num_actions, hidden_size)",
        "    return Other(num_actions, hidden_size)",
    )
    output = program(suite, "main.py", *SMALL, "--max-steps", "200", "--tensorboard-logger")
    reason = OTHER if kernels.HAVE_NUMBA else kernels.NUMBA_FAULT
    assert output.count(f"{reason}: training in plain PyTorch, several times slower") == 1
    assert "TensorBoard" not in output  # nothing failed
    assert list((suite / "logs/tensorboard/Pong-v0").glob("events.*"))
    first = checkpoint.load_checkpoint(suite / "trained_models/Pong-v0.ckpt")
    assert first["args"]["plain"]
    program(suite, "main.py", "--resume", "--max-steps", "400")
    second = checkpoint.load_checkpoint(suite / "trained_models/Pong-v0.ckpt")
    assert second["steps"] >= 400 > first["steps"]
    assert list(second["model"]) == list(first["model"])
    assert not torch.equal(first["model"]["policy.bias"], second["model"]["policy.bias"])
    assert not torch.equal(first["model"]["body.weight"], second["model"]["body.weight"])
    output = program(suite, "gym_eval.py", "-ne", "2", "-mel", "5", "--last")
    assert output.count(f"{reason}: playing in plain PyTorch, several times slower") == 1
    assert "2 games, mean" in output
    assert not list(suite.rglob("*.nbi"))  # nobody compiled kernels that nobody needs


@fast_only
def test_an_edited_model_py_is_trained_and_played_as_it_says_and_one_line_says_so(suite):
    shutil.copytree(PROJECT / "__pycache__", suite / "__pycache__")  # the compiled kernels
    last = "        return self.critic_linear(hx), self.actor_linear(hx), (hx, cx)\n"
    edit(suite / "model.py", last, last.replace("self.actor", "0 * self.actor"))
    output = program(suite, "main.py", *SMALL, "--max-steps", "200")
    assert output.count(f"{DIFFERS}: training in plain PyTorch, several times slower") == 1
    weights = checkpoint.load_checkpoint(suite / "trained_models/Pong-v0.ckpt")["model"]
    assert not weights["actor_linear.bias"].any()  # it had no gradient
    assert weights["critic_linear.bias"].any()
    output = program(suite, "gym_eval.py", "-ne", "1", "-mel", "5")
    assert output.count(f"{DIFFERS}: playing in plain PyTorch, several times slower") == 1
    assert "slower" not in program(suite, "gym_eval.py", "-ne", "1", "-mel", "5", "--plain")


def test_where_numba_is_out_of_order_a_run_and_an_evaluation_are_plain_and_say_so(tmp_path):
    tmp_path.joinpath("numba.py").write_text("raise SystemError('initialization failed')")
    folders = ["-smd", str(tmp_path / "models"), "--log-dir", str(tmp_path / "logs")]
    output = program(
        PROJECT, "main.py", *SMALL, *folders, "--max-steps", "200", PYTHONPATH=str(tmp_path)
    )
    reason = "Numba does not load (initialization failed)"
    assert output.count(f"{reason}: training in plain PyTorch, several times slower") == 1
    folders[0] = "-lmd"
    output = program(
        PROJECT, "gym_eval.py", *folders, "-ne", "1", "-mel", "5", NUMBA_DISABLE_JIT="1"
    )
    reason = "NUMBA_DISABLE_JIT switches Numba off"
    assert output.count(f"{reason}: playing in plain PyTorch, several times slower") == 1


def test_plain_is_asked_for_and_not_explained_and_belongs_to_the_session(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args, _ = load_options([*SMALL, "--plain"])
    assert main.choose_network(args, A3Clstm(3, 16)) == ""
    assert args.plain
    content = {"args": vars(args), "steps": 5}
    resumed = options.parse_resumed(["--resume"], Path("Pong-v0.ckpt"), content)
    assert not resumed.plain
