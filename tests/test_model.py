"""The network: layout, initial values, arithmetic, old weights, flat parameters."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F

import checkpoint
from model import A3Clstm, flatten_parameters

# Names and shapes of the suite of 2017, for 6 actions.
CLASSIC_LAYOUT = {
    "conv1.weight": (32, 1, 5, 5),
    "conv1.bias": (32,),
    "conv2.weight": (32, 32, 5, 5),
    "conv2.bias": (32,),
    "conv3.weight": (64, 32, 4, 4),
    "conv3.bias": (64,),
    "conv4.weight": (64, 64, 3, 3),
    "conv4.bias": (64,),
    "lstm.weight_ih": (2048, 1024),
    "lstm.weight_hh": (2048, 512),
    "lstm.bias_ih": (2048,),
    "lstm.bias_hh": (2048,),
    "critic_linear.weight": (1, 512),
    "critic_linear.bias": (1,),
    "actor_linear.weight": (6, 512),
    "actor_linear.bias": (6,),
}


def written_out(weights, x, hx, cx):
    """The network of the design with nothing but functions; the LSTM gate by gate."""
    for number, padding in ((1, 2), (2, 1), (3, 1), (4, 1)):
        x = F.conv2d(
            x, weights[f"conv{number}.weight"], weights[f"conv{number}.bias"], padding=padding
        )
        x = torch.relu(F.max_pool2d(x, 2))
    x = x.reshape(len(x), 1024)  # 64 maps of 4x4
    gates = F.linear(x, weights["lstm.weight_ih"], weights["lstm.bias_ih"])
    gates = gates + F.linear(hx, weights["lstm.weight_hh"], weights["lstm.bias_hh"])
    n = hx.shape[1]
    let_in = torch.sigmoid(gates[:, :n])
    keep = torch.sigmoid(gates[:, n : 2 * n])
    new = torch.tanh(gates[:, 2 * n : 3 * n])
    let_out = torch.sigmoid(gates[:, 3 * n :])
    cx = keep * cx + let_in * new
    hx = let_out * torch.tanh(cx)
    value = F.linear(hx, weights["critic_linear.weight"], weights["critic_linear.bias"])
    logit = F.linear(hx, weights["actor_linear.weight"], weights["actor_linear.bias"])
    return value, logit, (hx, cx)


def random_weights(seed: int) -> dict[str, torch.Tensor]:
    """In the classic layout; every tensor matters, biases too."""
    generator = torch.Generator().manual_seed(seed)
    return OrderedDict(
        (name, 0.05 * torch.randn(shape, generator=generator))
        for name, shape in CLASSIC_LAYOUT.items()
    )


def random_inputs(batch: int, hidden: int = 512):
    generator = torch.Generator().manual_seed(batch)
    x = torch.randn(batch, 1, 80, 80, generator=generator)
    hx = torch.tanh(torch.randn(batch, hidden, generator=generator))
    cx = torch.randn(batch, hidden, generator=generator)
    return x, hx, cx


@pytest.fixture(scope="module")
def fresh():
    torch.manual_seed(1)
    return A3Clstm(6)


def test_state_dict_has_the_classic_names_and_shapes(fresh):
    layout = {name: tuple(tensor.shape) for name, tensor in fresh.state_dict().items()}
    assert layout == CLASSIC_LAYOUT
    assert all(tensor.dtype == torch.float32 for tensor in fresh.state_dict().values())


def test_hidden_size_and_number_of_actions_change_only_what_depends_on_them():
    shapes = {name: tuple(t.shape) for name, t in A3Clstm(18, 32).state_dict().items()}
    assert shapes == CLASSIC_LAYOUT | {
        "lstm.weight_ih": (128, 1024),
        "lstm.weight_hh": (128, 32),
        "lstm.bias_ih": (128,),
        "lstm.bias_hh": (128,),
        "critic_linear.weight": (1, 32),
        "actor_linear.weight": (18, 32),
        "actor_linear.bias": (18,),
    }


@pytest.mark.parametrize("name", ["conv1", "conv2", "conv3", "conv4"])
def test_convolutions_start_at_the_default_times_the_relu_gain_without_bias(fresh, name):
    conv = getattr(fresh, name)
    bound = (2 / conv.weight[0].numel()) ** 0.5  # PyTorch's own is 1 / sqrt(fan in)
    assert 0.98 * bound < conv.weight.abs().max() <= bound
    # Uniform: the standard deviation is bound / sqrt(3). conv1 has only 800 samples.
    assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert not conv.bias.any()


def test_lstm_starts_xavier_uniform_orthogonal_and_with_open_forget_gates(fresh):
    lstm = fresh.lstm
    bound = (6 / (1024 + 2048)) ** 0.5
    assert 0.999 * bound < lstm.weight_ih.abs().max() <= bound
    assert lstm.weight_ih.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)
    product = lstm.weight_hh.T @ lstm.weight_hh  # (512, 512)
    torch.testing.assert_close(product, torch.eye(512), atol=1e-5, rtol=0)
    assert lstm.bias_ih.tolist() == [0.0] * 512 + [1.0] * 512 + [0.0] * 1024
    assert not lstm.bias_hh.any()


def test_rows_of_the_heads_start_with_norm_001_and_1_and_without_bias(fresh):
    torch.testing.assert_close(fresh.actor_linear.weight.norm(dim=1), torch.full((6,), 0.01))
    torch.testing.assert_close(fresh.critic_linear.weight.norm(dim=1), torch.ones(1))
    assert not fresh.actor_linear.bias.any()
    assert not fresh.critic_linear.bias.any()


def test_a_fresh_policy_is_nearly_uniform(fresh):
    x, hx, cx = random_inputs(4)
    with torch.no_grad():
        probability = torch.softmax(fresh((x, (hx, cx)))[1], 1)
    torch.testing.assert_close(probability, torch.full((4, 6), 1 / 6), atol=0.01, rtol=0)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_forward_is_the_network_written_out(fresh, batch):
    weights = random_weights(seed=2)
    fresh_state = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    fresh.load_state_dict(weights)
    x, hx, cx = random_inputs(batch)
    with torch.no_grad():
        value, logit, (new_hx, new_cx) = fresh((x, (hx, cx)))
        expected = written_out(weights, x, hx, cx)
    fresh.load_state_dict(fresh_state)
    assert value.shape == (batch, 1)
    assert logit.shape == (batch, 6)
    assert new_hx.shape == new_cx.shape == (batch, 512)
    torch.testing.assert_close((value, logit, (new_hx, new_cx)), expected)


def test_the_gradient_is_that_of_the_network_written_out():
    model = A3Clstm(4, 16)
    x, hx, cx = random_inputs(2, hidden=16)

    def loss(value, logit, state):
        return (value.sum() + logit.square().sum() + state[1].sum()).sum()

    loss(*model((x, (hx, cx)))).backward()
    weights = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    loss(*written_out(weights, x, hx, cx)).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, weights[name].grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_weights_of_the_classic_suite_load_and_play_the_same(tmp_path, zip_format):
    weights = random_weights(seed=3)
    path = tmp_path / "Pong-v0.dat"
    torch.save(weights, path, _use_new_zipfile_serialization=zip_format)
    state_dict, description = checkpoint.load_model(path)
    assert description is None
    model = A3Clstm(6)
    checkpoint.load_weights(path, model, state_dict)
    hx = cx = torch.zeros(1, 512)
    expected_hx, expected_cx = hx, cx
    with torch.no_grad():
        for i in range(3):
            x = random_inputs(i + 1)[0][:1]
            value, logit, (hx, cx) = model((x, (hx, cx)))
            old = written_out(weights, x, expected_hx, expected_cx)
            torch.testing.assert_close((value, logit, (hx, cx)), old)
            assert logit.argmax() == old[1].argmax()
            expected_hx, expected_cx = old[2]


def test_flatten_parameters_keeps_the_values_in_the_order_of_parameters():
    model = A3Clstm(3, 8)
    before = [p.detach().clone() for p in model.parameters()]
    weights, gradient = flatten_parameters(model)
    assert weights.shape == gradient.shape == (sum(p.numel() for p in before),)
    assert torch.equal(weights, torch.cat([p.flatten() for p in before]))
    for parameter, value in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
    assert not weights.requires_grad
    assert not gradient.any()


def test_a_model_with_statistics_of_a_batch_is_refused():
    model = A3Clstm(3, 8)
    model.norm = torch.nn.GroupNorm(4, 32)
    flatten_parameters(model)
    for norm in (
        torch.nn.BatchNorm2d(32),
        torch.nn.BatchNorm2d(32, track_running_stats=False),
        torch.nn.InstanceNorm2d(32, track_running_stats=True),
    ):
        model.norm = norm
        with pytest.raises(ValueError, match=r"^model\.py: norm mixes games or keeps statistics"):
            flatten_parameters(model)


def test_writing_the_flat_weights_changes_the_model_and_the_reverse():
    model = A3Clstm(3, 8)
    weights, _ = flatten_parameters(model)
    weights.copy_(torch.arange(len(weights)))
    begin = 0
    for parameter in model.parameters():
        end = begin + parameter.numel()
        assert torch.equal(parameter.flatten(), torch.arange(begin, end, dtype=torch.float32))
        begin = end
    model.load_state_dict({n: torch.full_like(t, 7) for n, t in model.state_dict().items()})
    assert torch.equal(weights, torch.full_like(weights, 7))
    # and what the model computes is what these weights say
    weights.zero_()
    model.actor_linear.bias.data[1] = 5
    x, hx, cx = random_inputs(1, hidden=8)
    with torch.no_grad():
        assert model((x, (hx, cx)))[1].tolist() == [[0, 5, 0]]


def test_backward_adds_to_the_flat_gradient():
    torch.manual_seed(4)
    model, twin = A3Clstm(3, 8), A3Clstm(3, 8)
    twin.load_state_dict(model.state_dict())
    _, gradient = flatten_parameters(model)
    x, hx, cx = random_inputs(2, hidden=8)

    def backward(network):
        value, logit, _ = network((x, (hx, cx)))
        (value.sum() + logit[:, 0].sum()).backward()

    backward(twin)
    expected = torch.cat([p.grad.flatten() for p in twin.parameters()])
    backward(model)
    torch.testing.assert_close(gradient, expected)
    backward(model)
    torch.testing.assert_close(gradient, 2 * expected)
    gradient.zero_()
    backward(model)
    torch.testing.assert_close(gradient, expected)
