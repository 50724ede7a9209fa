#!/usr/bin/env bash
# PyTorch 2.13.0: to make any torch.optim optimizer, without torch.compile anywhere, imports torch._dynamo and with it
# sympy, some 800 modules; backward() that is given a gradient imports sympy, too. Guess: `import torch` was the import,
# and SGD([p]) makes an object. A program of several processes pays it in each, unless one makes an optimizer before it
# forks: on an EPYC core 1.3 s and 70 MB on top of the 1.5 s and 220 MB of `import torch`. A memory or start-up budget
# that was measured without an optimizer, or in a process that only plays, is wrong by as much.
# A subclass without that has inspect.unwrap() of add_param_group, state_dict, load_state_dict, zero_grad and, under
# torch.no_grad(), of step.
#
# Seen: "import torch: []; forward and backward: []; subclass: []; backward(gradient): ['sympy']; SGD: ['sympy',
# 'torch._dynamo']".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# Where the index has builds for GPUs: --index-url of pytorch.org's CPU builds saves gigabytes.
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
import inspect
import sys

import torch


def compiler():
    return sorted({"torch._dynamo", "sympy"} & set(sys.modules))


said = [f"import torch: {compiler()}"]
p = torch.nn.Parameter(torch.zeros(2))
(p * p).sum().backward()
said.append(f"forward and backward: {compiler()}")


class Lean(torch.optim.SGD):
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


p.grad = torch.ones(2)
Lean([p], lr=0.5).step()
assert p.tolist() == [-0.5, -0.5]
said.append(f"subclass: {compiler()}")
(p * p).backward(torch.ones(2))
said.append(f"backward(gradient): {compiler()}")
torch.optim.SGD([p], lr=0.1)
said.append(f"SGD: {compiler()}")
print("; ".join(said))
END
seen=$("$folder/venv/bin/python" "$folder/finding.py")
echo "$seen"
[ "$seen" = "import torch: []; forward and backward: []; subclass: []; backward(gradient): ['sympy']; \
SGD: ['sympy', 'torch._dynamo']" ]
