#!/usr/bin/env bash
# MO-Gymnasium 1.3.2: MORecordEpisodeStatistics for vector environments, mo_gymnasium.wrappers.vector, never sets the
# discounted return back. The undiscounted one and the length begin anew with each episode, but info["episode"]["dr"],
# "array of discounted reward for each done sub-environment", is the sum over all the episodes that this environment has
# played since reset(): the second one's is that of two episodes, the hundredth's that of a hundred. The curve of the
# discounted returns is a straight line, up where rewards are positive and down where they are costs, whatever is
# learned, and is the steeper the shorter the episodes are: a cost that an agent learns to keep low looks as if it
# grew. Nothing is raised, and the wrapper of the same name for a single environment is right. Guess: as that one, the
# return of the episode that has just ended. Only reset() clears it, and that ends all the episodes. The way around is
# the wrapper for a single environment, around each one inside the vector environment. The repository has it mended
# since July 2026, with pull request 142, but no release has.
#
# Seen: "single: 200 episodes, dr is that of the episode in 200"; "vector: 200 episodes, dr is that of the episode in 2
# (the first of each environment), the sum of all so far in 200; means of r, of the discounted returns and of dr of the
# last 50: [2.86, -8.50], [1.12, -3.91], [112.50, -384.91]".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mo-gymnasium==1.3.2 gymnasium==1.2.2 numpy==2.2.6 scipy==1.17.1
cat > "$folder/finding.py" <<'END'
import mo_gymnasium
import numpy as np
from mo_gymnasium import wrappers

NAME, GAMMA, EPISODES = "deep-sea-treasure-v0", 0.9, 200
close = dict(rtol=1e-4, atol=1e-4)


def discounted(rewards):
    return sum(GAMMA**step * reward.astype(float) for step, reward in enumerate(rewards))


single = wrappers.MORecordEpisodeStatistics(mo_gymnasium.make(NAME), gamma=GAMMA)
single.action_space.seed(1)
right = 0
for _ in range(EPISODES):
    single.reset(seed=1)
    rewards, over = [], False
    while not over:
        _, reward, terminated, truncated, info = single.step(single.action_space.sample())
        rewards.append(reward)
        over = terminated or truncated
    right += np.allclose(info["episode"]["dr"], discounted(rewards), **close)
print(f"single: {EPISODES} episodes, dr is that of the episode in {right}")
assert right == EPISODES

envs = wrappers.vector.MOSyncVectorEnv([lambda: mo_gymnasium.make(NAME)] * 2)
envs = wrappers.vector.MORecordEpisodeStatistics(envs, gamma=GAMMA)
envs.action_space.seed(1)
envs.reset(seed=1)
steps, sums, begins = [[], []], [np.zeros(2), np.zeros(2)], [False, False]
seen, right, added = [], 0, 0
while len(seen) < EPISODES:
    _, rewards, terminated, truncated, info = envs.step(envs.action_space.sample())
    for i in range(2):
        if begins[i]:  # the step that resets this one, whose reward is 0
            begins[i] = False
            continue
        steps[i].append(rewards[i])
        if terminated[i] or truncated[i]:
            begins[i], truth = True, discounted(steps[i])
            sums[i] = sums[i] + truth
            statistics = {key: value[i] for key, value in info["episode"].items()}
            assert statistics["l"] == len(steps[i])
            assert np.allclose(statistics["r"], np.sum(steps[i], 0), **close)
            right += np.allclose(statistics["dr"], truth, **close)
            added += np.allclose(statistics["dr"], sums[i], **close)
            seen.append((statistics["r"], truth, statistics["dr"]))
            steps[i] = []
means = ", ".join("[{:.2f}, {:.2f}]".format(*pair) for pair in np.mean(seen[-50:], 0))
print(
    f"vector: {len(seen)} episodes, dr is that of the episode in {right} (the first of each environment), the sum of "
    f"all so far in {added}; means of r, of the discounted returns and of dr of the last 50: {means}"
)
assert right == 2 and added == len(seen)
END
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
