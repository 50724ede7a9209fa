#!/usr/bin/env bash
# PyTorch 2.13.0: model.share_memory() moves the gradients to shared memory, too, and a forked process has them, so that
# one process may step with what the others add: an asynchronous method with its gradients in shared memory works. With
# "spawn" or "forkserver", which CUDA demands and of which Python 3.14 makes the second its default, the very same
# arguments arrive without gradients: .grad is None, backward() makes a private one, and the process that steps sees
# zeros for ever. Nothing is raised, and the model never learns. PyTorch's notes on multiprocessing say the opposite, that
# the gradient of a tensor that is sent is shared as well, and name A3C as what this is for. And
# Tensor.share_memory_() leaves the gradient where it was, so that not even a forked process shares that.
# Guess: as the notes say, or at least the same with each start method. The gradients as a second argument, put into
# .grad by the new process, are shared with each.
#
# Seen: "share_memory() of the model shares its gradient: True; share_memory_() of a tensor: False"; "fork: the process
# has a gradient True, and 3 that it adds arrive as 3.0"; "spawn: the process has a gradient False, and 3 that it adds
# arrive as 0.0; as an argument 3.0"; "forkserver: the process has a gradient False, and 3 that it adds arrive as 0.0;
# as an argument 3.0".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# Where the index has builds for GPUs: --index-url of pytorch.org's CPU builds saves gigabytes.
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
import torch
import torch.multiprocessing as multiprocessing


def work(model, queue, gradient=None):
    """Add 3 to the gradient of the model, and tell whether it came with one."""
    queue.put(model.weight.grad is not None)
    if gradient is not None:
        model.weight.grad = gradient
    model(torch.full((1, 1), 3.0)).sum().backward()


def added(method, sent_too=False):
    """Whether the process had a gradient, and what this one sees of the 3 that it added."""
    context = multiprocessing.get_context(method)
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.grad = torch.zeros(1, 1)
    model.share_memory()
    assert model.weight.grad.is_shared()
    queue = context.SimpleQueue()
    arguments = (model, queue, model.weight.grad) if sent_too else (model, queue)
    process = context.Process(target=work, args=arguments)
    process.start()
    had = queue.get()
    process.join()
    assert process.exitcode == 0
    return had, model.weight.grad.item()


if __name__ == "__main__":
    torch.set_num_threads(1)  # a fork after threads were started is another story
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.grad = torch.zeros(1, 1)
    model.share_memory()
    tensor = torch.zeros(1, requires_grad=True)
    tensor.grad = torch.zeros(1)
    tensor.share_memory_()
    shared, of_tensor = model.weight.grad.is_shared(), tensor.grad.is_shared()
    print(f"share_memory() of the model shares its gradient: {shared}; share_memory_() of a tensor: {of_tensor}")
    assert shared and tensor.is_shared() and not of_tensor
    for method in ("fork", "spawn", "forkserver"):
        had, seen = added(method)
        text = f"{method}: the process has a gradient {had}, and 3 that it adds arrive as {seen}"
        assert (had, seen) == ((True, 3.0) if method == "fork" else (False, 0.0)), text
        if method != "fork":
            _, seen = added(method, sent_too=True)
            text += f"; as an argument {seen}"
            assert seen == 3.0, text
        print(text)
END
"$folder/venv/bin/python" "$folder/finding.py"
