"""gym_eval.py: what it prints and writes, and how it refuses what it cannot use."""

import hashlib
import json
import logging
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import checkpoint
import gym_eval
from agent import Agent
from environment import game_config, make_env, parse_env_id, read_config, require_screen
from model import A3Clstm
from options import build_eval_parser
from stopping import StopSignal

PROJECT = Path(gym_eval.__file__).parent
CONFIG = PROJECT / "config.json"
PONG_ACTIONS = 6
NORMALIZER = (1000.0, 100.0, 5.0)
PONG = {"crop1": 34, "crop2": 34, "fire": False}
KEYS = {
    "env", "episodes", "seed", "policy", "mean", "standard_error", "best", "scores", "versions",
    "median", "min", "frame_skip", "repeat_action_probability", "time_limit",
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_loggers():
    """Each evaluation here stands for a process of its own: it begins without log handlers."""
    yield
    for name, logger in logging.Logger.manager.loggerDict.items():
        if name.endswith("_mon_log"):
            for handler in logger.handlers[:]:
                logger.removeHandler(handler)
                handler.close()


def lively_weights(num_actions: int, hidden_size: int = 32) -> dict[str, torch.Tensor]:
    """Weights whose most probable action depends on the picture and on what went before."""
    torch.manual_seed(3)
    model = A3Clstm(num_actions, hidden_size)
    with torch.no_grad():
        model.actor_linear.weight *= 100
        model.lstm.weight_hh *= 7
        for name, parameter in model.named_parameters():
            if name.endswith(("bias", "bias_ih", "bias_hh")):
                parameter += 0.1 * torch.randn_like(parameter)
    return model.state_dict()


def save(folder: Path, env: str, weights, described: bool = True) -> Path:
    """Write ENV.dat as training does, or without the description beside it."""
    path = folder / f"{env}.dat"
    if described:
        env_id = env.replace("ALE-", "ALE/")
        actions = make_env(env_id, game_config(read_config(CONFIG), env_id)).action_meanings
        run = {"env": env_id, "actions": actions, "count_lives": True, "skip_rate": 4}
        run["loaded"] = {"agent_steps": 1000}
        description = checkpoint.describe(run, 1234, 5.0, NORMALIZER, 1.5)
        checkpoint.save_model(path, weights, description)
    else:
        torch.save(weights, path)
    return path


@pytest.fixture(scope="module")
def weights():
    return lively_weights(PONG_ACTIONS)


@pytest.fixture(scope="module")
def models(tmp_path_factory, weights):
    folder = tmp_path_factory.mktemp("trained models")
    for env in ("Pong-v0", "PongDeterministic-v4", "ALE-Pong-v5"):
        save(folder, env, weights)
    save(folder, "Skiing-v0", lively_weights(3))
    return folder


def command_line(models: Path, logs: Path, *options: str) -> list[str]:
    folders = ["--load-model-dir", str(models), "--log-dir", str(logs)]
    return [*folders, "--env-config", str(PROJECT / "config.json"), *options]


def run(models: Path, logs: Path, *options: str) -> int:
    try:
        return gym_eval.main(command_line(models, logs, *options), StopSignal())
    except SystemExit as error:  # argparse
        return error.code


def summary(logs: Path, name: str = "Pong-v0") -> dict:
    """Without the speed: the rest must be reproducible."""
    found = json.loads((logs / f"{name}_eval.json").read_text())
    assert found.pop("speed") > 0
    return found


SHORT = ("--env", "Pong-v0", "--num-episodes", "2", "--max-episode-length", "4")
FIXED = ("--env", "PongDeterministic-v4", "-ne", "3", "-mel", "4")


@pytest.fixture(scope="module")
def played(models, tmp_path_factory):
    """Summary of SHORT."""
    logs = tmp_path_factory.mktemp("short")
    assert run(models, logs, *SHORT) == 0
    return summary(logs)


@pytest.fixture(scope="module")
def fixed(models, tmp_path_factory):
    """Log folder of FIXED, a greedy evaluation of an id without chance."""
    logs = tmp_path_factory.mktemp("fixed")
    assert run(models, logs, *FIXED, "--workers", "2") == 0
    return logs


# ---------------------------------------------------------------------------------------------
# What it prints and writes


def test_as_a_program_it_writes_a_line_per_game_and_the_summary(models, played, tmp_path):
    done = subprocess.run(
        [sys.executable, str(PROJECT / "gym_eval.py"), *command_line(models, tmp_path, *SHORT)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir(tmp_path)) == ["Pong-v0_eval.json", "Pong-v0_mon_log"]
    log = (tmp_path / "Pong-v0_mon_log").read_text()
    assert log == done.stdout
    assert "2234 agent steps" in log  # its own and those of what it loaded
    games = re.findall(r" : game (\d+), reward sum: (\S+), length (\d+), reward mean: \S+\n", log)
    assert sorted(int(index) for index, _, _ in games) == [0, 1]
    found = summary(tmp_path)
    assert found.keys() >= KEYS
    assert found["env"] == "Pong-v0"
    assert found["episodes"] == len(found["scores"]) == 2
    assert found["seed"] == 1
    assert found["policy"] == "greedy"
    assert found["versions"].keys() >= {"python", "torch", "gymnasium", "ale-py", "numpy"}
    assert found["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert [float(score) for _, score, _ in sorted(games)] == found["scores"]
    # The same in this process: nothing depends on the process.
    assert found == played


def test_scores_do_not_depend_on_the_number_of_workers_and_the_summary_is_right(models, tmp_path):
    """Skiing pays at every step, so that even short games have scores that differ."""
    options = ("--env", "Skiing-v0", "-ne", "5", "-mel", "4")
    found = []
    for workers in ("1", "3", "100"):
        logs = tmp_path / workers
        assert run(models, logs, *options, "--seed", "7", "--workers", workers) == 0
        found.append(summary(logs, "Skiing-v0"))
    assert found[1] == found[0]
    assert found[2] == found[0]
    scores = torch.tensor(found[0]["scores"], dtype=torch.float64)
    assert len(scores) == found[0]["episodes"] == 5
    assert len(set(found[0]["scores"])) > 2
    assert found[0]["lengths"] == [4] * 5
    assert found[0]["seed"] == 7
    assert found[0]["mean"] == pytest.approx(scores.mean().item())
    assert found[0]["best"] == scores.max()
    assert found[0]["standard_error"] == pytest.approx(scores.std().item() / 5**0.5)
    log = (logs / "Skiing-v0_mon_log").read_text()
    expected = f"5 games, mean {found[0]['mean']:.4f} ± {found[0]['standard_error']:.4f} "
    assert expected in log
    games = re.findall(r"game (\d+), reward sum: (\S+), .*, reward mean: (\S+)", log)
    assert {int(i): float(score) for i, score, _ in games} == dict(enumerate(scores.tolist()))
    so_far = [float(score) for _, score, _ in games]
    means = [sum(so_far[:n]) / n for n in range(1, 6)]
    assert [float(mean) for *_, mean in games] == pytest.approx(means, abs=1e-4)
    assert run(models, tmp_path / "seed", *options, "--seed", "8") == 0
    assert summary(tmp_path / "seed", "Skiing-v0")["scores"] != found[0]["scores"]


def test_the_report_names_the_protocol_and_draws_a_histogram(models, tmp_path, capsys):
    options = ("--env", "Skiing-v0", "-ne", "5", "-mel", "4", "--seed", "7")
    assert run(models, tmp_path, *options) == 0
    output = capsys.readouterr().out
    found = summary(tmp_path, "Skiing-v0")
    assert found["agent_steps"] == 2234
    assert found["sha256"] == checkpoint.load_model(models / "Skiing-v0.dat")[1]["sha256"]
    assert found["median"] == sorted(found["scores"])[2]
    assert found["min"] == min(found["scores"])
    assert f"median {found['median']:g}, min {found['min']:g}, best {found['best']:g}" in output
    assert "greedy actions, seed 7, skip of 2 or 3 or 4 frames, sticky actions 0.25" in output
    assert "at most 4 agent steps" in output
    assert (found["frame_skip"], found["repeat_action_probability"]) == ([2, 3, 4], 0.25)
    assert sum(map(int, re.findall(r"\| #+ (\d+)\n", output))) == 5
    assert re.search(r"20 agent steps, \d+ steps/s", output)
    assert found["cut_by_limit"] == 5
    assert " : 5 games cut by a limit before the end\n" in output
    ended = gym_eval.report(found | {"cut_by_limit": 0, "speed": 1}, 5)
    assert not [line for line in ended if "cut by" in line]


@pytest.mark.parametrize(
    ("env", "options", "frame_skip", "sticky", "limit"),
    [
        ("PongDeterministic-v4", [], [4], 0.0, "100000 agent steps"),
        ("ALE/Pong-v5", [], [4], 0.25, "27000 agent steps"),
        ("PongNoFrameskip-v4", [], [7], 0.0, "400000 frames"),
        ("PongNoFrameskip-v4", ["-mel", "9"], [7], 0.0, "9 agent steps"),
    ],
)
def test_the_protocol_is_that_of_the_id(env, options, frame_skip, sticky, limit):
    args = build_eval_parser().parse_args(options)
    found = gym_eval.protocol(args, parse_env_id(env), 7, True, 300, {"crop1": 9})
    noops = [1, 30] if "NoFrameskip" in env else 0
    assert list(found.values()) == [frame_skip, sticky, noops, limit, 300, True, {"crop1": 9}]


def test_a_histogram_counts_every_score():
    lines = gym_eval.histogram([-21.0, -21.0, -21.0, 21.0])
    assert lines == [f"-21 | {'#' * 40} 3", f" 21 | {'#' * 14} 1"]
    many = gym_eval.histogram([float(i) for i in range(1000)])
    assert [line.split("|")[0].strip() for line in many[:2]] == ["0 to 99", "100 to 199"]
    assert len(many) == 10
    few = gym_eval.histogram([float(i) for i in range(-21, -10)])  # 11 values in rows of 2
    assert few[0].split("|")[0].strip() == "-21 to -20"
    assert [int(line.split()[-1]) for line in few] == [2, 2, 2, 2, 2, 1]
    assert sum(int(line.split()[-1]) for line in many) == 1000


def test_a_game_without_chance_is_reported_as_one_game_without_an_error(fixed):
    log = (fixed / "PongDeterministic-v4_mon_log").read_text()
    assert "one and the same game" in log
    assert "±" not in log
    found = summary(fixed, "PongDeterministic-v4")
    assert found["standard_error"] is None
    assert found["episodes"] == 3
    assert len(set(found["action_hashes"])) == 1


def test_the_protocol_names_the_steps_without_a_reward_that_cut_a_game(
    models, fixed, played, tmp_path, capsys
):
    assert summary(fixed, "PongDeterministic-v4")["max_idle_steps"] == 10_000
    assert (played["max_idle_steps"], played["game_config"]) == (None, PONG)
    assert run(models, tmp_path, *FIXED, "--max-idle-steps", "3") == 0
    assert "at most 4 agent steps, 3 without a reward\n" in capsys.readouterr().out
    assert summary(tmp_path, "PongDeterministic-v4")["lengths"] == [3, 3, 3]


def test_sampled_actions_differ_from_greedy_ones_and_bring_chance_to_any_game(
    fixed, models, tmp_path
):
    assert run(models, tmp_path, *FIXED, "--stochastic") == 0
    greedy = summary(fixed, "PongDeterministic-v4")
    sampled = summary(tmp_path, "PongDeterministic-v4")
    assert sampled["policy"] == "sampled"
    assert not set(sampled["action_hashes"]) & set(greedy["action_hashes"])
    assert len(set(sampled["action_hashes"])) == 3
    log = (tmp_path / "PongDeterministic-v4_mon_log").read_text()
    assert "±" in log
    assert "same game" not in log
    assert sampled["standard_error"] is not None


def test_one_game_has_no_standard_error(models, tmp_path, capsys):
    assert run(models, tmp_path, "--env", "ALE/Pong-v5", "-ne", "1", "-mel", "2") == 0
    output = capsys.readouterr().out
    assert "±" not in output
    assert "same game" not in output
    assert summary(tmp_path, "ALE-Pong-v5")["standard_error"] is None


def test_a_second_evaluation_in_one_process_logs_to_its_own_file_only(models, tmp_path):
    options = ("--env", "Pong-v0", "-ne", "1", "-mel", "1")
    for folder in ("first", "second"):
        assert run(models, tmp_path / folder, *options) == 0
    for folder in ("first", "second"):
        log = (tmp_path / folder / "Pong-v0_mon_log").read_text()
        assert log.count("game 0,") == 1


def test_the_log_is_continued_and_the_summary_of_the_same_evaluation_replaced(models, tmp_path):
    path = tmp_path / "Pong-v0_eval.json"
    for _ in range(2):
        assert run(models, tmp_path, "--env", "Pong-v0", "-ne", "1", "-mel", "1") == 0
        # As an earlier version might have found it.
        path.write_text(json.dumps(json.loads(path.read_text()) | {"speed": 0, "versions": {}}))
        own = logging.getLogger("Pong-v0_mon_log")
        for handler in own.handlers[:]:  # as a new process would have none
            own.removeHandler(handler)
    log = (tmp_path / "Pong-v0_mon_log").read_text()
    assert log.count("game 0,") == 2
    assert "of another evaluation" not in log
    assert sorted(os.listdir(tmp_path)) == ["Pong-v0_eval.json", "Pong-v0_mon_log"]


@pytest.mark.parametrize(
    "options",
    [
        ("--seed", "2"), ("-ne", "1"), ("-mel", "3"), ("--stochastic",), ("--max-idle-steps", "2"),
        ("--epsilon", "0.1"), ("--env-config", "crops.json"), ("--load-model", "other.dat"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_summary_of_another_evaluation_is_set_aside(
    models, played, weights, tmp_path, monkeypatch, capsys, options
):
    monkeypatch.chdir(tmp_path)
    Path("crops.json").write_text('{"Default": {"crop1": 20, "crop2": 30}}')
    torch.save(weights, "other.dat")
    folder = () if "--load-model" in options else ("--load-model-dir", str(models))
    before = json.dumps(played)
    Path("logs").mkdir()
    Path("logs/Pong-v0_eval.json").write_text(before)
    assert gym_eval.main([*folder, *SHORT, *options], StopSignal()) == 0
    assert Path("logs/Pong-v0_eval.old-1.json").read_text() == before
    line = "logs/Pong-v0_eval.json of another evaluation is now Pong-v0_eval.old-1.json\n"
    assert capsys.readouterr().out.count(line) == 1
    assert summary(Path("logs")) != played


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "{}"])
def test_what_is_no_summary_is_set_aside_too(tmp_path, text):
    path = tmp_path / "Pong-v0_eval.json"
    path.write_text(text)
    said = gym_eval.write_summary(path, {"seed": 1})
    assert said == f"{path} of another evaluation is now Pong-v0_eval.old-1.json"
    assert (tmp_path / "Pong-v0_eval.old-1.json").read_text() == text
    assert json.loads(path.read_text()) == {"seed": 1}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((), "the same as published, action for action: 2 games"),
        (("-ne", "1"), "the same as published, action for action: 1 game"),
        (("-ne", "3"), "the same as published, action for action: 2 games"),
        (("--plain",), "the same as published, action for action: 2 games"),
        (("-mel", "5"), ""),
        (("--seed", "2"), ""),
        (("--stochastic",), ""),
    ],
)
def test_games_are_compared_with_those_of_the_published_evaluation(
    models, played, tmp_path, capsys, options, line
):
    shutil.copytree(models, tmp_path / "models")
    path = gym_eval.published_path(tmp_path / "models/Pong-v0.dat", "greedy", 1)
    path.parent.mkdir()
    path.write_text(json.dumps(played))
    assert run(tmp_path / "models", tmp_path, *SHORT, *options) == 0
    found = [said for said in capsys.readouterr().out.splitlines() if "action for action" in said]
    assert [said.split(" : ")[1] for said in found] == ([line] if line else [])


def test_games_that_are_not_the_published_ones_are_counted(played, tmp_path):
    path = gym_eval.published_path(tmp_path / "Pong-v0.dat", "greedy", 1)
    path.parent.mkdir()
    other = played | {"action_hashes": ["0", played["action_hashes"][1]], "mean": 2.0}
    other["versions"] = played["versions"] | {"torch": "2.0", "suite": "abc"}
    for error, words in ((0.5, "2.0000 ± 0.5000 (standard error)"), (None, "2.0000")):
        path.write_text(json.dumps(other | {"standard_error": error}))
        assert gym_eval.compare_with_published(tmp_path / "Pong-v0.dat", played) == (
            "action for action the same as published: 1 of 2 games; published: 2 games, "
            f"mean {words}, with torch 2.0"
        )


def test_evaluations_that_end_together_lose_no_summary(tmp_path):
    path = tmp_path / "Pong-v0_eval.json"
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda i: gym_eval.write_summary(path, {"seed": i}), range(40)))
    found = [json.loads(one.read_text())["seed"] for one in tmp_path.iterdir()]
    assert sorted(found) == [*range(40)]


def test_a_summary_says_on_which_id_the_weights_were_trained(models, tmp_path, capsys):
    path = str(models / "Pong-v0.dat")
    options = ("--log-dir", str(tmp_path), "-ne", "1", "-mel", "4", "--load-model", path)
    for env_id, words in (("Pong-v0", ""), ("PongNoFrameskip-v4", " on Pong-v0")):
        assert gym_eval.main([*options, "--env", env_id], StopSignal()) == 0
        assert f"{env_id} after 2234 agent steps of training{words}, " in capsys.readouterr().out
        assert summary(tmp_path, env_id)["trained_on"] == "Pong-v0"


def test_weights_in_the_old_file_format_play_with_a_fresh_normaliser(
    weights, played, tmp_path, capsys
):
    legacy, today = tmp_path / "legacy", tmp_path / "today"
    for folder, zip_format in ((legacy, False), (today, True)):
        folder.mkdir()
        torch.save(weights, folder / "Pong-v0.dat", _use_new_zipfile_serialization=zip_format)
        assert run(folder, folder, *SHORT) == 0
        assert "no description" in capsys.readouterr().out
    old, new = summary(legacy), summary(today)
    assert old.pop("sha256") != new.pop("sha256")  # of the file
    assert old == new
    assert summary(legacy)["action_hashes"] != played["action_hashes"]  # those had a normaliser


def test_a_stop_in_the_middle_leaves_the_last_complete_summary(models, tmp_path, capsys):
    stopped = StopSignal()
    stopped.received = True
    assert run(models, tmp_path, "--env", "Pong-v0", "-ne", "1", "-mel", "1") == 0
    before = (tmp_path / "Pong-v0_eval.json").read_bytes()
    assert gym_eval.main(command_line(models, tmp_path, *SHORT), stopped) == 130
    assert (tmp_path / "Pong-v0_eval.json").read_bytes() == before
    assert capsys.readouterr().err == ""


def test_a_stop_begins_no_other_policy(models, tmp_path, capsys):
    stopped = StopSignal()
    stopped.received = True
    policies = ("--greedy", "--stochastic")
    assert gym_eval.main(command_line(models, tmp_path, *SHORT, *policies), stopped) == 130
    assert re.findall(r" : (\w+) actions", capsys.readouterr().out) == ["greedy"]


def test_ctrl_c_while_it_loads_ends_it_at_once_and_leaves_nothing(models, tmp_path):
    """The loading takes for ever here."""
    code = (
        "import agent, runpy, sys, time\n"
        "def load(*args, **options): print('loading', flush=True); time.sleep(100)\n"
        "agent.Agent.load = load\n"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    script = (str(PROJECT / "gym_eval.py"), *command_line(models, tmp_path / "logs", *SHORT))
    with subprocess.Popen(
        [sys.executable, "-c", code, *script],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout.readline() == "loading\n"
            process.send_signal(signal.SIGINT)
            out, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out) == (130, "")
    assert error == "stopped before anything had begun\n"
    assert not os.listdir(tmp_path)


def test_ctrl_c_is_left_to_the_games_once_they_begin(models, tmp_path, monkeypatch):
    stop, play = StopSignal(at_once=True), gym_eval.play_in_processes

    def play_and_stop(*arguments, **options):
        stop._handle(signal.SIGINT, None)
        return play(*arguments, **options)

    monkeypatch.setattr(gym_eval, "play_in_processes", play_and_stop)
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail("ended at once"))
    assert gym_eval.main(command_line(models, tmp_path, *SHORT), stop) == 130
    log = (tmp_path / "Pong-v0_mon_log").read_text()
    assert log.endswith(" : interrupted before any game was over\n")


# ---------------------------------------------------------------------------------------------
# Which weights it plays, and how


def test_a_kept_file_is_played_as_it_is(models, played, tmp_path):
    shutil.copy(models / "Pong-v0.dat", tmp_path / "Pong-v0.step-1234.dat")
    shutil.copy(models / "Pong-v0.json", tmp_path / "Pong-v0.step-1234.json")
    options = ["--load-model", str(tmp_path / "Pong-v0.step-1234.dat"), "-lg", str(tmp_path)]
    assert gym_eval.main([*options, *SHORT], StopSignal()) == 0
    assert summary(tmp_path) == played | {"weights": "Pong-v0.step-1234.dat"}


def test_a_checkpoint_is_played_as_a_file(played, weights, tmp_path):
    sha256 = save_checkpoint(tmp_path, weights)
    options = ["--load-model", str(tmp_path / "Pong-v0.ckpt"), "-lgd", str(tmp_path)]
    assert gym_eval.main([*options, *SHORT], StopSignal()) == 0
    assert summary(tmp_path) == played | {"weights": "Pong-v0.ckpt", "sha256": sha256}


def test_a_named_file_is_played_in_the_game_of_its_training(models, tmp_path):
    shutil.copy(models / "Pong-v0.dat", tmp_path / "best.dat")
    text = (models / "Pong-v0.json").read_text()
    trained = json.loads(text) | {"env": "PongDeterministic-v4"}
    (tmp_path / "best.json").write_text(json.dumps(trained))
    options = ["--load-model", str(tmp_path / "best.dat"), "-lg", str(tmp_path)]
    assert gym_eval.main([*options, *SHORT[2:]], StopSignal()) == 0
    assert summary(tmp_path, "PongDeterministic-v4")["env"] == "PongDeterministic-v4"
    assert gym_eval.main([*options, *SHORT], StopSignal()) == 0
    assert summary(tmp_path)["env"] == "Pong-v0"


def test_a_file_that_does_not_say_its_game_wants_an_id(models, tmp_path, capsys, recwarn):
    for name in ("best", "Pong-v0"):
        shutil.copy(models / "Pong-v0.dat", tmp_path / f"{name}.dat")
    options = ("--load-model", str(tmp_path / "best.dat"), "-lg", str(tmp_path), *SHORT[2:])
    code = gym_eval.main(options, StopSignal())
    assert_refused(capsys, recwarn, code, "best.dat: no description says which game", "give --env")
    assert checkpoint.trained_on(tmp_path / "Pong-v0.dat", None) == "Pong-v0"


def test_the_picture_is_that_of_the_training_unless_a_crop_table_is_named(models, tmp_path):
    shutil.copy(models / "Pong-v0.dat", tmp_path)
    description = json.loads((models / "Pong-v0.json").read_text())
    path, said = tmp_path / "Pong-v0.dat", {"crop1": 20, "crop2": 30, "fire": True}
    for config, expected in (({}, (34, 194, False)), (said, (20, 190, True))):
        path.with_suffix(".json").write_text(json.dumps(description | {"game_config": config}))
        agent = Agent.load(path)
        env = agent.make_env()
        assert (env.top, env.bottom, env.fire_action is not None) == expected
        assert agent.game_config == (config or PONG)
    assert Agent.load(path, env_config=CONFIG).make_env().top == 34
    assert Agent.load(path, "SpaceInvaders-v0").make_env().fire_action is None  # another game's
    path.with_suffix(".json").write_text(json.dumps(description | {"game_config": [34]}))
    with pytest.raises(ValueError, match="'game_config' is not an object"):
        Agent.load(path)


def test_the_policy_is_that_of_the_description_unless_told_otherwise(weights, tmp_path, capsys):
    for folder, policy in (("sampled", {"policy": "sampled"}), ("unknown", {})):
        path = save(tmp_path, "Pong-v0", weights)
        description = json.loads(path.with_suffix(".json").read_text()) | policy
        path.with_suffix(".json").write_text(json.dumps(description))
        expected = {(): policy.get("policy", "greedy"), ("--greedy",): "greedy",
                    ("--stochastic",): "sampled", ("--stochastic", "False"): "greedy"}  # fmt: skip
        for options, used in expected.items():
            assert run(tmp_path, tmp_path / folder, *SHORT, *options) == 0
            assert summary(tmp_path / folder)["policy"] == used
            said = " (the weights were chosen for sampled ones)" if policy else ""
            assert f" : {used} actions{said}\n" in capsys.readouterr().out


def test_one_call_plays_with_each_policy_that_is_asked_for(models, fixed, tmp_path, capsys):
    """The scores and actions of each are those of a call of its own, with any --workers."""
    asked = ("--greedy", "--stochastic", "--epsilon", "0.5")
    assert run(models, tmp_path, *FIXED, *asked) == 0
    said = capsys.readouterr().out
    alone = {"greedy": asked[:1], "sampled": asked[1:2], "epsilon-greedy-0.5": asked[2:]}
    found = {}
    for name, options in alone.items():
        path = tmp_path / f"PongDeterministic-v4_eval.{name}.json"
        found[name] = json.loads(path.read_text())
        assert run(models, tmp_path / name, *FIXED, *options, "--workers", "1") == 0
        assert found[name] | {"speed": 1} == json.loads(
            (tmp_path / name / "PongDeterministic-v4_eval.json").read_text()
        ) | {"speed": 1}
    assert found["greedy"] | {"speed": 1} == summary(fixed, "PongDeterministic-v4") | {"speed": 1}
    assert [one["policy"] for one in found.values()] == ["greedy", "sampled", "epsilon-greedy"]
    assert [one.get("epsilon") for one in found.values()] == [None, None, 0.5]
    strays = found["epsilon-greedy-0.5"]
    assert strays["standard_error"] is not None  # there is chance in it
    assert len(set(strays["action_hashes"])) == 3
    assert not set(strays["action_hashes"]) & set(found["sampled"]["action_hashes"])
    assert "epsilon-greedy actions (0.5 at random), seed 1," in said
    assert not (tmp_path / "PongDeterministic-v4_eval.json").exists()


def test_a_description_with_another_policy_is_refused(weights, tmp_path, capsys, recwarn):
    path = save(tmp_path, "Pong-v0", weights).with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"policy": "best"}))
    assert_refused(capsys, recwarn, run(tmp_path, tmp_path / "logs", *SHORT), "'policy'")


def test_weights_of_another_game_are_named_and_another_id_of_the_game_is_not(
    weights, tmp_path, capsys
):
    path = save(tmp_path, "Pong-v0", weights)
    options = ("--load-model", str(path), "-ne", "1", "-mel", "2", "-lg", str(tmp_path))
    for env, said in (("SpaceInvaders-v0", True), ("PongDeterministic-v4", False)):
        assert gym_eval.main([*options, "--env", env], StopSignal()) == 0
        line = f"trained on Pong-v0, another game than {env}"
        assert (line in capsys.readouterr().out) == said


def test_a_long_game_gives_a_sign_of_life(models, tmp_path, monkeypatch, capsys):
    assert run(models, tmp_path, *SHORT) == 0
    assert "running" not in capsys.readouterr().out
    monkeypatch.setattr(gym_eval, "SIGN_SECONDS", 0)
    assert run(models, tmp_path, *SHORT) == 0
    signs = re.findall(r" : (\d) games running, (\d+) agent steps so far", capsys.readouterr().out)
    assert signs == [("2", "2"), ("2", "4"), ("2", "6"), ("0", "8")]


def test_help_is_there_before_torch():
    code = (
        "import runpy, sys; script = sys.argv[1]; sys.argv[1:] = ['--help']\n"
        "try: runpy.run_path(script, run_name='__main__')\n"
        "finally: print('torch' in sys.modules)"
    )
    for script in ("gym_eval.py", "main.py"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(PROJECT / script)],
            cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert done.stdout.startswith(f"usage: {script}")
        assert done.stdout.endswith("\nFalse\n")


# ---------------------------------------------------------------------------------------------
# What it refuses


def assert_refused(capsys, recwarn, code: int, *words: str) -> None:
    captured = capsys.readouterr()
    assert code not in (0, None)
    assert captured.err.startswith("gym_eval.py: error: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    assert "Traceback" not in captured.err
    for word in words:
        assert word in captured.err
    assert "game 0" not in captured.out
    assert not [str(warning.message) for warning in recwarn]  # they would be printed, too


def missing(folder, weights):
    return "no such file"


def truncated(folder, weights):
    path = save(folder, "Pong-v0", weights)
    os.truncate(path, path.stat().st_size // 2)
    return "not a readable PyTorch file"


def empty(folder, weights):
    (folder / "Pong-v0.dat").write_bytes(b"")
    return "not a readable PyTorch file"


def random_bytes(folder, weights):
    generator = torch.Generator().manual_seed(1)
    noise = torch.randint(256, (5000,), dtype=torch.uint8, generator=generator)
    (folder / "Pong-v0.dat").write_bytes(noise.numpy().tobytes())
    return "not a readable PyTorch file"


def flipped_bit(folder, weights):
    """In the middle of the largest tensor: still a valid archive and a finite number."""
    path = save(folder, "Pong-v0", weights, described=False)
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    content = bytearray(path.read_bytes())
    # The name and an extra field of unknown length precede the data: well inside is enough.
    content[largest.header_offset + largest.file_size // 2] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True).keys() == weights.keys()  # PyTorch sees nothing
    return "damaged"


class RunsCode:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def code_in_a_zip(folder, weights):
    torch.save({**weights, "extra": RunsCode(folder / "it ran")}, folder / "Pong-v0.dat")
    return "not a readable PyTorch file"


def code_in_a_pickle(folder, weights):
    (folder / "Pong-v0.dat").write_bytes(pickle.dumps(RunsCode(folder / "it ran")))
    return "not a readable PyTorch file"


def code_in_the_old_format(folder, weights):
    content = {**weights, "extra": RunsCode(folder / "it ran")}
    torch.save(content, folder / "Pong-v0.dat", _use_new_zipfile_serialization=False)
    return "not a readable PyTorch file"


def other_actions(folder, weights):
    save(folder, "Pong-v0", lively_weights(4))
    return "for 4 actions, but this game has NOOP FIRE RIGHT LEFT RIGHTFIRE LEFTFIRE"


def not_finite(folder, weights):
    bad = {name: tensor.clone() for name, tensor in weights.items()}
    bad["conv3.weight"][1, 2, 3, 0] = float("nan")
    save(folder, "Pong-v0", bad)
    return "conv3.weight holds values that are not finite"


def infinite(folder, weights):
    bad = {name: tensor.clone() for name, tensor in weights.items()}
    bad["critic_linear.bias"][0] = float("inf")
    save(folder, "Pong-v0", bad)
    return "critic_linear.bias holds values that are not finite"


def a_list(folder, weights):
    torch.save(list(weights.values()), folder / "Pong-v0.dat")
    return "not a dictionary"


def a_checkpoint(folder, weights):
    torch.save({"model": weights, "steps": 3}, folder / "Pong-v0.dat")
    return "no state dict"


def other_network(folder, weights):
    torch.save({"fc.weight": torch.zeros(3, 3)}, folder / "Pong-v0.dat")
    return "the network has no fc.weight"


def other_convolution(folder, weights):
    torch.save({**weights, "conv2.weight": torch.zeros(32, 32, 3, 3)}, folder / "Pong-v0.dat")
    return "conv2.weight should be (32, 32, 5, 5), found (32, 32, 3, 3)"


def tensor_missing(folder, weights):
    torch.save({k: v for k, v in weights.items() if k != "conv4.bias"}, folder / "Pong-v0.dat")
    return "conv4.bias should be (64,), found nothing"


def broken_description(folder, weights):
    save(folder, "Pong-v0", weights).with_suffix(".json").write_text("{")
    return "not valid JSON"


@pytest.mark.parametrize(
    "make",
    [
        missing, truncated, empty, random_bytes, flipped_bit, code_in_a_zip, code_in_a_pickle,
        code_in_the_old_format, other_actions, not_finite, infinite, a_list, a_checkpoint,
        other_network, other_convolution, tensor_missing, broken_description,
    ],
    ids=lambda make: make.__name__,
)  # fmt: skip
def test_an_unusable_model_is_one_line(make, weights, tmp_path, capsys, recwarn):
    expected = make(tmp_path, weights)
    code = run(tmp_path, tmp_path / "logs", *SHORT)
    assert_refused(capsys, recwarn, code, "Pong-v0", expected)
    assert not (tmp_path / "it ran").exists()
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--env", "Pogn-v0"], "'Pong-v0"),
        (["--env", "Pong-ram-v0"], "has no screen"),
        (["--env", "Combat-v0"], "several players"),
        (["--env", "Pong-v0", "--hidden-size", "512"], "has 32 LSTM units, not the 512 asked for"),
        (["--env-config", "nowhere.json"], "nowhere.json"),
        (["--num-episodes", "0"], "--num-episodes"),
        (["--num-episodes", "-5"], "--num-episodes"),
        (["--num-episodes", "2.5"], "--num-episodes"),
        (["--num-episodes", "many"], "--num-episodes"),
        (["--num-episodes", "1e12"], "--num-episodes: '1e12' is not a whole number above 0"),
        (["--record-from", "1e308"], "--record-from: '1e308' is not a number from 0 to 1e9"),
        (["--workers", "0"], "--workers"),
        (["--workers", "-1"], "--workers"),
        (["--workers", "-" + 400 * "9"], "--workers"),
        (["--max-episode-length", "0"], "--max-episode-length"),
        (["--max-episode-length", "-1"], "--max-episode-length"),
        (["--skip-rate", "0"], "--skip-rate"),
        (["--skip-rate", "4"], "skips by itself"),
        (["--hidden-size", "0"], "--hidden-size"),
        (["--hidden-size", "-32"], "--hidden-size"),
        (["--seed", "-1"], "--seed"),
        (["--seed", "nan"], "--seed"),
        (["--stochastic", "perhaps"], "neither True nor False"),
        (["--greedy", "False", "--stochastic", "False"], "leave out --stochastic False"),
        (["--epsilon", "0"], "'0' is not a number above 0"),
        (["--epsilon", "1.5"], "'1.5' is not a number above 0"),
        (["--greedy", "--stochastic", "--record", "a.gif"], "of one policy"),
        (["--record-game", "0"], "--record-game goes with --record; give both"),
        (["--record-from", "0"], "--record-from goes with --record; give both"),
        (["--record-seconds", "5"], "--record-seconds goes with --record; give both"),
        (["--record-panel", "False"], "--record-panel goes with --record; give both"),
        (["--render-freq", "1", "--render", "False"], "--render-freq goes with --render;"),
        (["--env-config", ""], "'' names no file"),
        (["--load-model-dir", ""], "'' names no file"),
        (["--render", "--workers", "2"], "--render plays one game at a time"),
        (["--render", "--processes", "2"], "--render plays one game at a time"),
        (["--published"], "not allowed with"),  # a folder is named
        (["--load-model", "Pong-v0.dat"], "not allowed with"),
        (["--no-such-option"], "--no-such-option"),
        (["--num-ep", "3"], "--num-ep"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_one_line(options, expected, models, tmp_path, capsys, recwarn):
    code = run(models, tmp_path / "logs", *options)
    assert_refused(capsys, recwarn, code, expected.strip("'"))
    assert not (tmp_path / "logs").exists()


def test_a_log_folder_that_is_a_file_is_one_line(models, tmp_path, capsys, recwarn):
    (tmp_path / "logs").write_text("")
    assert_refused(capsys, recwarn, run(models, tmp_path / "logs", *SHORT), "logs")


def save_checkpoint(folder: Path, weights, **changes) -> str:
    """Write Pong-v0.ckpt as training does; returns its sha256."""
    actions = make_env("Pong-v0", game_config(read_config(CONFIG), "Pong-v0")).action_meanings
    description = {"env": "Pong-v0", "actions": actions, "count_lives": True, "skip_rate": 4}
    content = {
        "model": weights, "optimizer": {}, "steps": 1234, "seconds": 5.0, "best_score": None,
        "normalizer": dict(zip(("count", "mean", "std"), NORMALIZER, strict=True)), "args": {},
        "description": description | {"loaded": {"agent_steps": 1000}},
    }  # fmt: skip
    torch.save(content | changes, folder / "Pong-v0.ckpt")
    return hashlib.sha256((folder / "Pong-v0.ckpt").read_bytes()).hexdigest()


def test_last_plays_the_weights_of_the_checkpoint(played, weights, tmp_path):
    save(tmp_path, "Pong-v0", {name: 0 * tensor for name, tensor in weights.items()})
    sha256 = save_checkpoint(tmp_path, weights)
    assert run(tmp_path, tmp_path, *SHORT, "--last") == 0
    assert summary(tmp_path) == played | {"weights": "Pong-v0.ckpt", "sha256": sha256}
    assert run(tmp_path, tmp_path, *SHORT) == 0
    assert summary(tmp_path)["action_hashes"] != played["action_hashes"]


@pytest.mark.parametrize("description", [None, {"env": "Pong-v0"}])
def test_last_refuses_a_checkpoint_without_description(
    weights, tmp_path, capsys, recwarn, description
):
    save_checkpoint(tmp_path, weights, description=description)
    assert_refused(capsys, recwarn, run(tmp_path, tmp_path, *SHORT, "--last"), "description")


def test_last_without_a_checkpoint_says_what_is_there(models, tmp_path, capsys, recwarn):
    code = run(models, tmp_path, *SHORT, "--last")
    hint = f"without --last, {models}/Pong-v0.dat is played"
    assert_refused(capsys, recwarn, code, "Pong-v0.ckpt: no such file", hint)


def test_as_a_program_too_a_missing_model_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, str(PROJECT / "gym_eval.py"), *command_line(tmp_path, tmp_path, *SHORT)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"gym_eval\.py: error: .*Pong-v0\.dat: no such file\n", done.stderr)
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="has a screen")
def test_without_a_screen_render_is_refused_before_any_model_is_loaded(
    tmp_path, monkeypatch, capsys, recwarn
):
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.setenv(name, "")  # what require_screen sets is undone, too
        monkeypatch.delenv(name)
    code = run(tmp_path / "no models", tmp_path, *FIXED, "--render")
    assert_refused(capsys, recwarn, code, "there is no screen", "--record FILE")
    monkeypatch.setenv("DISPLAY", ":none")  # as of an X server that has gone
    monkeypatch.setenv("SDL_AUDIODRIVER", "dummy")
    require_screen()
    config = game_config(read_config(CONFIG), "Pong-v0")
    with pytest.raises(ValueError, match=r"cannot open its window.*--record FILE"):
        make_env("Pong-v0", config, render_mode="human")


def test_a_window_that_cannot_be_opened_is_one_line(models, tmp_path, monkeypatch, capsys, recwarn):
    monkeypatch.setenv("SDL_VIDEODRIVER", "none of SDL's")
    monkeypatch.setenv("SDL_AUDIODRIVER", "dummy")
    code = run(models, tmp_path, *FIXED, "--render")
    assert_refused(capsys, recwarn, code, "window")


def test_render_shows_every_nth_game_and_changes_no_score(models, fixed, tmp_path, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("SDL_AUDIODRIVER", "dummy")
    modes = []

    class Window(gym_eval.ShowEvery):
        def reset(self, **options):
            result = super().reset(**options)
            modes.append(self.unwrapped.render_mode)
            return result

    monkeypatch.setattr(gym_eval, "ShowEvery", Window)
    assert run(models, tmp_path, *FIXED, "--render", "--render-freq", "2") == 0
    assert modes == ["human", None, "human"]
    name = "PongDeterministic-v4"
    assert summary(tmp_path, name)["action_hashes"] == summary(fixed, name)["action_hashes"]
