"""Environments against the emulator driven by hand, known answers and slow ground truth.

ALL_IDS=1 plays every one of the 1040 ids instead of one of each game's ten (about 6 minutes).
"""

import copy
import itertools
import json
import os
import pickle
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import ale_py
import gymnasium
import numpy as np
import pytest
import torch
from ale_py import roms
from games import Event, Scripted

import environment
from environment import (
    IDLE_STEPS,
    EnvSpec,
    IdleLimit,
    Normalizer,
    file_name,
    game_config,
    has_chance,
    idle_limit,
    known_env_ids,
    make_env,
    parse_env_id,
    read_config,
)

SEVEN = ("Pong", "Breakout", "SpaceInvaders", "BeamRider", "MsPacman", "Asteroids", "Seaquest")
TABLE = read_config(Path(__file__).parent.parent / "config.json")
NOOP = 0  # its index in the action sets of the seven games
OLD_BREAKOUT = ["NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"]


def make(env_id, skip_rate=4, max_episode_length=None, render_mode=None, **changes):
    """make_env with the game's own entry of the crop table, changed by `changes`."""
    entry = game_config(TABLE, env_id) | changes
    return make_env(env_id, entry, skip_rate, max_episode_length, render_mode)


def bare_emulator(env_id, env=None):
    """A bare emulator, just reset: with the seeds and stickiness of `env`, or with none."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    if env is not None:
        theirs = env.unwrapped.ale
        for name in ("random_seed", "system_random_seed"):
            ale.setInt(name, theirs.getInt(name))
        ale.setFloat("repeat_action_probability", parse_env_id(env_id).repeat_action_probability)
    ale.loadROM(roms.get_rom_path(parse_env_id(env_id).game))
    ale.reset_game()
    return ale


@lru_cache
def averaging(rows):
    """(80, rows): the matrix that averages over 80 equal spans of `rows` pixels."""
    overlap = [
        [max(0, min(row + 1, (i + 1) * rows / 80) - max(row, i * rows / 80)) for row in range(rows)]
        for i in range(80)
    ]
    return np.array(overlap) * 80 / rows


def assert_shows(obs, screen, env_id):
    """`obs` is the crop of the grey `screen`, averaged over areas, to the nearest grey level."""
    entry = game_config(TABLE, env_id)
    window = screen[entry["crop1"] : entry["crop2"] + 160].astype(float)
    exact = averaging(len(window)) @ window @ averaging(160).T
    assert obs.shape == (80, 80)
    assert obs.dtype == np.uint8
    assert np.abs(obs - exact).max() <= 0.51  # 0.01: float32 sums inside cv2


def actions_of(env, seed):
    """Endless random actions, each held for some steps so that play goes somewhere."""
    rng = np.random.default_rng(seed)
    while True:
        yield from [int(rng.integers(env.action_space.n))] * int(rng.integers(1, 8))


def trace(env, seed, steps=60):
    """What a game shows: observations, rewards, frame counters of `steps` random steps."""
    obs, info = env.reset(seed=seed)
    seen = [(obs.tobytes(), 0.0, info["frame_number"])]
    for action in itertools.islice(actions_of(env, 0), steps):
        obs, reward, terminated, truncated, info = env.step(action)
        seen.append((obs.tobytes(), reward, info["frame_number"]))
        if terminated or truncated:
            break
    return seen


def steps_to_the_end(env, at_most):
    """Steps of NOOP until (terminated, truncated); fails if `at_most` steps are not enough."""
    env.reset(seed=1)
    for step in range(1, at_most + 1):
        _, _, terminated, truncated, _ = env.step(NOOP)
        if terminated or truncated:
            return step, terminated, truncated
    pytest.fail(f"no end within {at_most} steps")


# ---------------------------------------------------------------------------------------------
# Ids


@pytest.mark.parametrize(
    ("env_id", "spec"),
    [
        ("Pong-v0", ("pong", (2, 5), 0.25, 10_000, False)),
        ("Pong-v3", ("pong", (2, 5), 0.0, 100_000, False)),
        ("MsPacman-v4", ("ms_pacman", (2, 5), 0.0, 100_000, False)),
        ("PongDeterministic-v0", ("pong", 4, 0.25, 100_000, False)),
        ("PongDeterministic-v4", ("pong", 4, 0.0, 100_000, False)),
        ("SpaceInvadersDeterministic-v3", ("space_invaders", 3, 0.0, 100_000, False)),
        ("SpaceInvaders-v0", ("space_invaders", (2, 5), 0.25, 10_000, False)),
        ("PongNoFrameskip-v0", ("pong", 1, 0.25, 400_000, True)),
        ("PongNoFrameskip-v3", ("pong", 1, 0.0, 400_000, True)),
        ("SpaceInvadersNoFrameskip-v4", ("space_invaders", 1, 0.0, 300_000, True)),
        ("ALE/SpaceInvaders-v5", ("space_invaders", 4, 0.25, 27_000, False)),
        ("ALE/TicTacToe3D-v5", ("tic_tac_toe_3d", 4, 0.25, 27_000, False)),
        ("UpNDown-v0", ("up_n_down", (2, 5), 0.25, 10_000, False)),
    ],
)
def test_an_id_says_what_the_table_of_the_gym_releases_says(env_id, spec):
    assert parse_env_id(env_id) == EnvSpec(env_id, *spec)
    assert pickle.loads(pickle.dumps(parse_env_id(env_id))) == parse_env_id(env_id)


def test_there_are_ten_ids_for_each_of_104_games():
    ids = known_env_ids()
    assert len(ids) == len(set(ids)) == 1040
    games = {}
    for env_id in ids:
        games.setdefault(parse_env_id(env_id).game, []).append(env_id)
    assert len(games) == 104
    name = ale_py.registration.rom_id_to_name
    for game, of_game in games.items():
        kinds = itertools.product(("", "Deterministic", "NoFrameskip"), ("v0", "v3", "v4"))
        old_ids = [f"{name(game)}{kind}-{version}" for kind, version in kinds]
        assert sorted(of_game) == sorted([*old_ids, f"ALE/{name(game)}-v5"])


def test_v5_ids_are_what_ale_py_registers():
    gymnasium.register_envs(ale_py)
    theirs = {env_id for env_id in gymnasium.registry if re.fullmatch(r"ALE/.*-v5", env_id)}
    assert theirs == {env_id for env_id in known_env_ids() if env_id.startswith("ALE/")}
    for env_id in theirs:
        spec, kwargs = parse_env_id(env_id), gymnasium.spec(env_id).kwargs
        assert spec.game == kwargs["game"]
        assert spec.frame_skip == kwargs["frameskip"]
        assert spec.repeat_action_probability == kwargs["repeat_action_probability"]
        assert spec.time_limit * spec.frame_skip == kwargs["max_num_frames_per_episode"]


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("Breakot-v0", "Breakout-v0"),
        ("pong-v0", "Pong-v0"),
        ("PongDeterministic-v1", "PongDeterministic-v0"),
        ("ALE/Pong-v4", "ALE/Pong-v5"),
        ("PongNoFrameSkip-v4", "PongNoFrameskip-v4"),
        ("Pong", "Pong-v0"),
        ("hero", "Hero-v0"),
    ],
)
def test_an_unknown_id_is_one_line_that_names_near_ids(wrong, near):
    with pytest.raises(ValueError, match="unknown environment") as error:
        parse_env_id(wrong)
    assert near in str(error.value).split("nearest")[1]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", ["", "Foo-v3"])  # with a guess at any price, Foo-v3 was Pooyan
def test_an_id_that_is_near_to_none_gets_no_guess(wrong):
    with pytest.raises(ValueError, match=f"^unknown environment '{wrong}'$"):
        parse_env_id(wrong)


# Loading one of these ROMs would kill the process: that the test goes on is the proof.
@pytest.mark.parametrize(
    "env_id", ["Combat-v0", "JoustDeterministic-v4", "MazeCrazeNoFrameskip-v0", "ALE/Warlords-v5"]
)
def test_multi_player_games_are_refused(env_id):
    assert env_id not in known_env_ids()
    with pytest.raises(ValueError, match="several players") as error:
        make_env(env_id, TABLE["Default"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("env_id", ["Pong-ram-v0", "Pong-ramDeterministic-v4", "ALE/Pong-ram-v5"])
def test_ram_ids_are_refused(env_id):
    with pytest.raises(ValueError, match="no screen") as error:
        make_env(env_id, TABLE["Default"])
    assert "\n" not in str(error.value)


def test_a_file_name_has_no_slash():
    assert file_name("ALE/Pong-v5") == "ALE-Pong-v5"
    assert file_name("PongDeterministic-v4") == "PongDeterministic-v4"


# ---------------------------------------------------------------------------------------------
# The crop table


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_classic_table_with_its_unused_dimension_loads(tmp_path):
    classic = {
        "Default": {"crop1": 34, "crop2": 34, "dimension2": 80},
        "Seaquest": {"crop1": 30, "crop2": 30, "dimension2": 80},
    }
    config = read_config(write(tmp_path / "config.json", classic))
    assert game_config(config, "SeaquestDeterministic-v4")["crop1"] == 30
    assert game_config(config, "Pong-v0") == classic["Default"]


def test_an_entry_is_that_of_exactly_this_game():
    names = ("Default", "Pong", "Pitfall", "Pitfall2")
    config = {name: {"crop1": number} for number, name in enumerate(names)}
    for env_id in ("Pong-v0", "PongDeterministic-v4", "PongNoFrameskip-v3", "ALE/Pong-v5"):
        assert game_config(config, env_id)["crop1"] == 1
    assert game_config(config, "ALE/Pitfall-v5")["crop1"] == 2
    assert game_config(config, "Pitfall2NoFrameskip-v4")["crop1"] == 3
    assert game_config(config, "Breakout-v0")["crop1"] == 0


GOOD = {"crop1": 34, "crop2": 34}


@pytest.mark.parametrize(
    "content",
    [
        '{"Default": {"crop1": 34,',
        "",
        [],
        {},
        {"Pong": GOOD},  # no Default
        {"Default": 34},
        {"Default": GOOD, "Pong": [34, 34]},
        {"Default": GOOD, "pong": GOOD},
        {"Default": GOOD, "Pong-v0": GOOD},
        {"Default": {"crop1": 34}},
        {"Default": {"crop1": 34, "crop2": "34"}},
        {"Default": {"crop1": 34, "crop2": 34.5}},
        {"Default": {"crop1": 34, "crop2": True}},
        {"Default": {"crop1": -1, "crop2": 34}},
        {"Default": GOOD | {"crop3": 1}},
        {"Default": GOOD | {"fire": "yes"}},
        {"Default": GOOD | {"actions": "NOOP"}},
        {"Default": GOOD | {"actions": []}},
        {"Default": GOOD | {"actions": ["NOOP", "JUMP"]}},
        {"Default": GOOD | {"actions": ["NOOP", ["FIRE"]]}},
        {"Default": GOOD | {"actions": ["NOOP", "NOOP"]}},
    ],
)
def test_a_table_that_is_none_is_one_line_that_names_the_file(tmp_path, content):
    path = write(tmp_path / "config.json", content)
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        read_config(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("FrostBite", "the nearest is 'Frostbite'"),
        ("default", "the nearest is 'Default'"),
        ("ALE/Qbert-v5", "the nearest is 'Qbert'"),
        ("Xyz", "'Pong' is the one of Pong-v0"),
    ],
)
def test_a_misspelt_game_of_a_table_gets_the_nearest_name(tmp_path, name, nearest):
    path = write(tmp_path / "config.json", {"Default": GOOD, name: GOOD})
    with pytest.raises(ValueError, match=f"no game is called so; {nearest}$"):
        read_config(path)


def test_a_missing_or_binary_table_is_one_line_that_names_the_file(tmp_path):
    binary = tmp_path / "model.dat"
    binary.write_bytes(bytes(range(256)))
    for path in (tmp_path / "none.json", tmp_path, binary):
        with pytest.raises(ValueError, match=re.escape(str(path))) as error:
            read_config(path)
        assert "\n" not in str(error.value)


def test_a_crop_may_touch_the_edge_of_the_screen_but_not_leave_it():
    assert make("Pong-v0", crop1=0, crop2=50).reset(seed=1)[0].shape == (80, 80)
    with pytest.raises(ValueError, match="leaves the screen of 210 rows") as error:
        make("Pong-v0", crop2=51)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="leaves the screen"):
        make("Pong-v0", crop1=170, crop2=10)
    # This ROM has 250 rows: the same crop is inside.
    assert make("Adventure-v0", crop2=90).reset(seed=1)[0].shape == (80, 80)


def test_the_table_holds_the_crops_of_the_suite():
    crops = {name: (entry["crop1"], entry["crop2"]) for name, entry in TABLE.items()}
    expected = {
        "Default": (34, 34), "Asteroids": (16, 34), "BeamRider": (20, 20), "Breakout": (34, 34),
        "Centipede": (7, 27), "MsPacman": (2, 10), "Pong": (34, 34), "Seaquest": (30, 30),
        "SpaceInvaders": (8, 36), "VideoPinball": (16, 34), "Qbert": (12, 40), "Boxing": (30, 30),
    }  # fmt: skip
    assert crops | expected == crops


# ---------------------------------------------------------------------------------------------
# Whole games


def one_id_of_each_game():
    """An id of every game, the families in turn."""
    games = itertools.groupby(known_env_ids(), key=lambda env_id: parse_env_id(env_id).game)
    return [list(ids)[i % 10] for i, (_, ids) in enumerate(games)]


PLAYED = known_env_ids() if "ALL_IDS" in os.environ else one_id_of_each_game()


def play(env_id):
    """50 steps of the game, checked; what went wrong, or None."""
    try:
        env = make(env_id)
        obs, info = env.reset()
        assert "lives" in info
        assert len(env.action_meanings) == env.action_space.n
        for action in itertools.islice(actions_of(env, 0), 50):
            assert env.observation_space.contains(obs)
            obs, reward, terminated, truncated, info = env.step(action)
            assert isinstance(reward, float)
            assert not truncated
            if terminated:
                obs, info = env.reset()
    except Exception as error:
        return f"{env_id}: {error!r}"


@pytest.mark.timeout(1200)
def test_every_game_constructs_and_plays():
    with ThreadPoolExecutor(2) as pool:  # the emulator leaves the GIL while it works
        assert [fault for fault in pool.map(play, PLAYED) if fault] == []


@pytest.mark.parametrize("env_id", [i for i in known_env_ids() if parse_env_id(i).game == "pong"])
def test_every_family_plays_and_has_no_limit_of_ale_pys(env_id):
    assert play(env_id) is None
    assert make(env_id).unwrapped.ale.getInt("max_num_frames_per_episode") == 0


STICKY = ("SeaquestDeterministic-v0", "SpaceInvadersDeterministic-v0", "ALE/Breakout-v5")


@pytest.mark.parametrize("env_id", [*(f"{game}Deterministic-v4" for game in SEVEN), *STICKY])
def test_a_deterministic_id_is_the_emulator_with_each_action_held(env_id):
    env = make(env_id)
    obs, _ = env.reset(seed=7)
    ale = bare_emulator(env_id, env)
    meanings = ale.getMinimalActionSet()
    skip = 3 if "SpaceInvaders" in env_id else 4
    for action in itertools.islice(actions_of(env, 1), 300):
        assert_shows(obs, ale.getScreenGrayscale(), env_id)
        expected = sum(ale.act(meanings[action]) for _ in range(skip))
        obs, reward, terminated, truncated, info = env.step(action)
        assert reward == expected
        assert terminated == ale.game_over()
        assert not truncated
        assert info["lives"] == ale.lives()
        if terminated:
            break
    assert_shows(obs, ale.getScreenGrayscale(), env_id)


@pytest.mark.parametrize(
    "env_id", ["Asteroids-v0", "Asteroids-v4", "AsteroidsDeterministic-v4", "ALE/Seaquest-v5"]
)
def test_where_objects_flicker_a_step_shows_the_maximum_of_its_last_two_frames(env_id):
    env = make(env_id, flicker=True)
    env.reset(seed=7)
    ale = bare_emulator(env_id, env)
    meanings, skip, differ = ale.getMinimalActionSet(), parse_env_id(env_id).frame_skip, 0
    for action in itertools.islice(actions_of(env, 1), 200):
        frames = skip
        if not isinstance(skip, int):
            frames = copy.deepcopy(env.unwrapped.np_random).integers(*skip)
        screens, expected = [], 0.0
        for _ in range(frames):
            expected += ale.act(meanings[action])
            screens.append(ale.getScreenGrayscale())
        obs, reward, terminated, _, info = env.step(action)
        assert_shows(obs, np.maximum(*screens[-2:]), env_id)
        assert (reward, terminated, info["lives"]) == (expected, ale.game_over(), ale.lives())
        differ += bool((screens[-2] > screens[-1]).any())
    assert differ > 100  # the last frame alone would have shown


def test_what_blinks_is_told_from_what_moves():
    sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
    import flicker

    black = np.zeros((210, 160), np.uint8)
    ghost = black.copy()
    ghost[50:54, 60:64] = 200
    assert flicker.blinking([ghost, black, ghost]) == 16  # in the one between it was not drawn
    assert flicker.blinking([black, ghost, black]) == 16  # nor in the last one
    assert flicker.blinking([ghost, ghost, ghost]) == 0
    assert flicker.blinking([np.roll(ghost, i, axis=1) for i in range(3)]) == 0  # it moves
    assert flicker.look("asteroids", 30)[0] > 0.9
    assert flicker.look("pong", 30)[0] < 0.1


def test_asteroids_draws_half_of_its_objects_in_each_frame():
    """What flicker is for: single frames differ, maxima of two hardly do."""
    ale = bare_emulator("AsteroidsDeterministic-v4")
    for _ in range(300):
        ale.act(ale_py.Action.NOOP)
    screens = []
    for _ in range(40):
        ale.act(ale_py.Action.NOOP)
        screens.append(ale.getScreenGrayscale().astype(int))
    frames, pairs = np.stack(screens), np.stack(list(map(np.maximum, screens, screens[1:])))
    single, both = (np.abs(np.diff(x, axis=0) > 20).mean() for x in (frames, pairs))
    assert single > 5 * both


def test_a_lost_game_of_pong_is_21_points_and_terminated():
    env = make("PongDeterministic-v4")
    ale = bare_emulator("PongDeterministic-v4")
    frames = 0
    while not ale.game_over():
        ale.act(ale_py.Action.NOOP)
        frames += 1
    env.reset(seed=1)
    rewards, terminated, truncated = [], False, False
    while not (terminated or truncated):
        _, reward, terminated, truncated, _ = env.step(NOOP)
        rewards.append(reward)
    assert (terminated, truncated) == (True, False)
    assert sum(rewards) == -21
    assert len(rewards) == -(-frames // 4)


def test_the_skips_of_v0_and_v4_are_uniform_on_2_3_4():
    skips = []
    for game, version in zip(SEVEN, ("v0", "v3", "v4", "v0", "v3", "v4", "v0"), strict=True):
        env = make(f"{game}-{version}")
        before = env.reset(seed=11)[1]["frame_number"]
        for _ in range(150):
            _, _, terminated, _, info = env.step(NOOP)
            assert not terminated
            skips.append(info["frame_number"] - before)
            before = info["frame_number"]
    counts = np.array([skips.count(skip) for skip in (2, 3, 4)])
    assert counts.sum() == len(skips) == 1050
    assert ((counts - 350) ** 2 / 350).sum() < 13.8  # chi-square, 2 degrees of freedom, p = 0.001


@pytest.mark.parametrize(("version", "sticky"), [("v0", 0.25), ("v4", 0.0)])
def test_stickiness_is_per_frame(version, sticky):
    """Of the 4 frames of a new action, the first j repeat the one before: P(j >= n) = sticky^n.

    Which j it was shows in the RAM: an emulator by hand tries each from the same state.
    """
    at_least = np.zeros(4)  # steps with j >= 0, 1, 2, 3
    for game in ("Pong", "Seaquest"):
        env = make(f"{game}Deterministic-{version}")
        by_hand = bare_emulator(f"{game}-v4")
        env.reset(seed=3)
        for trial in range(160):
            for _ in range(3):  # the action before is NOOP now, but for 0.25^12
                env.step(NOOP)
            action = ale_py.Action.RIGHT if trial % 2 else ale_py.Action.LEFT
            state, rams = env.unwrapped.ale.cloneState(), []
            for repeated in range(5):
                by_hand.restoreState(state)
                for frame in range(4):
                    by_hand.act(ale_py.Action.NOOP if frame < repeated else action)
                rams.append(by_hand.getRAM().tobytes())
            _, _, terminated, truncated, _ = env.step(env.action_meanings.index(action.name))
            if terminated or truncated:
                env.reset()
            elif len(set(rams)) == 5:  # all five can be told apart, whichever happened
                at_least[: rams.index(env.unwrapped.ale.getRAM().tobytes()) + 1] += 1
    trials = at_least[0]
    assert trials > 150
    for n in (1, 2, 3):
        p = sticky**n
        assert abs(at_least[n] / trials - p) <= 3.5 * np.sqrt(p * (1 - p) / trials)


# ---------------------------------------------------------------------------------------------
# NoFrameskip


@pytest.mark.parametrize("game", SEVEN)
def test_noframeskip_shows_the_maximum_of_the_last_two_frames_of_each_action(game):
    """With flicker, too: not of three."""
    env_id = f"{game}NoFrameskip-v4"
    for skip_rate in (4, 2) if game == "SpaceInvaders" else (4,):
        env = make(env_id, skip_rate=skip_rate, flicker=True)
        obs, info = env.reset(seed=5)
        ale = bare_emulator(env_id, env)
        meanings = ale.getMinimalActionSet()
        for _ in range(info["episode_frame_number"]):
            ale.act(ale_py.Action.NOOP)
        assert_shows(obs, ale.getScreenGrayscale(), env_id)
        for action in itertools.islice(actions_of(env, 2), 100):
            frames, rewards = [], []
            while len(frames) < skip_rate and not ale.game_over():
                rewards.append(ale.act(meanings[action]))
                frames.append(ale.getScreenGrayscale())
            obs, reward, terminated, _, _ = env.step(action)
            assert_shows(obs, np.max(frames[-2:], axis=0), env_id)
            assert reward == sum(rewards)
            assert terminated == ale.game_over()
            if terminated:
                break


def test_a_single_frame_of_an_action_is_shown_as_it_is():
    """Not joined with the frame of the action before: a maximum with it would show."""
    env_id = "BeamRiderNoFrameskip-v4"
    env = make(env_id, skip_rate=1)
    env.reset(seed=5)
    before, differ = env.unwrapped.ale.getScreenGrayscale(), 0
    for action in itertools.islice(actions_of(env, 2), 50):
        obs, _, _, _, _ = env.step(action)
        screen = env.unwrapped.ale.getScreenGrayscale()
        assert_shows(obs, screen, env_id)
        differ += bool((before > screen).any())
        before = screen
    assert differ > 10  # a maximum across actions would have shown


def test_the_skip_of_a_noframeskip_game_stops_where_the_game_ends():
    """A lost game of Pong: its last action has as many frames as were left, and no more."""
    env, ale = make("PongNoFrameskip-v4", skip_rate=7), bare_emulator("PongNoFrameskip-v4")
    while not ale.game_over():
        ale.act(ale_py.Action.NOOP)
    length = ale.getEpisodeFrameNumber()
    _, terminated, truncated = steps_to_the_end(env, at_most=length)
    assert (terminated, truncated) == (True, False)
    assert env.unwrapped.ale.getEpisodeFrameNumber() == length


def test_a_noframeskip_game_starts_with_1_to_30_noops():
    env = make("PongNoFrameskip-v4")
    env.reset(seed=0)
    noops = [env.reset()[1]["episode_frame_number"] for _ in range(200)]
    assert set(noops) == set(range(1, 31))
    for env_id in ("Pong-v0", "PongDeterministic-v4", "ALE/Pong-v5"):
        assert make(env_id).reset(seed=0)[1]["episode_frame_number"] == 0


def test_a_game_that_ends_within_the_noops_starts_again(monkeypatch):
    limit_to(monkeypatch, 10)  # frames: most of the no-ops run into it
    env = make("PongNoFrameskip-v4", skip_rate=1)
    env.reset(seed=0)
    for _ in range(20):
        played = env.reset()[1]["episode_frame_number"]
        assert played < 10
        for left in range(9 - played, -1, -1):
            _, _, terminated, truncated, _ = env.step(NOOP)
            assert (terminated, truncated) == (False, left == 0)


# ---------------------------------------------------------------------------------------------
# Time limits. Breakout never ends without FIRE.


def limit_to(monkeypatch, limit):
    """Make `limit` the time limit of every id."""
    real = parse_env_id
    monkeypatch.setattr(
        environment, "parse_env_id", lambda env_id: real(env_id)._replace(time_limit=limit)
    )


FAMILIES = ("{}-v0", "{}-v4", "{}Deterministic-v4", "ALE/{}-v5", "{}NoFrameskip-v4")


def test_v0_truncates_at_10_000_agent_steps():
    assert steps_to_the_end(make("Breakout-v0"), at_most=10_001) == (10_000, False, True)


@pytest.mark.parametrize("family", FAMILIES[:4])
def test_the_limit_of_an_id_counts_agent_steps(monkeypatch, family):
    limit_to(monkeypatch, 50)
    assert steps_to_the_end(make(family.format("Pong")), at_most=60) == (50, False, True)


def test_the_limit_of_a_noframeskip_id_counts_frames_no_ops_included(monkeypatch):
    limit_to(monkeypatch, 50)
    env = make("PongNoFrameskip-v4", skip_rate=4)
    noops = env.reset(seed=1)[1]["episode_frame_number"]
    expected = -(-(50 - noops) // 4)  # the last action is cut short
    assert steps_to_the_end(env, at_most=60) == (expected, False, True)
    assert env.unwrapped.ale.getEpisodeFrameNumber() == 50


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [7, 90])
def test_max_episode_length_replaces_the_limit_in_agent_steps(monkeypatch, family, length):
    limit_to(monkeypatch, 50)
    env = make(family.format("Pong"), max_episode_length=length)
    assert steps_to_the_end(env, at_most=100) == (length, False, True)
    assert steps_to_the_end(env, at_most=100) == (length, False, True)  # and in the next game


@pytest.mark.parametrize(
    ("env_id", "actions", "chance"),
    [
        ("Pong-v0", ["NOOP"], True),
        ("Pong-v4", ["NOOP"], True),
        ("PongDeterministic-v0", ["NOOP"], True),
        ("PongDeterministic-v3", ["NOOP"], False),
        ("PongDeterministic-v4", ["NOOP"], False),
        ("PongNoFrameskip-v4", ["NOOP"], True),
        ("BackgammonNoFrameskip-v4", ["FIRE"], False),  # no no-ops at the start
        ("ALE/Pong-v5", ["NOOP"], True),
    ],
)
def test_only_ids_without_chance_have_a_limit_of_steps_without_a_reward(env_id, actions, chance):
    spec = parse_env_id(env_id)
    assert has_chance(spec, actions, greedy=True) == chance
    assert has_chance(spec, actions, greedy=False)
    assert idle_limit(None, spec, actions) == (None if chance else IDLE_STEPS)
    assert idle_limit(0, spec, actions) is None
    assert idle_limit(7, spec, actions) == 7


def test_a_game_is_cut_after_so_many_steps_in_a_row_without_a_reward():
    rewards = [0, 0, -1, 0, 0, 0.5, 0, 0, 0, 0]  # a lost point counts as well
    env = IdleLimit(Scripted(0, [[Event(reward) for reward in rewards]]), 3)
    for _ in range(2):  # in each game anew
        env.reset()
        cut = [env.step(0)[2:4] for _ in range(9)]
        assert cut == [(False, False)] * 8 + [(False, True)]


@pytest.mark.parametrize("env_id", ["PongDeterministic-v4", "PongNoFrameskip-v4"])
def test_steps_without_a_reward_are_agent_steps(env_id):
    env = make_env(env_id, game_config(TABLE, env_id), max_idle_steps=5)
    assert steps_to_the_end(env, 100) == (5, False, True)  # the first point takes longer


def test_the_108_000_frames_of_ale_py_do_not_cut_the_old_ids():
    env = make("BreakoutDeterministic-v4")
    env.unwrapped.ale.setInt("frame_skip", 1000)  # frames for each of ours, to be quick
    env.reset(seed=1)
    ends = [env.step(NOOP)[2:4] for _ in range(28)]
    assert env.unwrapped.ale.getEpisodeFrameNumber() == 28 * 4 * 1000
    assert ends == [(False, False)] * 28


def test_the_end_of_a_game_on_its_time_limit_is_terminated_alone():
    length, _, _ = steps_to_the_end(make("PongDeterministic-v4"), at_most=2000)
    env = make("PongDeterministic-v4", max_episode_length=length)
    assert steps_to_the_end(env, at_most=length) == (length, True, False)
    env = make("PongDeterministic-v4", max_episode_length=length - 1)
    assert steps_to_the_end(env, at_most=length) == (length - 1, False, True)


@pytest.mark.parametrize("wrong", [{"max_episode_length": 0}, {"skip_rate": 0}])
def test_a_limit_or_skip_below_1_is_an_error(wrong):
    with pytest.raises(ValueError, match="must be 1 or more"):
        make("Pong-v0", **wrong)


# ---------------------------------------------------------------------------------------------
# Seeds


@pytest.mark.parametrize("env_id", ["Pong-v0", "SeaquestNoFrameskip-v0", "ALE/MsPacman-v5"])
def test_equal_seeds_give_equal_games_whatever_was_played_before(env_id):
    env = make(env_id)
    first = trace(env, seed=4)
    trace(env, seed=5)
    assert trace(env, seed=4) == first
    assert trace(make(env_id), seed=4) == first


@pytest.mark.parametrize("env_id", ["Pong-v0", "SpaceInvadersNoFrameskip-v4"])
def test_a_seed_given_when_the_environment_is_made_saves_loading_and_changes_nothing(
    env_id, monkeypatch
):
    loaded = []
    load = environment.Emulator.load_game
    monkeypatch.setattr(
        environment.Emulator, "load_game", lambda self: [loaded.append(self), load(self)]
    )
    game, other_game = trace(make(env_id), seed=4), trace(make(env_id), seed=5)
    entry = game_config(TABLE, env_id)
    env = make_env(env_id, entry, seed=4)
    loaded.clear()
    assert trace(env, seed=4) == game
    assert not loaded
    assert trace(env, seed=4) == game
    assert len(loaded) == 1
    assert trace(make_env(env_id, entry, seed=4), seed=5) == other_game


@pytest.mark.parametrize("env_id", ["Pong-v0", "SeaquestDeterministic-v0", "PongNoFrameskip-v4"])
def test_games_differ_between_seeds(env_id):
    env = make(env_id)
    games = [trace(env, seed) for seed in range(4)]
    assert all(a != b for a, b in itertools.combinations(games, 2))


def test_games_without_a_seed_go_on_in_the_stream_of_chance():
    env = make("Pong-v0")
    env.reset(seed=4)
    games = [trace(env, None) for _ in range(2)]
    assert games[0] != games[1]
    env.reset(seed=4)
    assert [trace(env, None) for _ in range(2)] == games


def test_the_power_on_state_differs_between_seeds():
    env = make("SeaquestDeterministic-v4")
    rams = set()
    for seed in range(6):
        env.reset(seed=seed)
        rams.add(env.unwrapped.ale.getRAM().tobytes())
    assert len(rams) > 1


# ---------------------------------------------------------------------------------------------
# Actions, FIRE, rendering


def test_the_six_actions_of_old_breakout_are_the_emulators():
    env = make("BreakoutDeterministic-v4", actions=OLD_BREAKOUT)
    assert make("BreakoutDeterministic-v4").action_meanings == OLD_BREAKOUT[:4]
    assert env.action_meanings == OLD_BREAKOUT
    assert env.action_space.n == 6
    obs, _ = env.reset(seed=1)
    ale = bare_emulator("Breakout-v4", env)
    for action in [4, 4, *itertools.islice(actions_of(env, 3), 200)]:
        reward = sum(ale.act(ale_py.Action[OLD_BREAKOUT[action]]) for _ in range(4))
        obs, got, terminated, _, _ = env.step(action)
        assert got == reward
        assert_shows(obs, ale.getScreenGrayscale(), "Breakout-v4")
        if terminated:
            break


@pytest.mark.parametrize("actions", [["NOOP", "JUMP"], [], "NOOP", ["NOOP", "NOOP"], ["NOOP"]])
def test_a_wrong_action_set_is_one_line(actions):
    with pytest.raises(ValueError, match="Breakout-v0: ") as error:
        make("Breakout-v0", actions=actions)  # the last has no FIRE, which Breakout needs
    assert "\n" not in str(error.value)


def test_fire_action_is_the_index_of_fire_where_the_table_asks_for_it():
    assert make("Breakout-v0").fire_action == 1
    assert make("Breakout-v0", actions=["LEFT", "NOOP", "FIRE"]).fire_action == 2
    assert make("Breakout-v0", fire=False).fire_action is None
    assert make("Pong-v0").fire_action is None


def test_the_environment_never_presses_fire_itself():
    env = make("BreakoutNoFrameskip-v4")
    for seed in range(2):
        first, _ = env.reset(seed=seed)
        for _ in range(100):
            obs, reward, _, _, info = env.step(NOOP)
            assert (obs == first).all()
            assert (reward, info["lives"]) == (0, 5)


def screens(env, action, steps):
    """The number of different screens in `steps` steps of `action`."""
    return len({env.step(action)[0].tobytes() for _ in range(steps)})


# Tennis blinks while it waits.
@pytest.mark.parametrize("game", ["Breakout", "DonkeyKong", "Tennis"])
def test_these_games_wait_for_fire(game):
    env = make(f"{game}-v0")
    env.reset(seed=2)
    screens(env, NOOP, 100)
    assert screens(env, NOOP, 60) <= 15
    screens(env, env.fire_action, 2)
    assert screens(env, NOOP, 60) >= 20


def test_earthworld_shows_its_title_until_fire():
    env = make("EarthworldDeterministic-v4")
    env.reset(seed=2)
    right = env.action_meanings.index("RIGHT")
    assert screens(env, right, 100) > 15  # the title changes its colours
    screens(env, env.fire_action, 2)
    assert screens(env, NOOP, 60) <= 2  # a room, where nothing moves by itself


def test_yars_revenge_waits_for_fire_after_a_lost_life():
    env = make("YarsRevenge-v0")
    lives = env.reset(seed=2)[1]["lives"]
    while env.step(NOOP)[4]["lives"] == lives:
        pass
    screens(env, NOOP, 100)
    assert screens(env, NOOP, 50) == 1
    screens(env, env.fire_action, 2)
    screens(env, NOOP, 100)
    assert screens(env, NOOP, 50) > 40


def test_rgb_array_renders_the_colour_screen():
    env = make("Pong-v0", render_mode="rgb_array")
    env.reset(seed=1)
    picture = env.render()
    assert picture.shape == (210, 160, 3)
    assert picture.dtype == np.uint8
    assert (picture == env.unwrapped.ale.getScreenRGB()).all()
    assert (picture[..., 0] != picture[..., 2]).any()


# ---------------------------------------------------------------------------------------------
# Normaliser


def random_frames(n, seed=0):
    """(n, 80, 80) uint8 whose means and spreads wander."""
    rng = np.random.default_rng(seed)
    tops = rng.integers(1, 256, n)
    return np.stack([rng.integers(0, top, (80, 80)) for top in tops]).astype(np.uint8)


def slow_statistics(frames, decay=0.9999):
    """The classic running averages, corrected for their start at zero."""
    mean = std = 0.0
    for frame in frames:
        mean = decay * mean + (1 - decay) * frame.astype(float).mean()
        std = decay * std + (1 - decay) * frame.astype(float).std()
    start = 1 - decay ** len(frames)
    return mean / start, std / start


def test_the_normaliser_is_the_bias_corrected_running_average():
    frames, normalizer = random_frames(80), Normalizer()
    for n, frame in enumerate(frames, start=1):
        out = normalizer.observe(frame[None])
        mean, std = slow_statistics(frames[:n])
        assert out.dtype == np.float32
        assert out.shape == (1, 80, 80)
        np.testing.assert_allclose(normalizer.state, (n, mean, std), rtol=1e-9)
        np.testing.assert_allclose(out[0], (frame - mean) / (std + 1e-8), rtol=1e-4, atol=1e-5)


def test_one_frame_alone_comes_out_with_mean_0_and_deviation_1():
    out = Normalizer().observe(random_frames(1))
    assert abs(out.mean()) < 1e-5
    assert abs(out.std() - 1) < 1e-5


def test_a_batch_is_its_frames_in_order_shown_with_the_newest_statistics():
    frames, one, batch = random_frames(20), Normalizer(), Normalizer()
    for frame in frames:
        one.observe(frame[None])
    out = batch.observe(frames)
    assert (batch.state == one.state).all()
    mean, std = slow_statistics(frames)
    np.testing.assert_allclose(out, (frames - mean) / (std + 1e-8), rtol=1e-4, atol=1e-5)


def test_held_statistics_are_shown_while_new_frames_are_taken_in():
    frames, normalizer = random_frames(130), Normalizer()
    normalizer.observe(frames[:110])
    normalizer.hold()
    mean, std = slow_statistics(frames[:110])
    for shown in (normalizer.observe(frames[110:120]), normalizer.normalize(frames[110:120])):
        expected = (frames[110:120] - mean) / (std + 1e-8)
        np.testing.assert_allclose(shown, expected, rtol=1e-4, atol=1e-5)
    expected = (120, *slow_statistics(frames[:120]))
    np.testing.assert_allclose(normalizer.state, expected, rtol=1e-9)
    normalizer.hold()
    mean, std = slow_statistics(frames[:120])
    expected = (frames[120:] - mean) / (std + 1e-8)
    np.testing.assert_allclose(normalizer.observe(frames[120:]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("count", "flat"), [(1, True), (99, False), (150, True)])
def test_statistics_of_few_or_flat_pictures_are_not_held(count, flat):
    """Amidar and others begin flat: the deviation is 0, and all that follows would be huge."""
    frames, normalizer, expected = random_frames(160), Normalizer(), Normalizer()
    if flat:
        frames[:count] = 7
    for n in normalizer, expected:
        n.observe(frames[:count])
    normalizer.hold()
    assert np.array_equal(normalizer.observe(frames[count:]), expected.observe(frames[count:]))


@pytest.mark.parametrize("make_state", [np.zeros, lambda n: torch.zeros(n, dtype=torch.float64)])
def test_the_state_is_used_in_place(make_state):
    states = make_state((4, 3))
    Normalizer(states[2]).observe(random_frames(5))
    expected = (5, *slow_statistics(random_frames(5)))
    np.testing.assert_allclose(np.asarray(states[2]), expected, rtol=1e-9)
    assert (np.asarray(states)[[0, 1, 3]] == 0).all()


def test_a_frozen_normaliser_keeps_its_statistics():
    state = np.array([10.0, 50.0, 20.0])
    out = Normalizer(state, frozen=True).observe(random_frames(3))
    assert state.tolist() == [10, 50, 20]
    np.testing.assert_allclose(out, (random_frames(3) - 50.0) / 20, rtol=1e-4, atol=1e-5)


def test_a_frozen_normaliser_without_statistics_is_an_error():
    with pytest.raises(ValueError, match="count is 0"):
        Normalizer(np.zeros(3), frozen=True)
    with pytest.raises(ValueError, match="count is 0"):
        Normalizer(frozen=True)


@pytest.mark.parametrize("state", [np.zeros(2), np.zeros(3, np.float32), torch.zeros(3)])
def test_a_state_of_another_kind_is_an_error(state):
    with pytest.raises(ValueError, match="3 numbers in float64"):
        Normalizer(state)
