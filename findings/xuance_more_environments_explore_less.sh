#!/usr/bin/env bash
# XuanCe 1.4.4: the more environments play in parallel, the sooner DQN, and all that share its loop (double and dueling
# DQN, C51, QR-DQN; of the noise DDPG and TD3), cease to explore. The step of epsilon is made for one call of the
# environments, n times larger for n of them, and is multiplied by the count of all their steps, which is n times larger
# already. With XuanCe's own settings for MountainCar, 10 environments and decay_step_greedy 100000, epsilon is at its
# end after 10000 steps, 1000 of each environment. TD3's noise, which shall fall over the whole training, is at its end
# after a tenth of it. PerDQN and DRQN of the same library do it rightly, so that who compares them with DQN compares
# ten times as much exploration; by their source VDN and QMIX have the fault, and IQL has not. And one coin is thrown
# for all environments: either each of them plays at random or none does. With epsilon 0.5 all ten follow the network
# together in half of the steps, in place of one of a thousand, and what is stored of a moment is all of one kind.
# Nothing is raised, and with one environment all is right. Guess: decay_step_greedy counts what running_steps counts,
# however many environments there are, and each of them draws for itself. To multiply decay_step_greedy by their number
# is the way around for epsilon; for the noise there is none.
#
# Seen: "epsilon after 10000 of 100000 steps from 1.00 to 0.01: dqn of 1 0.90, dqn of 10 0.01, perdqn of 10 0.90";
# "TD3's noise after 2000 of 20000 steps from 0.25 to 0.05: of 1 0.23, of 10 0.05"; "epsilon 0.5: all 10 environments
# follow the network in 477 of 1000 steps".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# Where the index has builds for GPUs: --index-url of pytorch.org's CPU builds saves gigabytes.
"$folder/venv/bin/pip" install --quiet torch==2.13.0 gymnasium==1.2.3 numpy==1.26.4 scipy==1.17.1 PyYAML==6.0.4 tqdm \
    tensorboard==2.21.0 wandb==0.31.0 pyglet==1.5.15 setuptools==79.0.1
"$folder/venv/bin/pip" install --quiet --no-deps xuance==1.4.4
cat > "$folder/finding.py" <<'END'
import sys
from argparse import Namespace
from pathlib import Path

import torch
import xuance
import yaml
from xuance.common import BaseCallback
from xuance.environment import make_envs
from xuance.torch.agents import DQN_Agent, PerDQN_Agent, TD3_Agent

torch.set_num_threads(1)
configs = Path(xuance.__file__).parent / "configs"
result = open(sys.argv[2], "w")


class Watch(BaseCallback):
    """The value of what is explored with after each step, and what each environment did."""

    def __init__(self):
        self.course, self.explored, self.agent = [], [], None

    def on_train_step(self, current_step, **given):
        if self.agent.e_greedy == 0.5:
            _, greedy, _ = self.agent.policy(given["obs"])
            self.explored.append((given["policy_out"]["actions"] != greedy.numpy()).tolist())

    def on_train_step_end(self, current_step, **given):
        epsilon = self.agent.noise_scale if self.agent.e_greedy is None else self.agent.e_greedy
        self.course.append((current_step, epsilon))


def watched(agent_class, name, game, environments, steps, **options):
    """An agent with XuanCe's own settings for a game, that explores and doesn't learn."""
    settings = yaml.safe_load((configs / "basic.yaml").read_text())
    settings.update(yaml.safe_load((configs / name / f"classic_control/{game}.yaml").read_text()))
    settings.update(parallels=environments, start_training=10**9, buffer_size=10_000)
    settings.update(log_dir=sys.argv[1], model_dir=sys.argv[1], **options)
    watch = Watch()
    config = Namespace(**settings)
    watch.agent = agent_class(config, make_envs(config), callback=watch)
    watch.agent.train(steps // environments)
    return watch


car = {"start_greedy": 1.0, "end_greedy": 0.01, "decay_step_greedy": 100_000}  # as for MountainCar in configs/dqn
runs = ((DQN_Agent, "dqn", 1), (DQN_Agent, "dqn", 10), (PerDQN_Agent, "perdqn", 10))
epsilons = [watched(kind, name, "MountainCar-v0", count, 10_000, **car).course[-1] for kind, name, count in runs]
said = ", ".join(f"{name} of {count} {epsilon:.2f}" for (_, name, count), (_, epsilon) in zip(runs, epsilons))
print(f"epsilon after 10000 of 100000 steps from 1.00 to 0.01: {said}", file=result)
noise = {"start_noise": 0.25, "end_noise": 0.05, "running_steps": 20_000}
noises = [watched(TD3_Agent, "td3", "Pendulum-v1", count, 2000, **noise).course[-1] for count in (1, 10)]
said = ", ".join(f"of {count} {scale:.2f}" for count, (_, scale) in zip((1, 10), noises))
print(f"TD3's noise after 2000 of 20000 steps from 0.25 to 0.05: {said}", file=result)
half = {"start_greedy": 0.5, "end_greedy": 0.5}
explored = watched(DQN_Agent, "dqn", "MountainCar-v0", 10, 10_000, **half).explored
none = sum(not any(step) for step in explored)
print(f"epsilon 0.5: all 10 environments follow the network in {none} of {len(explored)} steps", file=result)
assert {step for step, _ in epsilons} == {10_000} and {step for step, _ in noises} == {2000}
assert [round(epsilon, 2) for _, epsilon in epsilons] == [0.9, 0.01, 0.9]
assert [round(scale, 2) for _, scale in noises] == [0.23, 0.05] and 400 < none < 600
END
(cd "$folder" && venv/bin/python -W ignore finding.py "$folder/logs" "$folder/result" > errors 2>&1) ||
  { cat "$folder/errors" "$folder/result"; exit 1; }
cat "$folder/result"
