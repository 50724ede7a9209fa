#!/usr/bin/env bash
# RSL-RL 5.5.1, Distillation with a recurrent teacher (an RNNModel): each update empties the teacher's memory, in the
# midst of all episodes. The teacher does not play during the update, which sets its hidden state to the one that it
# kept from the end of the last update, and that is none from the first on. So after every num_steps_per_env steps, 24
# in the documentation's example and much less than an episode, the teacher labels on as one that has just been switched
# on, and what it saw before counts no more. The student, whose memory is carried over an update, learns these labels:
# from a teacher that recalls what its first step showed, it learns to recall until the first update of an episode, and
# to say nothing after. Nothing is raised; the loss that is logged falls as it should, since the student does learn what
# it is told. The code keeps and hands over hidden states of the teacher as of the student. Guess: the labels are what
# the teacher says when it plays. A teacher without memory, or num_steps_per_env such that all episodes end with a
# rollout, is the way around.
#
# Seen, of a teacher that is right in all steps when it plays alone, in episodes of 10 steps: "rollouts of 10: the
# teacher's labels are right in 1.00 of the steps, those of the student in 1.00, by step 1 1 1 1 1 1 1 1 1 1; loss
# 0.000"; "rollouts of 5: the teacher's labels are right in 0.50 of the steps, those of the student in 0.55, by step 1 1
# 1 1 1 0.5 0 0 0 0; loss 0.092" (the student's numbers vary a little).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# Where the index has builds for GPUs: --index-url of pytorch.org's CPU builds saves gigabytes.
"$folder/venv/bin/pip" install --quiet rsl-rl-lib==5.5.1 torch==2.13.0 tensordict==0.14.3 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
import contextlib
import io
import sys

import torch
from rsl_rl.env import VecEnv
from rsl_rl.models import RNNModel
from rsl_rl.runners import DistillationRunner
from tensordict import TensorDict

torch.set_num_threads(1)
GAMES, LENGTH, EPISODES = 50, 10, 200
SETS = {"student": ["seen"], "teacher": ["seen"]}
UNIT = {"class_name": "RNNModel", "rnn_type": "gru", "rnn_hidden_dim": 1, "hidden_dims": [1], "activation": "identity"}
STUDENT = {
    "class_name": "RNNModel",
    "rnn_type": "gru",
    "rnn_hidden_dim": 16,
    "hidden_dims": [16],
    "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 0.1},
}


class Recall(VecEnv):
    """A side, -1 or 1, is shown in the first step of an episode, and shall be told in each."""

    num_envs, num_actions, max_episode_length, device, cfg = GAMES, 1, LENGTH, "cpu", {}

    def __init__(self):
        self.episode_length_buf = torch.zeros(GAMES, dtype=torch.long)
        self.side = self.drawn()

    def drawn(self):
        return torch.randint(2, (GAMES,)) * 2.0 - 1

    def get_observations(self):
        first = (self.episode_length_buf == 0).float()
        return TensorDict({"seen": torch.stack((self.side * first, first), 1)}, batch_size=[GAMES])

    def step(self, actions):
        reward = -(actions[:, 0] - self.side).square()
        self.episode_length_buf = self.episode_length_buf + 1
        over = self.episode_length_buf == LENGTH
        self.episode_length_buf[over] = 0
        self.side = torch.where(over, self.drawn(), self.side)
        return self.get_observations(), reward, over.long(), {"time_outs": over}


def recalling():
    """One unit, which takes the side in the first step and holds it from there on."""
    model = RNNModel(Recall().get_observations(), SETS, "teacher", 1, [1], "identity", rnn_type="gru", rnn_hidden_dim=1)
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
        model.rnn.rnn.weight_ih_l0.copy_(torch.tensor([[0.0, 0.0], [0.0, -40.0], [20.0, 0.0]]))
        model.rnn.rnn.bias_ih_l0.copy_(torch.tensor([0.0, 20.0, 0.0]))
        for layer in (0, 2):
            model.mlp[layer].weight.fill_(1.0)
    return model


def correct(said, side):
    return ((said[:, 0] - side).abs() < 0.5).float().mean()


@torch.inference_mode()
def alone(model):
    """In which part of the games a model that plays by itself is right, by step."""
    env, right = Recall(), torch.zeros(2 * LENGTH)
    model.reset()
    for step in range(2 * LENGTH):
        said = model(env.get_observations())
        right[step] = correct(said, env.side)
        model.reset(env.step(said)[2])
    return right.view(2, LENGTH).mean(0)


class Listened(Recall):
    """The same, which notes how right the label is that the teacher has just given."""

    def step(self, actions):
        self.labels.append(correct(self.runner.alg.transition.privileged_actions, self.side))
        return super().step(actions)


def distilled(rollout, checkpoint):
    torch.manual_seed(1)
    algorithm = {"class_name": "Distillation", "learning_rate": 5e-3, "gradient_length": rollout}
    config = {"num_steps_per_env": rollout, "save_interval": 1, "obs_groups": dict(SETS), "algorithm": algorithm}
    config.update(student=dict(STUDENT), teacher=dict(UNIT))
    env = Listened()
    env.runner, env.labels, losses = DistillationRunner(env, config, None, "cpu"), [], []
    env.runner.load(checkpoint)
    update = env.runner.alg.update
    env.runner.alg.update = lambda: losses.append(update()) or losses[-1]
    env.runner.learn(EPISODES * LENGTH // rollout)
    return torch.stack(env.labels).mean(), alone(env.runner.get_inference_policy()), losses[-1]["behavior"]


torch.manual_seed(1)
teacher = recalling()
assert (alone(teacher) == 1).all()
torch.save({"actor_state_dict": teacher.state_dict(), "iter": 0, "infos": None}, sys.argv[1])
for rollout in (LENGTH, LENGTH // 2):
    with contextlib.redirect_stdout(io.StringIO()):  # its tables
        labels, student, loss = distilled(rollout, sys.argv[1])
    print(
        f"rollouts of {rollout}: the teacher's labels are right in {labels:.2f} of the steps, those of the student in "
        f"{student.mean():.2f}, by step {' '.join(f'{right:.1g}' for right in student.tolist())}; loss {loss:.3f}"
    )
    assert abs(labels - rollout / LENGTH) < 0.01 and loss < 0.1
    assert (student[:rollout] > 0.9).all() and (student[rollout + 1 :] < 0.2).all()
END
cd "$folder"
"$folder/venv/bin/python" -W ignore "$folder/finding.py" "$folder/teacher.pt"
