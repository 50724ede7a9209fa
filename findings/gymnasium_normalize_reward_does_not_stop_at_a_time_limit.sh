#!/usr/bin/env bash
# Gymnasium 1.4.0: NormalizeReward, which divides rewards by the spread of the discounted returns, starts a return
# anew where an episode terminates, and goes on with the old one where a time limit ends it, over the reset and
# through all episodes to come; the vector version in the default mode, NEXT_STEP, does the same, and in SAME_STEP it
# starts anew. So in a task that a time limit ends, the same steps give rewards of another scale in each: with -1 at
# each step the return comes to rest at -100, its spread falls as the training gets longer, and the rewards that the
# agent sees grow with it, against an entropy bonus, a clip or a learning rate that stays. A training that is moved to
# SAME_STEP has other rewards from then on. Guess: a return is one episode's, and the scale does not depend on how the
# reset is called.
#
# Seen, as what becomes of a reward of -1 after 10, 50 and 250 episodes of MountainCar's 200 steps: "returns that end
# with the episode [-0.04, -0.04, -0.04]; NormalizeReward [-0.07, -0.14, -0.32]; vector, NEXT_STEP
# [-0.07, -0.14, -0.32]; vector, SAME_STEP [-0.04, -0.04, -0.04]".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gymnasium==1.4.0 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import NormalizeReward
from gymnasium.wrappers.vector import NormalizeReward as VectorNormalizeReward

GAMMA, LENGTH, EPISODES = 0.99, 200, (10, 50, 250)
STILL = 1  # no push, with which the car never gets out of the valley


def make():
    return gymnasium.make("MountainCar-v0")


def single():
    env = NormalizeReward(make(), gamma=GAMMA)
    seen = []
    for _ in range(max(EPISODES)):
        env.reset(seed=1)
        truncated = False
        while not truncated:
            _, reward, terminated, truncated, _ = env.step(STILL)
            assert not terminated
        seen.append(float(np.squeeze(reward)))
    return seen


def vector(mode):
    env = VectorNormalizeReward(SyncVectorEnv([make], autoreset_mode=mode), gamma=GAMMA)
    env.reset(seed=1)
    seen = []
    while len(seen) < max(EPISODES):
        _, reward, terminated, truncated, _ = env.step(np.array([STILL]))
        assert not terminated.any()
        if truncated[0]:
            seen.append(float(reward[0]))
    return seen


returns = -np.cumsum(GAMMA ** np.arange(LENGTH))
whole = -1 / np.std(returns)
seen = {
    "returns that end with the episode": max(EPISODES) * [float(whole)],
    "NormalizeReward": single(),
    "vector, NEXT_STEP": vector(AutoresetMode.NEXT_STEP),
    "vector, SAME_STEP": vector(AutoresetMode.SAME_STEP),
}
shown = {name: [round(rewards[count - 1], 2) for count in EPISODES] for name, rewards in seen.items()}
print("; ".join(f"{name} {rewards}" for name, rewards in shown.items()))
for name in ("NormalizeReward", "vector, NEXT_STEP"):
    first, second, third = shown[name]
    assert third < 1.5 * second < 2.25 * first < 0 and third < 5 * whole
assert all(abs(reward / whole - 1) < 0.1 for reward in shown["vector, SAME_STEP"])
END
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
