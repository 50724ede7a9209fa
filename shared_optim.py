"""torch.optim's RMSprop and Adam with all of their state in shared memory.

Hogwild: every worker unpickles its own optimizer object over the same parameters and the same
statistics, and steps it without a lock. The state exists from the start, because a worker that
made it at its first step would make a private one (Hogwild refuses that), and is changed in place.
run.make_optimizer names each class.
"""

import inspect

import torch

MOST_PARTS = 10  # an average over fewer than a tenth of the updates would be noise


def forget_as_one_of(optimizer: torch.optim.Optimizer, parts: float) -> None:
    """Let its averages forget as one optimizer of the whole run would.

    parts: of so many updates of the run, it sees one. With the decay of a single optimizer it would
    remember `parts` times as much of the run: the large gradients of the beginning, for one, and
    its steps stay small for as long (benchmarks/learning.md, "Several optimizers"). RMSprop's
    momentum and the maximum of amsgrad, which forgets nothing, are left as they are.
    """
    parts = min(parts, MOST_PARTS)
    group, single = optimizer.param_groups[0], optimizer.defaults
    if "betas" in single:
        group["betas"] = tuple(beta**parts for beta in single["betas"])
    if "alpha" in single:
        group["alpha"] = single["alpha"] ** parts


class _Shared(torch.optim.Optimizer):
    # These and `step` are PyTorch's without what torch.compile wants around them: that imports
    # torch._dynamo and sympy at the first call, 1.3 s of processor time and 70 MB. What is around
    # `step` also turns gradients off, so that has to be done anew.
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)

    def share_memory(self) -> None:
        """Move the state to shared memory. Call after load_state_dict, which replaces it."""
        for state in self.state.values():
            for tensor in state.values():
                tensor.share_memory_()


class SharedRMSprop(_Shared, torch.optim.RMSprop):
    """RMSprop of Mnih et al. (2016), but for its eps: one moving average g of squared gradients for
    all workers, and a step of lr / (sqrt(g) + eps), where the paper has lr / sqrt(g + eps).

    Arguments as torch.optim.RMSprop, with the classic suite's defaults.
    """

    step = torch.no_grad()(inspect.unwrap(torch.optim.RMSprop.step))

    def __init__(
        self, params, lr=7e-4, alpha=0.99, eps=0.1, weight_decay=0, momentum=0, centered=False
    ):
        super().__init__(params, lr, alpha, eps, weight_decay, momentum, centered)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = {"step": torch.zeros(()), "square_avg": torch.zeros_like(p)}
                if momentum > 0:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                if centered:
                    self.state[p]["grad_avg"] = torch.zeros_like(p)


class SharedAdam(_Shared, torch.optim.Adam):
    """Adam with moments and step count common to all workers.

    Arguments as torch.optim.Adam, with the suite's defaults.

    The count t is float32 and not locked: it misses an update where two processes count at once,
    and stands still at 2**24. It is there for the correction of the moments' bias,
    sqrt(1 - 0.999**t) / (1 - 0.9**t), and nothing else. From t = 200 on, with a share s of the
    counts missing, an update is smaller than it should be, by a part of about s / 2; from
    t = 40,000 on, both powers are too small to count in float64, and so is what t is.
    """

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))

    def __init__(
        self, params, lr=1e-4, betas=(0.9, 0.999), eps=1e-3, weight_decay=0, amsgrad=False
    ):
        # fused: one pass over memory instead of about eight, the same arithmetic.
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, fused=True)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = {
                    "step": torch.zeros(()),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
                if amsgrad:
                    self.state[p]["max_exp_avg_sq"] = torch.zeros_like(p)
