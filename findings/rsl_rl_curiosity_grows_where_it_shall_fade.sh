#!/usr/bin/env bash
# RSL-RL 5.5.1, Random Network Distillation: weight is multiplied by the environment's step_dt, like Isaac Lab's reward
# terms, but the final_value of its schedule is not, though it is "the final value of the weight parameter". With weight
# 1 and final_value 0.5 in an environment of 50 steps a second, curiosity does not fade from 1 to a half, it grows from
# 0.02 to 0.5: 25 times as much at the end of the schedule as at its beginning, and 50 times what was asked for against
# rewards that are by the second. An agent that had learned its task by then leaves it for whatever cannot be predicted.
# Only a final_value of 0 is right. And the schedule's clock is in no checkpoint: a run that is resumed after its end
# begins it anew. Nothing is raised; "Rnd/weight" in the log shows both, to who knows what should be there. Guess: both
# ends of the schedule are in the same unit, and time goes on in a resumed run. To multiply final_value by step_dt
# oneself, and to set alg.rnd.update_counter after a load, is the way around.
#
# Seen, of an agent that is paid to work, beside a screen full of noise, with weight 1 and step_dt 0.02: "no schedule:
# weight 0.020 to 0.020, works in 1.00 of the steps; resumed: weight 0.020"; "to 0.5 by step 1200: weight 0.020 to
# 0.500, works in 0.01 of the steps; resumed: weight 0.020"; "to 0.5 * step_dt by step 1200: weight 0.020 to 0.010,
# works in 1.00 of the steps; resumed: weight 0.020" (the run and the schedule were over where it is resumed).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# Where the index has builds for GPUs: --index-url of pytorch.org's CPU builds saves gigabytes.
"$folder/venv/bin/pip" install --quiet rsl-rl-lib==5.5.1 torch==2.13.0 tensordict==0.14.3 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
import contextlib
import copy
import io
import sys

import torch
from rsl_rl.env import VecEnv
from rsl_rl.runners import OnPolicyRunner
from tensordict import TensorDict

torch.set_num_threads(1)
GAMES, ROLLOUT, UPDATES, STEP = 64, 24, 100, 0.02
END = UPDATES * ROLLOUT // 2  # of the schedule
MODEL = {"class_name": "MLPModel", "hidden_dims": [16], "activation": "elu"}
CONFIG = {
    "num_steps_per_env": ROLLOUT,
    "save_interval": 10_000,
    "obs_groups": {"actor": ["task"], "critic": ["task"], "rnd_state": ["seen"]},
    "actor": dict(MODEL, distribution_cfg={"class_name": "GaussianDistribution", "init_std": 1.0}),
    "critic": MODEL,
    "algorithm": {"class_name": "PPO", "learning_rate": 5e-3, "schedule": "fixed", "entropy_coef": 0.0, "gamma": 0.9},
}
RND = {"weight": 1.0, "num_outputs": 4, "predictor_hidden_dims": [8], "target_hidden_dims": [32]}


class Office(VecEnv):
    """Who works (a positive action) is paid, by the second; who does not watches a screen full of noise."""

    num_envs, num_actions, max_episode_length, device, cfg, step_dt = GAMES, 1, 50, "cpu", {}, STEP

    def __init__(self):
        self.episode_length_buf = torch.zeros(GAMES, dtype=torch.long)
        self.works, self.share = torch.ones(GAMES, dtype=torch.bool), []

    @property
    def unwrapped(self):
        return self

    def get_observations(self):
        screen = torch.where(self.works[:, None], 0.0, torch.randn(GAMES, 8))
        return TensorDict({"task": torch.ones(GAMES, 1), "seen": screen}, batch_size=[GAMES])

    def step(self, actions):
        self.works = actions[:, 0] > 0
        self.share.append(self.works.float().mean())
        self.episode_length_buf = self.episode_length_buf + 1
        over = self.episode_length_buf == self.max_episode_length
        self.episode_length_buf[over] = 0
        return self.get_observations(), self.works * self.step_dt, over.long(), {"time_outs": over}


def made(schedule):
    """A runner, and a list of the weights by which it multiplies its intrinsic rewards."""
    torch.manual_seed(1)
    config, weights = copy.deepcopy(CONFIG), []
    config["algorithm"]["rnd_cfg"] = dict(RND, weight_schedule=schedule)
    runner = OnPolicyRunner(Office(), config, None, "cpu")
    rnd = runner.alg.rnd
    reward = rnd.get_intrinsic_reward
    rnd.get_intrinsic_reward = lambda obs: (reward(obs), weights.append(rnd.weight))[0]
    return runner, weights


def report(told, value, checkpoint):
    schedule = value and {"mode": "linear", "initial_step": 0, "final_step": END, "final_value": value}
    with contextlib.redirect_stdout(io.StringIO()):  # its tables
        runner, weights = made(schedule)
        runner.learn(UPDATES)
        runner.save(checkpoint)
        resumed, again = made(schedule)
        resumed.load(checkpoint)
        resumed.learn(1)
    share = float(torch.stack(runner.env.share[-10 * ROLLOUT :]).mean())
    print(
        f"{told}: weight {weights[0]:.3f} to {weights[-1]:.3f}, works in {share:.2f} of the steps; resumed: weight "
        f"{again[0]:.3f}"
    )
    return weights[0], weights[-1], share, again[0]


first, last, share, again = report("no schedule", None, sys.argv[1])
assert first == last == again == STEP and share > 0.9
first, last, share, again = report(f"to 0.5 by step {END}", 0.5, sys.argv[1])
assert first < 0.021 and last == 0.5 and again == first and share < 0.1
first, last, share, again = report(f"to 0.5 * step_dt by step {END}", 0.5 * STEP, sys.argv[1])
assert last == 0.01 and again == first > 0.019 and share > 0.9
END
cd "$folder"
"$folder/venv/bin/python" -W ignore "$folder/finding.py" "$folder/checkpoint.pt"
