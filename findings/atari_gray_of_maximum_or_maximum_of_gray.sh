#!/usr/bin/env bash
# Stable-Baselines3 2.9.2's AtariWrapper and Gymnasium 1.4.0's AtariPreprocessing, with the same game to the byte of its
# RAM, see other pictures in some games: the one takes the maximum of two frames color by color and makes gray of it,
# the other the maximum of two gray frames. Where something flickers or moves before a colored background, as in Freeway
# and MsPacman, the first has colors that were in neither frame. So a model that learned with the one and is evaluated
# with the other sees what it never saw, while Breakout and Boxing, where one might compare them, are the same.
# Guess: both are the preprocessing of the Nature DQN, and differ in how a game begins and ends.
#
# Seen, of 100 observations those with a pixel that differs by more than 8 levels of 255, and the largest difference:
# "Freeway 100, 20; Pong 88, 16; MsPacman 97, 37; Alien 33, 11; Frostbite 11, 17; Breakout 0, 0; Boxing 0, 0".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# Where the index has builds for GPUs: --index-url of pytorch.org's CPU builds saves gigabytes.
"$folder/venv/bin/pip" install --quiet stable-baselines3==2.9.2 torch==2.13.0 gymnasium==1.4.0 ale-py==0.12.1 \
  opencv-python-headless==5.0.0.93 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
import ale_py
import cv2
import gymnasium
import numpy as np
from gymnasium.wrappers import AtariPreprocessing
from stable_baselines3.common.atari_wrappers import AtariWrapper

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
gymnasium.register_envs(ale_py)


def make(title):
    env = gymnasium.make(f"{title}NoFrameskip-v4")  # without sticky actions
    env.reset(seed=1)
    return env


def small(frame):
    return cv2.resize(frame, (84, 84), interpolation=cv2.INTER_AREA)


def gray(frame):
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def compare(title):
    """Of 100 steps: in how many a pixel differs by more than 8 levels, and the largest difference."""
    baselines = AtariWrapper(make(title), noop_max=0, terminal_on_life_loss=False, clip_reward=False)
    preprocessing = AtariPreprocessing(make(title), noop_max=0)
    raw = make(title)
    envs = baselines, preprocessing, raw
    for env in envs:
        env.reset(seed=1)
    if baselines.unwrapped.get_action_meanings()[1] == "FIRE":  # AtariWrapper's reset does these two steps
        for action in (1, 2):
            preprocessing.step(action)
            for _ in range(4):
                raw.step(action)
    rng, differences = np.random.default_rng(0), []
    for _ in range(100):
        action = int(rng.integers(raw.action_space.n))
        first = baselines.step(action)[0][:, :, 0]
        second = preprocessing.step(action)[0]
        *_, a, b = (raw.step(action)[0] for _ in range(4))
        assert len({env.unwrapped.ale.getRAM().tobytes() for env in envs}) == 1
        assert (first == small(gray(np.maximum(a, b)))).all()
        assert (second == small(np.maximum(gray(a), gray(b)))).all()
        differences.append(int(np.abs(first.astype(int) - second).max()))
    return sum(difference > 8 for difference in differences), max(differences)


seen = {title: compare(title) for title in ("Freeway", "Pong", "MsPacman", "Alien", "Frostbite", "Breakout", "Boxing")}
print("; ".join(f"{title} {count}, {largest}" for title, (count, largest) in seen.items()))
assert all(seen[title][0] > 50 for title in ("Freeway", "Pong", "MsPacman"))
assert seen["Breakout"] == seen["Boxing"] == (0, 0)
END
"$folder/venv/bin/python" "$folder/finding.py"
