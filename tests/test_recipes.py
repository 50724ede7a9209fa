"""recipes.toml and --recipe FILE: which option a run has, and what is wrong with a file."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import checkpoint
import options
import train
from run import Run, load_options

PONG = ("--env", "Pong-v0", "--workers", "1", "--hidden-size", "16")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("trained_models").mkdir()


def load(*given: str, recipe: str = "") -> argparse.Namespace:
    """The options of a run of Pong with this recipe file."""
    Path("recipe.toml").write_text(recipe)
    return load_options([*PONG, "--recipe", "recipe.toml", *given])[0]


def resumed(args: argparse.Namespace, *given: str) -> argparse.Namespace:
    Run(args, None).save()
    return load_options(["--resume", *given])[0]


def at_shares(args: argparse.Namespace) -> list[tuple[float, float, float]]:
    """Learning rate, gamma, entropy at 0, 25, 50, 100 and 150 % of 4000 agent steps."""
    return [train.scheduled(args, steps) for steps in (0, 1000, 2000, 4000, 6000)]


SCHEDULES = {
    "steps": ("1e-3@0,5e-4@2k,1e-4@4k", "0.9@0,1@4000", "0.02@1k,0.01@2k"),
    "shares": ("1e-3@0%,5e-4@50%,1e-4@100%", "0.9@0%,1@100%", "0.02@25%,0.01@50%"),
}
EXPECTED = [
    (1e-3, 0.9, 0.02), (7.5e-4, 0.925, 0.02), (5e-4, 0.95, 0.01), *[(1e-4, 1.0, 0.01)] * 2,
]  # fmt: skip


@pytest.mark.parametrize("places", SCHEDULES)
def test_a_schedule_is_the_same_on_the_command_line_and_in_a_file_and_after_resume(places):
    lr, gamma, entropy_coef = SCHEDULES[places]
    length = ("--max-steps", "4000")
    line = load("--lr", lr, "--gamma", gamma, "--entropy-coef", entropy_coef, *length)
    text = f"lr = '{lr}'\ngamma = '{gamma}'\nentropy_coef = '{entropy_coef}'\n"
    by_file = load(recipe=f"[several_games.Pong]\nmax_steps = 4000\n{text}")
    for args in (line, by_file):
        assert at_shares(args) == [pytest.approx(row, rel=1e-9) for row in EXPECTED]
        for limit in ("8000", "none"):
            assert at_shares(resumed(args, "--max-steps", limit)) == at_shares(args)


def test_shares_that_a_resumed_run_is_given_are_of_its_new_length():
    args = load("--lr", "1e-3@0%,0@100%", "--max-steps", "4000")
    again = resumed(args, "--lr", "1e-3@0%,1e-4@50%,0@100%", "--max-steps", "8000")
    assert train.scheduled(again, 4000)[0] == pytest.approx(1e-4)
    for given, length in (((), 4000), (("--schedule-steps", "3000"), 3000)):
        again = resumed(args, "--lr", "1e-3@0%,1e-4@100%", *given)
        assert train.scheduled(again, length)[0] == pytest.approx(1e-4)
    given = ("--lr", "1e-3@0%,1e-4@100%", "--max-steps", "8000", "--schedule-steps", "6000")
    assert train.scheduled(resumed(args, *given), 3000)[0] == pytest.approx(5.5e-4)


def test_shares_of_two_lengths_are_refused():
    args = load("--gamma", "0.9@0%,1@100%", "--max-steps", "4000")
    told = r"--lr has shares of a run, and those of --gamma are of 4000 agent steps; give --sch"
    with pytest.raises(ValueError, match=told):
        resumed(args, "--lr", "1e-3@0%,0@100%", "--max-steps", "8000")


def test_a_run_does_not_go_on_to_a_rate_of_zero():
    args = load("--lr", "1e-3@0%,0@100%", "--max-steps", "4000")
    for steps, given, refused in (
        (4000, ("--max-steps", "none"), True),
        (4000, ("--max-steps", "8000"), True),
        (4000, ("--max-steps", "8000", "--schedule-steps", "8000"), False),
        (4000, ("--max-steps", "9000", "--schedule-steps", "8000"), True),
        (4000, ("--max-steps", "none", "--lr", "1e-4"), False),
        (4000, ("--max-steps", "none", "--lr", "1e-4@0,0@2k"), True),
        (3000, ("--lr", "1e-4@0,0@2k"), True),
        (3000, ("--max-steps", "none"), True),
        (3000, ("--schedule-steps", "2000"), True),
        (3000, (), False),
    ):
        run = Run(args, None)
        run.server.report(0, steps=steps)
        run.finished_games.collect()
        run.save()
        if refused:
            with pytest.raises(ValueError, match=f"at {steps} agent steps, and its learning rate"):
                load_options(["--resume", *given])
        else:
            load_options(["--resume", *given])


def test_what_a_run_was_begun_with_may_end_with_a_rate_of_zero():
    schedule = ("--lr", "1e-3@0%,0@100%", "--schedule-steps", "2000", "--max-steps", "4000")
    assert resumed(load(*schedule)).schedule_steps == 2000


def test_schedule_steps_moves_a_schedule_by_shares_and_no_other():
    for places, same in (("shares", 2000), ("steps", 1000)):
        args = load("--lr", SCHEDULES[places][0], "--max-steps", "4000")
        moved = resumed(args, "--schedule-steps", "8000")
        assert moved.max_steps == 4000
        assert train.scheduled(moved, same) == train.scheduled(args, 1000)


def test_shares_are_of_schedule_steps_if_that_is_given():
    args = load("--lr", "1e-3@0%,0@100%", "--schedule-steps", "4000", "--max-steps", "9000")
    assert train.scheduled(args, 2000)[0] == pytest.approx(5e-4)
    assert load(recipe="[every_run]\nlr = '1e-3@0%,0@100%'\nschedule_steps = 4000").lr
    with pytest.raises(ValueError, match=r"^a schedule by shares .* --max-steps or --schedule-st"):
        load(recipe="[every_run]\nlr = '1e-3@0%,0@100%'")


@pytest.mark.parametrize("lr", [1e-4, 3e-4, 7e-4, 2.3e-4])
def test_anneal_steps_gives_the_rates_that_it_always_gave(lr):
    args = load("--lr", str(lr), "--anneal-steps", "7000000")
    for steps in (0, 1, 3, 1234567, 3500000, 6999999, 7000000, 7000001, 10**9):
        assert train.scheduled(args, steps)[0] == lr * (1 - (1 - 0.1) * min(1.0, steps / 7_000_000))


def test_a_schedule_stands_in_place_of_anneal_steps_and_a_rate_of_the_run_goes_on():
    assert load().anneal_steps == 10_000_000
    args = load("--lr", "1e-3@0,1e-4@4k")
    assert args.anneal_steps == 0
    assert load(recipe="[every_run]\nlr = '1e-3@0,1e-4@4k'").anneal_steps == 0
    with pytest.raises(ValueError, match=r"@4k \(trained_models/Pong-v0.ckpt\) stands .* 7 \(t"):
        resumed(args, "--anneal-steps", "7")
    assert resumed(args, "--lr", "1e-3", "--anneal-steps", "7").anneal_steps == 7
    assert resumed(load(), "--lr", "1e-3@0,1e-4@4k").anneal_steps == 0
    assert resumed(args, "--lr", "1e-3").anneal_steps == 10_000_000  # as in a new run
    assert resumed(args, "--gamma", "0.9").anneal_steps == 0


def test_a_schedule_and_anneal_steps_that_meet_are_named_with_where_they_are_from():
    pong = ("--env", "PongDeterministic-v4")
    with pytest.raises(ValueError, match="in place of") as error:
        load(*pong, recipe="[every_run]\nanneal_steps = 7")
    assert "1.3M (recipes.toml [several_games.PongDeterministic-v4]) stands" in str(error.value)
    assert "--anneal-steps 7 (recipe.toml [every_run]); leave this out" in str(error.value)
    # RMSprop's own rate is constant.
    assert load(*pong, recipe="[every_run]\nanneal_steps = 7\noptimizer = 'RMSprop'").lr == 7e-4


def test_the_command_line_beats_the_recipe_and_this_the_defaults():
    recipe = """
        [every_run]
        value_coef = 0.25
        gamma = 0.9
        tau = 0.8
        max_steps = 5000
        eval_interval = 7.5
        eval_episodes = 3
        [several_games]
        gamma = 0.95
        entropy_coef = 0.3
        [several_games.Pong]
        gamma = 0.98
        [several_games.Pong-v4]
        gamma = 0.97
        [several_games.Breakout]
        gamma = 0.1
        [RMSprop]
        max_grad_norm = 5
    """
    args = load(recipe=recipe)
    assert (args.value_coef, args.gamma, args.tau, args.entropy_coef) == (0.25, 0.98, 0.8, 0.3)
    assert (args.max_steps, args.eval_interval, args.eval_episodes) == (5000, 7.5, 3)
    assert (args.lr, args.max_grad_norm) == (3e-4, 200.0)  # Pong's by recipes.toml
    one = load("--envs-per-worker", "1", recipe=recipe)
    assert (one.gamma, one.entropy_coef, one.lr, one.max_grad_norm) == (0.9, 0.01, 1e-4, 40.0)
    assert load("--optimizer", "RMSprop", recipe=recipe).max_grad_norm == 5.0
    assert load("--env", "Breakout-v4", recipe=recipe).gamma == 0.1
    assert load("--env", "Pong-v4", recipe=recipe).gamma == 0.97
    given = ("--gamma", "0.5", "--max-steps", "none", "--eval-interval", "none")
    args = load(*given, recipe=recipe)
    assert (args.gamma, args.max_steps, args.eval_interval) == (0.5, None, None)


def test_a_recipe_can_choose_the_optimizer():
    args = load(recipe="[several_games.Pong]\noptimizer = 'RMSprop'")
    assert (args.optimizer, args.lr, args.adam_eps) == ("RMSprop", 7e-4, None)
    args = load("--optimizer", "Adam", recipe="[every_run]\noptimizer = 'RMSprop'\nadam_eps = 0.5")
    assert (args.optimizer, args.lr, args.adam_eps) == ("Adam", 3e-4, 0.5)


def test_lengths_of_rollouts_in_a_recipe_give_way_to_num_steps():
    recipe = "[several_games]\ndistributed_step_size = [16, 32]"
    args = load(recipe=recipe)
    assert (args.num_steps, args.distributed_step_size) == (None, [16, 32])
    args = load("--num-steps", "5", recipe=recipe)
    assert (args.num_steps, args.distributed_step_size) == (5, [])


def test_a_resumed_run_goes_on_with_what_it_had_though_the_file_has_gone():
    args = load("--tau", "0.7", recipe="[every_run]\ngamma = 0.9\nsave_score_level = 3")
    Run(args, None).save()
    Path("recipe.toml").unlink()
    again = load_options(["--resume", "--gamma", "0.8"])[0]
    assert (again.tau, again.gamma, again.save_score_level) == (0.7, 0.8, 3.0)
    assert again.schedule_steps is None


def test_checkpoint_and_description_say_the_values():
    run = Run(load(recipe="[every_run]\nlr = '1e-3@0%,0@100%'\nmax_steps = 4000"), None)
    run.save(last=True)
    saved = checkpoint.load_checkpoint(Path("trained_models/Pong-v0.ckpt"))["args"]
    described = json.loads(Path("trained_models/Pong-v0.json").read_text())["options"]
    assert described.keys() == options.recipe_options().keys()
    for values in (saved, described):
        assert (values["lr"], values["schedule_steps"]) == ("1e-3@0%,0@100%", 4000)
        assert (values["gamma"], values["max_grad_norm"]) == (0.99, 200.0)


def test_a_checkpoint_from_before_schedules_goes_on_with_its_numbers():
    Run(load("--lr", "2e-4", "--anneal-steps", "9000"), None).save()
    path = Path("trained_models/Pong-v0.ckpt")
    saved = checkpoint.load_checkpoint(path)
    for name in ("recipe", "schedule_steps"):
        del saved["args"][name]
    torch.save(saved, path)
    args, _ = load_options(["--resume"])
    assert train.scheduled(args, 4500) == (2e-4 * (1 - (1 - 0.1) * 0.5), 0.99, 0.01)
    assert (args.schedule_steps, args.num_steps) == (None, 20)


def test_a_whole_number_may_have_an_exponent():
    assert load(recipe="[every_run]\nanneal_steps = 1e7\ngamma = 1.0").anneal_steps == 10_000_000
    recipe = "[every_run]\ndistributed_step_size = [1e1, 20]"
    assert load(recipe=recipe).distributed_step_size == [10, 20]


@pytest.mark.parametrize(
    ("table", "content", "key", "reason"),
    [
        ("several_game", "lr = 1", "", "no table of a recipe; the nearest is several_games"),
        ("several_games.Pog", "max_steps = 9", "", "no game and no id; the nearest is Pong"),
        ("one_game.PongDeterministic", "lr = 1", "", "no game and no id; the nearest is "),
        ("every_run.Pong", "lr = 1", "", "games have their tables in one_game and several_games"),
        ("every_run", "gama = 0.9", "gama", "no option of a recipe; the nearest is gamma"),
        ("every_run", "log_dir = 'x'", "log_dir", "no option of a recipe"),
        ("one_game.Pong", "lr = 0", "lr", "'0' is not a number above 0"),
        ("one_game", "lr = nan", "lr", "'nan' is not a number above 0"),
        ("one_game", "lr = '3e-4'", "lr", "'3e-4' is of the wrong type"),
        ("one_game", "lr = [1, 2]", "lr", "'[1,2]' is not a number above 0"),
        ("one_game", "lr = '1@5,2@1'", "lr", "'1' does not come after the place before it"),
        ("one_game", "gamma = '1@0,2@5'", "gamma", "'2' is not a number from 0 to 1"),
        ("one_game", "tau = '0.9@0,1@5'", "tau", "'0.9@0,1@5' is not a number from 0 to 1"),
        ("one_game", "num_steps = 2.5", "num_steps", "'2.5' is not a whole number above 0"),
        ("one_game", "num_steps = true", "num_steps", "'True' is not a whole number above 0"),
        ("one_game", "amsgrad = 1", "amsgrad", "1 is of the wrong type"),
        ("one_game", "amsgrad = 'True'", "amsgrad", "'True' is of the wrong type"),
        ("one_game", "optimizer = 'SGD'", "optimizer", "'SGD' is not one of Adam, RMSprop"),
        ("one_game", "optimizer = 3", "optimizer", "3 is of the wrong type"),
        ("Adam", "optimizer = 'RMSprop'", "optimizer", "this table is for Adam"),
        ("RMSprop", "adam_eps = 1e-3", "adam_eps", "this table is for RMSprop"),
        ("RMSprop", "amsgrad = true", "amsgrad", "this table is for RMSprop"),
        ("one_game", "max_steps = 'never'", "max_steps", "'never' is not a whole number above 0"),
        ("one_game", "distributed_step_size = 5", "distributed_step_size", "5 is not a list"),
        ("one_game", "distributed_step_size = [0]", "distributed_step_size", "'0' is not a whole "),
        ("one_game", "num_steps = 5\ndistributed_step_size = [5]", "distributed_step_size", "--d"),
        ("one_game", "lr = '1@0,2@5'\nanneal_steps = 5", "anneal_steps", "the schedule --lr 1@"),
    ],
    ids=str,
)
def test_a_wrong_recipe_is_one_line_with_file_table_and_key(table, content, key, reason):
    with pytest.raises(ValueError, match="recipe") as error:
        load(recipe=f"[{table}]\n{content}")
    where = f"recipe.toml: [{table}] {key}" if key else f"recipe.toml: [{table}]"
    assert str(error.value).startswith(f"{where}: {reason}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("[every_run]\nlr = ", "recipe.toml is not TOML: "),
        ("[every_run]\nlr = 1\nlr = 2", "recipe.toml is not TOML: "),
        ("lr = 1e-3", "recipe.toml: lr: is in no table"),
        ("[[several_games]]\nlr = 1", "recipe.toml: several_games: is in no table"),
        ("[several_games.'']\nlr = 1", "recipe.toml: [several_games.]: no game and no id"),
    ],
)
def test_a_recipe_that_holds_something_else_is_one_line(content, line):
    with pytest.raises(ValueError, match="recipe") as error:
        load(recipe=content)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_a_recipe_that_is_no_text_or_not_there_is_one_line():
    Path("recipe.toml").write_bytes(b"\xff\x00")
    for path in ("recipe.toml", "missing.toml", "trained_models"):
        with pytest.raises(ValueError, match=path) as error:
            load_options(["--recipe", path])
        assert "\n" not in str(error.value)


def test_an_unknown_game_ends_with_one_line_whatever_the_recipe():
    with pytest.raises(ValueError, match=r"unknown environment 'Pog-v0'; .* Pong-v0"):
        load("--env", "Pog-v0", recipe="[every_run]\nmax_steps = 9")


@pytest.mark.parametrize(
    ("content", "line"),
    [("[every_run", "not TOML"), ("[every_run]\nmax_steps = 1", "[every_run] lr: is missing")],
)
def test_defaults_that_cannot_be_read_are_one_line(capsys, monkeypatch, content, line):
    Path("defaults.toml").write_text(content)
    monkeypatch.setattr(options, "RECIPES", Path("defaults.toml"))
    with pytest.raises(SystemExit):
        options.build_parser()
    error = capsys.readouterr().err
    assert error.startswith("main.py: error: defaults.toml")
    assert error.count("\n") == 1
    assert line in error


def test_the_options_are_there_without_torch():
    code = "import sys, options; options.build_parser(); assert 'torch' not in sys.modules"
    folder = Path(options.__file__).parent
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
