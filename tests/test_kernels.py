"""The fast network against slow, obvious ground truth in float64, step by step and tap by tap."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import kernels
import network
from environment import Normalizer, game_config, make_env, read_config
from kernels import CLOSED, LAYERS
from model import A3Clstm, flatten_parameters
from network import FastNetwork, PlainNetwork, make_network

CONFIG = f"{sys.modules['model'].__file__.rpartition('model.py')[0]}config.json"
TOLERANCE = 1e-5  # of ||a - b|| / ||b||, per tensor
TIE = 1e-6  # of the largest output: two candidates that are nearer than this may both win

fast_only = pytest.mark.skipif(not kernels.HAVE_NUMBA, reason="numba is not installed")


@pytest.fixture(autouse=True)
def _one_thread():
    """As in a worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_model(num_actions=3, hidden_size=32, seed=0, dtype=torch.float32):
    """With flat parameters, as train.py makes them; biases are not zero."""
    torch.manual_seed(seed)
    model = A3Clstm(num_actions, hidden_size).to(dtype)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p += 0.1 * torch.randn_like(p)
    flatten_parameters(model)
    return model


def random_pictures(steps, envs, seed=0):
    return torch.randn(steps, envs, 1, 80, 80, generator=torch.Generator().manual_seed(seed))


def real_pictures(env_id, steps, envs, held=True):
    """Normalised observations of a random player; one game per environment.

    held: by the same statistics in all steps, as in a rollout.
    """
    config = game_config(read_config(CONFIG), env_id)
    games = []
    for seed in range(envs):
        env, normalizer = make_env(env_id, config), Normalizer()
        env.action_space.seed(seed)
        obs, _ = env.reset(seed=seed)
        frames = []
        for step in range(120 + steps):
            obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if held and step == 120:
                normalizer.hold()
            frames.append(normalizer.observe(obs[None]))
            if terminated or truncated:
                env.reset()
        games.append(np.stack(frames[-steps:]))
    return torch.from_numpy(np.stack(games, 1))  # (steps, envs, 1, 80, 80)


class Case:
    """A rollout: what comes in, and the gradient of what goes out."""

    def __init__(self, model, pictures, ended=(), seed=0):
        self.pictures = pictures
        self.steps, self.envs = pictures.shape[:2]
        dtype, actions = pictures.dtype, model.actor_linear.out_features
        torch.manual_seed(seed)
        self.hx, self.cx = 0.5 * torch.randn(2, self.envs, model.hidden_size, dtype=dtype)
        self.d_values = torch.randn(self.steps, self.envs, dtype=dtype)
        self.d_logits = torch.randn(self.steps, self.envs, actions, dtype=dtype)
        self.ended = torch.zeros(self.steps, self.envs, dtype=torch.bool)
        for t, env in ended:
            self.ended[t, env] = True


def play(net, case):
    """Every output of a rollout of this network: a list of tensors, four per step."""
    net.begin()
    net.played = []  # the winners of each step, for winners_of
    hx, cx, outputs = case.hx, case.cx, []
    for t in range(case.steps):
        value, logit, hx, cx = net.act(case.pictures[t], hx, cx)
        if isinstance(net, FastNetwork):
            net.played.append([torch.from_numpy(code.copy()) for code in net.code])
        outputs += [value, logit, hx, cx]
        over = case.ended[t, :, None]
        hx, cx = hx.masked_fill(over, 0.0), cx.masked_fill(over, 0.0)
    return outputs


def gradient(model, net, case):
    """Gradient of every parameter, by name, after `play`."""
    for p in model.parameters():
        p.grad.zero_()
    net.backward(case.d_values, case.d_logits, case.ended)
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def winners_of(net):
    """Of the last `play`, per layer (T * E, C, H, W): 0 to 3, or CLOSED."""
    return [
        torch.cat(codes).view(-1, y.pooled, y.pooled, y.outputs).permute(0, 3, 1, 2).long()
        for codes, y in zip(zip(*net.played, strict=True), LAYERS, strict=True)
    ]


def windows(x):
    """(N, C, H, W) to (N, C, H // 2, W // 2, 4), row-major inside a window."""
    n, c, h, w = x.shape
    x = x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2)
    return x.permute(0, 1, 2, 4, 3, 5).flatten(4)


def ground_truth(model, case, winners=None):
    """(outputs, gradient by name) in float64 by autograd through the whole rollout.

    winners: take these, having checked that they are the largest up to TIE; None: the largest.
    """
    model = copy.deepcopy(model).double()
    convs = (model.conv1, model.conv2, model.conv3, model.conv4)
    x = case.pictures.double().flatten(0, 1)
    for i, (conv, layer) in enumerate(zip(convs, LAYERS, strict=True)):
        y = windows(F.conv2d(x, conv.weight, conv.bias, padding=layer.padding))
        if winners is None:
            x = F.relu(y.amax(-1))
            continue
        opened = winners[i] != CLOSED
        best = y.gather(-1, (winners[i] * opened)[..., None])[..., 0]
        near = TIE * y.abs().max()
        assert ((y.amax(-1) - best) * opened).max() <= near
        assert (y.amax(-1) * ~opened).max() <= near
        assert (best * opened).min() >= -near
        x = best * opened
    x = x.flatten(1).unflatten(0, (case.steps, case.envs))
    hx, cx = case.hx.double(), case.cx.double()
    outputs, loss = [], 0.0
    for t in range(case.steps):
        hx, cx = model.lstm(x[t], (hx, cx))
        value, logit = model.critic_linear(hx)[:, 0], model.actor_linear(hx)
        outputs += [value, logit, hx, cx]
        loss = loss + (case.d_values[t] * value).sum() + (case.d_logits[t] * logit).sum()
        keep = (~case.ended[t, :, None]).double()
        hx, cx = hx * keep, cx * keep
    names, parameters = zip(*model.named_parameters(), strict=True)
    return outputs, dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def assert_close(a, b, what=""):
    a, b = a.double(), b.double()
    assert (a - b).norm() <= TOLERANCE * b.norm(), (what, float((a - b).norm() / b.norm()))


def check(model, case, num_steps=None):
    """Outputs and gradient of FastNetwork are the true ones."""
    net = FastNetwork(model, case.envs, num_steps or case.steps)
    outputs = play(net, case)
    grads = gradient(model, net, case)
    true_outputs, true_grads = ground_truth(model, case, winners_of(net))
    for i, (a, b) in enumerate(zip(outputs, true_outputs, strict=True)):
        assert_close(a, b, ("step, output", divmod(i, 4)))
    for name, grad in grads.items():
        assert_close(grad, true_grads[name], name)
    return net, grads


@fast_only
@pytest.mark.parametrize("envs", [1, 8])
@pytest.mark.parametrize("hidden_size", [10, 512])
def test_random_pictures(envs, hidden_size):
    model = make_model(hidden_size=hidden_size)
    check(model, Case(model, random_pictures(2, envs)))


@fast_only
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("envs", [1, 8])
@pytest.mark.parametrize("env_id", ["Pong-v0", "Breakout-v4"])
def test_real_pictures(env_id, envs, held):
    model = make_model(num_actions=6, hidden_size=512)
    steps = 2 if envs > 1 else 20 if held else 5
    check(model, Case(model, real_pictures(env_id, steps, envs, held)))


def shares_of_fresh(net, case):
    """Per layer (T, E): which share of the windows was computed."""
    return [
        torch.from_numpy(fresh)[: case.steps * case.envs * y.pooled**2]
        .view(case.steps, case.envs, -1)
        .float()
        .mean(-1)
        for fresh, y in zip(net.fresh, LAYERS, strict=True)
    ]


def moving_pictures(steps, envs):
    """Random pictures in which little changes per step: a pixel, some, none, a patch, or all."""
    rng = np.random.default_rng(0)
    pictures = random_pictures(1, envs).expand(steps, -1, -1, -1, -1).clone()
    for t in range(1, steps):
        pictures[t] = pictures[t - 1]
        for env in range(envs):
            kind = rng.integers(6)
            row, column = rng.integers(0, 80, 2)
            if kind == 0:
                pictures[t, env, 0, row, column] += 1.0
            elif kind == 1:  # the corners of a picture, where padding begins
                pictures[t, env, 0, rng.choice([0, 79]), rng.choice([0, 79])] -= 1.0
            elif kind == 2:
                pictures[t, env, 0, row : row + 9, column : column + 5] = rng.normal()
            elif kind == 3:  # as it was before the last change
                pictures[t, env] = pictures[max(t - 2, 0), env]
            elif kind == 4:
                pictures[t, env] = random_pictures(1, 1, seed=t)[0, 0]
    return pictures


@fast_only
def test_what_did_not_change_is_not_computed_again():
    model = make_model(hidden_size=64)
    case = Case(model, moving_pictures(20, 5), ended=[(3, 0), (11, 4), (19, 1)])
    net, _ = check(model, case)
    shares = shares_of_fresh(net, case)
    same = (case.pictures[1:] == case.pictures[:-1]).flatten(2).all(-1)
    for share in shares:
        assert (share[0] == 1.0).all()
        assert torch.equal(share[1:] == 0.0, same)
    for share in shares[:-1]:  # the last has 16 windows
        assert 0.0 < share[1:][~same].min() < 1.0


@fast_only
@pytest.mark.parametrize("place", [(40, 40), (41, 57), (0, 0), (79, 79), (0, 78), (77, 1)])
def test_one_changed_pixel_makes_those_windows_fresh_that_depend_on_it(place):
    model = make_model()
    pictures = random_pictures(1, 1).expand(2, -1, -1, -1, -1).clone()
    pictures[1, 0, 0, *place] += 1.0
    net, _ = check(model, Case(model, pictures))
    changed = torch.zeros(1, 1, 80, 80)
    changed[0, 0, *place] = 1.0
    for i, layer in enumerate(LAYERS):
        ones = torch.ones(1, 1, layer.kernel, layer.kernel)
        changed = F.max_pool2d(F.conv2d(changed, ones, padding=layer.padding), 2).clamp(max=1.0)
        fresh = torch.from_numpy(net.fresh[i])[layer.pooled**2 :][: layer.pooled**2]
        assert torch.equal(fresh.float(), changed.flatten())


@fast_only
def test_reuse_does_not_change_a_bit_of_the_outputs():
    """Step by step against a network that begins anew for every step."""
    model = make_model()
    case = Case(model, moving_pictures(20, 5))
    outputs = play(FastNetwork(model, 5, 20), case)
    anew = FastNetwork(model, 5, 20)
    # Evaluate in one place, with some rows missing, and anew.
    reusing, first = FastNetwork(model, 5, 0), FastNetwork(model, 5, 0)
    hx, cx = case.hx, case.cx
    for t in range(20):
        anew.begin()
        acted = anew.act(case.pictures[t], hx, cx)
        first.begin()
        evaluated = first.evaluate(case.pictures[t], hx, cx)
        rows = [row for row in range(5) if (t + row) % 3]
        reused = reusing.evaluate(case.pictures[t], hx, cx, rows)
        kept = outputs[4 * t : 4 * t + 4]
        for a, b, c, d in zip(acted, kept, evaluated, reused, strict=True):
            assert torch.equal(a, b), t
            assert all(torch.equal(c[row], d[row]) for row in rows), t
            assert_close(c, a)
        hx, cx = kept[2:]


@fast_only
def test_an_evaluation_in_the_middle_of_a_rollout_changes_nothing():
    model = make_model()
    case = Case(model, moving_pictures(6, 2))
    net, grads = check(model, case)
    hx, cx = case.hx, case.cx
    net.begin()
    for t in range(case.steps):
        before = net.evaluate(case.pictures[-t], hx, cx)
        anew = FastNetwork(model, 2, 1).evaluate(case.pictures[-t], hx, cx)
        assert all(torch.equal(a, b) for a, b in zip(before, anew, strict=True))
        _, _, hx, cx = net.act(case.pictures[t], hx, cx)
        after = net.evaluate(case.pictures[-t], hx, cx, [1])
        anew = FastNetwork(model, 2, 1).evaluate(case.pictures[-t], hx, cx)
        assert all(torch.equal(a[1], b[1]) for a, b in zip(after, anew, strict=True))
    again = gradient(model, net, case)
    assert all(torch.equal(grads[name], again[name]) for name in grads)


@fast_only
@pytest.mark.parametrize("acted", [0, 1, 2])
def test_evaluation_reuses_what_has_the_same_weights_and_nothing_else(acted):
    """acted: steps of the rollout before the evaluation."""
    model = make_model()
    pictures = random_pictures(1, 2).expand(4, -1, -1, -1, -1).clone()
    for t in range(4):
        pictures[t, :, 0, 20 * t : 20 * t + 3, 30:33] += 1.0
    hx, cx = torch.randn(2, 2, model.hidden_size)
    net = FastNetwork(model, 2, 3)
    for _ in range(2):
        net.begin()
        for t in range(acted):
            net.act(pictures[t], hx, cx)
        for picture in pictures[1:]:
            out = net.evaluate(picture, hx, cx)
            anew = FastNetwork(model, 2, 1).evaluate(picture, hx, cx)
            assert all(torch.equal(a, b) for a, b in zip(out, anew, strict=True))
        fresh = net.fresh[1][-2 * LAYERS[1].pooled ** 2 :]
        assert 0.0 < fresh.mean() < 0.2
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.roll(p, 1, 0) * 1.1)


def flat_pictures():
    """(1, 18, 1, 80, 80): flat but for single pixels, for stripes, and for nothing."""
    places = [(0, 0), (0, 79), (79, 0), (79, 79)]
    places += np.random.default_rng(0).integers(0, 80, (10, 2)).tolist()
    pictures = torch.full((1, len(places) + 4, 1, 80, 80), -0.07)
    for env, (row, column) in enumerate(places):
        pictures[0, env, 0, row, column] = 3.0
    pictures[0, -1, 0] = 0.0
    pictures[0, -2, 0, 40:] = 5.0
    pictures[0, -3, 0, :, 31:] = 5.0  # alike from row to row
    pictures[0, -4, 0] = random_pictures(1, 1)[0, 0, 0, :, :1]  # alike from column to column
    return pictures


@fast_only
@pytest.mark.parametrize("dead", [None, "conv1", "conv3"])
def test_what_looks_like_its_neighbour_is_copied_and_nothing_else(dead):
    """dead: a layer that is closed everywhere, so that the next sees a flat map with a border."""
    model = make_model()
    if dead:
        getattr(model, dead).bias.data.fill_(-100.0)
    check(model, Case(model, flat_pictures()))


@fast_only
def test_a_long_rollout():
    model = make_model(hidden_size=64)
    check(model, Case(model, random_pictures(20, 2), ended=[(3, 0), (19, 1)]))


class Poisoned:
    """A module whose new, uninitialised arrays are full of nan, or of 77."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        return getattr(self.module, name)

    def empty(self, *args, **keywords):
        array = self.module.empty(*args, **keywords)
        array[...] = float("nan") if "float" in str(array.dtype) else 77
        return array

    def empty_like(self, other):
        return self.empty(other.shape)


@fast_only
@pytest.mark.parametrize("envs", [1, 5])
def test_nothing_is_read_that_was_never_written(envs, monkeypatch):
    monkeypatch.setattr(network, "np", Poisoned(np))
    monkeypatch.setattr(network, "torch", Poisoned(torch))
    model = make_model(hidden_size=64)
    check(model, Case(model, moving_pictures(8, envs), ended=[(3, 0)]), num_steps=9)


@fast_only
def test_no_gradient_flows_across_an_end():
    model = make_model()
    pictures = random_pictures(4, 2)
    check(model, Case(model, pictures, ended=[(1, 0), (2, 1)]))
    # Everything ends after step 1: what follows has no part in the gradient of what went before.
    whole = Case(model, pictures, ended=[(1, 0), (1, 1)])
    before = Case(model, pictures, ended=[(1, 0), (1, 1)])
    whole.d_values[2:] = 0.0
    whole.d_logits[2:] = 0.0
    before.pictures, before.steps = pictures[:2], 2
    for name in ("d_values", "d_logits", "ended"):
        setattr(before, name, getattr(before, name)[:2])
    _, a = check(model, whole)
    _, b = check(model, before)
    for name in a:
        assert_close(a[name], b[name], name)


@fast_only
def test_a_rollout_may_stop_early_and_is_then_forgotten():
    model = make_model()
    long, short = (Case(model, random_pictures(n, 2, seed=n)) for n in (6, 2))
    net, _ = check(model, short, num_steps=6)
    for case in (long, short, long):
        play(net, case)
        grads = gradient(model, net, case)
        for name, true in ground_truth(model, case, winners_of(net))[1].items():
            assert_close(grads[name], true, name)


@fast_only
def test_among_equals_the_first_wins_as_in_pytorch():
    model = make_model()
    pictures = torch.full((1, 2, 1, 80, 80), 0.7)
    pictures[0, 1] = 0.0
    net, _ = check(model, Case(model, pictures))
    x = pictures.flatten(0, 1)
    for i, layer in enumerate(LAYERS[:3]):
        conv = (model.conv1, model.conv2, model.conv3)[i]
        # Away from the border all windows are the same.
        x = F.conv2d(x, conv.weight, conv.bias, padding=layer.padding)
        x = F.relu(F.max_pool2d(x, 2))
        found = winners_of(net)[i]
        inner = found[:, :, 2:-2, 2:-2]
        assert ((inner == 0) | (inner == CLOSED)).all()
        assert 0 < (inner == 0).float().mean() < 1
        assert torch.equal(inner != CLOSED, x[:, :, 2:-2, 2:-2] > 0)


@fast_only
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_dead_layer_has_no_gradient(number):
    model = make_model()
    with torch.no_grad():
        getattr(model, f"conv{number}").bias.fill_(-1e3)
    _, grads = check(model, Case(model, random_pictures(2, 2)))
    for i in range(1, number + 1):
        assert not grads[f"conv{i}.weight"].any()
        assert not grads[f"conv{i}.bias"].any()
    assert grads["lstm.bias_ih"].any()


def share_of_open(net, number):
    """(E, pooled, pooled): of what each window of this layer sees, how much is not zero, per 256.

    As of the newest step, or after the gradient as of the first.
    """
    y = LAYERS[number]
    x = torch.from_numpy(net.x[number]).view(-1, y.padded, y.padded, y.inputs) != 0.0
    side = y.kernel + 1
    seen = x.unfold(1, side, 2).unfold(2, side, 2)[:, : y.pooled, : y.pooled]
    return 256 * seen.flatten(3).float().mean(-1)


@fast_only
@pytest.mark.parametrize(("number", "limit"), [(2, kernels.FEWER), (3, kernels.SPARSE)])
def test_where_little_is_open_the_zeros_are_left_out_and_the_rest_is_added_up(number, limit):
    """number: of the layer, from 0, most of whose inputs are closed."""
    model = make_model()
    with torch.no_grad():
        getattr(model, f"conv{number}").bias[6:] -= 10.0
    pictures = random_pictures(2, 2)
    pictures[1:, :, :, 30:50] = pictures[:1, :, :, 30:50]  # so that some windows stay
    net, _ = check(model, Case(model, pictures))
    share = share_of_open(net, number)
    assert ((share > 0.0) & (share < limit)).float().mean() > 0.9


@fast_only
def test_single_dead_channels():
    model = make_model()
    with torch.no_grad():
        for conv in (model.conv1, model.conv2, model.conv3, model.conv4):
            conv.bias[::3] = -1e3
    check(model, Case(model, random_pictures(2, 2)))


@pytest.mark.parametrize("kind", [PlainNetwork, pytest.param(FastNetwork, marks=fast_only)])
def test_after_its_gradient_a_rollout_is_forgotten(kind):
    model = make_model()
    case, other = (Case(model, random_pictures(3, 2, seed=seed)) for seed in (0, 1))
    net = kind(model, 2, 3)
    with pytest.raises(RuntimeError, match="no step"):
        net.backward(case.d_values, case.d_logits, case.ended)
    play(net, case)
    grads = gradient(model, net, case)
    with pytest.raises(RuntimeError, match="no step"):
        net.backward(case.d_values, case.d_logits, case.ended)
    anew = kind(model, 2, 3)
    for obs in other.pictures:
        evaluated = [n.evaluate(obs, case.hx, case.cx) for n in (net, anew)]
        assert all(torch.equal(a, b) for a, b in zip(*evaluated, strict=True))
    hx, cx = case.hx, case.cx
    for obs in case.pictures:  # without begin(): the same weights
        _, _, hx, cx = net.act(obs, hx, cx)
    again = gradient(model, net, case)
    assert all(torch.equal(grads[name], again[name]) for name in grads)


@fast_only
def test_an_evaluation_of_no_row_does_nothing():
    model = make_model()
    case = Case(model, random_pictures(3, 2))
    net, grads = check(model, case)
    net.begin()
    hx, cx = case.hx, case.cx
    for obs in case.pictures:
        _, _, hx, cx = net.act(obs, hx, cx)
        net.evaluate(obs, hx, cx, [])
    again = gradient(model, net, case)
    assert all(torch.equal(grads[name], again[name]) for name in grads)


@fast_only
def test_gradients_are_added():
    model = make_model()
    case = Case(model, random_pictures(2, 2))
    net, once = check(model, case)
    play(net, case)
    net.backward(case.d_values, case.d_logits, case.ended)
    for name, p in model.named_parameters():
        assert_close(p.grad, 2 * once[name], name)


@fast_only
def test_a_new_rollout_uses_the_new_weights():
    model = make_model()
    case = Case(model, random_pictures(2, 2))
    net, _ = check(model, case)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.roll(p, 1, 0) * 1.1)
    outputs = play(net, case)
    grads = gradient(model, net, case)
    true_outputs, true_grads = ground_truth(model, case, winners_of(net))
    for a, b in zip(outputs, true_outputs, strict=True):
        assert_close(a, b)
    for name, grad in grads.items():
        assert_close(grad, true_grads[name], name)


@fast_only
def test_evaluation_keeps_nothing_and_outputs_are_the_callers():
    model = make_model()
    case = Case(model, random_pictures(3, 2))
    net, grads = check(model, case)
    first = play(net, case)
    kept = [x.clone() for x in first]
    evaluated = net.evaluate(case.pictures[0], case.hx, case.cx)
    for a, b in zip(evaluated, first[:4], strict=True):
        assert_close(a, b)
    again = gradient(model, net, case)
    assert all(torch.equal(grads[name], again[name]) for name in grads)
    other = Case(model, random_pictures(3, 2, seed=9))
    play(net, other)
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))
    # The caller may change what it was given and what it gave.
    net.begin()
    _, _, hx, cx = net.act(case.pictures[0], case.hx, case.cx)
    net.act(case.pictures[1], hx, cx)
    net.act(case.pictures[2], *first[6:8])
    hx.zero_()
    cx.zero_()
    changed = gradient(model, net, case)
    assert all(torch.equal(grads[name], changed[name]) for name in grads)


@fast_only
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", ["conv1.weight", "conv2.bias", "conv3.weight", "conv4.weight", "lstm.weight_hh"]
)
def test_a_weight_that_is_not_finite_shows_in_the_gradient(name, bad):
    model = make_model()
    with torch.no_grad():
        dict(model.named_parameters())[name].view(-1)[0] = bad
    case = Case(model, random_pictures(2, 2))
    net = FastNetwork(model, 2, 2)
    play(net, case)
    grads = gradient(model, net, case)
    assert not torch.isfinite(torch.cat([g.flatten() for g in grads.values()]).norm())


@fast_only
@pytest.mark.parametrize("what", ["d_values", "d_logits"])
def test_a_loss_that_is_not_a_number_shows_in_every_gradient(what):
    model = make_model()
    case = Case(model, random_pictures(2, 1))
    getattr(case, what)[0, 0] = float("nan")
    net = FastNetwork(model, 1, 2)
    play(net, case)
    for name, grad in gradient(model, net, case).items():
        head = {"d_values": "actor", "d_logits": "critic"}[what]
        assert name.startswith(head) or grad.isnan().any(), name


@pytest.mark.parametrize("envs", [1, 3])
def test_the_plain_twin_has_the_same_contract(envs):
    model = make_model()
    case = Case(model, random_pictures(3, envs), ended=[(1, envs - 1)])
    net = PlainNetwork(model, envs, 5)
    evaluated = net.evaluate(case.pictures[0], case.hx, case.cx)
    for _ in range(2):
        outputs = play(net, case)
        grads = gradient(model, net, case)
        true_outputs, true_grads = ground_truth(model, case)
        for a, b in zip(outputs, true_outputs, strict=True):
            assert_close(a, b)
        for name, grad in grads.items():
            assert_close(grad, true_grads[name], name)
    for a, b in zip(evaluated, outputs[:4], strict=True):
        assert_close(a, b)


def test_the_plain_twin_against_finite_differences():
    """Central differences along a random direction in each tensor, in double precision."""
    model = make_model(hidden_size=6, dtype=torch.float64)
    case = Case(model, random_pictures(3, 2).double(), ended=[(0, 1)])
    net = PlainNetwork(model, 2, 3)

    def loss():
        outputs = play(net, case)
        return sum(
            float((case.d_values[t] * outputs[4 * t]).sum())
            + float((case.d_logits[t] * outputs[4 * t + 1]).sum())
            for t in range(case.steps)
        )

    loss()
    grads = gradient(model, net, case)
    for name, p in model.named_parameters():
        direction = torch.randn_like(p)
        step = 1e-6 * direction / direction.norm()
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                p += sign * step
            ends.append(loss())
            with torch.no_grad():
                p -= sign * step
        expected = float((grads[name] * step).sum())
        assert (ends[0] - ends[1]) / 2 == pytest.approx(expected, rel=1e-3, abs=1e-11), name


def test_without_numba_the_plain_twin_plays():
    """In a process of its own: whether Numba is there is found out at import."""
    script = """
import sys
sys.modules["numba"] = None
import torch, network
from model import A3Clstm
network.compile_kernels()
net = network.make_network(A3Clstm(3, 16), 2, 1)
state = torch.zeros(2, 16)
assert net.act(torch.zeros(2, 1, 80, 80), state, state)[1].shape == (2, 3)
print(type(net).__name__)
"""
    folder = Path(kernels.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["PlainNetwork"], done.stderr


@fast_only
def test_where_no_folder_can_hold_the_compiled_kernels_they_are_compiled_anew():
    script = """
from numba.core import caching
caching.CacheImpl._locator_classes = []
import kernels
assert kernels.features.stats.cache_path is None
print("imported")
"""
    folder = Path(kernels.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["imported"], done.stderr


@fast_only
@pytest.mark.parametrize(
    ("name", "told", "lanes"),
    [("generic", None, 8), ("x", "+avx2,-avx512f", 8), ("x", "+avx512f", 16)],
)
def test_the_vector_width_is_that_of_what_numba_compiles_for(name, told, lanes):
    """Whatever the machine has: so machines of two widths find different entries in one cache."""
    script = """
import kernels
key = kernels.features._cache._index_key((), kernels.cpu_target.target_context.codegen())
assert kernels.CPU_FEATURES == key[1][2].split(",")
print(kernels.LANES)
"""
    environment = {**os.environ, "NUMBA_CPU_NAME": name}
    environment |= {"NUMBA_CPU_FEATURES": told} if told else {}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(kernels.__file__).parent, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stdout.split() == [str(lanes)], done.stderr


@fast_only
@pytest.mark.skipif(kernels.LANES == 8, reason="the other tests are about these kernels here")
def test_kernels_for_machines_without_avx512_are_as_exact(tmp_path):
    """As most laptops are: eight floats in a vector, and other loops."""
    laptop = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+sse2,+avx,+avx2,+fma"}
    laptop["NUMBA_CACHE_DIR"] = str(tmp_path)
    tests = "random_pictures or (real_pictures and 8-True) or looks_like or little_is_open"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-k", tests, __file__],
        cwd=Path(kernels.__file__).parent, env={**os.environ, **laptop}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout  # it is 5 where no test was found
    assert "skipped" not in done.stdout


def twice(x):
    return 2 * x


def is_cached() -> bool:
    """Whether `twice` came from the disk; it computes in any case."""
    function = kernels._cached_njit(twice)  # knows nothing of the last call
    assert function(21) == 42
    return bool(function.stats.cache_hits)


@fast_only
@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        ("nbi", lambda content: b""),
        ("nbi", lambda content: content[:-9]),
        ("nbc", lambda content: b""),
        ("nbc", lambda content: content[: len(content) // 2]),
        ("nbc", lambda content: content[: len(content) // 2] + bytes(len(content) // 2)),
        ("nbc", lambda content: content[:3000] + b"?" + content[3001:]),  # in the machine code
    ],
    ids=["index empty", "index cut", "data empty", "data cut", "data half zero", "a byte changed"],
)
def test_a_damaged_entry_of_the_cache_is_compiled_and_written_anew(
    tmp_path, monkeypatch, suffix, damage
):
    monkeypatch.setattr(kernels.config, "CACHE_DIR", str(tmp_path))
    assert [is_cached(), is_cached()] == [False, True]
    (path,) = tmp_path.rglob(f"*.{suffix}")
    path.write_bytes(damage(path.read_bytes()))
    assert [is_cached(), is_cached()] == [False, True]


@fast_only
def test_a_cache_that_can_be_neither_read_nor_written_is_done_without(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels.config, "CACHE_DIR", str(tmp_path))
    is_cached()
    (path,) = tmp_path.rglob("*.nbi")
    path.unlink()
    path.mkdir()
    assert [is_cached(), is_cached()] == [False, False]


@fast_only
def test_where_numba_cannot_compile_a_run_is_plain(monkeypatch):
    def fail(*arrays):
        raise RuntimeError("no target\nfor this machine")

    monkeypatch.setattr(network, "features", fail)
    assert network.why_plain(make_model()) == "Numba does not compile (no target)"


def test_the_choice_is_made_once(monkeypatch):
    model = make_model()
    fast = FastNetwork if kernels.HAVE_NUMBA else PlainNetwork
    assert type(make_network(model, 2, 3)) is fast
    assert type(make_network(model.double(), 2, 3)) is PlainNetwork
    assert type(make_network(make_model(), 2, 3, plain=True)) is PlainNetwork
    monkeypatch.setattr(network, "NUMBA_FAULT", "out of order")
    assert type(make_network(make_model(), 2, 3)) is PlainNetwork


def test_the_outputs_of_a_row_do_not_depend_on_the_others():
    """Bit for bit: what evaluation with any number of games side by side relies on."""
    model = make_model()
    net = FastNetwork(model, 8, 0)
    obs = torch.randn(8, 1, 80, 80)
    hx, cx = torch.randn(2, 8, model.hidden_size)
    together = net.evaluate(obs, hx, cx)
    for row in (0, 3, 7):
        alone = torch.zeros_like(obs)
        alone[row] = obs[row]
        here = torch.tensor([row])
        states = [torch.zeros_like(x).index_copy(0, here, x[here]) for x in (hx, cx)]
        for a, b in zip(net.evaluate(alone, *states, [row]), together, strict=True):
            assert torch.equal(a[row], b[row])


@fast_only
def test_that_something_is_compiled_is_said_once():
    told = []
    for _ in range(2):  # the second time there is nothing to compile
        with kernels.announced(told.append):
            add_one(1), add_one(1.0)
    assert len(told) == 1
    assert told[0].startswith("compiling the kernels; ")


@kernels.njit()
def add_one(x):
    return x + 1
