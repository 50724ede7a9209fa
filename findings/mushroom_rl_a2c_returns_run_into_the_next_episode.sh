#!/usr/bin/env bash
# MushroomRL 1.10.2, A2C: a return that meets a time limit goes on with the rewards of the next episode. Where an
# episode ends in an absorbing state the sum stops (by the source), but where it ends at the horizon of the environment, within the
# steps of one fit, compute_advantage_montecarlo() is not even told: fit() drops the flag "last" and hands over
# "absorbing" alone. So all the steps of a fit are one trajectory, and what a new episode brings, its first rewards or
# its safe beginning, is credited to the actions that happened to be the last ones before it. The shorter the episodes
# are against n_steps_per_fit, the more; with n_episodes_per_fit each fit has such a seam between any two episodes. The
# flag "last" is in the data, and compute_gae(), with which PPO and TRPO learn, stops at it and is right. Nothing is
# raised. Guess: the return ends at the limit, and the value of the state that was reached there is added. To call
# learn() with an n_steps_per_fit that divides the horizon is the way around, where no episode ends earlier.
#
# Seen, where reward comes only with the first step, so that each later state is worth 0, whether the limit is counted
# as an end or not: "horizon 5, 20 steps per fit: A2C learns [2.00, 1.05, 1.10, 1.16, 1.22], PPO's targets [1, 0, 0, 0,
# 0]; horizon 5, 5 steps per fit: A2C learns [1.00, 0.00, 0.00, 0.00, 0.00], PPO's targets [1, 0, 0, 0, 0]".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# Where the index has builds for GPUs: --index-url of pytorch.org's CPU builds saves gigabytes.
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==1.26.4 scipy==1.15.2 scikit-learn==1.6.1 \
  matplotlib==3.10.1 joblib==1.4.2 tqdm==4.67.1 pygame==2.6.1 opencv-python-headless==4.11.0.86 setuptools==79.0.1 \
  wheel==0.45.1
"$folder/venv/bin/pip" install --quiet --no-deps --no-build-isolation mushroom-rl==1.10.2  # it asks for an older torch
cat > "$folder/finding.py" <<'END'
import numpy as np
import torch
from mushroom_rl.algorithms.actor_critic import A2C
from mushroom_rl.core import Core, Environment, MDPInfo
from mushroom_rl.policy import BoltzmannTorchPolicy
from mushroom_rl.utils.dataset import parse_dataset
from mushroom_rl.utils.spaces import Box, Discrete
from mushroom_rl.utils.value_functions import compute_gae

torch.set_num_threads(1)
HORIZON, GAMMA, FITS = 5, 0.95, 300


class Gift(Environment):
    """The first step of an episode is paid with 1, and no other one with anything. It never ends by itself."""

    def __init__(self):
        super().__init__(MDPInfo(Box(0, 1, shape=(HORIZON + 1,)), Discrete(2), GAMMA, HORIZON))

    def reset(self, state=None):
        self.steps = 0
        return np.eye(HORIZON + 1, dtype=np.float32)[0]

    def step(self, action):
        self.steps += 1
        return np.eye(HORIZON + 1, dtype=np.float32)[self.steps], float(self.steps == 1), False, {}


class Linear(torch.nn.Module):
    """A number for each state, as in a table, from 0 on."""

    def __init__(self, input_shape, output_shape, **kwargs):
        super().__init__()
        self.layer = torch.nn.Linear(input_shape[0], output_shape[0], bias=False)
        torch.nn.init.zeros_(self.layer.weight)

    def forward(self, state):
        return self.layer(state.float())


def learned(per_fit):
    torch.manual_seed(1)
    np.random.seed(1)
    env, fits = Gift(), []
    shape = env.info.observation_space.shape
    adam, sgd = torch.optim.Adam, torch.optim.SGD
    policy = BoltzmannTorchPolicy(Linear, shape, (2,), beta=1.0)
    critic = dict(
        network=Linear, input_shape=shape, output_shape=(1,), quiet=True, loss=torch.nn.functional.mse_loss,
        optimizer={"class": sgd, "params": {"lr": 0.5}},
    )
    agent = A2C(env.info, policy, {"class": adam, "params": {"lr": 1e-3}}, critic, ent_coeff=0.01)
    core = Core(agent, env, callbacks_fit=[lambda dataset: fits.append(parse_dataset(dataset))])
    core.learn(n_steps=FITS * per_fit, n_steps_per_fit=per_fit, quiet=True)
    states = np.eye(HORIZON + 1, dtype=np.float32)[:HORIZON]
    state, _, reward, next_state, absorbing, last = fits[-1]
    assert not absorbing.any() and last.sum() == per_fit / HORIZON
    zero = np.zeros((per_fit, 1))
    targets = compute_gae(lambda s: zero[: len(s)], state, next_state, reward, absorbing, last, GAMMA, 1.0)[0]
    assert (targets.reshape(-1, HORIZON) == targets[:HORIZON, 0]).all()
    return agent._V(states).squeeze(), targets[:HORIZON, 0]


for per_fit in (20, 5):
    values, targets = learned(per_fit)
    seen = ", ".join(f"{value:.2f}" for value in values)
    print(
        f"horizon {HORIZON}, {per_fit} steps per fit: A2C learns [{seen}], PPO's targets "
        f"{targets.astype(int).tolist()}"
    )
    assert targets.tolist() == [1, 0, 0, 0, 0]
    if per_fit == HORIZON:
        assert np.allclose(values, targets, atol=0.02)
    else:
        assert values[0] > 1.4 and (values[1:] > 0.5).all() and (np.diff(values[1:]) > 0.02).all()
END
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
