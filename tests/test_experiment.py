"""experiment.py as a person sees it: real runs, stopped, killed, gone on with and finished."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import checkpoint
import experiment
import options
from scores import Experiment, Member
from stopping import StopSignal

PROJECT = Path(experiment.__file__).parent
SMALL = ["--workers", "1", "--envs-per-worker", "2", "--num-steps", "5", "--hidden-size", "16"]
SMALL += ["--max-episode-length", "40", "--eval-episodes", "1", "--eval-interval", "60"]
SMALL += ["--env-config", str(PROJECT / "config.json")]


class Command:
    """experiment.py in a session of its own; its runs have sessions of their own."""

    def __init__(self, folder: Path, *arguments: str, small: tuple[str, ...] = tuple(SMALL)):
        self.root = folder / "bench"
        self.output = folder / f"output-{time.monotonic_ns()}"
        command = [sys.executable, str(PROJECT / "experiment.py"), "--folder", str(self.root)]
        with open(self.output, "wb") as file:
            self.process = subprocess.Popen(
                [*command, *arguments, "--", *small], cwd=folder, stdin=subprocess.DEVNULL,
                stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def text(self) -> str:
        return self.output.read_text()

    def wait_for(self, condition, seconds: float = 120):
        """The first true value of condition(); fails after so many seconds."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, f"{seconds} s have passed; output:\n{self.text()}"
            time.sleep(0.05)
        return value

    def runs(self) -> list[int]:
        """Ids of the processes main.py of this experiment."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended
                line = path.read_bytes()
                if b"main.py" in line and os.fsencode(self.root) in line:
                    found.append(int(path.parent.name))
        return found

    def rows(self) -> int:
        """Training games that are on disk, of all runs."""
        return sum(len(checkpoint.read_csv(p)) for p in self.root.rglob("*.training.csv"))

    def end(self) -> int:
        return self.process.wait(timeout=240)


@pytest.fixture
def command(tmp_path):
    started = []

    def start(*arguments: str, **keywords) -> Command:
        started.append(Command(tmp_path, *arguments, **keywords))
        return started[-1]

    yield start
    for one in started:
        for pid in [*one.runs(), *([one.process.pid] if one.process.poll() is None else [])]:
            os.kill(pid, signal.SIGKILL)
        one.process.wait()


def steps(root: Path) -> dict[str, int]:
    """Agent steps of each checkpoint, by the folder of the run."""
    return {str(path.parent.relative_to(root)): checkpoint.load_checkpoint(path)["steps"]
            for path in root.rglob("*.ckpt")}  # fmt: skip


def test_a_stopped_and_a_killed_experiment_goes_on_to_its_end_and_repeats_nothing(command):
    """Stopped by Ctrl-C, then killed, then finished."""
    arguments = ("--env", "PongDeterministic-v4", "--seeds", "2", "--max-steps", "3000", "--jobs",
                 "2", "--variant", "low:--lr", "1e-5")  # fmt: skip
    first = command(*arguments)
    first.wait_for(first.runs)
    second_driver = command(*arguments)
    assert second_driver.end() == 2
    assert second_driver.text().count("\n") == 1
    assert "another experiment.py is at work in" in second_driver.text()
    first.wait_for(lambda: first.rows() > 4)
    os.kill(first.process.pid, signal.SIGINT)  # the terminal's goes to this process group alone
    assert first.end() == 130
    assert first.runs() == []
    stopped = steps(first.root)
    assert set(stopped) == {f"PongDeterministic-v4/low/seed-{seed}" for seed in (1, 2)}
    assert all(0 < at < 3000 for at in stopped.values())
    assert "stopped at agent step" in first.text()
    assert "2 runs not finished; the same command goes on with them" in first.text()

    rows = first.rows()
    Experiment.path(first.root).unlink()  # the checkpoints say as well what they are of
    killed = command(*arguments)
    killed.wait_for(lambda: killed.rows() > rows)
    os.kill(killed.process.pid, signal.SIGKILL)
    last = command(*arguments)  # at once: it waits until the orphans have saved
    assert last.end() == 0, last.text()
    assert all(f"low seed {seed} goes on at agent step" in last.text() for seed in (1, 2))
    assert all(at >= 3000 for at in steps(last.root).values())
    for path in last.root.rglob("*.training.csv"):
        played = sum(row[3] for row in checkpoint.read_csv(path))
        total = checkpoint.load_checkpoint(next(path.parent.glob("*.ckpt")))["steps"]
        # Nothing twice, and nothing lost but the games of each of three sessions that had no end.
        assert total - 3 * 2 * 40 <= played <= total
    found = Experiment.read(last.root)
    assert all(one.finished and one.commits == [checkpoint.commit()] for one in found.members)
    assert "| PongDeterministic-v4 | low | 2 |" in (last.root / "results.md").read_text()


def test_a_run_that_fails_is_one_line_and_the_others_go_on(command):
    broken = ("--variant", "broken:--load-model-dir nowhere --load", "--variant", "fine:")
    one = command("--env", "Breakout-v0", "--seeds", "1", "--max-steps", "300", *broken)
    assert one.end() == 1
    errors = [line for line in one.text().splitlines() if "error" in line]
    assert len(errors) == 1
    assert errors[0].startswith("experiment.py: error: Breakout-v0 broken seed 1: exit code 2: ")
    assert "nowhere/Breakout-v0.dat: no such file" in errors[0]
    assert "Breakout-v0 fine seed 1 finished" in one.text()
    table = (one.root / "results.md").read_text()
    assert table.count("| Breakout-v0 |") == 1


def test_games_seeds_and_variants_make_all_combinations(tmp_path):
    args = options.parse_experiment(
        ["--env", "Pong-v0", "ALE/Pong-v5", "--seeds", "3", "--max-steps", "2e6", "--folder",
         str(tmp_path), "--variant", "low:--lr", "1e-4", "--variant", "big:--lr 1e-3 --gamma 0.9",
         "--", "--workers", "2"]
    )  # fmt: skip
    members = experiment.plan(args).members
    assert len({str(member) for member in members}) == 2 * 2 * 3
    assert members[0].options == ["--workers", "2", "--lr", "1e-4"]
    last = members[-1]
    assert (last.env, last.variant, last.seed) == ("ALE/Pong-v5", "big", 3)
    assert last.options == ["--workers", "2", "--lr", "1e-3", "--gamma", "0.9"]
    assert members[-1].folder(tmp_path) == tmp_path / "ALE-Pong-v5" / "big" / "seed-3"


STEPS = ["--max-steps", "10"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--max-steps"),
        (["--max-steps", "1e30"], "'1e30' is not a whole number above 0, and 2**53 at most"),
        ([*STEPS, "--seeds", "1e12"], "'1e12' is not a whole number above 0, and a million at"),
        ([*STEPS, "--", "--seed", "3"], "--seed is not for the runs of an experiment"),
        ([*STEPS, "--variant", "a:--max-minutes 3"], "--max-minutes is not for the runs"),
        ([*STEPS, "--variant", "low:--recipe 'my"], "--variant low: no closing quotation"),
        ([*STEPS, "--variant", "low"], "not of the form NAME:OPTIONS"),
        ([*STEPS, "--variant", "../low:"], "not of the form NAME:OPTIONS"),
        ([*STEPS, "--variant", "low:", "--variant", "low:"], "is there twice"),
        ([*STEPS, "--variant", "low:", "--variant", "Low:"], "Low and low differ only in case"),
        ([*STEPS, "--variant", "low:--lrr 3"], "the nearest is --lr"),
        ([*STEPS, "--variant", "low:--lr", "3", "--gamma", "1"], '"low:--lr 1e-4 --gamma 0.9"'),
        ([*STEPS, "-g=1"], "-g=1 is an option of main.py"),
        ([*STEPS, "-w4"], "-w4 is an option of main.py"),
        ([*STEPS, "--seed", "3"], "unrecognized arguments: --seed 3; the nearest is --seeds"),
        ([*STEPS, "--sedes", "3"], "unrecognized arguments: --sedes 3; the nearest is --seeds"),
        ([*STEPS, "--env", "Pongg-v0"], "the nearest known are Pong-v0"),
        ([*STEPS, "--env", "Pong-v0", "Pong-v0"], "names a game twice"),
        ([*STEPS, "--", "--optimizer", "RMSprop", "--amsgrad"], "--amsgrad belongs to Adam"),
        ([*STEPS, "--variant", "a:--env-config typo.json"], "cannot read typo.json"),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_nothing(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    try:
        code = experiment.main(arguments, StopSignal())
    except SystemExit as error:  # argparse
        code = error.code
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1)
    assert message in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-steps", "11", "--seeds", "1"], "was begun with --max-steps 10"),
        ([*STEPS, "--seeds", "1", "--variant", "low:"], "has the run Pong-v0 base seed 1, not"),
        ([*STEPS, "--seeds", "1", "--", "--lr", "1"], "with no options of main.py; give another"),
    ],
)
def test_changed_arguments_are_refused(arguments, message, tmp_path, capsys):
    member = Member("Pong-v0", "base", 1, [], ["abc"])
    Experiment(tmp_path, 10, [member]).write()
    path = member.files(tmp_path).checkpoint
    path.parent.mkdir(parents=True)
    path.touch()
    (tmp_path / "experiment.lock").touch()
    before, names = Experiment.path(tmp_path).read_bytes(), set(tmp_path.iterdir())
    assert experiment.main(["--folder", str(tmp_path), *arguments], StopSignal()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert set(tmp_path.iterdir()) == names
    assert Experiment.path(tmp_path).read_bytes() == before


def finish(member: Member, root: Path) -> Member:
    """Make it a run whose training games are there, but not its checkpoint."""
    member.steps, member.seconds = 10, 1.0
    member.folder(root).mkdir(parents=True)
    checkpoint.append_csv(member.files(root).training_csv, [(1.0, 10, 2.0, 9)])
    return member


def test_a_run_without_a_checkpoint_can_get_other_options_or_vanish(tmp_path):
    """Its first options may have been mistyped; what is finished stays as it is."""
    done = finish(Member("Pong-v0", "base", 1, [], ["abc"]), tmp_path)
    failed = [Member("Pong-v0", "low", 1, ["--env-config", "typo"], ["abc"])]
    failed += [Member("Pong-v0", "lwo", 1, [], ["abc"])]
    arguments = [*STEPS, "--seeds", "1", "--variant", "base:", "--variant", "low:--lr 1e-4"]
    planned = experiment.plan(options.parse_experiment(arguments))
    merged = experiment.merge(planned, Experiment(tmp_path, 10, [done, *failed]))
    assert merged.members == [done, planned.members[1]]
    assert (planned.members[1].variant, planned.members[1].options) == ("low", ["--lr", "1e-4"])
    assert experiment.merge(planned, Experiment(tmp_path, 11, failed)).max_steps == 10


def test_runs_see_the_pictures_of_one_crop_table(tmp_path, monkeypatch):
    """The one of the suite can change, too; what it says of other games is of no matter."""
    planned = experiment.plan(options.parse_experiment([*STEPS, "--seeds", "1"]))
    done = finish(planned.members[0], tmp_path)
    table = json.loads((PROJECT / "config.json").read_text())
    monkeypatch.setattr(experiment, "CROP_TABLE", tmp_path / "config.json")

    def merge(**entries) -> list[Member]:
        (tmp_path / "config.json").write_text(json.dumps(table | entries))
        planned = experiment.plan(options.parse_experiment([*STEPS, "--seeds", "2"]))
        return experiment.merge(planned, Experiment(tmp_path, 10, [done])).members

    assert merge(Gopher={"crop1": 4, "crop2": 4})[0] is done
    assert merge(Pong=table["Pong"] | {"fire": False})[0] is done  # as it is without
    with pytest.raises(ValueError, match="base seed 1 with another content of its crop table"):
        merge(Pong={"crop1": 4, "crop2": 4})


@pytest.mark.parametrize(
    ("name", "edited", "option"),
    [
        ("recipe.toml", "[every_run]\nlr = 2e-4\n", "--recipe"),
        ("crop.json", '{"Default": {"crop1": 4, "crop2": 4}}', "crop table"),
        ("Pong-v0.dat", "better weights", "--load"),
    ],
    ids=["recipe", "crop table", "weights"],
)
def test_a_file_that_was_edited_since_makes_no_equal_seeds(name, edited, option, tmp_path, capsys):
    (tmp_path / "recipe.toml").write_text("[every_run]\nlr = 1e-4\n")
    (tmp_path / "crop.json").write_bytes((PROJECT / "config.json").read_bytes())
    (tmp_path / "Pong-v0.dat").write_text("weights")
    arguments = ["--folder", str(tmp_path), *STEPS, "--seeds", "1", "--"]
    arguments += ["--recipe", str(tmp_path / "recipe.toml"), "--load", "--load-model-dir",
                  str(tmp_path), "--env-config", str(tmp_path / "crop.json")]  # fmt: skip
    args = options.parse_experiment(arguments)
    found, waiting = experiment.plan(args), experiment.plan(args)
    finish(found.members[0], tmp_path)
    found.write()
    assert experiment.merge(experiment.plan(args), Experiment.read(tmp_path)) == found

    (tmp_path / name).write_text(edited)
    assert experiment.main(arguments, StopSignal()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"has Pong-v0 base seed 1 with another content of its {option}; put it back" in error
    driver = experiment.Driver(waiting, 1, StopSignal(), quiet=True)  # it was at work meanwhile
    assert not driver.advance()
    assert f"seed 1: the content of its {option} has changed" in capsys.readouterr().err
    found.members[0].sha256 = {}  # of an earlier version
    assert experiment.merge(experiment.plan(args), found).members == found.members


def test_a_finished_run_whose_folder_was_removed_begins_anew(tmp_path):
    root = tmp_path
    done = finish(Member("Pong-v0", "base", 1, [], ["abc"]), root)
    planned = experiment.plan(options.parse_experiment([*STEPS, "--seeds", "1"]))
    assert experiment.merge(planned, Experiment(root, 10, [done])).members == [done]
    shutil.rmtree(done.folder(root))
    (anew,) = experiment.merge(planned, Experiment(root, 10, [done])).members
    assert (anew.finished, anew.commits) == (False, [])


def test_seeds_games_and_variants_can_be_added_to_what_is_finished(tmp_path):
    done = finish(Member("Pong-v0", "base", 1, [], ["abc"]), tmp_path)
    planned = options.parse_experiment([*STEPS, "--env", "Pong-v0", "Breakout-v0", "--seeds", "2"])
    merged = experiment.merge(experiment.plan(planned), Experiment(tmp_path, 10, [done]))
    assert merged.members[0] is done
    assert [one.finished for one in merged.members] == [True, False, False, False]


def test_a_finished_run_needs_its_checkpoint_no_more(tmp_path):
    done = finish(Member("Pong-v0", "base", 1, [], ["abc"]), tmp_path)
    Experiment(tmp_path, 10, [done]).write()
    assert experiment.main(["--folder", str(tmp_path), *STEPS, "--seeds", "1"], StopSignal()) == 0
    assert json.loads(Experiment.path(tmp_path).read_text())["runs"][0]["commits"] == ["abc"]


def test_the_errors_in_the_log_of_a_run_are_said_when_it_has_finished(tmp_path, capsys):
    learned, dead = (Member("Pong-v0", "base", seed, []) for seed in (1, 2))
    runs = Experiment(tmp_path, 100, [learned, dead])
    driver = experiment.Driver(runs, 1, StopSignal(), quiet=False)
    log = dead.files(tmp_path).log
    log.parent.mkdir(parents=True)
    error = "2026-01-01 10:00:00,000 : error: the policy has hardly differed"
    log.write_text(f"2026-01-01 10:00:00,000 : seed: 2\n{error}\n{error} again\n")
    for member in (learned, dead):
        driver._finish(member, {"steps": 100, "seconds": 1.0})
    *_, last = capsys.readouterr().out.splitlines()
    assert last == f"{dead}: its log has 2 errors, the last: the policy has hardly differed again"


def test_a_run_shorter_than_a_rollout_is_not_said_to_be_stopped_by_somebody(tmp_path, capsys):
    member = Member("Pong-v0", "base", 1, [])
    driver = experiment.Driver(Experiment(tmp_path, 100, [member]), 1, StopSignal(), quiet=True)
    # As main.py ends then, and leaves no file.
    driver._ended(SimpleNamespace(member=member, process=SimpleNamespace(returncode=0)))
    error = capsys.readouterr().err
    assert "before anything was learned" in error
    assert "--max-steps 100" in error


def test_a_run_that_a_stop_meets_before_it_can_save_has_not_failed(tmp_path, capsys):
    member, stop_signal = Member("Pong-v0", "base", 1, []), StopSignal()
    stop_signal.received = True
    driver = experiment.Driver(Experiment(tmp_path, 100, [member]), 1, stop_signal, quiet=False)
    ended = SimpleNamespace(returncode=-signal.SIGTERM)
    driver._ended(SimpleNamespace(member=member, process=ended))
    assert driver.failed == {}
    assert capsys.readouterr().out == "Pong-v0 base seed 1 stopped at agent step 0\n"


def test_the_table_says_where_each_seed_is(tmp_path):
    done, failed, stopped, waiting = (Member("Pong-v0", "base", seed, []) for seed in (1, 2, 3, 4))
    finish(done, tmp_path)
    for member, steps in ((failed, 20), (stopped, 30)):
        member.folder(tmp_path).mkdir(parents=True)
        rows = [(2.0 * steps, steps, -1.0, steps)]
        checkpoint.append_csv(member.files(tmp_path).training_csv, rows)
    members = [done, failed, stopped, waiting]
    driver = experiment.Driver(Experiment(tmp_path, 100, members), 1, StopSignal(), quiet=True)
    driver.failed[str(failed)] = "exit code 1"
    [seeds] = driver.table().columns[-1].cells
    assert seeds == "1: done, 2.0,  2: failed, -1.0,  3: waits at 30 %, -1.0,  4: waits"
    assert driver.table().title.startswith("1 of 4 runs finished, 0 at work, 1 failed, about ")


@pytest.mark.parametrize(("jobs", "steps"), [(1, 90 + 100 + 20), (2, 105), (3, 100)])
def test_the_time_left_is_that_of_the_longest_run_or_of_all_that_share_the_jobs(
    tmp_path, jobs, steps
):
    """After 10, 0 and 80 of 100 agent steps; what is finished or has failed has nothing left."""
    members = [Member("Pong-v0", "base", seed, []) for seed in range(1, 6)]
    driver = experiment.Driver(Experiment(tmp_path, 100, members), jobs, StopSignal(), quiet=True)
    assert "left" not in driver.summary()  # nothing is known yet
    members[3].steps, members[3].seconds = 100, 60.0
    driver.failed[str(members[4])] = "exit code 1"
    for member, done, seconds in zip(members, (10, 0, 80, 100, 10), (5, 0, 9, 60, 26), strict=True):
        driver.notes[str(member)] = (float(seconds), done, 0.0)  # in all 100 seconds for 200 steps
    assert driver.seconds_left() == steps / 2


def test_ctrl_c_while_it_loads_is_no_success(tmp_path):
    code = (
        "import runpy, sys, time, options\n"
        "def parse(argv): print('loading', flush=True); time.sleep(100)\n"
        "options.parse_experiment = parse\n"
        f"runpy.run_path({str(PROJECT / 'experiment.py')!r}, run_name='__main__')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout.readline() == "loading\n"
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, error) == (130, "stopped before anything had begun\n")


def test_a_damaged_checkpoint_fails_its_run_in_one_line_that_names_a_way_out(tmp_path, capsys):
    member = Member("Pong-v0", "base", 1, [])
    files = member.files(tmp_path)
    files.checkpoint.parent.mkdir(parents=True)
    files.checkpoint.write_bytes(b"cut")
    driver = experiment.Driver(Experiment(tmp_path, 10, [member]), 1, StopSignal(), quiet=True)
    assert not driver.advance()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{files.checkpoint}" in error
    assert error.endswith("without that file the run begins anew\n")


def checkpoint_of(folder: Path, *arguments: str, **content) -> Path:
    """What main.py with these arguments leaves of Pong-v0, seed 1 of the variant base."""
    path = Member("Pong-v0", "base", 1, []).files(folder).checkpoint
    path.parent.mkdir(parents=True)
    args = vars(options.parse(["--env", "Pong-v0", *arguments]))
    zeros = {"count": 0.0, "mean": 0.0, "std": 0.0}
    saved = {"model": {}, "optimizer": {}, "steps": 10, "seconds": 1.0, "best_score": None}
    saved |= {"normalizer": zeros, "args": args, "loaded": None, **content}
    path.write_bytes(checkpoint.to_bytes(saved))
    return path


@pytest.mark.parametrize(
    ("trained", "planned", "message"),
    [
        (["--lr", "1e-3"], [], "--lr 0.001, not with "),
        ([], ["--optimizer", "RMSprop"], "--optimizer Adam, not with RMSprop;"),
        (["--seed", "2"], [], "--seed 2, not with 1;"),
        (["--max-steps", "20"], [], "--max-steps 20, not with 10;"),
        ([], ["--load", "--published"], "--load False, not with True;"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(trained, planned, message, tmp_path, capsys):
    """As where experiment.json was removed."""
    path = checkpoint_of(tmp_path, *STEPS, *trained)
    before = path.read_bytes()
    arguments = ["--folder", str(tmp_path), *STEPS, "--seeds", "2", "--", *planned]
    assert experiment.main(arguments, StopSignal()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{path}: trained with {message}" in error
    assert path.read_bytes() == before
    assert not Experiment.path(tmp_path).exists()


def test_a_checkpoint_of_the_planned_run_counts_without_experiment_json(tmp_path):
    """So it does once main.py --resume has forgotten --load, and in another folder."""
    learning = ["--lr", "3e-4@0%,0@100%", "--distributed-step-size", "20", "40", "--load"]
    path = checkpoint_of(tmp_path, *STEPS, *learning)
    saved = checkpoint.load_checkpoint(path)
    saved["args"] |= {"load": False, "quiet": True, "save_model_dir": "elsewhere"}
    del saved["args"]["value_mean_step"]  # of an earlier version
    arguments = ["--folder", str(tmp_path), *STEPS, "--seeds", "1", "--", *learning]
    weights = experiment.plan(options.parse_experiment(arguments)).members[0].sha256["--load"]
    path.write_bytes(checkpoint.to_bytes(saved | {"loaded": {"sha256": weights}}))
    assert experiment.main(arguments, StopSignal()) == 0
    assert Experiment.read(tmp_path).members[0].finished


def test_another_number_of_cores_makes_no_other_run(tmp_path):
    """--workers is the number of cores where nobody says it; what a plan says, a run must have."""
    saved = checkpoint.load_checkpoint(checkpoint_of(tmp_path, *STEPS))
    saved["args"]["workers"] += 62
    assert options.unlike(saved, STEPS, None) == ""
    assert options.unlike(saved, [*STEPS, "-w", "1"], None).startswith("trained with --workers 6")


def test_a_planned_run_has_the_crops_and_the_weights_whatever_their_files_are_called(tmp_path):
    tables = [tmp_path / "a.json", tmp_path / "b.json"]
    for path in tables:
        path.write_bytes((PROJECT / "config.json").read_bytes())
    first, second = (
        ["--env", "Pong-v0", *STEPS, "--env-config", str(path), "--load", "-lmd", path.stem]
        for path in tables
    )
    picture = {"crop1": 34, "crop2": 34, "fire": False}
    content = {"description": {"game_config": picture}, "loaded": {"sha256": "abc"}}
    saved = checkpoint.load_checkpoint(checkpoint_of(tmp_path, *first, **content))
    assert options.unlike(saved, second, "abc") == ""
    assert "began with other weights than --load has now" in options.unlike(saved, first, "abd")
    assert "--load-model-dir a, not with b" in options.unlike(saved, second, None)
    for path in tables:
        path.write_text('{"Default": {"crop1": 30, "crop2": 34}}')
    assert f"trained with {picture}, not with" in options.unlike(saved, first, "abc")
    saved |= {"description": None, "loaded": {}}  # of an earlier version: the names have to do
    assert f"--env-config {tables[0]}, not with" in options.unlike(saved, second, "abc")
    assert options.unlike(saved, first, "abc") == ""


def test_a_full_disk_does_not_end_the_runs_that_are_at_work(tmp_path, monkeypatch, capsys):
    member = Member("Pong-v0", "base", 1, [])
    driver = experiment.Driver(Experiment(tmp_path, 10, [member]), 1, StopSignal(), quiet=True)

    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Experiment, "write", full)
    driver._finish(member, {"steps": 10, "seconds": 1.0})
    assert member.finished
    assert capsys.readouterr().err.startswith("experiment.py: error: cannot save: ")
