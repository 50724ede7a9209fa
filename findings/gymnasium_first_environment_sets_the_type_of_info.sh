#!/usr/bin/env bash
# Gymnasium 1.4.0, SyncVectorEnv and AsyncVectorEnv: the first environment that has a key in its info at a step decides
# the type of that key's array, and the values of the others are cut to it, without a word. A wrapper that reports a
# human-normalized score, 0 as long as there is none, is right in each environment, and in the vector 0.53 is 0 whenever
# an environment before it has still its 0; with the environments in the other order it is right. A flag before a count
# makes True of 7, a uint8 picture before scaled ones makes 0 of all of them. So a curve that is drawn from infos reads
# low at the beginning of a training, or now and then, and the log of one environment alone never shows it. Guess: the
# array is what numpy makes of the list of values, and holds each of them. A float(...) in each info is the way around.
#
# Seen, of both: "[0, 0.53] becomes [0, 0]; [0.53, 0] becomes [0.53, 0.0]; [False, 7] becomes [False, True]; [0, 1.9,
# -1.9] becomes [0, 1, -1]; a picture of 0 to 255, then one scaled to 0.5: [0]; numpy: [0.0, 0.53]".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gymnasium==1.4.0 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
from functools import partial

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv


class Reports(gymnasium.Wrapper):
    """An environment with one more value in the info of each step."""

    def __init__(self, value):
        super().__init__(gymnasium.make("CartPole-v1"))
        self.value = value

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, info | {"value": self.value}


def told(vector, values):
    """What the info of a vector of environments says, of which each reports one of the values."""
    env = vector([partial(Reports, value) for value in values])
    env.reset(seed=1)
    info = env.step(np.zeros(len(values), np.int64))[4]
    env.close()
    assert info["_value"].all()
    return info["value"].tolist()


if __name__ == "__main__":
    for vector in (SyncVectorEnv, AsyncVectorEnv):
        seen = {values: told(vector, values) for values in ((0, 0.53), (0.53, 0), (False, 7), (0, 1.9, -1.9))}
        picture = told(vector, (np.zeros(1, np.uint8), np.full(1, 0.5, np.float32)))[1]
        text = "; ".join(f"{list(values)} becomes {cut}" for values, cut in seen.items())
        likely = np.array([0, 0.53]).tolist()
        print(
            f"{vector.__name__}: {text}; a picture of 0 to 255, then one scaled to 0.5: {picture}; numpy: {likely}"
        )
        assert list(seen.values()) == [[0, 0], [0.53, 0], [False, True], [0, 1, -1]] and picture == [0]
        assert all(type(value) is int for value in seen[0, 0.53]) and likely == [0, 0.53]
END
"$folder/venv/bin/python" "$folder/finding.py"
