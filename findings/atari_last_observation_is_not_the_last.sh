#!/usr/bin/env bash
# Gymnasium 1.4.0's AtariPreprocessing, and ale-py 0.12.1's vector environment, which is the same to the pixel: the
# last observation of an episode is never what the screen showed at the end. Where the game ends, or the limit of
# frames cuts it, before the fourth frame of a step, the step's own frames are thrown away, and the observation is that
# of the step before, once more; at the fourth frame it is the maximum of that one and of the third frame, two moments
# in one picture. The number of frames, the reward and the end are right. So the value of final_obs, from which the
# rest of a truncated episode is estimated, is that of an earlier state, and recorded episodes (videos, data for
# offline training) lack their end. Guess: the maximum of the last two frames that were played, as at every other step.
#
# Seen, of both: "in the midst right 2872 of 2872; last of 20 games: right 0, of the step before 15, of two moments 5".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ale-py==0.12.1 gymnasium==1.4.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
import ale_py
import cv2
import gymnasium
import numpy as np
from gymnasium.wrappers import AtariPreprocessing

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
gymnasium.register_envs(ale_py)


def single(title, limit):
    env = gymnasium.make(
        f"ALE/{title}-v5", frameskip=1, repeat_action_probability=0, max_num_frames_per_episode=limit
    )
    env = AtariPreprocessing(env, noop_max=0)
    env.reset(seed=1)

    def step(action):
        observation, _, terminated, truncated, info = env.step(action)
        return observation, terminated or truncated, info["frame_number"]

    return step


def vector(title, limit):
    env = gymnasium.make_vec(
        f"ALE/{title}-v5", 1, repeat_action_probability=0, max_num_frames_per_episode=limit, noop_max=0,
        use_fire_reset=False,
    )
    env.reset(seed=1)

    def step(action):
        stack, _, terminated, truncated, info = env.step(np.array([action]))
        return stack[0, -1], bool(terminated[0] or truncated[0]), int(info["frame_number"][0])

    return step


def smaller(*frames):
    """The observation of which these are the frames."""
    return cv2.resize(np.max(frames, axis=0), (84, 84), interpolation=cv2.INTER_AREA)


def play(step, title, counts):
    """Compares each observation with the frames of an environment without wrappers that plays the same."""
    raw = gymnasium.make(
        f"ALE/{title}-v5", obs_type="grayscale", frameskip=1, repeat_action_probability=0
    )
    frames = [raw.reset(seed=1)[0]]
    rng, over = np.random.default_rng(1), False
    while not over:
        action = int(rng.integers(raw.action_space.n))
        observation, over, number = step(action)
        before = frames[-2:]
        new = [raw.step(action)[0] for _ in range(number - len(frames) + 1)]
        frames += new
        right = (observation == smaller(*frames[-2:])).all()
        counts["steps"] += not over
        counts["right steps"] += not over and right
    counts["games"] += 1
    counts["right"] += right
    counts["before"] += (observation == smaller(*before)).all()
    counts["two moments"] += len(new) == 4 and (observation == smaller(*before, new[2])).all()


for make in (single, vector):
    counts = dict.fromkeys(("steps", "right steps", "games", "right", "before", "two moments"), 0)
    for title in ("Breakout", "MsPacman", "SpaceInvaders", "Seaquest"):
        for limit in (400, 401, 402, 403, 108_000):
            play(make(title, limit), title, counts)
    counts = {name: int(count) for name, count in counts.items()}
    print(
        f"{make.__name__}: in the midst right {counts['right steps']} of {counts['steps']}; last of {counts['games']} "
        f"games: right {counts['right']}, of the step before {counts['before']}, of two moments {counts['two moments']}"
    )
    assert counts["right steps"] == counts["steps"] and counts["games"] == 20
    assert (counts["right"], counts["before"], counts["two moments"]) == (0, 15, 5)
END
"$folder/venv/bin/python" "$folder/finding.py"
