"""The models of trained_models/: what they are called, and that they play what is published."""

import functools
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

import checkpoint
from environment import Normalizer, game_config, make_env, read_config
from gym_eval import build_model
from player import env_seed, play_games
from utils import EVALUATE, game_seed

ROOT = Path(__file__).parent.parent
MODELS = sorted((ROOT / "trained_models").glob("*.dat"))
CLASSIC_NAMES = {  # of the state dict of rl_a3c_pytorch
    *(f"conv{i}.{kind}" for i in (1, 2, 3, 4) for kind in ("weight", "bias")),
    *(f"lstm.{kind}_{gate}" for kind in ("weight", "bias") for gate in ("ih", "hh")),
    *(f"{head}_linear.{kind}" for head in ("critic", "actor") for kind in ("weight", "bias")),
}
STEPS = 300


def test_pong_is_published():
    assert "Pong-v0.dat" in [path.name for path in MODELS]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_published_weights_have_the_classic_names_and_a_description(path):
    state_dict, description = checkpoint.load_model(path)  # checks the sha256
    assert state_dict.keys() == CLASSIC_NAMES
    assert description["env"].replace("/", "-") == path.stem
    assert description["score"] is not None


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_published_weights_play_the_same_game_through_a_plain_forward_pass(path):
    """The first steps of game 0 of `gym_eval.py --seed 1`, with model.py alone, one by one."""
    state_dict, description = checkpoint.load_model(path)
    env_id = description["env"]
    config = game_config(read_config(ROOT / "config.json"), env_id)
    config |= {"actions": description["actions"]}
    make = functools.partial(make_env, env_id, config, description["skip_rate"], STEPS)
    model = build_model(path, state_dict, description["actions"], None)
    frozen = Normalizer(np.array(checkpoint.normalizer_state(path, description)), frozen=True)
    seed = game_seed(1, EVALUATE, 0)
    (result,) = play_games(model, make, [seed], frozen, description["count_lives"])

    env = make(seed=env_seed(seed))
    frame, info = env.reset(seed=env_seed(seed))
    fire = [env.fire_action] * 2 if env.fire_action is not None else []
    zero = torch.zeros(1, model.hidden_size)
    hx, cx = zero, zero
    actions, score, over, length = [], 0.0, False, 0
    while not over:
        if fire:
            action = fire.pop()
        else:
            with torch.no_grad():
                obs = torch.from_numpy(frozen.observe(frame[None]))[None]  # (1, 1, 80, 80)
                _, logits, (hx, cx) = model((obs, (hx, cx)))
            action = int(logits.argmax())
            actions.append(action)
        lives = info.get("lives", 0)
        frame, reward, terminated, truncated, info = env.step(action)
        score, length, over = score + float(reward), length + 1, terminated or truncated
        if info.get("lives", 0) < lives:
            fire = [env.fire_action] * 2 if env.fire_action is not None else []
            if description["count_lives"]:
                hx, cx = zero, zero
    assert (result.score, result.length) == (score, length)
    assert result.actions == hashlib.sha256(bytes(actions)).hexdigest()
