"""The published models: what they are called, and that they play what is published."""

import functools
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from test_model import CLASSIC_LAYOUT

import checkpoint
import kernels
from environment import FIRE_PRESSES, Normalizer, file_name, game_config, make_env, read_config
from gym_eval import build_model
from player import env_seed, play_games
from utils import EVALUATE, game_seed

ROOT = Path(__file__).parent.parent
PUBLISHED = (
    "Pong-v0", "seed-3/Pong-v0", "Breakout-v0", "SpaceInvaders-v0", "MsPacman-v0", "BeamRider-v0",
    "Asteroids-v0",
)  # fmt: skip
STEPS = 1000

every_model = pytest.mark.parametrize("name", PUBLISHED)


def load(name):
    path = ROOT / "trained_models" / f"{name}.dat"
    return path, *checkpoint.load_model(path)  # compares the sha256


@every_model
def test_published_weights_have_the_classic_layout_and_a_description(name):
    path, state_dict, description = load(name)
    shapes = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    n = len(description["actions"])
    heads = {"actor_linear.weight": (n, 512), "actor_linear.bias": (n,)}
    assert shapes == CLASSIC_LAYOUT | heads
    assert file_name(description["env"]) == path.stem
    assert description["score"] is not None


@pytest.mark.skipif(not kernels.HAVE_NUMBA, reason="numba is not installed")
@every_model
def test_published_weights_play_the_same_game_through_a_plain_forward_pass(name):
    """The first steps of game 0 of `gym_eval.py --seed 1`, with model.py alone, one by one."""
    path, state_dict, description = load(name)
    env_id = description["env"]
    config = game_config(read_config(ROOT / "config.json"), env_id)
    make = functools.partial(make_env, env_id, config, description["skip_rate"], STEPS)
    model = build_model(path, state_dict, description, description["actions"])
    frozen = Normalizer(np.array(checkpoint.normalizer_state(path, description)), frozen=True)
    seed = game_seed(1, EVALUATE, 0)
    (result,) = play_games(model, make, [seed], frozen, description["count_lives"])

    env = make(seed=env_seed(seed))
    frame, info = env.reset(seed=env_seed(seed))
    actions, score, length, over = [], 0.0, 0, False

    def act(action):
        nonlocal frame, info, score, length, over
        frame, reward, terminated, truncated, info = env.step(action)
        score, length, over = score + float(reward), length + 1, terminated or truncated

    def press_fire():
        for _ in range(FIRE_PRESSES if env.fire_action is not None else 0):
            if not over:
                act(env.fire_action)

    press_fire()
    lives = info["lives"]
    lost = 0
    hx = cx = torch.zeros(1, model.hidden_size)
    while not over:
        obs = torch.from_numpy(frozen.observe(frame[None]))[None]  # (1, 1, 80, 80)
        with torch.no_grad():
            _, logits, (hx, cx) = model((obs, (hx, cx)))
        actions.append(int(logits.argmax()))
        act(actions[-1])
        if info["lives"] < lives:  # a training episode was one life
            lost += 1
            press_fire()
            hx = cx = torch.zeros(1, model.hidden_size)
        lives = info["lives"]
    env.close()
    assert description["count_lives"]
    assert (lost > 0) == ("Pong" not in name)
    assert (env.fire_action is not None) == ("Breakout" in name)
    assert (result.score, result.length) == (score, length)
    assert result.actions == hashlib.sha256(bytes(actions)).hexdigest()
