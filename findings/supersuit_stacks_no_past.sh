#!/usr/bin/env bash
# SuperSuit 3.11.0: frame_stack_v1 and frame_stack_v2 of grayscale frames (height, width), with stack_dim=0 for
# PyTorch's order, hold no past: of four frames the first three are the present one, and the last is black, for the
# whole game. The shape and the space are right, and a network learns from them, blind to any movement. With
# stack_dim=-1, or a channel of its own (1, height, width), the frames are right. In both orders each step returns the
# same array, overwritten: who keeps the observation until the next step, for a TD error or a list of a rollout, has
# the next one twice. Gymnasium's FrameStackObservation does neither. Guess: stack_dim says where the frames are, and
# an observation is the caller's.
#
# Seen, for both, as "frames back from now": "stack_dim=-1: [3, 2, 1, 0]; stack_dim=0: [0, 0, 0, 'black']; (1, height,
# width), stack_dim=0: [3, 2, 1, 0]; the array of the step before: the same, True"; "Gymnasium: [3, 2, 1, 0]; the same,
# False".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet SuperSuit==3.11.0 pettingzoo==1.27.0 gymnasium==1.4.0 ale-py==0.12.1 numpy==2.4.6
cat > "$folder/finding.py" <<'END'
import ale_py
import gymnasium
import numpy as np
import supersuit
from gymnasium.wrappers import FrameStackObservation, TransformObservation

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
gymnasium.register_envs(ale_py)


def pong():
    return gymnasium.make("ALE/Pong-v5", obs_type="grayscale")


def with_channel():
    space = gymnasium.spaces.Box(0, 255, (1, 210, 160), np.uint8)
    return TransformObservation(pong(), lambda frame: frame[None], space)


def stacked(env, axis):
    """For each frame of the stack: how many steps ago it was; and whether a step returns the array of the last one."""
    env.action_space.seed(1)
    before, _ = env.reset(seed=1)
    past = []
    for _ in range(30):
        stack = env.step(env.action_space.sample())[0]
        past.insert(0, env.unwrapped.ale.getScreenGrayscale())
        same, before = stack is before, stack
    assert stack.shape == env.observation_space.shape and len({frame.tobytes() for frame in past[:4]}) == 4
    steps = []
    for frame in np.moveaxis(stack, axis, 0):
        ago = [k for k in range(4) if (frame == past[k]).all()]
        steps += ago or ["?" if frame.any() else "black"]
    return steps, same


for stack in (supersuit.frame_stack_v1, supersuit.frame_stack_v2):
    last, same_last = stacked(stack(pong(), 4, stack_dim=-1), -1)
    first, same_first = stacked(stack(pong(), 4, stack_dim=0), 0)
    channel, _ = stacked(stack(with_channel(), 4, stack_dim=0), 0)
    print(
        f"{stack.__name__}: stack_dim=-1: {last}; stack_dim=0: {first}; (1, height, width), stack_dim=0: {channel}; "
        f"the array of the step before: the same, {same_first}"
    )
    assert last == channel == [3, 2, 1, 0] and first == [0, 0, 0, "black"] and same_last and same_first
right, same = stacked(FrameStackObservation(pong(), 4), 0)
print(f"Gymnasium: {right}; the same, {same}")
assert right == [3, 2, 1, 0] and not same
END
"$folder/venv/bin/python" "$folder/finding.py"
