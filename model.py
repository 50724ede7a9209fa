"""The network: four convolutions, an LSTM cell, a policy head and a value head.

A3Clstm has a fast twin, FastNetwork in network.py, whose loops are in kernels.py and know nothing
of what is changed here. The two are compared when a run or an evaluation begins: where they differ,
plain PyTorch computes what this file says, several times slower, and a line says so.

Another network, in a file of its own, takes three lines:

    from other import Other                     # here
    return Other(num_actions, hidden_size)      # in make_model, below
    self.hidden_size = hidden_size              # in its constructor

It is an nn.Module with the `forward` of A3Clstm: the same arguments and results, hx and cx both
(N, hidden_size), zero where an episode begins; a network without memory hands them on as they are.
What it computes of a game depends on the arguments of that game and on its parameters alone, which
are what the processes share: nothing else learns, and there is no BatchNorm. A loss on anything but
value and logits, as of an auxiliary head, needs `act` and `backward` of PlainNetwork changed too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class A3Clstm(nn.Module):
    """A3C-LSTM over 80x80 grey pictures.

    Names and shapes of the state dict are those of the classic suite (rl_a3c_pytorch), so that
    weights trained there load here.
    """

    def __init__(self, num_actions: int, hidden_size: int = 512):
        super().__init__()
        self.hidden_size = hidden_size
        self.conv1 = nn.Conv2d(1, 32, 5, stride=1, padding=2)
        self.conv2 = nn.Conv2d(32, 32, 5, stride=1, padding=1)
        self.conv3 = nn.Conv2d(32, 64, 4, stride=1, padding=1)
        self.conv4 = nn.Conv2d(64, 64, 3, stride=1, padding=1)
        self.lstm = nn.LSTMCell(1024, hidden_size)
        self.critic_linear = nn.Linear(hidden_size, 1)
        self.actor_linear = nn.Linear(hidden_size, num_actions)
        self._initialize()

    @torch.no_grad()
    def _initialize(self) -> None:
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            conv.weight *= nn.init.calculate_gain("relu")  # on top of PyTorch's default
            conv.bias.zero_()
        nn.init.xavier_uniform_(self.lstm.weight_ih)
        nn.init.orthogonal_(self.lstm.weight_hh)
        self.lstm.bias_ih.zero_()
        self.lstm.bias_hh.zero_()
        # Gates are stacked as input, forget, cell, output. A forget gate that starts open lets
        # gradients reach back before anything has been learned.
        self.lstm.bias_ih[self.hidden_size : 2 * self.hidden_size] = 1.0
        for head, row_norm in ((self.actor_linear, 0.01), (self.critic_linear, 1.0)):
            head.weight.normal_()
            head.weight *= row_norm / head.weight.norm(dim=1, keepdim=True)
            head.bias.zero_()

    def forward(
        self, inputs: tuple[Tensor, tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """One step of a batch of N games.

        Takes ((N, 1, 80, 80) normalised pictures, (hx, cx) each (N, hidden)); returns the value
        (N, 1), the logits of the policy (N, actions) and the new (hx, cx).
        """
        x, (hx, cx) = inputs  # (N, 1, 80, 80)
        x = F.relu(F.max_pool2d(self.conv1(x), 2))  # (N, 32, 40, 40)
        x = F.relu(F.max_pool2d(self.conv2(x), 2))  # (N, 32, 19, 19)
        x = F.relu(F.max_pool2d(self.conv3(x), 2))  # (N, 64, 9, 9)
        x = F.relu(F.max_pool2d(self.conv4(x), 2))  # (N, 64, 4, 4)
        hx, cx = self.lstm(x.flatten(1), (hx, cx))  # (N, hidden) each
        return self.critic_linear(hx), self.actor_linear(hx), (hx, cx)


def make_model(num_actions: int, hidden_size: int = 512) -> nn.Module:
    """The network of training, of the test process and of evaluation: change it here."""
    return A3Clstm(num_actions, hidden_size)


def flatten_parameters(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Lay the model's parameters out in one vector, and their gradients in another.

    Returns (weights, gradient), both (P,), in the order of model.parameters(). The model's own
    tensors become views of them: writing `weights` changes the model, and backward() adds to
    `gradient`, which the caller sets to zero. One vector is copied, clipped and handed over in
    one pass over memory.
    ValueError: the model has a BatchNorm or its like.
    """
    for name, module in model.named_modules():
        batch = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if batch or getattr(module, "track_running_stats", False):
            raise ValueError(
                f"model.py: {name} mixes games or keeps statistics that nobody shares; "
                "GroupNorm and LayerNorm do not"
            )
    parameters = list(model.parameters())
    weights = nn.utils.parameters_to_vector(parameters).detach()
    gradient = torch.zeros_like(weights)
    nn.utils.vector_to_parameters(weights, parameters)
    for p, g in zip(parameters, gradient.split([p.numel() for p in parameters]), strict=True):
        p.grad = g.view_as(p)
    return weights, gradient
