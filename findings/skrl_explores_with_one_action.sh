#!/usr/bin/env bash
# skrl 2.1.1 with Gymnasium 1.4.0: Model.random_act, from which come the random_timesteps and the epsilon of DQN,
# returns the same actions at each call: one for each environment, for the whole training. Gymnasium's batch_space copies
# the random numbers of the space, and skrl makes a new batch_space at each call, so that each draws the first numbers
# once more. A DQN explores with one button per environment, and a button that none of them drew is in no memory unless
# the network prefers it. Which one it is comes from the system's randomness: skrl.utils.set_seed, which seeds Python,
# numpy, torch and the environment, has no part in it, and two runs with one seed differ. Guess: an action for each step,
# drawn by the seed. A random_act of one's own, by torch.randint, is the way around.
#
# Seen: "different actions of 3 in 200 random steps of each of 4 environments: epsilon 1 [1, 1, 1, 1], random_timesteps
# [1, 1, 1, 1], torch.randint [3, 3, 3, 3]; runs with set_seed(1) are alike: False, with torch.randint True".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet skrl==2.1.1 torch==2.13.0 gymnasium==1.4.0 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
import gymnasium
import torch
from skrl import logger
from skrl.agents.torch.dqn import DQN, DQN_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed

logger.setLevel("ERROR")
STEPS, ENVIRONMENTS = 200, 4


class Q(DeterministicMixin, Model):
    def __init__(self, env):
        Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space, device="cpu")
        DeterministicMixin.__init__(self)
        self.net = torch.nn.Linear(self.num_observations, self.num_actions)

    def compute(self, inputs, role):
        return self.net(inputs["observations"]), {}


class RandomQ(Q):
    """The same, with random actions that are drawn at each call."""

    def random_act(self, inputs, *, role=""):
        return torch.randint(self.num_actions, (len(inputs["observations"]), 1)), {}


def trained(network, **options):
    """The actions of a training, of each environment."""
    set_seed(1)
    env = wrap_env(gymnasium.make_vec("Acrobot-v1", ENVIRONMENTS, vectorization_mode="sync"))
    config = DQN_CFG(learning_starts=STEPS, exploration_scheduler=always, **options)
    config.experiment.write_interval = config.experiment.checkpoint_interval = 0
    memory = RandomMemory(memory_size=STEPS, num_envs=ENVIRONMENTS)
    models = {"q_network": network(env), "target_q_network": network(env)}
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
    agent = DQN(models=models, memory=memory, device="cpu", cfg=config, **spaces)
    settings = {"timesteps": STEPS, "headless": True, "disable_progressbar": True}
    SequentialTrainer(env=env, agents=agent, cfg=settings).train()
    actions = memory.get_tensor_by_name("actions")[..., 0]
    assert actions.shape == (STEPS, ENVIRONMENTS)
    return actions


def different(actions):
    return [len(set(column.tolist())) for column in actions.T]


def always(step, steps):
    return 1.0


def alike(runs):
    """Whether all runs, which have the same seed, begin with the same actions."""
    return len({tuple(run[0].tolist()) for run in runs}) == 1


runs = [trained(Q) for _ in range(5)]
warm_up = trained(Q, random_timesteps=STEPS)
own = [trained(RandomQ) for _ in range(2)]
print(
    f"different actions of 3 in {STEPS} random steps of each of {ENVIRONMENTS} environments: epsilon 1 "
    f"{different(runs[0])}, random_timesteps {different(warm_up)}, torch.randint {different(own[0])}; runs with "
    f"set_seed(1) are alike: {alike(runs)}, with torch.randint {alike(own)}"
)
assert all(different(run) == [1] * ENVIRONMENTS for run in (*runs, warm_up)) and not alike(runs)
assert different(own[0]) == [3] * ENVIRONMENTS and alike(own)
END
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
