"""Every option of main.py changes what it says it changes; wrong input ends with one clear line."""

import functools
import hashlib
import json
import logging
import math
import sys
import time
from pathlib import Path

import pytest
import torch

import checkpoint
import main
import messages
from hogwild import Hogwild
from options import ENVS_PER_WORKER, build_parser, complete, parse, recipe_options
from processes import START_METHOD
from run import Run, load_options
from stopping import StopSignal
from train import train
from utils import available_cores

CONFIG = str(Path(main.__file__).with_name("config.json"))


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "PUBLISHED", tmp_path / "published")


def build(*options: str) -> Run:
    """What main.py builds for these options, without a process or a file."""
    return Run(*load_options(["--env-config", CONFIG, "--hidden-size", "16", *options]))


class Recorder(Hogwild):
    """Keeps what a worker pushes; stops after `updates` of them."""

    def watch(self, updates: int) -> "Recorder":
        self.updates, self.pushed = updates, []
        return self

    def push(self, gradient, rank, lr):
        super().push(gradient, rank, lr)
        self.pushed.append(gradient.clone())
        if len(self.pushed) == self.updates:
            self.stop()


def gradients(*options: str, rank: int = 0) -> list[torch.Tensor]:
    """The first three gradients of a worker of `main.py --env Breakout-v0` with these options."""
    few = ("--workers", "2", "--envs-per-worker", "1")
    run = build("--env", "Breakout-v0", *few, *options)
    run.server.__class__ = Recorder
    train(rank, run.args, run.server.watch(3), run.make_env)
    return run.server.pushed


@functools.cache
def default_gradients() -> list[torch.Tensor]:
    return gradients()


def test_equal_options_give_equal_gradients():
    for a, b in zip(gradients(), default_gradients(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "options",
    [
        ("--gamma", "0.5"),
        ("-g", "0.5"),
        ("--tau", "0.5"),
        ("-t", "0.5"),
        ("--entropy-coef", "0.5"),
        ("-ec", "0.5"),
        ("--value-coef", "0.1"),
        ("-vc", "0.1"),
        ("--seed", "2"),
        ("-s", "2"),
        ("--max-grad-norm", "0.01"),
        ("--envs-per-worker", "2"),
        ("--lr", "0.1"),
        ("-l", "0.1"),
        ("--anneal-steps", "100"),
        ("--adam-eps", "0.1"),
        ("--distributed-step-size", "10", "20"),
        ("-dss", "10", "20"),
        ("--lr", "0.1@0,0.2@1M"),
        ("--gamma", "0.5@0%,0.6@100%", "--max-steps", "1000"),
        ("--entropy-coef", "0.5@0,0@1M"),
        ("--optimizer", "RMSprop"),
        ("-o", "RMSprop"),
        ("--max-episode-length", "10"),
        ("-mel", "10"),
        ("--num-steps", "10"),
        ("-ns", "10"),
    ],
    ids=" ".join,
)
def test_an_option_of_learning_changes_the_gradients(options):
    pairs = zip(gradients(*options), default_gradients(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "options", [("--gamma", "0.99@30,0.5@31"), ("-ec", "0.01@30,0.5@31")], ids=" ".join
)
def test_a_worker_uses_the_value_of_the_step(options):
    first, _, last = gradients(*options)  # after 20 and about 50 steps
    assert torch.equal(first, default_gradients()[0])
    assert not torch.equal(last, default_gradients()[2])


def test_reward_ends_return_changes_the_gradients_of_a_game_with_rewards():
    pong = ("--env", "Pong-v0", "--num-steps", "80")  # a point is lost after 50 to 70 steps
    pairs = zip(gradients(*pong), gradients(*pong, "--reward-ends-return"), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_workers_play_different_games():
    pairs = zip(gradients(rank=1), default_gradients(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_a_gradient_is_scaled_down_to_max_grad_norm():
    for gradient in gradients("--max-grad-norm", "0.01"):
        assert float(gradient.norm()) == pytest.approx(0.01, rel=1e-4)


def test_count_lives_ends_training_episodes():
    # Breakout's ball is lost soon; with one game per worker a rollout stops there.
    def steps_of_a_rollout(value):
        one = ("--envs-per-worker", "1", "--num-steps", "150")
        run = build("--env", "Breakout-v0", *one, "--count-lives", value)
        run.server.__class__ = Recorder
        train(0, run.args, run.server.watch(1), run.make_env)
        return run.server.steps

    assert steps_of_a_rollout("False") >= 150 > steps_of_a_rollout("True")


@pytest.mark.parametrize(
    ("options", "attribute", "expected"),
    [
        ((), "load", False),
        (("-lgd", "there"), "log_dir", "there"),
        (("--load",), "load", True),
        (("-ld", "True"), "load", True),
        (("--load", "False"), "load", False),
        (("--load", "false"), "load", False),
        (("-ld", "0"), "load", False),
        ((), "reward_ends_return", False),
        (("--reward-ends-return",), "reward_ends_return", True),
        ((), "shared_optimizer", True),
        (("--shared-optimizer", "False"), "shared_optimizer", False),
        (("-so", "False"), "shared_optimizer", False),
        (("--count-lives",), "count_lives", True),
        (("--count-lives", "False"), "count_lives", False),
        (("-a",), "amsgrad", True),
        (("--amsgrad", "True"), "amsgrad", True),
        (("-sm",), "save_max", True),
        (("-w", "5"), "workers", 5),
        ((), "workers", available_cores()),
        (("-ev", "Breakout-v4"), "env", "Breakout-v4"),
        (("-lg", "x"), "log_dir", "x"),
        (("-lmd", "x"), "load_model_dir", "x"),
        (("-smd", "x"), "save_model_dir", "x"),
        (("-evc", "x"), "env_config", "x"),
        (("-hs", "7"), "hidden_size", 7),
        (("-g", "0.7"), "gamma", 0.7),
        (("-t", "0.7"), "tau", 0.7),
        (("-l", "0.7"), "lr", 0.7),
        (("-ec", "0.7"), "entropy_coef", 0.7),
        (("-vc", "0.7"), "value_coef", 0.7),
        (("-s", "7"), "seed", 7),
        (("-ns", "7"), "num_steps", 7),
        (("-mel", "7"), "max_episode_length", 7),
        (("-o", "RMSprop"), "optimizer", "RMSprop"),
        (("-dss", "7", "3"), "distributed_step_size", [7, 3]),
        (("-l", "0.7@0, 0@9M"), "lr", "0.7@0,0@9M"),
        (("-g", "0.7@0,1@9M"), "gamma", "0.7@0,1@9M"),
        (("-ec", "0.7@0,0@9M"), "entropy_coef", "0.7@0,0@9M"),
        (("--schedule-steps", "7"), "schedule_steps", 7),
        (("-tl",), "tensorboard_logger", True),
        (("--tensorboard-logger", "False"), "tensorboard_logger", False),
        (("-q",), "quiet", True),
        (("--max-steps", "none"), "max_steps", None),
        (("--eval-interval", "none"), "eval_interval", None),
        (("--target-score", "-7.5"), "target_score", -7.5),
        (("--target-score", "none"), "target_score", None),
        (("--target", "training"), "target", "training"),
        (("--max-idle-steps", "0"), "max_idle_steps", 0),
    ],
)
def test_truth_values_and_short_forms_are_understood(options, attribute, expected):
    assert getattr(complete(build_parser().parse_args(options)), attribute) == expected


def test_every_option_is_documented_with_a_default_or_a_unit(capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["--help"])
    text = capsys.readouterr().out
    for action in build_parser()._actions:
        assert action.help, action.option_strings
        assert action.option_strings[-1] in text
    assert "None" not in text
    assert "[]" not in text
    for group in ("run:", "learning:", "environment:", "evaluation:", "files and output:"):
        assert f"\n{group}\n" in text


def test_the_optimizer_options_make_that_optimizer():
    adam = build().server.optimizers
    assert [type(o).__name__ for o in adam] == ["SharedAdam"]
    assert adam[0].param_groups[0]["lr"] == 3e-4
    classic = build("--envs-per-worker", "1").server.optimizers[0]
    assert classic.param_groups[0]["lr"] == 1e-4
    assert adam[0].param_groups[0]["eps"] == classic.param_groups[0]["eps"] == 1e-3
    assert build("--adam-eps", "0.5").server.optimizers[0].param_groups[0]["eps"] == 0.5
    rmsprop = build("-o", "RMSprop").server.optimizers[0]
    assert (type(rmsprop).__name__, rmsprop.param_groups[0]["lr"]) == ("SharedRMSprop", 7e-4)
    assert build("-l", "0.5").server.optimizers[0].param_groups[0]["lr"] == 0.5
    assert "max_exp_avg_sq" in next(iter(build("-a").server.optimizers[0].state.values()))
    assert len(build("-so", "False", "-w", "3").server.optimizers) == 3
    assert len(build("-w", "3").server.figures.values) == 3


@pytest.mark.parametrize("options", [("--amsgrad",), ("--adam-eps", "0.001")], ids=" ".join)
def test_an_option_of_adam_is_refused_with_another_optimizer(options):
    assert load_options(options)[0].optimizer == "Adam"
    with pytest.raises(ValueError, match=f"^{options[0]} .*; leave it out with --optimizer RMS"):
        load_options(["--optimizer", "RMSprop", *options])


def test_the_step_of_the_values_mean_wants_games_to_compare():
    assert build("--value-mean-step", "0.1", "--envs-per-worker", "2").args.value_mean_step == 0.1
    with pytest.raises(ValueError, match=r"^--value-mean-step compares games; "):
        load_options(["--value-mean-step", "0.1", "--envs-per-worker", "1"])


def test_a_run_with_a_step_of_the_values_mean_goes_on_with_one_game_if_that_is_0():
    run = build("--env", "MsPacman-v0")
    Path("trained_models").mkdir()
    run.save()
    resume = ["--env", "MsPacman-v0", "--resume", "--envs-per-worker", "1"]
    with pytest.raises(ValueError, match=r"^--value-mean-step compares games; give 0 or "):
        load_options(resume)
    assert load_options([*resume, "--value-mean-step", "0"])[0].envs_per_worker == 1


def test_the_step_of_the_values_mean_wants_the_head_that_it_moves(monkeypatch):
    monkeypatch.setattr("run.make_model", lambda *_: torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"critic_linear\.bias, which model\.py has not; give 0"):
        build("--value-mean-step", "0.1")


def test_a_run_of_rmsprop_that_was_given_an_option_of_adam_goes_on():
    run = build("--optimizer", "RMSprop")
    run.args.adam_eps = 0.1  # earlier versions took it
    Path("trained_models").mkdir()
    run.save()
    assert load_options(["--resume"])[0].optimizer == "RMSprop"


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (("--env", "Pong-v0", "--envs-per-worker", "1"), (1e-4, 0, 1.0, 0.01, 40.0)),
        (("--env", "Breakout-v0", "--envs-per-worker", "1"), (1e-4, 0, 1.0, 0.01, 40.0)),
        (("--env", "Pong-v0"), (3e-4, 10_000_000, 1.0, 0.01, 200.0)),
        (("--env", "Pong-v0", "--envs-per-worker", "2"), (3e-4, 10_000_000, 1.0, 0.01, 200.0)),
        (
            ("--env", "Breakout-v0"),
            (3e-4, 10_000_000, 0.95, "0.01@0,0.01@0.75M,0.001@1.5M", 200.0),
        ),
        (("--env", "SpaceInvaders-v0"), (3e-4, 10_000_000, 0.95, 0.001, 200.0)),
        (("--env", "PongDeterministic-v3"), (3e-4, 10_000_000, 1.0, 0.01, 200.0)),
        (
            ("--env", "PongDeterministic-v4"),
            ("3e-4@0,3e-4@0.7M,3e-5@1.3M", 0, 0.95, 0.001, 200.0),
        ),
        (
            ("--env", "ALE/BeamRider-v5"),
            (3e-4, 10_000_000, 0.95, "0.01@0,0.01@0.75M,0.001@1.5M", 200.0),
        ),
        (("--env", "MsPacman-v0"), (3e-4, 10_000_000, 1.0, 0.01, 200.0)),
        (("--env", "Seaquest-v0"), (3e-4, 10_000_000, 1.0, 0.01, 200.0)),
        (("--env", "Asteroids-v0"), (1e-4, 10_000_000, 1.0, 0.01, 200.0)),
        (("--env", "Pong-v0", "--optimizer", "RMSprop"), (7e-4, 10_000_000, 1.0, 0.01, 200.0)),
        # A constant rate in place of the schedule falls as any other.
        (
            ("--env", "PongDeterministic-v4", "--optimizer", "RMSprop"),
            (7e-4, 10_000_000, 0.95, 0.001, 200.0),
        ),
        (
            ("--env", "PongDeterministic-v4", "--lr", "2e-4"),
            (2e-4, 10_000_000, 0.95, 0.001, 200.0),
        ),
        (
            ("--env", "PongDeterministic-v4", "--lr", "2e-4", "--anneal-steps", "0"),
            (2e-4, 0, 0.95, 0.001, 200.0),
        ),
        (
            ("--lr", "0.5", "--anneal-steps", "3", "--tau", "0.7", "-ec", "0", "--max-grad-norm=9"),
            (0.5, 3, 0.7, 0.0, 9.0),
        ),
    ],
    ids=str,
)
def test_the_recipe_is_that_of_the_game_unless_told_otherwise(options, values):
    args = load_options(["--workers", "1", *options])[0]
    names = ("lr", "anneal_steps", "tau", "entropy_coef", "max_grad_norm")
    assert tuple(getattr(args, name) for name in names) == values


def test_loaded_weights_get_schedules_that_begin_anew_and_the_log_says_so():
    Path("trained_models").mkdir()
    build("--env", "Breakout-v0").save(last=True)
    for given, said in (
        ((), "of --lr, --entropy-coef"),
        (("--entropy-coef", "0.001"), "of --lr"),
        (("--entropy-coef", "0.001", "--anneal-steps", "0"), None),
    ):
        lines = messages.beginning(build("--env", "Breakout-v0", "--load", *given))
        told = [line for line in lines if line.startswith("--load begins at agent step 0")]
        assert [line.rsplit("schedules ")[1] for line in told] == ([said] if said else [])


def test_a_crop_table_of_ones_own_is_told_to_be_in_place_of_all_of_config_json():
    table = json.loads(Path(CONFIG).read_text())
    del table["Breakout"]["fire"]
    Path("mine.json").write_text(json.dumps(table))
    told = {}
    for path in ("mine.json", CONFIG):
        run = Run(*load_options(["--env", "Breakout-v0", "--env-config", path]))
        told[path] = [line for line in messages.beginning(run) if "in place of all of" in line]
    (line,) = told["mine.json"]
    assert line.startswith("mine.json is in place of all of config.json: here {'crop1': 34, ")
    assert "'fire': False" in line
    assert told[CONFIG] == []


@pytest.mark.parametrize(
    ("options", "gamma"),
    [
        (("--env", "SpaceInvaders-v0"), "0.99@0,0.99@1M,0.997@2M"),
        (("--env", "SpaceInvaders-v0", "--envs-per-worker", "1"), 0.99),
        (("--env", "SpaceInvaders-v0", "--gamma", "0.99"), 0.99),
        (("--env", "ALE/BeamRider-v5"), "0.99@0,0.99@1M,0.997@2M"),
        (("--env", "Breakout-v0"), 0.99),
    ],
    ids=str,
)
def test_gamma_rises_where_that_was_seen_to_help(options, gamma):
    assert load_options(["--workers", "1", *options])[0].gamma == gamma


def test_the_help_says_which_games_have_which_defaults():
    text = " ".join(build_parser().format_help().split())
    assert (
        "(default: 0.0001; 0.0003 with several games per worker in Pong, Breakout, BeamRider, "
        "SpaceInvaders, MsPacman, Seaquest; 3e-4@0,3e-4@0.7M,3e-5@1.3M with several games per "
        "worker in PongDeterministic-v4; 0.0007 with RMSprop)" in text
    )
    assert (
        "(default: 1.0; 0.95 with several games per worker in PongDeterministic-v4, Breakout, "
        "BeamRider, SpaceInvaders)" in text
    )
    assert (
        "(default: 0.99; 0.99@0,0.99@1M,0.997@2M with several games per worker in BeamRider, "
        "SpaceInvaders)" in text
    )
    assert "(default: 40.0; 200.0 with several games per worker)" in text
    assert "(default: 0.0; 0.1 with several games per worker in MsPacman, Seaquest)" in text


def test_more_workers_than_cores_play_one_game_each_unless_told_otherwise():
    cores = available_cores()
    assert build("-w", str(cores)).args.envs_per_worker == ENVS_PER_WORKER
    assert build("-w", str(cores + 1)).args.envs_per_worker == 1
    assert build("-w", str(cores + 1), "--envs-per-worker", "3").args.envs_per_worker == 3
    # On a cluster those of all machines count, not those of the driver's alone.
    for workers, drivers, crowded in ((cores + 1, 1, True), (1, cores + 1, True), (1, 1, False)):
        argv = ["-w", str(workers), "--ray", "--driver-workers", str(drivers)]
        assert parse(argv).envs_per_worker == (1 if crowded else ENVS_PER_WORKER)


def test_hidden_size_is_the_number_of_lstm_units():
    assert build("--hidden-size", "24").model.lstm.hidden_size == 24


def test_skip_rate_is_the_number_of_frames_per_step():
    for skip_rate in (2, 6):
        env = build("--env", "PongNoFrameskip-v4", "--skip-rate", str(skip_rate)).make_env()
        _, info = env.reset(seed=1)
        before = info["frame_number"]
        assert env.step(0)[-1]["frame_number"] - before == skip_rate


def test_env_config_is_the_crop_table():
    Path("crops.json").write_text(json.dumps({"Default": {"crop1": 0, "crop2": 50}}))
    a, _ = build().make_env().reset(seed=1)
    b, _ = build("--env-config", "crops.json").make_env().reset(seed=1)
    assert (a != b).any()


def test_a_run_belongs_to_no_folder_by_its_crop_table():
    """A checkpoint keeps the options, and the project may have moved when it is resumed."""
    assert load_options([])[0].env_config is None
    a, _ = Run(*load_options(["--hidden-size", "16"])).make_env().reset(seed=1)
    b, _ = build().make_env().reset(seed=1)
    assert (a == b).all()


@pytest.mark.parametrize(
    ("options", "policy", "max_idle_steps"),
    [
        (("--env", "PongDeterministic-v4"), "sampled", 10_000),
        (("--env", "PongDeterministic-v4", "--max-idle-steps", "0"), "sampled", None),
        (("--env", "Pong-v0"), "greedy", None),
        (("--env", "Pong-v0", "--max-idle-steps", "7"), "greedy", 7),
    ],
)
def test_evaluations_sample_and_have_a_limit_where_there_is_no_chance(
    options, policy, max_idle_steps
):
    run = build(*options)
    assert run.description["policy"] == policy
    assert run.description["max_idle_steps"] == max_idle_steps


def steps_until_cut(env) -> int | None:
    env.reset(seed=1)
    return next((step for step in range(1, 20) if env.step(0)[3]), None)


def test_steps_without_a_reward_cut_games_of_evaluations_alone():
    run = build("--max-idle-steps", "7")
    assert steps_until_cut(run.make_test_env()) == 7
    assert steps_until_cut(run.make_env()) is None


def save_best(run: Run, score: float) -> None:
    """As after an evaluation with this score and the checkpoint that follows it."""
    Path("trained_models").mkdir(exist_ok=True)
    Path("logs").mkdir(exist_ok=True)
    run.server.report(0, steps=1000)
    run.finished_games.collect()
    run.server.evaluation["best_score"] = score
    description = checkpoint.describe(run.description, 1000, 1.0, [5.0, 80.0, 40.0], score)
    checkpoint.save_model(run.files.model, run.model.state_dict(), description)
    run.save()


def resume(*options: str) -> Run:
    args, resumed = load_options(["--env-config", CONFIG, "--resume", *options])
    run = Run(args, resumed)
    run.prepare_files(resumed)
    return run


def best_score(run: Run) -> float:
    return float(run.server.evaluation["best_score"])


def test_a_best_score_counts_under_the_rules_that_it_was_measured_under():
    save_best(build("--max-episode-length", "200"), -3)
    before = Path("trained_models/Pong-v0.dat").read_bytes()
    assert best_score(resume()) == -3
    run = resume("--max-episode-length", "none")
    assert math.isnan(best_score(run))
    words = "so far, -3, no longer counts: max_episode_length was 200 and is None"
    assert run.outdated.endswith(words)
    assert not run.files.model.exists()
    assert Path("trained_models/Pong-v0.old-1.dat").read_bytes() == before
    run.undo_prepare_files()  # nothing was learned
    assert run.files.model.read_bytes() == before
    assert best_score(resume("--max-idle-steps", "300")) != -3
    save_best(resume("--max-episode-length", "none"), -20)
    assert best_score(resume()) == -20


def crops(**changes) -> tuple[str, str]:
    """--env-config with these changes to Pong's entry."""
    table = json.loads(Path(CONFIG).read_text())
    table["Pong"] = table["Pong"] | changes
    Path("crops.json").write_text(json.dumps(table))
    return "--env-config", "crops.json"


@pytest.mark.parametrize("changes", [{"crop1": 20}, {"crop2": 20}, {"fire": True}], ids=str)
def test_a_best_score_counts_with_the_picture_that_it_was_measured_with(changes):
    save_best(build(), -3)
    run = resume(*crops(**changes))
    assert math.isnan(best_score(run))
    assert "-3, no longer counts: game_config was {'crop1': 34, " in run.outdated
    before = build().description
    older = {key: value for key, value in before.items() if key != "game_config"}
    assert checkpoint.changed_rules(before, run.description) != ""
    assert checkpoint.changed_rules(older, run.description) == ""  # it did not say


def test_a_resumed_run_keeps_its_picture_though_config_json_has_changed(monkeypatch):
    save_best(Run(*load_options(["--hidden-size", "16"])), -3)
    crops(crop1=20)
    monkeypatch.setattr("run.CROP_TABLE", Path("crops.json"))
    run = Run(*load_options(["--resume"]))
    assert (run.make_env().top, best_score(run), run.introduction) == (34, -3, [])
    other = Run(*load_options(["--resume", "--env-config", "crops.json"]))
    assert other.make_env().top == 20
    (line,) = other.introduction
    assert "ckpt: trained with {'crop1': 34, " in line
    assert "goes on with {'crop1': 20, " in line
    assert len(build("--load", *crops(crop1=20)).introduction) == 2
    assert len(build("--load").introduction) == 1


def test_a_resumed_run_has_the_actions_that_it_began_with(capsys):
    run = build()
    save_best(run, -3)
    actions = run.description["actions"]
    with pytest.raises(ValueError, match=r"ckpt: for the actions .* but this game has "):
        resume(*crops(actions=actions[::-1]))
    assert best_score(resume(*crops(actions=actions))) == -3


def test_a_best_score_that_was_greedy_on_an_id_without_chance_no_longer_counts():
    env = ("--env", "PongDeterministic-v4")
    run = build(*env)
    for rule in ("policy", "max_idle_steps"):  # as an earlier version wrote it
        del run.description[rule]
    save_best(run, 4)
    run = resume(*env)
    assert math.isnan(best_score(run))
    assert "policy was greedy and is sampled" in run.outdated


def test_the_newest_training_games_of_a_resumed_run_are_those_of_its_csv():
    save_best(build(), 5)
    rows = [(1.0, i, float(i), 9) for i in range(1, 1100)]  # 1000 of them up to the checkpoint
    checkpoint.append_csv(Path("logs/Pong-v0.training.csv"), rows)
    assert list(resume().last_scores) == list(range(901, 1001))
    assert not resume("--max-episode-length", "50").last_scores  # those were other games


@pytest.mark.parametrize(
    ("target", "evaluation", "training", "reached"),
    [
        ("either", math.nan, [3.0] * 100, "3.00, mean of the last 100 training games"),
        ("either", 3.5, [], "3.5, mean of 8 games of an evaluation"),
        ("either", 2.0, [3.0] * 99, ""),  # too few games
        ("either", 2.0, [3.0] * 99 + [2.0], ""),
        ("evaluation", 2.0, [3.0] * 100, ""),
        ("training", 3.5, [2.0] * 100, ""),
        ("training", math.nan, [9.0] + [3.0] * 100, "3.00, mean of the last 100 training games"),
    ],
)
def test_the_target_score_is_that_of_an_evaluation_or_of_the_last_100_training_games(
    target, evaluation, training, reached
):
    run = build("--target-score", "3", "--target", target)
    run.server.evaluation["last_score"] = evaluation
    for score in training:
        run.server.report_game(0, score, 9, 9)
        run.server.report(0, steps=9)
    Path("logs").mkdir()
    run.write_games(logging.getLogger())
    assert run.target_reached().startswith(reached)
    assert bool(run.target_reached()) == bool(reached)


def test_load_starts_from_the_weights_and_normaliser_of_load_model_dir():
    first = build()
    description = checkpoint.describe(first.description, 1, 1.0, [5.0, 80.0, 40.0], 2.5)
    Path("there").mkdir()
    checkpoint.save_model(Path("there/Pong-v0.dat"), first.model.state_dict(), description)
    second = build("--seed", "2", "--load", "--load-model-dir", "there")
    assert torch.equal(second.server.parameter, first.server.parameter)
    assert second.server.normalizer().tolist() == [5.0, 80.0, 40.0]
    assert not torch.equal(build("--seed", "2").server.parameter, first.server.parameter)


def test_load_takes_the_weights_of_a_run_else_the_published_ones_and_says_which(capsys):
    expected = {}
    for folder in ("published", "trained_models"):  # first, there are published ones alone
        run = build("--seed", str(2 + len(expected)))
        Path(folder).mkdir()
        description = checkpoint.describe(run.description, 1, 1.0, [5.0, 80.0, 40.0], 2.5)
        checkpoint.save_model(Path(folder, "Pong-v0.dat"), run.model.state_dict(), description)
        expected[folder] = run.server.parameter
        loaded = build("--load")
        assert torch.equal(loaded.server.parameter, expected[folder])
        whose = "published" if folder == "published" else "a run's own"
        assert loaded.introduction == [f"{folder}/Pong-v0.dat: {whose} weights, 1 agent steps"]
    published = build("--load", "--published")
    assert torch.equal(published.server.parameter, expected["published"])
    # Nothing stands in for a folder that was named.
    error = refuse(capsys, "--load", "--load-model-dir", "elsewhere")
    assert error == "main.py: error: elsewhere/Pong-v0.dat: no such file\n"


def test_weights_of_another_game_with_the_same_actions_are_named():
    run = build("--env", "SpaceInvaders-v0")
    Path("trained_models").mkdir()
    description = checkpoint.describe(run.description, 1, 1.0, [5.0, 80.0, 40.0], 2.5)
    for name in ("Pong-v0", "SpaceInvadersDeterministic-v4"):
        path = Path(f"trained_models/{name}.dat")
        checkpoint.save_model(path, run.model.state_dict(), description)
    assert build("--load").introduction[1:] == [
        "trained_models/Pong-v0.dat: trained on SpaceInvaders-v0, another game than Pong-v0"
    ]
    same_game = build("--env", "SpaceInvadersDeterministic-v4", "--load")
    assert len(same_game.introduction) == 1


def test_weights_keep_the_record_of_those_that_they_started_from():
    first = build()
    assert first.description["loaded"] is None
    for steps, folder in ((7, "a"), (5, "b")):
        Path(folder).mkdir()
        path = Path(folder, "Pong-v0.dat")
        description = checkpoint.describe(first.description, steps, 1.0, [5.0, 80.0, 40.0], 2.5)
        checkpoint.save_model(path, first.model.state_dict(), description)
        first = build("--load", "--load-model-dir", folder)
    assert first.description["loaded"]["agent_steps"] == 5
    assert first.description["loaded"]["loaded"]["agent_steps"] == 7
    first.files.model.parent.mkdir()
    first.save(last=True)
    _, description = checkpoint.load_model(first.files.model)
    assert description["loaded"] == first.description["loaded"]
    assert build("--resume").description["loaded"] == description["loaded"]
    first.files.model.with_suffix(".json").unlink()  # as with weights of the classic suite
    loaded = build("--load").description["loaded"]
    assert {name for name, value in loaded.items() if value is not None} == {"sha256"}


def test_files_go_to_the_folders_of_the_options():
    files = build("-smd", "models", "-lg", "records", "--env", "ALE/Pong-v5").files
    assert files.model == Path("models/ALE-Pong-v5.dat")
    assert files.checkpoint == Path("models/ALE-Pong-v5.ckpt")
    assert files.log == Path("records/ALE-Pong-v5_log")
    assert files.csv == Path("records/ALE-Pong-v5.csv")


def test_max_steps_stops_workers_by_themselves():
    run = build("--max-steps", "37", "--num-steps", "5", "--envs-per-worker", "1")
    train(0, run.args, run.server, run.make_env)
    assert run.server.steps == 37


def refuse(capsys, *options: str) -> str:
    """The line with which main.py ends; nothing is on disk afterwards that was not before."""
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    try:
        code = main.main(["--env-config", CONFIG, *options], StopSignal())
    except SystemExit as end:  # argparse
        code = end.code
    out, error = capsys.readouterr()
    assert code not in (0, None)
    assert out == ""
    assert error.startswith("main.py: error: ")
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    return error


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--env", "Pog-v0"), "Pong-v0"),
        (("--env", "Joust-v0"), "players"),
        (("--env", "Pong-ram-v0"), "screen"),
        (("--env", "Combat-ram-v0"), "players"),
        (("--env", "CartPole-v1"), "not an Atari game"),
        (("--env", "Kartenhaus"), "unknown environment 'Kartenhaus'"),
        (("--env", "Breakout-v0", "--max-episode-length", "2"), "FIRE"),
        (("--seed", str(2**63)), "'9223372036854775808'"),
        (("--workers", "0"), "'0' is not a whole number above 0"),
        (("--workers", "-2"), "'-2'"),
        (("--workers", "2.5"), "'2.5'"),
        (("--envs-per-worker", "0"), "'0'"),
        (("--num-steps", "0"), "'0'"),
        (("--max-episode-length", "0"), "'0'"),
        (("--max-steps", "-1"), "'-1'"),
        (("--max-steps", "1e30"), "'1e30' is not a whole number above 0, and 2**53 at most"),
        (("--max-idle-steps", "1e30"), "'1e30' is not a whole number from 0 to 2**53"),
        (("--envs-per-worker", "1e12"), "'1e12' is not a whole number above 0, and a million at"),
        (("--num-steps", "1e12"), "'1e12' is not a whole number above 0, and a million at most"),
        (("--max-minutes", "1e308"), "'1e308' is not a number above 0, and 1e9 at most"),
        (("--eval-interval", "1e308"), "'1e308' is not a number from 0 to 1e9"),
        (("--skip-rate", "0"), "'0'"),
        (("--hidden-size", "0"), "'0'"),
        (("--eval-episodes", "0"), "'0'"),
        (("--eval-interval", "-1"), "'-1'"),
        (("--max-minutes", "0"), "'0'"),
        (("--seed", "-1"), "'-1'"),
        (("--lr", "nan"), "'nan'"),
        (("--lr", "-1"), "'-1'"),
        (("--lr", "0"), "'0'"),
        (("--lr", "inf"), "'inf'"),
        (("--anneal-steps", "-1"), "'-1'"),
        (("--lr", "1e-4@0,0@1M,1e-4@2M"), "'0' is not a number above 0"),
        (("--lr", "1e-4@2M,1e-5@1M"), "'1M' does not come after"),
        (("--lr", "1e-4@0%,1e-5@100%"), "--max-steps or --schedule-steps"),
        (("--lr", "1e-4@0,1e-5@1M", "--anneal-steps", "9"), "in place of --anneal-steps"),
        (
            ("--env", "PongDeterministic-v4", "--anneal-steps", "9"),
            "3e-5@1.3M (recipes.toml [several_games.PongDeterministic-v4]) stands in place of "
            "--anneal-steps 9 (the command line); leave this out, or give a constant --lr",
        ),
        (("--gamma", "0.9@0,1.5@1M"), "'1.5'"),
        (("--entropy-coef", "0.1@0,-1@1M"), "'-1'"),
        (("--schedule-steps", "0"), "'0'"),
        (("--distributed-step-size", "16", "0.1"), "'0.1'"),
        (("--distributed-step-size", "16", "0"), "'0'"),
        (("--gamma", "1.5"), "'1.5'"),
        (("--gamma", "nan"), "'nan'"),
        (("--tau", "-0.1"), "'-0.1'"),
        (("--max-grad-norm", "0"), "'0'"),
        (("--entropy-coef", "nan"), "'nan'"),
        (("--target-score", "nan"), "'nan'"),
        (("--optimizer", "SGD"), "SGD"),
        (("--load", "maybe"), "'maybe'"),
        (("--no-such-option",), "--no-such-option"),
        (("--env-config", "missing.json"), "missing.json"),
        (("--resume",), "Pong-v0.ckpt"),
        (("--resume", "--load"), "--load"),
        (("--num-steps", "5", "-dss", "16", "32"), "in place of --num-steps"),
        (("--recipe", ""), "'' names no file"),
        (("--env-config", ""), "'' names no file"),
        (("--save-model-dir", ""), "'' names no file"),
        (("--log-dir", ""), "'' names no file"),
        (("--load", "--load-model-dir", ""), "'' names no file"),
        (("--recipe", "missing.toml"), "missing.toml: No such file"),
        (("--resume", "--recipe", "recipe.toml"), "leave out --recipe"),
        (("--skip-rate", "4"), "Pong-v0 skips by itself"),
        (("--load",), "Pong-v0.dat"),
        (("--load", "--published"), "no weights of Pong-v0 are published (there are: none)"),
        (("--load", "--published", "-lmd", "there"), "not allowed with"),
        (("--published",), "add --load"),
        (("-lmd", "there"), "add --load"),
        (("--target", "training"), "add --target-score"),
        (("--target", "either"), "add --target-score"),
        (("--exchange-updates", "8"), "add --ray"),
        (("-smd", "published/"), "no run writes there"),
        (("-smd", "published/seed-3"), "no run writes there"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_input_is_refused_with_one_line(capsys, options, word):
    assert word in refuse(capsys, *options)


def test_a_checkpoint_that_cannot_be_read_is_refused_with_the_way_out(capsys):
    run = build()
    Path("trained_models").mkdir()
    run.save(last=True)
    Path("trained_models/Pong-v0.ckpt").write_bytes(b"torn")
    error = refuse(capsys, "--resume")
    assert "not a readable PyTorch file" in error
    assert "--load-model-dir trained_models instead of --resume begins anew with Pong-v0" in error
    Path("trained_models/Pong-v0.dat").unlink()
    assert "--load" not in refuse(capsys, "--resume")


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"Pong": {"crop1": 1, "crop2": 2}}', '{"Default": {"crop1": 34, "crop2": 900}}'],
)
def test_a_broken_crop_table_is_refused_with_one_line(capsys, content):
    Path("crops.json").write_text(content)
    refuse(capsys, "--env-config", "crops.json")


@pytest.mark.parametrize("ending", [".dat", ".ckpt"])
@pytest.mark.parametrize("content", [b"", b"random bytes \x00\xff" * 99])
def test_a_file_that_cannot_be_loaded_is_refused_with_one_line(capsys, ending, content):
    Path("trained_models").mkdir()
    Path(f"trained_models/Pong-v0{ending}").write_bytes(content)
    refuse(capsys, "--load" if ending == ".dat" else "--resume")


def test_a_model_for_other_actions_or_another_size_is_refused_with_one_line(capsys):
    other = build("--env", "Breakout-v0")
    Path("trained_models").mkdir()
    description = checkpoint.describe(other.description, 1, 1.0, [5.0, 80.0, 40.0], 2.5)
    path = Path("trained_models/Pong-v0.dat")
    checkpoint.save_model(path, other.model.state_dict(), description)
    line = refuse(capsys, "--load", "--hidden-size", "16")
    assert ": for the actions NOOP FIRE RIGHT LEFT, but this game has NOOP FIRE RIGHT" in line
    path.with_suffix(".json").unlink()  # the classic suite's have none
    line = refuse(capsys, "--load", "--hidden-size", "16")
    assert ": for 4 actions, but this game has NOOP FIRE RIGHT" in line
    assert "crop table" in line
    torch.save(build("--env", "Pong-v0").model.state_dict(), path)
    loaded = build("--load", "--hidden-size", "16")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.description["loaded"]["sha256"] == digest
    (line,) = loaded.introduction
    assert line == f"{path}: an unknown run's weights, an unknown number of agent steps"
    assert "lstm.weight_ih" in refuse(capsys, "--load", "--hidden-size", "8")


def test_a_model_for_as_many_but_other_actions_is_refused_with_one_line(capsys):
    Path("trained_models").mkdir()
    run = build()
    other = {**run.description, "actions": run.description["actions"][::-1]}
    description = checkpoint.describe(other, 1, 1.0, [5.0, 80.0, 40.0], 2.5)
    path = Path("trained_models/Pong-v0.dat")
    checkpoint.save_model(path, run.model.state_dict(), description)
    assert "LEFTFIRE" in refuse(capsys, "--load", "--hidden-size", "16")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--optimizer", "RMSprop"), "has --optimizer Adam; that"),
        (("--amsgrad",), "has --amsgrad False; that"),
        (("--hidden-size", "24"), "has --hidden-size 16; that"),
        (("--shared-optimizer", "False"), "has --shared-optimizer True; that"),
        (("--target", "evaluation"), "add --target-score"),
        (("--exchange-updates", "8"), "add --ray"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_a_resumed_run_cannot_change_is_refused_with_one_line(capsys, options, word):
    run = build("--hidden-size", "16")
    Path("trained_models").mkdir()
    run.save()
    assert word in refuse(capsys, "--resume", *options)


def test_a_checkpoint_under_the_name_of_another_game_is_refused_with_one_line(capsys):
    Path("trained_models").mkdir()
    build("--env", "Tennis-v0").save()  # with as many actions
    Path("trained_models/Tennis-v0.ckpt").rename("trained_models/Boxing-v0.ckpt")
    error = refuse(capsys, "--env", "Boxing-v0", "--resume")
    assert "trained_models/Boxing-v0.ckpt: of a run of Tennis-v0, not of Boxing-v0" in error


def test_whose_score_is_meant_may_change_in_a_resumed_run_with_a_target_score():
    Path("trained_models").mkdir()
    build("--target-score", "20").save()
    assert load_options(["--resume"])[0].target == "either"
    assert load_options(["--resume", "--target", "training"])[0].target == "training"


@pytest.fixture
def blinking(monkeypatch):
    """The crop table has flicker for Asteroids."""
    table = json.loads(Path(CONFIG).read_text())
    table["Asteroids"]["flicker"] = True
    Path("table.json").write_text(json.dumps(table))
    monkeypatch.setattr("run.CROP_TABLE", "table.json")


def test_a_run_that_loads_weights_says_that_it_sees_two_frames_where_these_saw_one(blinking):
    Path("trained_models").mkdir()
    argv = ["--env", "Asteroids-v0", "--hidden-size", "16"]
    run = Run(*load_options(argv))
    for known in (True, False):  # a description of an earlier version says nothing
        description = run.description | {"game_config": {"crop1": 16, "crop2": 34, "fire": False}}
        if not known:
            del description["game_config"]
        described = checkpoint.describe(description, 1, 1.0, [5.0, 80.0, 40.0], None)
        path = Path("trained_models/Asteroids-v0.dat")
        checkpoint.save_model(path, run.model.state_dict(), described)
        loaded = Run(*load_options([*argv, "--load"]))
        assert loaded.make_env().unwrapped.flicker
        assert "'fire': False}, and goes on with {" in loaded.introduction[-1]
        assert "'flicker': True}" in loaded.introduction[-1]


def test_ids_without_frameskip_have_no_flicker_to_say(blinking):
    for env_id, flicker in (("Asteroids-v4", True), ("AsteroidsNoFrameskip-v4", False)):
        run = Run(*load_options(["--env", env_id, "--hidden-size", "16"]))
        assert run.description["game_config"].get("flicker", False) == flicker
        assert run.make_env().unwrapped.flicker == flicker


def test_a_resumed_run_sees_two_frames_at_once_if_it_did_before(blinking):
    Path("trained_models").mkdir()
    argv = ["--env", "Asteroids-v0", "--hidden-size", "16"]
    run = Run(*load_options(argv))
    assert run.description["game_config"]["flicker"]
    run.save()
    assert Run(*load_options([*argv, "--resume"])).make_env().unwrapped.flicker
    del run.description["game_config"]["flicker"]  # of an earlier version
    run.save()
    again = Run(*load_options([*argv, "--resume"]))
    assert not again.make_env().unwrapped.flicker
    assert "flicker" not in again.description["game_config"]


def test_a_resumed_run_keeps_its_skip_rate_unless_told_otherwise():
    Path("trained_models").mkdir()
    env = ("--env", "PongNoFrameskip-v4")
    build(*env, "--skip-rate", "6").save()
    assert load_options([*env, "--resume"])[0].skip_rate == 6
    assert load_options([*env, "--resume", "--skip-rate", "2"])[0].skip_rate == 2
    build().save()
    assert load_options(["--resume"])[0].skip_rate == 4  # saved, though Pong-v0 skips by itself


@pytest.mark.parametrize(
    "damage",
    [
        {"workers": "two"}, {"workers": 0}, {"lr": None}, {"lr": "3e-4@"}, {"lr": [3e-4]},
        {"num_steps": 0}, {"distributed_step_size": [0]}, {"distributed_step_size": None},
        {"eval_interval": -1.0}, {"count_lives": 2}, {"target": "neither"}, {"gamma": 2.0},
        {"distributed_step_size": 5}, {"max_steps": {}},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_option_of_a_checkpoint_is_one_line(capsys, damage):
    run = build("--hidden-size", "16")
    Path("trained_models").mkdir()
    run.args.__dict__.update(damage)
    run.save()
    line = refuse(capsys, "--resume")
    assert "trained_models/Pong-v0.ckpt: its 'args' have" in line
    assert "--" + next(iter(damage)).replace("_", "-") in line


def test_a_damaged_option_that_is_given_anew_is_not_asked_for():
    run = build("--hidden-size", "16")
    Path("trained_models").mkdir()
    run.args.workers, run.args.gamma = 0, 2.0
    run.save()
    args, _ = load_options(["--resume", "--workers", "2", "--gamma", "0.9"])
    assert (args.workers, args.gamma) == (2, 0.9)


@pytest.mark.parametrize(
    "given",
    [
        (), ("--lr", "2e-4@0,0@10M"), ("--gamma", "0.9@0%, 1@100%", "--max-steps", "1000"),
        ("-dss", "7", "3"), ("-o", "RMSprop"), ("--eval-interval", "60"), ("--track", "none"),
        ("--save-score-level", "3"), ("--max-idle-steps", "0"), ("--target-score", "20"),
        ("--max-steps", "5000"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_a_run_had_is_taken_up_by_the_next_session(given):
    run = build("--hidden-size", "16", *given)
    Path("trained_models").mkdir()
    run.save()
    args, _ = load_options(["--resume"])
    for name in recipe_options():
        assert getattr(args, name) == getattr(run.args, name)


def test_an_optimizer_state_of_something_else_is_refused_with_one_line(capsys):
    run = build()
    Path("trained_models").mkdir()
    run.save()
    path = Path("trained_models/Pong-v0.ckpt")
    whole = checkpoint.load_checkpoint(path)
    for state in ({}, {"state": {0: {"step": torch.zeros(())}}}, {"state": [1]}):
        torch.save({**whole, "optimizer": state}, path)
        assert "does not fit" in refuse(capsys, "--resume")
    other = build("--env", "Breakout-v0")
    torch.save({**whole, "optimizer": other.server.optimizers[0].state_dict()}, path)
    assert "does not fit" in refuse(capsys, "--resume")


def keep_changing(moment: torch.Tensor, changes) -> None:
    while True:
        moment.uniform_()
        changes.value += 1


def test_a_checkpoint_is_whole_while_workers_change_what_it_holds():
    run = build("--hidden-size", "128")
    Path("trained_models").mkdir()
    context = torch.multiprocessing.get_context(START_METHOD)
    changes = context.Value("L", 0)
    moment = run.server.optimizers[0].state[run.server.parameter]["exp_avg"]
    worker = context.Process(target=keep_changing, args=(moment, changes), daemon=True)
    worker.start()
    try:
        end = time.monotonic() + 60
        while not changes.value:
            assert time.monotonic() < end
        before = changes.value
        for _ in range(10):
            run.save()
            checkpoint.load_checkpoint(run.files.checkpoint)  # compares the sums of its parts
        assert changes.value > before
    finally:
        worker.kill()
        worker.join()


def test_folders_that_cannot_be_written_are_refused_with_one_line(capsys):
    Path("file").write_text("")
    assert "file" in refuse(capsys, "--save-model-dir", "file/models")
    assert "file" in refuse(capsys, "--log-dir", "file")


def test_too_little_shared_memory_is_one_line(capsys, tmp_path, monkeypatch):
    import hogwild

    monkeypatch.setattr(hogwild, "SPARE_SHARED_MEMORY", 2**60)  # more than any machine has
    if sys.platform == "linux":
        assert "shared memory" in refuse(capsys)


def test_a_network_larger_than_the_memory_is_one_line(capsys):
    if sys.platform == "linux":
        assert "shared memory" in refuse(capsys, "--hidden-size", "1000000")
    assert "a million at most" in refuse(capsys, "--hidden-size", "1" + "0" * 400)
