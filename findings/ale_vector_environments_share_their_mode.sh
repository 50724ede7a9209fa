#!/usr/bin/env bash
# ale-py 0.12.1, Gymnasium 1.4.0: AtariVectorEnv writes its autoreset mode into a dictionary of the class VectorEnv, so
# that metadata["autoreset_mode"] of each ALE vector environment is the mode of the one that was made last, wherever in
# the program. What an environment does stays as it was, what is believed of it changes: wrappers ask the metadata when
# they wrap. After an evaluation in another mode was made, a training in SAME_STEP gets observation wrappers that refuse
# this mode otherwise, and keeps final_obs, of which the value at a time limit is taken, as they were: 0 to 255 in place
# of 0 to 1. Its statistics lack the first step of all episodes but the first, and those of a training in NEXT_STEP have
# one too many, or its wrappers are refused. env.unwrapped.autoreset_mode is right, and so are the wrappers of an
# environment that is wrapped before the next one is made.
# Guess: the metadata of an environment tell of that environment, as those of Gymnasium's own vector classes do.
#
# Seen: "SameStep alone: metadata SameStep, scaling refused, length of the second episode 100 of 100"; "SameStep, then
# one of NextStep: metadata NextStep, scaled to 0.93 and final_obs to 236.0, length of the second episode 99 of 100";
# "NextStep alone: metadata NextStep, scaled to 0.93, length of the second episode 100 of 100"; "NextStep, then one of
# SameStep: metadata SameStep, scaling refused, length of the second episode 101 of 100"; "SyncVectorEnv of SameStep,
# then one of NextStep: metadata SameStep".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ale-py==0.12.1 gymnasium==1.4.0 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
import ale_py
import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics, TransformObservation

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
gymnasium.register_envs(ale_py)
SAME, NEXT = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP


def make(mode):
    """Pong, cut after 100 steps."""
    return gymnasium.make_vec(
        "ALE/Pong-v5", 1, autoreset_mode=mode, max_num_frames_per_episode=400, noop_max=0, use_fire_reset=False
    )


def scaled(env):
    space = gymnasium.spaces.Box(0, 1, (4, 84, 84), np.float32)
    return TransformObservation(env, lambda frames: (frames / 255).astype(np.float32), space)


def second_episode(env, mode):
    """Its length as the statistics say it, and in truth; the largest value of its observations, and of final_obs."""
    env.reset(seed=1)
    ends, steps, largest = 0, 0, 0
    while ends < 2:
        observations, _, _, truncated, info = env.step(np.array([0]))
        steps, largest = steps + 1, max(largest, observations.max())
        if truncated[0]:
            ends += 1
            length, real, steps = int(info["episode"]["l"][0]), steps, 0
            if mode == NEXT and ends == 1:
                env.step(np.array([0]))  # the reset
    return length, real, float(largest), float(info["final_obs"][0].max()) if "final_obs" in info else None


def look(mode, later=None):
    env = make(mode)
    if later:
        make(later)
    said, text = env.metadata["autoreset_mode"], "scaling refused"
    try:
        env = scaled(env)
    except ValueError:
        assert said == SAME
    length, real, largest, final = second_episode(RecordEpisodeStatistics(env), mode)
    if largest <= 1:
        text = f"scaled to {largest:.2f}" + (f" and final_obs to {final}" if final else "")
    then = f", then one of {later.value}" if later else " alone"
    print(f"{mode.value}{then}: metadata {said.value}, {text}, length of the second episode {length} of {real}")
    return said, text.split(" to ")[0], length - real, final is not None and final > 1 >= largest


assert look(SAME) == (SAME, "scaling refused", 0, False)
assert look(SAME, NEXT) == (NEXT, "scaled", -1, True)
assert look(NEXT) == (NEXT, "scaled", 0, False)
assert look(NEXT, SAME) == (SAME, "scaling refused", 1, False)
sync = [
    gymnasium.make_vec("ALE/Pong-v5", 1, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode})
    for mode in (SAME, NEXT)
]
said = sync[0].metadata["autoreset_mode"]
print(f"SyncVectorEnv of SameStep, then one of NextStep: metadata {said.value}")
assert said == SAME
END
"$folder/venv/bin/python" -W ignore "$folder/finding.py"
