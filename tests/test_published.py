"""The published models: what they are called, and that they play what is published."""

import functools
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_gym_eval import lively_weights, save
from test_main import SMALL
from test_model import CLASSIC_LAYOUT

import checkpoint
import kernels
from agent import build_model
from environment import FIRE_PRESSES, Normalizer, file_name, game_config, make_env, read_config
from player import env_seed, play_games
from utils import EVALUATE, game_seed

ROOT = Path(__file__).parent.parent
STEPS = 1000
GAMES = {"Breakout-v0": 2, "seed-2/Breakout-v0": 6}  # in which a life is lost by then


def published() -> list[str]:
    """Weights that come with the suite, without .dat."""
    return sorted(
        path.relative_to(checkpoint.PUBLISHED).with_suffix("").as_posix()
        for path in checkpoint.PUBLISHED.glob("**/*.dat")
    )


every_model = pytest.mark.parametrize("name", published())


def load(name):
    path = checkpoint.PUBLISHED / f"{name}.dat"
    return path, *checkpoint.load_model(path)  # compares the sha256


def test_each_game_of_the_table_of_results_has_published_weights():
    described = {path.stem for path in checkpoint.PUBLISHED.glob("*.json")}
    assert described == {name for name in published() if "/" not in name}
    assert described >= {"Pong-v0", "Breakout-v0", "MsPacman-v0"}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_nothing_tracked_lies_where_runs_write():
    command = ["git", "ls-files", "trained_models/", "logs/"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    others = [path for path in tracked.splitlines() if "/published/" not in path]
    assert others == ["logs/.gitkeep"]


@every_model
def test_published_weights_have_the_classic_layout_and_a_description(name):
    path, state_dict, description = load(name)
    shapes = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    n = len(description["actions"])
    heads = {"actor_linear.weight": (n, 512), "actor_linear.bias": (n,)}
    assert shapes == CLASSIC_LAYOUT | heads
    assert file_name(description["env"]) == path.stem
    assert description["score"] is not None
    assert description["policy"] in checkpoint.POLICIES


@pytest.mark.skipif(not kernels.HAVE_NUMBA, reason="numba is not installed")
@every_model
def test_published_weights_play_the_same_game_through_a_plain_forward_pass(name):
    """The first steps of a game of `gym_eval.py --seed 1`, with model.py alone, one by one."""
    path, state_dict, description = load(name)
    env_id = description["env"]
    config = game_config(read_config(ROOT / "config.json"), env_id)
    make = functools.partial(make_env, env_id, config, description["skip_rate"], STEPS)
    model = build_model(path, state_dict, description, description["actions"])
    frozen = Normalizer(np.array(checkpoint.normalizer_state(path, description)), frozen=True)
    seed = game_seed(1, EVALUATE, GAMES.get(name, 0))
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
    assert (lost > 0) == (not name.endswith(("Pong-v0", "PongDeterministic-v4", "BeamRider-v0")))
    assert (env.fire_action is not None) == ("Breakout" in name)
    assert (result.score, result.length) == (score, length)
    assert result.action_hash == hashlib.sha256(bytes(actions)).hexdigest()


# ---------------------------------------------------------------------------------------------
# Which weights are found


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """An empty current folder; returns where the published weights are, which has Breakout-v0."""
    shipped = tmp_path / "suite" / "published"
    shipped.mkdir(parents=True)
    (shipped / "Breakout-v0.dat").touch()
    monkeypatch.setattr(checkpoint, "PUBLISHED", shipped)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return shipped


def touch(path: str) -> Path:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).touch()
    return Path(path)


def test_weights_of_a_run_come_before_the_published_ones_unless_these_are_asked_for(folders):
    shipped = folders / "Breakout-v0.dat"
    assert checkpoint.find_model(None, "Breakout-v0") == shipped
    own = touch("trained_models/Breakout-v0.dat")
    assert checkpoint.find_model(None, "Breakout-v0") == own
    assert checkpoint.find_model(None, "Breakout-v0", published=True) == shipped


def test_a_named_folder_is_not_replaced(folders):
    assert checkpoint.find_model("mine", "Breakout-v0") == Path("mine/Breakout-v0.dat")


def test_published_weights_have_a_short_name_where_the_suite_is(folders, monkeypatch):
    monkeypatch.chdir(folders.parent)
    assert checkpoint.find_model(None, "Breakout-v0") == Path("published/Breakout-v0.dat")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ("trained_models/Pong-v0.dat: no such file", "(there are: Breakout-v0)", "main.py")),
        ({"published": True}, ("no weights of Pong-v0 are published", "Breakout-v0")),
        ({"last": True}, ("trained_models/Pong-v0.ckpt: no such file", "of a run")),
        ({"last": True, "published": True}, ("no checkpoint", "leave it out")),
    ],
)
def test_weights_that_are_nowhere_are_one_line_that_says_what_there_is(folders, options, words):
    with pytest.raises(ValueError, match=r"^.*$") as error:  # one line
        checkpoint.find_model(None, "Pong-v0", **options)
    for word in words:
        assert word in str(error.value)


def test_the_last_weights_of_a_run_are_not_those_of_the_published_model(folders):
    with pytest.raises(ValueError, match=r"without --last, .*published.Breakout-v0.dat is played"):
        checkpoint.find_model(None, "Breakout-v0", last=True)
    path = touch("trained_models/Breakout-v0.ckpt")
    assert checkpoint.find_model(None, "Breakout-v0", last=True) == path


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_a_run_leaves_a_checkout_clean_and_the_published_model_playable(tmp_path):
    """In a repository of its own, of the files here with a small published model."""
    left_out = shutil.ignore_patterns(".*", "trained_models", "logs", "demo", "benchmarks", "tests")
    suite = tmp_path / "suite"
    shutil.copytree(ROOT, suite, ignore=left_out)  # with the compiled kernels, so that it is quick
    shutil.copy(ROOT / ".gitignore", suite)
    for folder in ("logs", "trained_models/published"):
        (suite / folder).mkdir(parents=True)
    path = save(suite / "trained_models/published", "Pong-v0", lively_weights(6))
    before = path.read_bytes()

    def call(*command: str) -> str:
        done = subprocess.run(command, cwd=suite, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    git = ("git", "-c", "user.name=nobody", "-c", "user.email=nobody", "-c", "commit.gpgsign=false")
    call("git", "-c", "init.defaultBranch=main", "init", "-q")
    call("git", "add", ".")
    call(*git, "commit", "-q", "-m", "all")
    assert "trained_models/published/Pong-v0.dat" in call("git", "ls-files").splitlines()
    run = call(sys.executable, "main.py", *SMALL, "--max-steps", "200")
    assert "old-1" not in run
    played = call(sys.executable, "gym_eval.py", "--published", "-ne", "1", "-mel", "4")
    assert "trained_models/published/Pong-v0.dat: published weights" in played
    sha256 = json.loads((suite / "logs/Pong-v0_eval.json").read_text())["sha256"]
    assert sha256 == hashlib.sha256(before).hexdigest()
    assert path.read_bytes() == before
    assert call("git", "status", "--porcelain") == ""
