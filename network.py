"""The network of model.py during one rollout: in plain PyTorch, and several times faster.

Both classes have one contract, so that a player need not know which of them it has:

    begin()      a rollout begins: what was kept is forgotten, the weights are read anew
    act()        one step of all games; keeps what the gradient needs. It is given the hx and cx
                 that it returned, zero where an episode has ended, and not detached
    evaluate()   the same outputs, with nothing kept
    backward()   from the gradient of the rollout's values and logits to that of the weights; then
                 the rollout is over, and its steps are forgotten

PlainNetwork is the algorithm as one would write it. FastNetwork does the same arithmetic, float32,
with the loops of kernels.py, and takes the gradient of a whole rollout at once: the 12 MB of LSTM
weights get theirs in one pass, not in one per step.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from environment import OBS_SHAPE
from kernels import (
    AHEAD,
    BLOCK,
    CODES,
    FEATURES,
    FRESH,
    INPUTS,
    LANES,
    LAYERS,
    LISTED,
    NUMBA_FAULT,
    PANEL,
    SPAN,
    TILES,
    WIDTH,
    add_linear,
    features,
    features_backward,
    lstm_input_backward,
    lstm_step,
    spans,
    transpose_spans,
    winograd_filters,
)
from model import A3Clstm, flatten_parameters

PICTURE = (1, WIDTH, WIDTH)  # what the kernels see
# ((K+1)^2, K^2), of the second and the third layer.
WINOGRAD = tuple(torch.from_numpy(winograd_filters(layer)) for layer in LAYERS[1:3])


NO_STEP = "no step has been acted since the rollout began, or since its gradient was taken"


class PlainNetwork:
    """In plain PyTorch; see FastNetwork for shapes.

    The graph of a rollout runs through hx and cx.

    model: any module that keeps the contract of model.py.
    """

    def __init__(self, model: nn.Module, num_envs: int, num_steps: int):
        self.model = model
        self.begin()

    def begin(self) -> None:
        self.steps: list[tuple[Tensor, Tensor]] = []  # value (E,) and logit (E, actions) of each

    def act(self, obs: Tensor, hx: Tensor, cx: Tensor) -> tuple[Tensor, ...]:
        if not self.steps:  # the state that a rollout begins with is a constant
            hx, cx = hx.detach(), cx.detach()
        with torch.enable_grad():
            value, logit, (hx, cx) = self.model((obs, (hx, cx)))
        self.steps.append((value[:, 0], logit))
        return value[:, 0].detach(), logit.detach(), hx, cx

    def evaluate(
        self, obs: Tensor, hx: Tensor, cx: Tensor, rows: Sequence[int] | None = None
    ) -> tuple[Tensor, ...]:
        with torch.no_grad():
            value, logit, (hx, cx) = self.model((obs, (hx, cx)))
        return value[:, 0], logit, hx, cx

    def backward(self, d_values: Tensor, d_logits: Tensor, ended: Tensor) -> None:
        """`ended` has cut the graph already, by the zeros in hx and cx."""
        if not self.steps:
            raise RuntimeError(NO_STEP)
        values, logits = map(torch.stack, zip(*self.steps, strict=True))
        self.begin()
        # The sum whose gradients these are: backward(gradients) would import sympy, 0.4 s.
        ((d_values * values).sum() + (d_logits * logits).sum()).backward()


def _flat(x: Tensor) -> np.ndarray:
    """The memory of a contiguous tensor."""
    return x.detach().view(-1).numpy()


# PyTorch's memory begins at a cache line, NumPy's does not: there each vector would lie in two.
def _zeros(size: int, dtype: torch.dtype = torch.float32) -> np.ndarray:
    return torch.zeros(size, dtype=dtype).numpy()


def _empty(size: int, dtype: torch.dtype = torch.float32) -> np.ndarray:
    return torch.empty(size, dtype=dtype).numpy()


class FastNetwork:
    """With the loops of kernels.py: acts step by step, keeping what the backward pass needs.

    model: on the CPU, float32, its parameters with gradients (flatten_parameters); read at
        begin() and never replaced.
    num_envs: E, games that act together; num_steps: the most steps of a rollout.

    What a rollout fills; S = (num_steps + 1) * E samples, since evaluate() works in one step more,
    and sample t * E + e is game e at step t. x, code and fresh have one array per convolution k,
    flat, and the shapes are those of one sample or game (see kernels.Layer):

        x[0]        (padded, padded, 1)          of all samples: the picture with its padding
        x[k]        (padded, padded, inputs)     of all games, as of the newest step: the layer's
                                                 input with its padding, channels-last
        code[k]     (pooled, pooled, outputs)    of all games, uint8, which of four won its window;
                                                 4: ReLU closed
        last        (4, 4, 64)                   of all games: the output of the last layer
        fresh[k]    (pooled, pooled)             of all samples, uint8, 1: the window was computed,
                                                 0: as one step before
        kept        what stood in fresh windows before: of x[1:] and last, of code; where that of
                    each sample begins; and where the next will
        features    (S, 1024)                    output of the last layer, (maps, height, width)
        hx, cx      (num_steps, E, hidden)       the LSTM's state before the step
        gates       (num_steps, E, 4 * hidden)   input, forget, cell, output, after their functions
        tanh_cx     (num_steps, E, hidden)       of the new cx
        out         (num_steps, E, hidden)       the new hx
        d_gates     (num_steps, E, 4 * hidden)   gradient of the gates before their functions
        d_features  (S * 1024,)                  gradient of the features that are not zero
        d_x[k]      (padded, padded, inputs)     gradient of x[k] in one game, walking back in time

    What an update fills: packed[k] and filters[k], the filters as acting and as the backward pass
    reads them, winograd_w, Winograd's factors of the second and the third layer's, w_in, the LSTM's
    input weights by feature, d_filters[k] and d_bias[k], the filters' gradients. Scratch: changed,
    d_last, lists, factors, winograd, lstm_scratch, lstm_backward_scratch.
    """

    def __init__(self, model: A3Clstm, num_envs: int, num_steps: int):
        self.model = model
        self.num_envs, self.num_steps = num_envs, num_steps
        self.all_rows = np.arange(num_envs)
        self.convs = (model.conv1, model.conv2, model.conv3, model.conv4)
        hidden = model.hidden_size
        # One step more than a rollout has: evaluate() works there.
        steps = num_steps + 1
        samples = steps * num_envs
        # Convolutions. Padding is zero for ever: nothing writes there.
        self.x = tuple(
            _zeros((num_envs if k else samples) * size) for k, size in enumerate(INPUTS)
        )
        self.code = tuple(_zeros(num_envs * size, torch.uint8) for size in CODES)
        self.last = _zeros(num_envs * FEATURES)
        # Windows that had to be computed: 1; those that are as one step before: 0.
        self.fresh = tuple(_zeros(samples * size, torch.uint8) for size in FRESH)
        # Room for a change of everything in all steps but the first; memory that is never written
        # costs nothing.
        room = num_steps * num_envs * sum(CODES)
        self.kept = (
            _empty(room),
            _empty(room, torch.uint8),
            _zeros(samples, torch.int64),
            _zeros(1, torch.int64),
        )
        self.changed = _zeros(WIDTH * WIDTH, torch.uint8)
        self.d_last = _empty(FEATURES)
        self.packed = tuple(  # for acting
            torch.empty(y.outputs // BLOCK, y.kernel, y.kernel, y.inputs, BLOCK) for y in LAYERS
        )
        self.filters = tuple(  # for the backward pass
            torch.empty(y.kernel, y.outputs, y.kernel, y.inputs) for y in LAYERS
        )
        first = LAYERS[0]
        self.d_filters = (
            torch.empty(first.kernel, first.kernel, first.outputs),
            *(torch.empty_like(w) for w in self.filters[1:]),
        )
        self.d_bias = tuple(torch.empty(y.outputs) for y in LAYERS)
        self.d_x = tuple(_empty(size if k else 0) for k, size in enumerate(INPUTS))
        listing = LAYERS[1:]  # the layers whose winners are listed, see kernels.make_backward
        by_channel = LISTED * max(y.pooled * y.outputs for y in listing)
        by_place = max(6 * y.pooled * y.outputs for y in listing)
        self.lists = (
            _zeros(max(y.outputs for y in listing), torch.int64),
            _zeros(by_channel, torch.int32),
            _zeros(by_channel),
            _zeros(6 * max(y.pooled for y in listing), torch.int64),
            _zeros(by_place, torch.int32),
            _zeros(by_place),
        )
        self.factors = _empty(LAYERS[0].pooled * 4 * LAYERS[0].outputs)
        # LSTM and heads; (steps, E, .) each.
        self.features = torch.zeros(steps, num_envs, FEATURES)
        self.hx = torch.empty(num_steps, num_envs, hidden)
        self.cx = torch.empty(num_steps, num_envs, hidden)
        self.gates = torch.empty(num_steps, num_envs, 4 * hidden)  # input, forget, cell, output
        self.tanh_cx = torch.empty(num_steps, num_envs, hidden)  # of the new cx
        self.out = torch.empty(num_steps, num_envs, hidden)  # the new hx
        self.d_features = torch.empty(samples * FEATURES)
        self.d_gates = torch.empty(num_steps, num_envs, 4 * hidden)
        # As the kernels take them.
        self.packed_w = tuple(w.numpy().reshape(-1) for w in self.packed)
        self.filters_w = tuple(w.numpy().reshape(-1) for w in self.filters)
        self.d_filters_w = tuple(w.numpy().reshape(-1) for w in self.d_filters)
        self.d_bias_w = tuple(b.numpy() for b in self.d_bias)
        self.bias = tuple(conv.bias.detach().clone() for conv in self.convs)
        self.bias_w = tuple(b.numpy() for b in self.bias)
        self.features_w = self.features.numpy().reshape(-1)
        self.num_actions = len(model.actor_linear.bias)
        # An evaluation keeps the order of the sums, and with it the bits of its outputs.
        self.winograd_w = tuple(
            _empty((y.kernel + 1) ** 2 * y.inputs * y.outputs if num_steps and LANES == 16 else 0)
            for y in LAYERS[1:3]
        )
        self.winograd = (
            _zeros(max((y.kernel + 1) ** 2 * TILES * y.inputs for y in LAYERS[1:3])),
            _zeros(max((y.kernel + 1) ** 2 * TILES * y.outputs for y in LAYERS[1:3])),
            _zeros(TILES, torch.int64),
            _zeros(TILES, torch.int64),
            np.zeros((num_envs * LAYERS[1].pooled ** 2, 3), np.int64),
        )
        if num_steps:
            padded = spans(4 * hidden) * SPAN
            self.w_in = _zeros(padded * FEATURES)
            self.lstm_bias = _zeros(padded)
            self.w_hh = _flat(model.lstm.weight_hh)
            self.heads = (_flat(model.critic_linear.weight), _flat(model.actor_linear.weight))
            self.heads_bias = (_flat(model.critic_linear.bias), _flat(model.actor_linear.bias))
            self.lstm_kept = tuple(
                map(_flat, (self.hx, self.cx, self.gates, self.tanh_cx, self.out))
            )
            listed = num_envs * (FEATURES + AHEAD)
            self.lstm_scratch = (
                _empty(num_envs * padded),
                _zeros(listed, torch.int32),
                _zeros(listed),
            )
            acted = num_steps * num_envs
            self.lstm_backward_scratch = (
                _empty(acted * SPAN),
                _empty(PANEL * SPAN),
                _empty(FEATURES, torch.int64),
                _empty(acted * FEATURES, torch.int32),
                _empty(acted * FEATURES),
            )
        self.begin()

    def __reduce__(self):
        """A copy or a pickle is made anew: many arrays here are views of others, which it parts."""
        return type(self), (self.model, self.num_envs, self.num_steps)

    @torch.no_grad()
    def begin(self) -> None:
        """A new rollout: forgets the kept steps and reads the weights anew."""
        self._forget()
        for conv, packed, filters, bias in zip(
            self.convs, self.packed, self.filters, self.bias, strict=True
        ):
            w = conv.weight  # (outputs, inputs, K, K)
            blocks = w.view(-1, BLOCK, *w.shape[1:])
            packed.copy_(blocks.permute(0, 3, 4, 2, 1))
            filters.copy_(w.permute(2, 0, 3, 1))
            bias.copy_(conv.bias)
        for conv, once, out in zip(self.convs[1:3], WINOGRAD, self.winograd_w, strict=True):
            if len(out):
                w = conv.weight.flatten(2).flatten(0, 1)  # (outputs * inputs, taps)
                factors = (once @ w.double().t()).view(len(once), -1, BLOCK, conv.in_channels)
                out[:] = factors.transpose(2, 3).float().flatten()
        if self.num_steps:
            lstm, gates = self.model.lstm, 4 * self.model.hidden_size
            self.lstm_bias[:gates] = (lstm.bias_ih + lstm.bias_hh).numpy()
            transpose_spans(_flat(lstm.weight_ih), gates, FEATURES, self.w_in)

    def _forget(self) -> None:
        """All steps, and what the maps are of."""
        self.t = 0
        self.kept[3][0] = 0
        self.evaluated = np.zeros(self.num_envs, bool)  # rows, since these weights came

    def act(self, obs: Tensor, hx: Tensor, cx: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One step: obs (E, 1, 80, 80), hx and cx (E, hidden), which are copied.

        Returns value (E,), logit (E, actions), the new hx and cx; new tensors, the caller's.
        """
        E = self.num_envs
        self._see(self.t, obs, self.all_rows, self._last_samples(-1), keeping=self.t > 0)
        outputs = (torch.empty(E), torch.empty(E, self.num_actions), *torch.empty(2, *hx.shape))
        lstm_step(
            self.t, E, self.model.hidden_size, self.features_w, _flat(hx), _flat(cx),
            self.w_in, self.w_hh, self.lstm_bias, self.heads, self.heads_bias, self.lstm_kept,
            self.lstm_scratch, tuple(_flat(x) for x in outputs),
        )  # fmt: skip
        self.t += 1
        return outputs

    @torch.no_grad()
    def evaluate(
        self, obs: Tensor, hx: Tensor, cx: Tensor, rows: Sequence[int] | None = None
    ) -> tuple[Tensor, ...]:
        """As `act` up to rounding, with the weights of the last begin(), but keeps nothing.

        The outputs of a row do not depend on the others, bit by bit: scores of evaluations stand
        on that, and on the order of these sums.

        rows: whose outputs are wanted; those of the others are undefined. None: all.
        """
        model, E, H = self.model, self.num_envs, self.model.hidden_size
        rows = self.all_rows if rows is None else np.array(rows, np.int64)
        own = self.num_steps * E + self.all_rows
        like = self._last_samples(np.where(self.evaluated, own, -1))
        self.evaluated[rows] = True
        acted = self.t > 0  # so the maps of the last step are needed
        self._see(self.num_steps, obs, rows, like, keeping=acted, passing=acted)
        gates = (model.lstm.bias_ih + model.lstm.bias_hh).repeat(E, 1)  # (E, 4 * hidden)
        seen = self.features[self.num_steps]
        for x, w in ((seen, model.lstm.weight_ih), (hx, model.lstm.weight_hh)):
            add_linear(_flat(x), 0, E, _flat(w), *w.shape, _flat(gates), 0, len(w))
        let_in, keep, new, let_out = gates.split(H, 1)
        cx = keep.sigmoid_() * cx + let_in.sigmoid_() * new.tanh_()
        hx = let_out.sigmoid_() * torch.tanh(cx)
        return model.critic_linear(hx)[:, 0], model.actor_linear(hx), hx, cx

    def _last_samples(self, default: np.ndarray | int) -> np.ndarray:
        """(E,) the samples of the step before; in the first of a rollout, the default."""
        last = (self.t - 1) * self.num_envs + self.all_rows
        return last if self.t else np.broadcast_to(default, last.shape).astype(np.int64)

    def _see(
        self, t: int, obs: Tensor, rows: np.ndarray, like: np.ndarray, keeping: bool,
        passing: bool = False,
    ) -> None:  # fmt: skip
        """The features of these rows, as those of step t; see kernels.features."""
        if obs.shape != (self.num_envs, *PICTURE):  # they would read on where it ends
            raise ValueError(f"{tuple(obs.shape)} in place of {(self.num_envs, *PICTURE)}")
        features(
            obs.numpy().reshape(-1), t * self.num_envs, rows, like, self.packed_w, self.winograd_w,
            self.bias_w, self.x, self.code, self.last, self.fresh, self.kept, keeping, passing,
            self.changed, self.winograd, self.features_w,
        )  # fmt: skip

    @torch.no_grad()
    def backward(self, d_values: Tensor, d_logits: Tensor, ended: Tensor) -> None:
        """Add the gradient of sum(d_values * values + d_logits * logits) to the model's .grad.

        d_values (T, E), d_logits (T, E, actions) for the T steps since begin(); ended (T, E)
        bool: no gradient flows from step t + 1 to step t where ended[t]. The hx, cx of the first
        step are constants. Once in a rollout, which is then forgotten; RuntimeError if there is
        none.
        """
        if not self.t:
            raise RuntimeError(NO_STEP)
        model, lstm, T, H = self.model, self.model.lstm, self.t, self.model.hidden_size
        samples = T * self.num_envs
        d_value, d_logit = d_values.reshape(samples, 1), d_logits.reshape(samples, -1)
        out = self.out[:T].view(samples, H)
        for head, d in ((model.critic_linear, d_value), (model.actor_linear, d_logit)):
            head.weight.grad.addmm_(d.t(), out)
            head.bias.grad += d.sum(0)
        d_out = torch.addmm(
            d_value @ model.critic_linear.weight, d_logit, model.actor_linear.weight
        ).view(T, -1, H)
        d_hx = d_cx = torch.zeros_like(d_out[0])
        for t in reversed(range(T)):
            let_in, keep, new, let_out = self.gates[t].split(H, 1)
            tanh_cx = self.tanh_cx[t]
            if t < T - 1:
                over = ended[t, :, None]
                d_hx, d_cx = d_hx.masked_fill(over, 0.0), d_cx.masked_fill(over, 0.0)
            d_hx = d_hx + d_out[t]
            d_cx = d_cx + d_hx * let_out * (1 - tanh_cx * tanh_cx)
            d_in, d_keep, d_new, d_let_out = self.d_gates[t].split(H, 1)
            torch.mul(d_cx * new, let_in * (1 - let_in), out=d_in)
            torch.mul(d_cx * self.cx[t], keep * (1 - keep), out=d_keep)
            torch.mul(d_cx * let_in, 1 - new * new, out=d_new)
            torch.mul(d_hx * tanh_cx, let_out * (1 - let_out), out=d_let_out)
            if t:
                d_cx = d_cx * keep
                d_hx = self.d_gates[t] @ lstm.weight_hh
        d_gates = self.d_gates[:T].view(samples, -1)
        lstm.weight_hh.grad.addmm_(d_gates.t(), self.hx[:T].view(samples, -1))
        d_bias = d_gates.sum(0)
        lstm.bias_ih.grad += d_bias
        lstm.bias_hh.grad += d_bias
        d_features = self.d_features.numpy()
        lstm_input_backward(
            _flat(d_gates), samples, 4 * H, self.features_w, self.w_in, _flat(lstm.weight_ih.grad),
            d_features, self.lstm_backward_scratch,
        )  # fmt: skip
        self._backward_convolutions(d_features)
        self._forget()

    def _backward_convolutions(self, d_features: np.ndarray) -> None:
        for d in (*self.d_filters, *self.d_bias):
            d.zero_()
        features_backward(
            d_features, self.t, self.num_envs, self.filters_w, self.x, self.code, self.last,
            self.fresh, self.kept, self.d_last, self.d_x, self.d_filters_w, self.d_bias_w,
            self.lists, self.factors,
        )  # fmt: skip
        self.model.conv1.weight.grad += self.d_filters[0].permute(2, 0, 1)[:, None]
        for conv, d_w in zip(self.convs[1:], self.d_filters[1:], strict=True):
            conv.weight.grad += d_w.permute(1, 3, 0, 2)
        for conv, d_bias in zip(self.convs, self.d_bias, strict=True):
            conv.bias.grad += d_bias


Network = FastNetwork | PlainNetwork


def make_network(
    model: nn.Module, num_envs: int, num_steps: int, plain: bool = False
) -> Network:
    """The network of a rollout: fast where the kernels fit the model, else or if asked for plain.

    That they compute what its `forward` says is for why_plain to find out, once in a run.
    """
    fast = not plain and fits_kernels(model)
    return (FastNetwork if fast else PlainNetwork)(model, num_envs, num_steps)


def why_plain(model: nn.Module) -> str:
    """Why this network needs plain PyTorch, for the person at the keyboard; empty if it does not.

    Compiles the kernels if they are not on disk; takes a fraction of a second where they are.
    """
    if NUMBA_FAULT:
        return NUMBA_FAULT
    if not fits_kernels(model):
        return "model.py makes another network than kernels.py computes"
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in
        try:
            with torch.random.fork_rng(devices=[]):
                compile_kernels()
        except Exception as error:  # Numba and LLVM may fail in any way
            return "Numba does not compile (" + str(error).strip().split("\n")[0] + ")"
        if not kernels_agree(model):
            return "model.py computes something else than kernels.py"
    return ""


def fits_kernels(model: nn.Module) -> bool:
    """Whether this is an A3Clstm, its tensors are those of kernels.py, in float32 on the CPU, with
    no hook on their gradients, the pictures have the size of kernels.py, and Numba is there."""
    if NUMBA_FAULT or type(model) is not A3Clstm or OBS_SHAPE != PICTURE:
        return False
    if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in model.parameters()):
        return False
    state, H = model.state_dict(), model.hidden_size
    shapes = {"lstm.weight_ih": (4 * H, FEATURES), "lstm.weight_hh": (4 * H, H)}
    shapes |= {"lstm.bias_ih": (4 * H,), "lstm.bias_hh": (4 * H,)}
    for i, y in enumerate(LAYERS, 1):
        shapes[f"conv{i}.weight"] = (y.outputs, y.inputs, y.kernel, y.kernel)
        shapes[f"conv{i}.bias"] = (y.outputs,)
    num_actions = len(state.get("actor_linear.bias", ()))
    for head, rows in (("critic_linear", 1), ("actor_linear", num_actions)):
        shapes |= {f"{head}.weight": (rows, H), f"{head}.bias": (rows,)}
    return {name: tuple(x.shape) for name, x in state.items()} == shapes and all(
        x.device.type == "cpu" and x.dtype == torch.float32 for x in state.values()
    )


def has_diverged(model: nn.Module) -> bool:
    """Whether nothing can be learned from these weights any more: values or their gradient are not
    finite, although the weights may be.

    Tried on two steps of noise: it finds what overflows on any picture, such as the weights that
    one update of size 1e7 leaves. The rest is for Hogwild.diverged.
    """
    pictures = torch.randn(2, 1, *OBS_SHAPE, generator=torch.Generator().manual_seed(0))
    state, loss = (torch.zeros(1, model.hidden_size), torch.zeros(1, model.hidden_size)), 0.0
    with torch.enable_grad():
        for picture in pictures:
            value, logit, state = model((picture, state))
            loss = loss + value.square().sum() + logit.logsumexp(1).sum()
    gradient = torch.autograd.grad(loss, [*model.parameters()], allow_unused=True)
    norm = torch.stack([part.norm() for part in gradient if part is not None]).norm()
    return not bool((loss + norm).isfinite())


CHECK_SEED = 112  # of 300, that with the least near-ties, see kernels_agree
# What is called the same, of ||a - b|| / ||b||. The fast and the plain network differ by 1e-5.
SAME_OUTPUT, SAME_GRADIENT = 1e-4, 1e-3


def kernels_agree(model: A3Clstm) -> bool:
    """Whether FastNetwork computes what the model's `forward` says, outputs and gradient.

    Both play a rollout of two games. The weights are its own and the same for every model, so that
    no pooling window has two winners that are nearer than float32 can tell. The pictures are loud
    enough for bounds of an activation to show. The LSTM and the heads play three times: quietly,
    where nothing saturates, loudly, where it does and outputs are in the hundreds, and from a state
    in the hundreds, such as training reaches.
    """
    model = copy.deepcopy(model)
    _, gradient = flatten_parameters(model)
    T, E, A = 3, 2, len(model.actor_linear.bias)
    generator = torch.Generator().manual_seed(CHECK_SEED)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    pictures = 3 * draw(1, E, *PICTURE).repeat(T, 1, 1, 1, 1)
    pictures[1:, :, :, 20:50, 30:60] = 3 * draw(T - 1, E, 1, 30, 30)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(draw(*p.shape) * (0.3 if p.dim() == 1 else (2 / p[0].numel()) ** 0.5))
    state = draw(2, E, model.hidden_size)  # hx, cx
    d_values, d_logits = draw(T, E), draw(T, E, A)
    ended = torch.zeros(T, E, dtype=torch.bool)
    ended[0, 0] = True

    def play(network: Network, state: Tensor) -> list[Tensor]:
        """Value, logits, hx and cx of all steps."""
        (hx, cx), steps = state, []
        for t in range(T):
            steps.append(network.act(pictures[t], hx, cx))
            hx, cx = (x.masked_fill(ended[t, :, None], 0.0) for x in steps[t][2:])
        return [torch.stack(outputs) for outputs in zip(*steps, strict=True)]

    def gradients(network: Network) -> list[Tensor]:
        gradient.zero_()
        network.backward(d_values, d_logits, ended)
        return [p.grad.clone() for p in model.parameters()]

    for lstm, heads, states in ((0.05, 0.1, 0.5), (10.0, 3000.0, 10.0), (1.0, 1.0, 300.0)):
        with torch.no_grad():
            for p in model.lstm.parameters():
                p *= lstm
            for head in (model.critic_linear, model.actor_linear):
                for p in head.parameters():
                    p *= heads
        fast, plain = FastNetwork(model, E, T), PlainNetwork(model, E, T)
        if not _close(play(fast, states * state), play(plain, states * state), SAME_OUTPUT):
            return False
        if not _close(gradients(fast), gradients(plain), SAME_GRADIENT):
            return False
    return True


def _close(found: Sequence[Tensor], true: Sequence[Tensor], tolerance: float) -> bool:
    return all(
        a.shape == b.shape and bool((a - b).norm() <= tolerance * b.norm())
        for a, b in zip(found, true, strict=True)
    )


def compile_kernels() -> None:
    """Compile every kernel, or load it from the cache on disk; nothing where Numba is not there."""
    model = A3Clstm(num_actions=2, hidden_size=16)
    flatten_parameters(model)
    small = make_network(model, num_envs=1, num_steps=1)
    picture, state = torch.zeros(1, *PICTURE), torch.zeros(1, model.hidden_size)
    small.evaluate(picture, state, state)
    small.act(picture, state, state)
    small.backward(torch.zeros(1, 1), torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.bool))
