#!/usr/bin/env bash
# TorchRL 0.14.1: FrameSkipTransform(4) steps its environment four times whatever happens in them: it plays on when the
# episode has ended, adds what it gets there, and tells of the last frame's end alone. Where reaching the goal pays, it
# is paid up to four times: in MountainCarContinuous, which counts as solved at 90, an agent that gets 89 has 389. Where
# the next step plays on, as with Gymnasium's terminal_on_life_loss, an end in one of the first three frames is lost: of
# episodes that are one life each most are the whole game. And a time limit that is no multiple of four is passed.
# Nothing is raised. frame_skip= of GymEnv and GymWrapper, in the same library, stops at the end. Guess: two ways to say
# the same, as in any wrapper that skips frames.
#
# Seen: "MountainCarContinuous, the same 28 steps: frame_skip=4 89.1, FrameSkipTransform(4) 388.8"; "Pendulum's limit of
# 200 steps: frame_skip=3 plays 200, FrameSkipTransform(3) 201"; "Breakout, lives lost per episode of one life:
# frame_skip=4 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1], FrameSkipTransform(4) [5, 3, 5, 5, 5, 2, 5, 5, 5, 5]".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torchrl==0.14.1 tensordict==0.14.3 torch==2.13.0 gymnasium==1.4.0 \
  ale-py==0.12.1 opencv-python-headless==5.0.0.93 pygame==2.6.1 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
import ale_py
import gymnasium
import torch
from gymnasium.wrappers import AtariPreprocessing
from torchrl.envs import FrameSkipTransform, GymWrapper, TransformedEnv

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
gymnasium.register_envs(ale_py)


class Counted(gymnasium.Wrapper):
    """The environment, and how often it was stepped since its reset."""

    def reset(self, **options):
        self.steps = 0
        return self.env.reset(**options)

    def step(self, action):
        self.steps += 1
        return self.env.step(action)


def both(env, frames, **options):
    """The same environment with the argument of the wrapper, and with the transform."""
    yield GymWrapper(env, frame_skip=frames, **options)
    yield TransformedEnv(GymWrapper(env, **options), FrameSkipTransform(frames))


def push(td):
    """Push the car where it goes, which brings it up the hill."""
    return td.set("action", torch.where(td["observation"][..., 1:] < 0, -1.0, 1.0))


def played(env, seed, policy=None):
    env.set_seed(seed)
    torch.manual_seed(seed)
    return env.rollout(10_000, policy)["next"]


car = gymnasium.make("MountainCarContinuous-v0")
right, wrong = [played(env, 0, push) for env in both(car, 4)]
scores = [round(float(episode["reward"].sum()), 1) for episode in (right, wrong)]
assert (right["observation"][:-1] == wrong["observation"][:-1]).all()
print(
    f"MountainCarContinuous, the same {len(right)} steps: frame_skip=4 {scores[0]}, FrameSkipTransform(4) {scores[1]}"
)
assert len(right) == len(wrong) and scores[0] < 90 and scores[1] > scores[0] + 250

pendulum, steps = Counted(gymnasium.make("Pendulum-v1")), []
for env in both(pendulum, 3):
    played(env, 0)
    steps.append(pendulum.steps)
print(f"Pendulum's limit of 200 steps: frame_skip=3 plays {steps[0]}, FrameSkipTransform(3) {steps[1]}")
assert steps == [200, 201]

game, lost = gymnasium.make("BreakoutNoFrameskip-v4"), []
lives = AtariPreprocessing(game, frame_skip=1, terminal_on_life_loss=True)
for env in both(lives, 4, categorical_action_encoding=True):
    lost.append([])
    for seed in range(10):
        assert played(env, seed)["terminated"][-1]
        lost[-1].append(5 - game.unwrapped.ale.lives())
print(f"Breakout, lives lost per episode of one life: frame_skip=4 {lost[0]}, FrameSkipTransform(4) {lost[1]}")
assert lost[0] == [1] * 10 and sum(lost[1]) > 20
END
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
