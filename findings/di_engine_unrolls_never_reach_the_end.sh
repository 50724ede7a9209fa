#!/usr/bin/env bash
# DI-engine 0.5.3: DequeBuffer.sample(groupby=..., unroll_len=n), from which IMPALA and R2D2 learn in DI-engine's own
# examples, never draws the last step of an episode. The start of an unroll is drawn from one place too few, so that the
# step that wins or falls, with its reward and its "done", is collected, stored, and in no batch. Where only the end
# pays, nothing pays; where it is a fall, as in CartPole, there is none. Only an episode of just n steps is drawn whole,
# and one of fewer steps never at all: of CartPole's games at the beginning, with unrolls of 32, most are lost, and just
# those that fell early. sliced=True, which DI-engine's examples of IMPALA have for LunarLander and not for Pong, and
# the one of R2D2 has not, draws the ends, but no short episodes, either; its documentation speaks of slices alone.
# Nothing is raised, and losses and values look sound. Guess: each unroll within an episode is as likely as another, so
# that the last step is drawn, and a short episode is one short unroll.
#
# Seen: "a way of 12 steps, the last pays 1, by default: collected 80 ends, rewards 80; drawn of 5120 steps 0 ends,
# rewards 0; values of the 1st, 6th and 12th step [0.01 0.01 0.01], in truth [0.31 0.53 1.  ]"; "sliced: drawn of 5120
# steps 215 ends, rewards 215; values [0.3  0.52 1.04]"; "CartPole, unrolls of 8, longer games: 21 falls, of 1920 drawn
# steps 0"; "unrolls of 32: 42 games, of which 35 fell before; drawn of these 0, of the others 7" (some numbers vary).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# Where the index has builds for GPUs: --index-url of pytorch.org's CPU builds saves gigabytes.
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==1.26.4 setuptools==79.0.1 gym==0.25.1 gymnasium==1.2.2 \
  DI-treetensor==0.5.0 DI-toolkit==0.3.0 treevalue==1.5.0 trueskill==0.4.5 tensorboardX==2.6.5 wandb==0.19.0 \
  matplotlib easydict==1.14 pyyaml enum-tools==0.13.0 cloudpickle==3.1.3 hickle==5.0.3 tabulate==0.10.0 click \
  flask==2.0.3 werkzeug==2.0.3 requests responses==0.26.3 URLObject==3.0.0 pynng==0.9.0 sniffio redis==8.1.0 \
  mpire==2.10.2 einops==0.8.2
"$folder/venv/bin/pip" install --quiet --no-deps DI-engine==0.5.3  # asks for an older setuptools than PyTorch does
cat > "$folder/finding.py" <<'END'
import sys
from collections import Counter
from copy import deepcopy

import gym
import numpy as np
import torch
from ding.config import compile_config
from ding.data import DequeBuffer
from ding.envs import BaseEnvManagerV2, DingEnvWrapper
from ding.framework import OnlineRLContext, task
from ding.framework.middleware import OffPolicyLearner, StepCollector, data_pusher
from ding.model import VAC
from ding.policy import IMPALAPolicy
from ding.utils import set_pkg_seed
from dizoo.classic_control.cartpole.config.cartpole_impala_config import create_config, main_config

torch.set_num_threads(1)
LENGTH = 12
result = open(sys.argv[2], "w")


class Way(gym.Env):
    """A way of 12 steps; the last one gives 1 and is the end, the others give nothing."""

    observation_space = gym.spaces.Box(0, 1, (LENGTH,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def see(self):
        return np.eye(LENGTH, dtype=np.float32)[min(self.place, LENGTH - 1)]

    def reset(self, **options):
        self.place = 0
        return self.see()

    def step(self, action):
        self.place += 1
        return self.see(), float(self.place == LENGTH), self.place == LENGTH, {}


def run(environment, size, unroll, rounds, **options):
    """As in ding/example/impala.py: the steps that were collected, those that were learned from, and the policy."""
    main = deepcopy(main_config)
    main.exp_name, main.policy.unroll_len, main.policy.model.obs_shape = sys.argv[1], unroll, size
    main.policy.learn.update(learning_rate=0.005, update_per_collect=5)
    cfg = compile_config(main, create_cfg=deepcopy(create_config), auto=True, save_cfg=False)
    collected, drawn = [], []
    with task.start(async_mode=False, ctx=OnlineRLContext()):
        environments = [lambda: DingEnvWrapper(environment()) for _ in range(cfg.env.collector_env_num)]
        manager = BaseEnvManagerV2(env_fn=environments, cfg=cfg.env.manager)
        set_pkg_seed(1, use_cuda=False)
        buffer = DequeBuffer(size=10_000, **options)
        policy = IMPALAPolicy(cfg.policy, model=VAC(**cfg.policy.model))

        def learn(data):
            drawn.extend(step for unrolled in data for step in unrolled)
            return policy._forward_learn(data)

        task.use(StepCollector(cfg, policy.collect_mode, manager))
        task.use(lambda ctx: collected.extend(ctx.trajectories))
        task.use(data_pusher(cfg, buffer, group_by_env=True))
        task.use(OffPolicyLearner(cfg, policy.learn_mode._replace(forward=learn), buffer))
        task.run(max_step=rounds)
    return collected, drawn, policy


def ends(steps):
    return sum(bool(step.done) for step in steps)


def rewards(steps):
    return int(sum(float(step.reward) for step in steps))


truth = main_config.policy.learn.discount_factor ** np.arange(LENGTH - 1, -1, -1)
for options in ({}, {"sliced": True}):
    collected, drawn, policy = run(Way, LENGTH, 8, 8, **options)
    with torch.no_grad():
        values = policy._model.forward(torch.eye(LENGTH), mode="compute_critic")["value"].numpy()
    print(
        f"a way of 12 steps, the last pays 1, {options or 'by default'}: collected {ends(collected)} ends, rewards "
        f"{rewards(collected)}; drawn of {len(drawn)} steps {ends(drawn)} ends, rewards {rewards(drawn)}; values of "
        f"the 1st, 6th and 12th step {values[[0, 5, 11]].round(2) + 0.0}, in truth {truth[[0, 5, 11]].round(2)}",
        file=result,
    )
    assert ends(collected) == rewards(collected) > 50
    if options:
        assert rewards(drawn) == ends(drawn) > 100 and np.abs(values - truth).max() < 0.3
    else:
        assert rewards(drawn) == ends(drawn) == 0 and np.abs(values).max() < 0.05

collected, drawn, _ = run(lambda: gym.make("CartPole-v1"), 4, 8, 3)
lengths = Counter(step.env_data_id.item() for step in collected)
longer = {game for game, length in lengths.items() if length > 8}
falls = [ends(step for step in steps if step.env_data_id.item() in longer) for steps in (collected, drawn)]
print(f"CartPole, unrolls of 8, longer games: {falls[0]} falls, of {len(drawn)} drawn steps {falls[1]}", file=result)
assert falls[0] >= 8 and falls[1] == 0
for options in ({}, {"sliced": True}):
    collected, drawn, _ = run(lambda: gym.make("CartPole-v1"), 4, 32, 2, **options)
    lengths = Counter(step.env_data_id.item() for step in collected)
    over = {step.env_data_id.item() for step in collected if step.done}
    short = {game for game in over if lengths[game] < 32}
    seen = over & {step.env_data_id.item() for step in drawn}
    print(
        f"CartPole, unrolls of 32, {options or 'by default'}: {len(over)} games, of which {len(short)} fell before; "
        f"drawn of these {len(short & seen)}, of the others {len(seen - short)}",
        file=result,
    )
    assert len(short) > len(over) / 2 and not short & seen
END
(cd "$folder" && venv/bin/python -W ignore finding.py "$folder/training" "$folder/result" > errors 2>&1) ||
  { cat "$folder/errors" "$folder/result"; exit 1; }
cat "$folder/result"
