"""An agent in a program of one's own plays the games of gym_eval.py, and says what it thinks."""

import copy
import functools
import hashlib
import json
import pickle
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from test_gym_eval import lively_weights, save

import agent as agent_module
import checkpoint
from agent import Agent
from environment import FIRE_PRESSES, Normalizer, game_config, make_env, read_config
from model import A3Clstm
from player import play_games
from utils import EVALUATE, game_seed

ROOT = Path(agent_module.__file__).parent
CONFIG = ROOT / "config.json"
LIMIT = 80  # agent steps


def make_of(env_id: str):
    config = game_config(read_config(CONFIG), env_id)
    return functools.partial(make_env, env_id, config, 4, LIMIT)


def lively_agent(env_id: str, frozen: bool = True, count_lives: bool = True, greedy: bool = True):
    make = make_of(env_id)
    num_actions = make().action_space.n
    model = A3Clstm(num_actions, 32)
    model.load_state_dict(lively_weights(num_actions))
    normalizer = Normalizer(np.array([1000.0, 80.0, 30.0]), frozen=True) if frozen else None
    return Agent(model, make, normalizer, count_lives, greedy)


def play(agent: Agent, seed: int, game: int, look=lambda env, obs: obs):
    """One game: score, length, and the digest of the actions for which the network was asked.

    look: what the agent is shown of the environment.
    """
    env = agent.make_env()
    obs, info = env.reset(seed=agent.reset(seed, game))
    score, length, over, chosen, lost = 0.0, 0, False, [], 0
    while not over:
        action = agent.act(look(env, obs), info)
        if agent.policy is not None:
            chosen.append(action)
        lives = info["lives"]
        obs, reward, terminated, truncated, info = env.step(action)
        score, length, over = score + float(reward), length + 1, terminated or truncated
        lost += info["lives"] < lives
    return score, length, hashlib.sha256(bytes(chosen)).hexdigest(), lost


@pytest.mark.parametrize(
    ("env_id", "frozen", "count_lives", "greedy", "epsilon"),
    [
        ("Breakout-v0", True, True, True, 0.0),
        ("Breakout-v0", False, False, False, 0.0),
        ("Breakout-v0", True, False, True, 0.2),
        ("PongNoFrameskip-v4", False, True, False, 0.0),
    ],
)
def test_an_agents_games_are_those_of_an_evaluation(env_id, frozen, count_lives, greedy, epsilon):
    """Whatever runs beside them: game 9 is one of ten there, and plays alone here, after game 1."""
    agent = lively_agent(env_id, frozen, count_lives, greedy)
    agent.epsilon = epsilon
    seeds = [game_seed(3, EVALUATE, i) for i in range(10)]
    results = sorted(
        play_games(
            agent.model, agent.make_env, seeds, agent.normalizer, count_lives, greedy, 10,
            epsilon=epsilon,
        )
    )  # fmt: skip
    lost = 0
    for i in (1, 9):
        score, length, actions, lives = play(agent, 3, i)
        assert (i, score, length, actions) == results[i][:4]
        lost += lives
    assert (lost > 0) == ("Breakout" in env_id)


def test_an_agent_presses_fire_when_a_life_begins_and_asks_the_network_otherwise():
    agent = lively_agent("Breakout-v0")
    env = agent.make_env()
    obs, info = env.reset(seed=agent.reset())
    lives, asked = info["lives"], [agent.policy]
    assert asked == [None]
    for _ in range(FIRE_PRESSES):
        assert agent.act(obs, info) == agent.fire_action
        assert (agent.policy, agent.value) == (None, None)
    agent.act(obs, info)
    assert agent.policy is not None
    first = agent.policy
    for _ in range(FIRE_PRESSES):
        assert agent.act(obs, info | {"lives": lives - 1}) == agent.fire_action
    agent.act(obs, info | {"lives": lives - 1})  # the same picture, and nothing remembered
    np.testing.assert_array_equal(agent.policy, first)
    agent.act(obs, info | {"lives": lives - 1})
    assert (agent.policy != first).any()
    agent.reset()
    for lost in range(FIRE_PRESSES):  # what is lost meanwhile does not count
        assert agent.act(obs, info | {"lives": lives - lost}) == agent.fire_action
    agent.act(obs, info | {"lives": lives - FIRE_PRESSES})
    assert agent.policy is not None


def test_policy_and_value_are_those_of_the_network():
    agent = lively_agent("Pong-v0", greedy=False)
    env = agent.make_env()
    obs, info = env.reset(seed=agent.reset())
    hx = cx = torch.zeros(1, 32)
    for _ in range(30):
        action = agent.act(obs, info)
        x = torch.from_numpy(agent.normalizer.normalize(obs[None]))[None]
        with torch.no_grad():
            value, logit, (hx, cx) = agent.model((x, (hx, cx)))
        np.testing.assert_allclose(agent.policy, torch.softmax(logit, 1)[0], rtol=1e-4)
        assert agent.value == pytest.approx(value.item(), rel=1e-4, abs=1e-5)
        assert agent.policy[action] > 0
        obs, *_, info = env.step(action)
    assert agent.actions == ["NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"]


@pytest.mark.parametrize("screen", ["getScreenGrayscale", "getScreenRGB"])
def test_an_agent_sees_the_same_in_ale_pys_whole_screen(screen):
    agent = lively_agent("Breakout-v4")
    by_screen = play(agent, 1, 0, look=lambda env, _: getattr(env.unwrapped.ale, screen)())
    assert by_screen == play(agent, 1, 0)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_of_an_agent_plays_on_as_it_does(duplicate):
    agent = lively_agent("Breakout-v0", greedy=False)
    env = agent.make_env()
    obs, info = env.reset(seed=agent.reset())
    for _ in range(9):
        obs, *_, info = env.step(agent.act(obs, info))
    other = duplicate(agent)
    for _ in range(9):
        action = agent.act(obs, info)
        assert (other.act(obs, info), other.value) == (action, agent.value)
        obs, *_, info = env.step(action)
    again = duplicate(env)  # the same game, not begun
    np.testing.assert_array_equal(again.reset(seed=5)[0], env.reset(seed=5)[0])


@pytest.mark.parametrize(
    "obs",
    [
        np.zeros((84, 84), np.uint8), np.zeros((80, 80)), np.zeros((1, 80, 80), np.uint8),
        [[0] * 80] * 80, "a picture",
    ],
    ids=["84 x 84", "float", "batch", "list", "text"],
)  # fmt: skip
@pytest.mark.parametrize("env_id", ["Pong-v0", "Breakout-v0"])  # this one begins with FIRE
def test_another_observation_is_refused(obs, env_id):
    agent = lively_agent(env_id)
    with pytest.raises(ValueError, match=r"\(80, 80\), \(210, 160\) or \(210, 160, 3\), not"):
        agent.act(obs, {})


def test_an_id_finds_the_weights_of_a_run_before_the_published_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    published = tmp_path / "published"
    monkeypatch.setattr(checkpoint, "PUBLISHED", published)
    own = tmp_path / "trained_models"
    for folder, greedy in ((published, True), (own, False)):
        folder.mkdir()
        path = save(folder, "ALE-Pong-v5", lively_weights(6))
        text = path.with_suffix(".json").read_text()
        policy = '{"policy": "greedy",' if greedy else '{"policy": "sampled",'
        path.with_suffix(".json").write_text(text.replace("{", policy, 1))
        agent = Agent.load("ALE/Pong-v5")
        assert (agent.greedy, agent.make_env.args[0]) == (greedy, "ALE/Pong-v5")
        assert agent.path.resolve() == path


def test_loading_a_file_takes_what_its_description_says(tmp_path):
    path = save(tmp_path, "ALE-Pong-v5", lively_weights(6))
    described = Agent.load(path)
    assert described.make_env.args[0] == "ALE/Pong-v5"
    assert described.normalizer.state.tolist() == [1000.0, 100.0, 5.0]
    path.with_suffix(".json").unlink()
    bare = Agent.load(str(path), greedy=False)
    assert bare.make_env.args[0] == "ALE/Pong-v5"  # by the name of the file
    assert (bare.normalizer, bare.description, bare.greedy) == (None, {}, False)


def test_an_id_without_weights_or_without_a_game_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no weights of Tennis-v0 are published"):
        Agent.load("Tennis-v0")
    with pytest.raises(ValueError, match="the nearest known are Pong-v0"):
        Agent.load("Png-v0")


def test_a_path_that_is_no_file_of_weights_is_no_unknown_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for source in ("published/Pong-v0", "folder", "Pong-v0.json", "model.pth", "ALE/Pong-v5.json"):
        with pytest.raises(ValueError, match=f"^{source}: weights are a .dat or .ckpt file$"):
            Agent.load(source)
    Path("Pong-v0").mkdir()  # an id is an id
    monkeypatch.setattr(checkpoint, "PUBLISHED", tmp_path)
    for source in ("Pong-v0", "ALE/Pong-v5"):
        with pytest.raises(ValueError, match="no weights of"):
            Agent.load(source)
    with pytest.raises(ValueError, match="the nearest known are ALE/Pong-v5"):
        Agent.load("ALE/Png-v5")


def test_what_is_no_source_and_no_truth_value_is_one_line():
    with pytest.raises(ValueError, match=r"for an id, not from None$"):
        Agent.load(None)
    with pytest.raises(ValueError, match=r"^greedy is True, False or None, not 'False'$"):
        Agent.load("Pong-v0", greedy="False")
    with pytest.raises(ValueError, match=r"^plain is True or False, not 'False'$"):
        Agent.load("Pong-v0", plain="False")


def test_another_size_than_that_of_the_weights_is_refused_in_words_of_this_interface(tmp_path):
    path = save(tmp_path, "Pong-v0", lively_weights(6))
    with pytest.raises(ValueError, match=r"has 32 LSTM units, not the 5 asked for$"):
        Agent.load(path, hidden_size=5)


def test_the_weights_say_how_many_units_they_have_whatever_their_description_does(tmp_path):
    path = save(tmp_path, "Pong-v0", lively_weights(6))
    description = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(description | {"hidden_size": 10**9}))
    assert Agent.load(path).model.hidden_size == 32


def test_the_actions_are_those_of_the_description_whatever_its_crops_say(tmp_path):
    path = save(tmp_path, "Pong-v0", lively_weights(6))
    description = json.loads(path.with_suffix(".json").read_text())
    crops = {"crop1": 34, "crop2": 34, "actions": ["NOOP"]}
    path.with_suffix(".json").write_text(json.dumps(description | {"game_config": crops}))
    assert Agent.load(path).actions == description["actions"]


@pytest.mark.parametrize("said", [None, {}, {"crop1": 16, "crop2": 34, "flicker": True}])
def test_an_agent_sees_two_frames_at_once_only_if_it_was_trained_so(tmp_path, said):
    """Whatever the crop table has now: earlier versions did not know of it."""
    path = save(tmp_path, "Asteroids-v0", lively_weights(14))
    description = json.loads(path.with_suffix(".json").read_text())
    changed = description | ({} if said is None else {"game_config": said})
    path.with_suffix(".json").write_text(json.dumps(changed))
    agent, flicker = Agent.load(path), bool(said)
    assert agent.make_env().unwrapped.flicker == flicker
    assert agent.game_config.get("flicker", False) == flicker
    path.with_suffix(".json").unlink()  # as a file of the classic suite
    assert not Agent.load(path).make_env().unwrapped.flicker
    table = tmp_path / "table.json"
    table.write_text('{"Default": {"crop1": 16, "crop2": 34, "flicker": true}}')
    assert Agent.load(path, env_config=table).make_env().unwrapped.flicker
    single = Agent.load(path, "AsteroidsNoFrameskip-v4", env_config=table)
    assert "flicker" not in single.game_config
    two = pickle.loads(pickle.dumps(Agent.load(path, env_config=table).make_env()))
    assert two.unwrapped.flicker


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"skip_rate": 7}, "Pong-v0 skips by itself"),
        ({"skip_rate": 0}, "must be 1 or more, not 0"),
        ({"max_episode_length": 0}, "must be 1 or more, not 0"),
        ({"max_idle_steps": -5}, "must be 1 or more, not -5"),
    ],
    ids=str,
)
def test_what_an_agent_cannot_play_by_is_refused(tmp_path, given, reason):
    path = save(tmp_path, "Pong-v0", lively_weights(6))
    with pytest.raises(ValueError, match=reason):
        Agent.load(path, **given)


@pytest.mark.parametrize("share", [2, -0.1, float("nan")])
def test_an_epsilon_that_is_no_share_is_refused(share):
    agent = lively_agent("Pong-v0")
    with pytest.raises(ValueError, match=f"^epsilon is a share from 0 to 1, not {share}$"):
        agent.epsilon = share
    assert agent.epsilon == 0.0


def readme_block() -> str:
    """The Python of README.md that imports Agent, indented or between fences."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n([\s\S]*?)```|((?:^(?: {4}.*)?\n)+)", text, re.M)
    (block,) = (a or b for a, b in blocks if "from agent import" in a + b)
    return textwrap.dedent(block)


def test_the_block_of_the_readme_plays_the_game_that_it_names(monkeypatch, capsys):
    """Exactly as it stands there, but for the length of the game."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        agent_module, "make_env", lambda *args, **options: make_env(*args[:3], LIMIT, **options)
    )
    exec(readme_block(), names := {})
    agent = names["agent"]
    (result,) = play_games(
        agent.model,
        agent.make_env,
        [game_seed(1, EVALUATE, 0)],
        agent.normalizer,
        agent.count_lives,
        agent.greedy,
    )
    said = f"{agent.path} {result.score} {agent.policy} {agent.value}\n"
    assert capsys.readouterr().out == said
