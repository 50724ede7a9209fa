"""What a run leaves on disk, and the test process that decides what is kept."""

import csv
import errno
import hashlib
import itertools
import json
import logging
import math
import os
import re
import resource
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import checkpoint
import test as test_module
from checkpoint import Files
from environment import Normalizer
from hogwild import Hogwild
from model import A3Clstm, flatten_parameters
from player import play_games
from shared_optim import SharedAdam
from utils import TEST, game_seed

# ---------------------------------------------------------------------------------------------
# The commit


def test_the_commit_tells_edits_of_programs_apart_and_ignores_documents(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "__file__", str(tmp_path / "checkpoint.py"))
    assert checkpoint.commit() == "unknown"

    def git(*command: str) -> str:
        who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
        who += ("-c", "commit.gpgsign=false")
        return subprocess.check_output(["git", *who, *command], cwd=tmp_path, text=True).strip()

    git("init", "--quiet")
    assert checkpoint.commit() == "unknown"
    for name in ("train.py", "recipes.toml", "config.json", "README.md"):
        (tmp_path / name).write_text("as committed\n")
    git("add", ".")
    git("commit", "--quiet", "--message", "All")
    clean = git("rev-parse", "--short", "HEAD")
    (tmp_path / "README.md").write_text("edited\n")
    assert checkpoint.commit() == clean
    found = set()
    for name in ("train.py", "recipes.toml", "config.json"):
        for text in ("edited\n", "edited anew\n"):
            (tmp_path / name).write_text(text)
            found.add(checkpoint.commit())
            assert checkpoint.commit() in found
        (tmp_path / name).write_text("as committed\n")
    for text in ("a network in a file of its own\n", "another one\n"):
        (tmp_path / "other.py").write_text(text)
        found.add(checkpoint.commit())
    (tmp_path / "other.py").unlink()
    (tmp_path / "train.py").unlink()
    found.add(checkpoint.commit())
    (tmp_path / "train.py").write_text("as committed\n")
    (tmp_path / "notes.md").write_text("new\n")
    assert len(found) == 9
    assert all(re.fullmatch(f"{clean}-dirty-[0-9a-f]{{8}}", name) for name in found)
    assert checkpoint.commit() == clean


# ---------------------------------------------------------------------------------------------
# Atomic writes


def test_a_write_that_fails_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "Pong-v0.ckpt"
    checkpoint.write_atomically(path, lambda file: file.write(b"old"))

    def write(file):
        file.write(b"new, but not")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        checkpoint.write_atomically(path, write)
    assert os.listdir(tmp_path) == ["Pong-v0.ckpt"]
    assert path.read_bytes() == b"old"


def test_until_the_write_is_complete_readers_see_the_old_file(tmp_path):
    path = tmp_path / "Pong-v0.dat"
    path.write_bytes(b"old")
    seen = []

    def write(file):
        file.write(b"new")
        file.flush()
        seen.append(path.read_bytes())

    checkpoint.write_atomically(path, write)
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["Pong-v0.dat"]


def test_what_cannot_be_pickled_or_renamed_leaves_no_file_behind(tmp_path):
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        checkpoint.write_atomically(
            tmp_path / "a", lambda file: torch.save({"x": torch.ones(9), "f": lambda: 0}, file)
        )
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        checkpoint.write_atomically(tmp_path / "folder", lambda file: file.write(b"x"))
    assert os.listdir(tmp_path) == ["folder"]


# ---------------------------------------------------------------------------------------------
# Weights and their description


def small_weights(value: float = 1.0) -> dict[str, torch.Tensor]:
    names = {"lstm.weight_hh": (8, 2), "actor_linear.weight": (3, 2)}
    return {name: torch.full(shape, value) for name, shape in names.items()}


RUN = {"actions": ["NOOP"], "count_lives": True, "skip_rate": 4}


def description_of(score: float | None = None) -> dict:
    return checkpoint.describe(RUN, 70, 12.34, (5.0, 90.0, 30.0), score)


def test_saved_weights_come_back_with_their_description(tmp_path):
    path = tmp_path / "Pong-v0.dat"
    checkpoint.save_model(path, small_weights(), description_of(-2.5))
    assert sorted(os.listdir(tmp_path)) == ["Pong-v0.dat", "Pong-v0.json"]
    state_dict, found = checkpoint.load_model(path)
    assert state_dict.keys() == small_weights().keys()
    assert all(torch.equal(state_dict[name], t) for name, t in small_weights().items())
    assert found == {
        **RUN,
        "agent_steps": 70,
        "seconds": 12.3,
        "score": -2.5,
        "normalizer": {"count": 5.0, "mean": 90.0, "std": 30.0},
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def test_views_of_one_vector_are_saved_as_tensors_of_their_own(tmp_path):
    """Or each file would hold the whole vector, and loading would tie the tensors together."""
    path = tmp_path / "Pong-v0.dat"
    model = A3Clstm(3, 2)
    weights, _ = flatten_parameters(model)
    checkpoint.save_model(path, model.state_dict(), {})
    state_dict, _ = checkpoint.load_file(path)
    for tensor in state_dict.values():
        assert tensor.untyped_storage().nbytes() == 4 * tensor.numel()
    assert path.stat().st_size < 4 * len(weights) + 10_000


def save_and_die(path: Path, value: float, at: int) -> bool:
    """Save weights in a process that ends, as of kill -9, before its `at`-th change of the disk.

    Returns whether it came to that; otherwise all is saved.
    """
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    steps = itertools.count(1)

    def die(event, arguments):
        if event in ("open", "os.rename", "os.remove") and next(steps) == at:
            os._exit(9)

    sys.addaudithook(die)
    try:
        checkpoint.save_model(path, small_weights(value), description_of(value))
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("before", ["weights", "weights without a description", "nothing"])
def test_whenever_a_save_is_killed_the_weights_on_disk_have_their_description(tmp_path, before):
    files = Files.of("Pong-v0", str(tmp_path), str(tmp_path))
    found = []
    for at in itertools.count(1):
        for path in tmp_path.iterdir():
            path.unlink()
        if before != "nothing":
            checkpoint.save_model(files.model, small_weights(1.0), description_of(1.0))
        if before == "weights without a description":
            files.model.with_suffix(".json").unlink()
        killed = save_and_die(files.model, 2.0, at)
        for _ in range(2):  # as it was left, and mended
            if files.model.exists():
                state_dict, description = checkpoint.load_model(files.model)
                value = float(state_dict["lstm.weight_hh"][0, 0])
                described = value == 2.0 or before == "weights"
                assert description["score"] == value if described else description is None
            else:
                value = 0.0
            checkpoint.mend_leftovers(files)
            assert not files.leftovers()
        found.append(value)
        if not killed:
            break
    assert found == sorted(found)
    assert set(found) == {0.0 if before == "nothing" else 1.0, 2.0}
    assert found.count(2.0) >= 2  # killed between the two files, and not at all


def test_a_description_of_other_weights_is_refused(tmp_path):
    path = tmp_path / "Pong-v0.dat"
    checkpoint.save_model(path, small_weights(1.0), description_of())
    torch.save(small_weights(2.0), path)  # by hand
    with pytest.raises(ValueError, match=r"^\S+Pong-v0\.json: describes other weights than .*$"):
        checkpoint.load_model(path)
    path.with_suffix(".json").unlink()
    state_dict, description = checkpoint.load_model(path)
    assert description is None
    assert state_dict["lstm.weight_hh"][0, 0] == 2.0


def test_weights_and_description_that_are_being_written_are_awaited(tmp_path, monkeypatch):
    path = tmp_path / "Pong-v0.dat"
    checkpoint.save_model(path, small_weights(1.0), description_of(1.0))
    old = path.with_suffix(".json").read_text()
    checkpoint.save_model(path, small_weights(2.0), description_of(2.0))
    new = path.with_suffix(".json").read_text()
    path.with_suffix(".json").write_text(old)
    monkeypatch.setattr(time, "sleep", lambda _: path.with_suffix(".json").write_text(new))
    state_dict, description = checkpoint.load_model(path)
    assert description["score"] == state_dict["lstm.weight_hh"][0, 0] == 2.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"normalizer": None}, "'normalizer' is missing or wrong"),
        ({"normalizer": {"count": 1.0, "mean": 2.0}}, "its 'normalizer' is not"),
        ({"normalizer": {"count": 1.0, "mean": 2.0, "std": float("nan")}}, "its 'normalizer' is"),
        ({"actions": "NOOP"}, "'actions' is missing or wrong"),
        ({"score": "high"}, "'score' is missing or wrong"),
        ({"env": 5}, "'env' is no id"),
        ({"hidden_size": -5}, "'hidden_size' is not 1 or more"),
    ],
)
def test_a_description_with_wrong_content_is_one_line(tmp_path, change, reason):
    path = tmp_path / "Pong-v0.dat"
    checkpoint.save_model(path, small_weights(), description_of() | change)
    with pytest.raises(ValueError, match=f"^\\S+Pong-v0\\.json: .*{reason}.*$"):
        checkpoint.load_model(path)


def test_a_full_disk_says_which_file_was_not_written(tmp_path):
    def write(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"No space left on device: '\S+/Pong-v0\.ckpt'$"):
        checkpoint.write_atomically(tmp_path / "Pong-v0.ckpt", write)
    assert list(tmp_path.iterdir()) == []


def test_weights_with_something_more_are_refused(tmp_path):
    model = A3Clstm(3, 2)
    weights = model.state_dict() | {"extra.weight": torch.ones(2)}
    with pytest.raises(ValueError, match=r"^a: the network has no extra\.weight$"):
        checkpoint.load_weights(Path("a"), model, weights)
    with pytest.raises(ValueError, match=r"^a: the network has no 3$"):
        checkpoint.load_weights(Path("a"), model, weights | {3: torch.ones(2)})


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.ones(2).to_sparse(), "is no tensor of plain numbers"),
        (torch.ones(2, device="meta"), "is no tensor of plain numbers"),
        (torch.ones(2, dtype=torch.complex64), "is no tensor of plain numbers"),
        (torch.full((2,), 1e300, dtype=torch.float64), "holds values that are not finite"),
    ],
    ids=["sparse", "meta", "complex", "too large for float32"],
)
def test_tensors_that_the_network_cannot_have_are_refused_with_one_line(tmp_path, tensor, reason):
    path = tmp_path / "Pong-v0.dat"
    torch.save({"critic_linear.bias": tensor}, path)
    with pytest.raises(ValueError, match=rf"^\S+Pong-v0\.dat: critic_linear\.bias {reason}$"):
        checkpoint.load_model(path)


def test_a_description_that_is_not_json_is_one_line(tmp_path):
    path = tmp_path / "Pong-v0.dat"
    checkpoint.save_model(path, small_weights(), description_of())
    path.with_suffix(".json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match=r"^\S+Pong-v0\.json: not valid JSON$"):
        checkpoint.load_model(path)


# ---------------------------------------------------------------------------------------------
# Loading

UNREADABLE = {
    "empty": b"",
    "text": b"these are\nno weights\n",
    "noise": bytes(range(256)) * 20,
    "zip without content": b"PK\x05\x06" + bytes(18),
    "pickle of an int": b"\x80\x02K\x01.",
    "zeros": bytes(4096),
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_an_unreadable_file_is_one_line_and_no_warning(tmp_path, content, recwarn):
    path = tmp_path / "Pong-v0.dat"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a readable PyTorch file") as caught:
        checkpoint.load_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.__suppress_context__  # no chain of tracebacks
    assert not [str(warning.message) for warning in recwarn]


def test_a_missing_file_and_a_folder_are_one_line(tmp_path):
    for path, reason in ((tmp_path / "Pong-v0.dat", "no such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ValueError, match=rf"^\S+: {reason}$"):
            checkpoint.load_file(path)


def test_every_truncation_of_a_file_is_refused(tmp_path):
    path = tmp_path / "Pong-v0.dat"
    torch.save(small_weights(), path)
    content = path.read_bytes()
    assert checkpoint.load_file(path)[0].keys() == small_weights().keys()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="not a readable PyTorch file"):
            checkpoint.load_file(path)


def test_a_flipped_bit_in_any_tensor_is_refused(tmp_path):
    path = tmp_path / "Pong-v0.dat"
    weights = {name: torch.full((64,), float(i)) for i, name in enumerate("abc", start=3)}
    torch.save(weights, path)
    content = path.read_bytes()
    for tensor in weights.values():
        position = content.index(tensor.numpy().tobytes()) + 100
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            checkpoint.load_file(path)


def test_a_checkpoint_of_something_else_is_one_line(tmp_path):
    path = tmp_path / "Pong-v0.ckpt"
    whole = {
        "model": small_weights(),
        "optimizer": {},
        "steps": 70,
        "seconds": 2.5,
        "best_score": None,
        "normalizer": {"count": 5.0, "mean": 90.0, "std": 30.0},
        "args": {},
    }
    torch.save(whole, path)
    assert checkpoint.load_checkpoint(path).keys() == whole.keys()
    for key in whole:
        torch.save({other: value for other, value in whole.items() if other != key}, path)
        with pytest.raises(ValueError, match=f"^\\S+: no checkpoint .*'{key}' is missing.$"):
            checkpoint.load_checkpoint(path)
        torch.save(whole | {key: "text"}, path)
        with pytest.raises(ValueError, match=f"^\\S+: no checkpoint .*'{key}' is of type str.$"):
            checkpoint.load_checkpoint(path)
    for key, wrong in {
        "unwritten": [None, [1], [(1.0, 2, 3.0)], [(1.0, 2, "3", 4)], [(1.0, 2, math.nan, 4)]],
        "description": [[1], {"actions": None}, {"actions": [1]}, {"game_config": None}],
        "args": [{"save_model_dir": None}, {"log_dir": 5}],
        "loaded": [1],
        "record_id": [torch.zeros(2)],
        "steps": [-1],
        "seconds": [math.inf],
    }.items():
        for value in wrong:
            torch.save(whole | {key: value}, path)
            with pytest.raises(ValueError, match=f"^\\S+: .*'{key}' [^\n]*$"):
                checkpoint.load_checkpoint(path)
    torch.save(whole | {"unwritten": [(1.0, 2, 3.0, 4)], "description": None}, path)
    assert checkpoint.load_checkpoint(path)["unwritten"] == [(1.0, 2, 3.0, 4)]
    bad = small_weights(float("nan"))
    torch.save(whole | {"model": bad}, path)
    with pytest.raises(ValueError, match=r"^\S+: \S+ holds values that are not finite$"):
        checkpoint.load_checkpoint(path)


def test_what_a_killed_writer_left_is_found(tmp_path):
    files = Files.of("Pong-v0", str(tmp_path), str(tmp_path / "logs"))
    files.log.parent.mkdir()
    for path in (files.checkpoint, files.kept(20), files.csv):
        path.with_name(f"{path.name}.77.tmp").touch()
        path.touch()
    tmp_path.joinpath("Pong-v00.dat.77.tmp").touch()  # of another environment
    files.log.with_name("Pong-v0.gif.77.tmp").touch()  # of gym_eval.py --record
    assert sorted(path.name for path in files.leftovers()) == [
        "Pong-v0.ckpt.77.tmp", "Pong-v0.csv.77.tmp", "Pong-v0.step-20.dat.77.tmp",
    ]  # fmt: skip


def test_rows_after_a_torn_one_are_read(tmp_path):
    path = tmp_path / "Pong-v0.csv"
    checkpoint.append_csv(path, [(1.0, 2, 3.0, 4)])
    with open(path, "a") as file:
        file.write("5.0,6,7")  # the disk was full
    checkpoint.append_csv(path, [(8.0, 9, 10.0, 11)])
    assert checkpoint.read_csv(path) == [(1.0, 2, 3.0, 4), (8.0, 9, 10.0, 11)]


# ---------------------------------------------------------------------------------------------
# File names; setting aside


def test_files_are_named_after_the_environment():
    files = Files.of("ALE-Pong-v5", "models", "logs")
    assert [str(path) for path in files] == [
        str(Path("models", "ALE-Pong-v5.dat")),
        str(Path("models", "ALE-Pong-v5.ckpt")),
        str(Path("models", "ALE-Pong-v5.lock")),
        str(Path("logs", "ALE-Pong-v5_log")),
        str(Path("logs", "ALE-Pong-v5.csv")),
        str(Path("logs", "ALE-Pong-v5.training.csv")),
        str(Path("logs", "tensorboard", "ALE-Pong-v5")),
    ]
    assert files.kept(120) == Path("models", "ALE-Pong-v5.step-120.dat")


RUN_FILES = [
    "Pong-v0.dat", "Pong-v0.json", "Pong-v0.ckpt", "Pong-v0_log", "Pong-v0.csv",
    "Pong-v0.training.csv", "Pong-v0.step-9.dat", "Pong-v0.step-9.json",
]  # fmt: skip


def aside(number: int) -> set[str]:
    n = number
    return {
        f"Pong-v0.old-{n}.dat", f"Pong-v0.old-{n}.json", f"Pong-v0.old-{n}.ckpt",
        f"Pong-v0_log.old-{n}", f"Pong-v0.old-{n}.csv", f"Pong-v0.old-{n}.training.csv",
        f"Pong-v0.step-9.old-{n}.dat", f"Pong-v0.step-9.old-{n}.json",
    }  # fmt: skip


def test_files_of_earlier_runs_are_set_aside_under_new_numbers(tmp_path):
    files = Files.of("Pong-v0", str(tmp_path), str(tmp_path))
    others = {"PongDeterministic-v4.dat", "Pong-v0_mon_log", "Pong-v4.step-9.dat", "Pong-v0.lock"}
    for name in others:
        (tmp_path / name).write_text(name)
    for number in (1, 2, 3):
        for name in RUN_FILES:
            (tmp_path / name).write_text(f"{name} of run {number}")
        renamed = checkpoint.set_aside(files.existing())
        assert {old.name for old, _ in renamed} == set(RUN_FILES)
        assert {new.name for _, new in renamed} == aside(number)
        assert not files.existing()
    assert set(os.listdir(tmp_path)) == others | aside(1) | aside(2) | aside(3)
    assert (tmp_path / "Pong-v0.old-2.dat").read_text() == "Pong-v0.dat of run 2"
    assert (tmp_path / "Pong-v0.step-9.old-1.dat").read_text() == "Pong-v0.step-9.dat of run 1"


def test_one_number_for_all_files_of_a_run(tmp_path):
    files = Files.of("Pong-v0", str(tmp_path), str(tmp_path))
    (tmp_path / "Pong-v0.old-1.csv").write_text("only the rows were kept")
    for name in ("Pong-v0.dat", "Pong-v0.csv"):
        (tmp_path / name).write_text("")
    checkpoint.set_aside(files.existing())
    found = set(os.listdir(tmp_path))
    assert found == {"Pong-v0.old-1.csv", "Pong-v0.old-2.dat", "Pong-v0.old-2.csv"}


def test_all_files_of_a_run_are_set_aside_or_none(tmp_path, monkeypatch):
    files = Files.of("Pong-v0", str(tmp_path), str(tmp_path))
    for name in ("Pong-v0.dat", "Pong-v0.json", "Pong-v0.csv"):
        (tmp_path / name).write_text(name)
    before = set(os.listdir(tmp_path))
    rename = Path.rename

    def fail_at_csv(path, target):
        if path.name == "Pong-v0.csv":
            raise PermissionError("in use")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_at_csv)
    with pytest.raises(PermissionError):
        checkpoint.set_aside(files.existing())
    assert set(os.listdir(tmp_path)) == before


def test_nothing_to_set_aside_renames_nothing(tmp_path):
    assert Files.of("Pong-v0", str(tmp_path), str(tmp_path)).existing() == []
    assert checkpoint.set_aside([]) == []


# ---------------------------------------------------------------------------------------------
# CSV

ROWS = [(1.5, 100, -21.0, 1000), (2.5, 200, -20.5, 1100), (3.5, 300, 3.0, 12345)]


def test_csv_rows_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "Pong-v0.csv"
    assert checkpoint.read_csv(path) == []
    checkpoint.append_csv(path, ROWS[:1])
    checkpoint.append_csv(path, ROWS[1:])
    assert checkpoint.read_csv(path) == ROWS
    with open(path, newline="") as file:
        table = list(csv.reader(file))
    assert table[0] == ["seconds", "agent_steps", "score", "length"]
    assert len(table) == 4


@pytest.mark.parametrize("missing", range(1, len("3.5,300,3.0,12345\r\n") + 1))
def test_a_row_that_a_crash_cut_off_is_dropped(tmp_path, missing):
    path = tmp_path / "Pong-v0.csv"
    checkpoint.append_csv(path, ROWS)
    os.truncate(path, path.stat().st_size - missing)
    found = checkpoint.read_csv(path)
    # With but the end of its line missing, the row is complete and may be kept.
    assert found == ROWS[:2] or (missing <= 2 and found == ROWS)


def test_rows_newer_than_a_step_are_dropped(tmp_path):
    path = tmp_path / "Pong-v0.csv"
    checkpoint.append_csv(path, ROWS)
    checkpoint.mend_csv(path, up_to_step=200)
    assert checkpoint.read_csv(path) == ROWS[:2]
    checkpoint.append_csv(path, ROWS[2:])
    assert checkpoint.read_csv(path) == ROWS
    assert path.read_text().count("seconds") == 1
    assert checkpoint.read_csv(tmp_path / "Pong-v0.dropped.csv") == ROWS[2:]


DAMAGE = {
    "no text": b"\xff\xfe\x00\r\n",
    "zeros, as a power cut leaves": b"\0" * 300 + b"\r\n",
    "an open quotation": b'"\r\n',
    "words": b"1.5,many,few,3\r\n",
    "no number": b"1.5,100,nan,3\r\n",
    "too large for a number": b"1.5,1" + b"0" * 400 + b",1.0,3\r\n",
    "too many columns": b"1.5,100,2.0,3,4\r\n",
}


@pytest.mark.parametrize("name", ["Pong-v0.csv", "Pong-v0.training.csv"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_csv_keeps_its_rows_and_what_was_between_them_is_kept_aside(
    tmp_path, name, damage
):
    path = tmp_path / name
    checkpoint.append_csv(path, ROWS)
    whole = path.read_bytes()
    begin = whole.index(b"2.5,")
    damaged = whole[:begin] + damage + whole[begin:]
    path.write_bytes(damaged)
    assert checkpoint.read_csv(path) == ROWS
    kept = checkpoint.mend_csv(path, up_to_step=200)
    assert kept.name == name.replace("v0", "v0.damaged-1")
    assert kept.read_bytes() == damaged
    assert checkpoint.read_csv(path) == ROWS[:2]
    assert checkpoint.mend_csv(path) is None  # it is sound now
    path.write_bytes(damaged)
    assert checkpoint.mend_csv(path).name == name.replace("v0", "v0.damaged-2")
    assert path.read_bytes() == whole


def test_what_a_crash_cuts_off_is_not_kept_aside(tmp_path):
    path = tmp_path / "Pong-v0.csv"
    checkpoint.append_csv(path, ROWS)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert checkpoint.mend_csv(path) is None
    assert os.listdir(tmp_path) == ["Pong-v0.csv"]


def test_an_end_that_is_no_row_is_kept_aside_when_rows_are_added(tmp_path):
    path = tmp_path / "Pong-v0.csv"
    path.write_bytes(b"notes of somebody else")
    checkpoint.append_csv(path, ROWS)
    assert checkpoint.read_csv(path) == ROWS
    assert (tmp_path / "Pong-v0.damaged-1.csv").read_bytes() == b"notes of somebody else"


@pytest.mark.parametrize("room", range(0, 100, 10))  # bytes
def test_rows_that_a_full_disk_refuses_are_not_in_the_file_and_can_be_given_again(tmp_path, room):
    path = tmp_path / "Pong-v0.csv"
    checkpoint.append_csv(path, ROWS[:1])
    before = path.read_bytes()
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    many = [(2.5 + i, 200 + i, -20.5, 1100) for i in range(5)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, unlimited[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoint.append_csv(path, many)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert path.read_bytes() == before
    checkpoint.append_csv(path, many)
    assert checkpoint.read_csv(path) == ROWS[:1] + many


# ---------------------------------------------------------------------------------------------
# The test process

ACTIONS = ["NOOP", "FIRE", "RIGHT"]
STATISTICS = (50.0, 90.0, 30.0)
PER_EVALUATION = 2


@pytest.fixture(autouse=True)
def no_lines_about_slow_evaluations(monkeypatch):
    """However slow this machine is."""
    monkeypatch.setattr(test_module, "PROGRESS_SECONDS", math.inf)


class Planned(gym.Env):
    """A game whose score and length are planned; `run` counts what all environments play."""

    action_space = gym.spaces.Discrete(3)
    fire_action = None

    def __init__(self, run: "Evaluations"):
        self.run = run

    def reset(self, *, seed=None, options=None):
        self.number = self.run.started  # of the game, over all evaluations
        self.run.started += 1
        self.run.seeds.append(seed)
        self.run.actions.append([])
        self.time = 0
        return np.full((80, 80), 90, np.uint8), {"lives": 3}

    def step(self, action):
        score, length = self.run.plan[self.number]
        self.run.actions[self.number].append(int(action))
        self.time += 1
        self.run.during(self.number, self.time)
        over = self.time == length
        if over:
            self.run.finish()
        lives = 0 if over else 3 - self.time // 2  # a life every second step
        picture = np.full((80, 80), 90 + self.time, np.uint8)
        return picture, score / length, over, False, {"lives": lives}


class Evaluations:
    """A run without workers: calls test.test in this process on games of a plan.

    plan: (score, length) of each game; the run stops when all are over.
    during(game, time): called in each step of each game.
    """

    def __init__(self, folder: Path, plan):
        self.plan = plan
        self.during: Callable[[int, int], None] = lambda game, time: None
        self.started = self.finished = 0
        self.actions: list[list[int]] = []
        self.seeds: list[int] = []
        self.policy = "greedy"
        self.args = Namespace(
            seed=1, hidden_size=4, count_lives=True, eval_episodes=PER_EVALUATION,
            eval_interval=0.0, save_score_level=None, save_max=False, plain=False,
        )  # fmt: skip
        self.files = Files.of("Planned-v0", str(folder), str(folder))
        torch.manual_seed(1)
        self.model = A3Clstm(3, 4)
        self.weights, _ = flatten_parameters(self.model)
        self.server = Hogwild(self.weights, SharedAdam, num_workers=2)
        self.server.normalizers[1] = torch.tensor(STATISTICS, dtype=torch.float64)
        self.server.figures["updates"][1] = 1  # something has been learned

    def finish(self) -> None:
        """A game is over: with the last planned one, the run stops."""
        self.finished += 1
        if self.finished == len(self.plan):
            self.server.stop()

    def play(self) -> None:
        logger = logging.Logger("test")
        handler = logging.FileHandler(self.files.log)
        logger.addHandler(handler)
        description = {
            "env": "Planned-v0", "actions": ACTIONS, "count_lives": True, "skip_rate": 4,
            "policy": self.policy,
        }  # fmt: skip
        try:
            test_module.test(
                self.args, self.server, lambda seed: Planned(self), self.files, description, logger
            )
        finally:
            handler.close()

    def best(self) -> tuple[torch.Tensor, dict]:
        """Flat weights in ENV.dat and the description beside it."""
        return saved_weights(self.files.model)

    def log(self) -> list[str]:
        return self.files.log.read_text().splitlines()


def saved_weights(path: Path) -> tuple[torch.Tensor, dict]:
    state_dict, description = checkpoint.load_model(path)
    assert description is not None
    model = A3Clstm(3, 4)
    checkpoint.load_weights(path, model, state_dict)
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach(), description


def same_scores(*scores: float) -> list[tuple[float, int]]:
    """Plan of one evaluation per score, of equal games of two steps."""
    return [(score, 2) for score in scores for _ in range(PER_EVALUATION)]


def numbered_weights(run: Evaluations) -> Callable[[int, int], None]:
    """Sets all shared weights to e + 1 while evaluation e runs: evaluation e > 0 plays with e."""

    def during(game: int, time: int) -> None:
        run.server.parameter.data.fill_(game // PER_EVALUATION + 1)

    return during


def evaluated(folder: Path, *scores: float, **options) -> Evaluations:
    """After evaluations with these mean scores; evaluation e > 0 with all weights e."""
    run = Evaluations(folder, same_scores(*scores))
    run.during = numbered_weights(run)
    vars(run.args).update(options)
    run.play()
    assert int(run.server.evaluation["evaluations"]) == len(scores)
    assert run.server.evaluation["last_score"] == scores[-1]
    return run


def evaluation_kept(run: Evaluations) -> float:
    """Which evaluation's weights ENV.dat holds."""
    weights, description = run.best()
    assert (weights == weights[0]).all()
    assert description["score"] == run.server.evaluation["best_score"]
    return float(weights[0])


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ((1, 5, 3, 4), 1),
        ((-21, -20, -19, -20.5), 2),
        ((-5, -3, 0, 2, 1), 3),
        ((1, 5, 5, 4), 2),
        ((-21, -21, -21), 2),
    ],
    ids=["positive", "negative", "both signs", "tie", "tie below 0"],
)
def test_the_best_weights_are_kept_and_the_newer_win_a_tie(tmp_path, scores, best):
    run = evaluated(tmp_path, *scores)
    assert evaluation_kept(run) == best
    assert run.best()[1]["score"] == scores[best]


def test_the_first_evaluation_is_kept_however_bad(tmp_path):
    run = evaluated(tmp_path, -1000)
    weights, description = run.best()
    assert torch.equal(weights, run.weights)
    assert description["score"] == run.server.evaluation["best_score"] == -1000


def test_nothing_below_the_level_counts_as_best(tmp_path):
    run = evaluated(tmp_path, -3, -2.5, -1, -2, save_score_level=-2.0)
    assert evaluation_kept(run) == 2
    below = tmp_path / "below"
    below.mkdir()
    run = evaluated(below, -3, -2.5, save_score_level=-2.0)
    assert not run.files.model.exists()
    assert math.isnan(run.server.evaluation["best_score"])
    assert len(checkpoint.read_csv(run.files.csv)) == 2 * PER_EVALUATION
    level = tmp_path / "level"
    level.mkdir()
    assert evaluation_kept(evaluated(level, -3, -2, save_score_level=-2.0)) == 1


def test_an_earlier_sessions_best_score_must_be_reached(tmp_path):
    run = Evaluations(tmp_path, same_scores(4, 5))
    run.server.evaluation["best_score"] = 5.5
    run.play()
    assert not run.files.model.exists()
    assert run.server.evaluation["best_score"] == 5.5


@pytest.mark.parametrize("save_max", [True, False])
def test_save_max_keeps_every_new_best_beside_the_current_one(tmp_path, save_max):
    run = Evaluations(tmp_path, same_scores(-1, 5, 3, 5))
    set_weights = numbered_weights(run)

    def during(game, time):
        set_weights(game, time)
        run.server.figures["steps"][0] = 100 * (game // PER_EVALUATION + 1)  # agent steps

    run.during = during
    run.args.save_max = save_max
    run.play()
    kept = {path.name for path in tmp_path.glob("*.step-*")}
    assert evaluation_kept(run) == 3
    if not save_max:
        assert not kept
        return
    names = {f"Planned-v0.step-{steps}" for steps in (0, 100, 300)}
    assert kept == {f"{name}.{ending}" for name in names for ending in ("dat", "json")}
    for steps, number, score in ((100, 1, 5), (300, 3, 5)):
        weights, description = saved_weights(run.files.kept(steps))
        assert (weights == number).all()
        assert (description["agent_steps"], description["score"]) == (steps, score)


def test_weights_that_have_diverged_are_never_the_best(tmp_path):
    """Finite ones, whose values or gradients are not; however well they happen to play."""
    run = Evaluations(tmp_path, same_scores(1, 2, 3, 4, 5))
    weights = {1: 1.0, 2: 1e30, 3: 1e10, 4: math.nan}  # of evaluation 1, ...; 1e10: the gradient

    def during(game, time):
        following = weights.get(game // PER_EVALUATION + 1)
        if following is not None:
            run.server.parameter.data.fill_(following)

    run.during = during
    run.play()
    assert evaluation_kept(run) == 1
    assert run.best()[1]["score"] == 2


def test_rows_that_cannot_be_written_cost_no_weights(tmp_path):
    run = Evaluations(tmp_path, same_scores(1, 5, 3))
    set_weights = numbered_weights(run)

    def during(game, time):
        set_weights(game, time)
        run.files.csv.mkdir(exist_ok=True)  # no file can be opened there

    run.during = during
    run.play()
    assert evaluation_kept(run) == 1
    assert sum("cannot save" in line for line in run.log()) == 3


def test_a_copy_that_cannot_be_kept_leaves_the_best_score_that_of_the_weights(tmp_path):
    run = Evaluations(tmp_path, same_scores(1, 5, 3))
    set_weights = numbered_weights(run)

    def during(game, time):
        set_weights(game, time)
        steps = run.server.figures["steps"][0] = 100 * (game // PER_EVALUATION + 1)
        run.files.kept(int(steps)).mkdir(exist_ok=True)  # in the way

    run.during = during
    run.args.save_max = True
    run.play()
    assert run.server.evaluation["best_score"] == run.best()[1]["score"] == 5
    assert any("cannot save" in line for line in run.log())


def test_what_is_saved_is_what_was_scored(tmp_path):
    """Weights, steps and normaliser are those of the beginning of the evaluation."""
    run = Evaluations(tmp_path, same_scores(3))

    def during(game, time):
        run.server.parameter.data.fill_(99)
        run.server.figures["steps"][0] += 10
        run.server.normalizers[1] += 1

    run.during = during
    run.play()
    weights, description = run.best()
    assert torch.equal(weights, run.weights)
    assert description["agent_steps"] == 0
    assert tuple(description["normalizer"].values()) == STATISTICS
    assert {row[1] for row in checkpoint.read_csv(run.files.csv)} == {0}


def test_one_set_of_weights_plays_whole_games_over_lost_lives(tmp_path):
    """The shared weights want another action after the first life; the next evaluation obeys."""
    run = Evaluations(tmp_path, [(6.0, 6)] * (2 * PER_EVALUATION))
    model = A3Clstm(3, 4)
    shared = run.server.parameter.data

    def always(action):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
            model.actor_linear.bias[action] = 1.0
        shared.copy_(torch.nn.utils.parameters_to_vector(model.parameters()).detach())

    always(1)

    def during(game, time):
        if time == 2:
            always(2)

    run.during = during
    run.play()
    first, second = run.actions[:PER_EVALUATION], run.actions[PER_EVALUATION:]
    assert first == [[1] * 6] * PER_EVALUATION
    assert second == [[2] * 6] * PER_EVALUATION


def test_no_evaluation_plays_the_games_of_another_or_of_an_earlier_session(tmp_path):
    seeds = evaluated(tmp_path, 1, 2).seeds + evaluated(tmp_path, 3).seeds
    assert len(set(seeds)) == len(seeds) == 3 * PER_EVALUATION


@pytest.mark.parametrize("count_lives", [True, False])
def test_what_is_saved_plays_the_games_of_its_evaluation_again(tmp_path, count_lives):
    """As gym_eval.py would: the normaliser stays as it was, the memory of a life ends or not."""
    run = Evaluations(tmp_path, [(1.0, 30), (2.0, 20)])
    run.args.count_lives = count_lives
    with torch.no_grad():
        run.model.actor_linear.weight *= 1000
        run.model.lstm.weight_hh *= 7
    run.server.parameter.data.copy_(run.weights)
    run.play()
    again = Evaluations(tmp_path, run.plan)
    again.weights.copy_(run.best()[0])
    normalizer = Normalizer(np.array([*run.best()[1]["normalizer"].values()]), frozen=True)
    seeds = [game_seed(1, TEST, i) for i in range(PER_EVALUATION)]
    list(play_games(again.model, lambda seed: Planned(again), seeds, normalizer, count_lives))
    assert (again.actions, again.seeds) == (run.actions, run.seeds)
    assert len(set(run.actions[0])) > 1


def test_the_description_says_what_evaluation_must_know(tmp_path):
    run = Evaluations(tmp_path, [(-3.0, 2), (-1.0, 4)])
    run.server.first_step = 700
    run.play()
    description = run.best()[1]
    assert description["env"] == "Planned-v0"
    assert description["actions"] == ACTIONS
    assert description["count_lives"] is True
    assert description["agent_steps"] == 700
    assert description["score"] == -2.0
    assert description["normalizer"] == dict(zip(("count", "mean", "std"), STATISTICS, strict=True))
    assert 0 <= description["seconds"] < 60
    digest = hashlib.sha256(run.files.model.read_bytes()).hexdigest()
    assert description["sha256"] == digest
    assert json.loads(run.files.model.with_suffix(".json").read_text()) == description


def test_each_game_is_a_row_of_the_csv(tmp_path):
    run = Evaluations(tmp_path, [(-3.0, 2), (-1.0, 4), (7.0, 3), (8.0, 1)])
    run.during = lambda game, time: run.server.figures.values[0].fill_(50)
    run.play()
    rows = checkpoint.read_csv(run.files.csv)
    assert [row[1:] for row in rows] == [
        (0, -3.0, 2), (0, -1.0, 4), (50, pytest.approx(7.0), 3), (50, 8.0, 1)
    ]  # fmt: skip
    assert all(0 <= row[0] < 60 for row in rows)
    assert rows[0][0] == rows[1][0] <= rows[2][0]


def test_the_log_has_a_line_per_evaluation_with_the_mean_over_all_games(tmp_path):
    run = Evaluations(tmp_path, [(-3.0, 2), (-1.0, 4), (7.0, 3), (8.0, 5)])
    checkpoint.append_csv(run.files.csv, [(1.0, 0, 4.0, 9)] * 2)  # of an earlier session
    run.server.first_second = 3600.0 * 25 + 62
    run.during = lambda game, time: run.server.figures.values[0].fill_(50)
    run.play()
    pattern = (
        r"Time (\d\d+h \d\dm \d\ds), episode reward (\S+), episode length (\d+), "
        r"reward mean (-?\d+\.\d{4}), agent steps (\d+), (\d+\.\d) steps/s"
    )
    lines = [re.fullmatch(pattern, line) for line in run.log()]
    assert len(lines) == 2
    assert all(lines), run.log()
    assert lines[0][1].startswith("25h 01m ")  # hours go on past a day
    assert [line.groups()[1:5] for line in lines] == [
        ("-2", "3", "1.0000", "0"), ("7.5", "4", f"{19 / 6:.4f}", "50")
    ]  # fmt: skip
    assert float(lines[0][6]) > 0  # the 50 steps were played meanwhile
    assert float(lines[1][6]) == 0


def test_the_time_until_the_first_update_slows_no_evaluation(tmp_path, monkeypatch):
    run = Evaluations(tmp_path, same_scores(3))
    run.server.figures["updates"].zero_()

    def begin(seconds: float) -> None:
        run.server.started -= 3600
        run.server.figures["updates"][1] = 1

    monkeypatch.setattr(test_module.time, "sleep", begin)
    run.during = lambda game, time: run.server.figures["steps"].fill_(50)
    run.play()
    (speed,) = re.findall(r"(\d+\.\d) steps/s", run.log()[0])
    assert float(speed) > 1  # 100 steps in less than a minute


@pytest.mark.parametrize("unreadable", [b"\xff\xfe\x00", b"\xff\r\n", None])
def test_an_evaluation_is_played_and_saved_whatever_the_csv_holds(tmp_path, unreadable):
    run = Evaluations(tmp_path, same_scores(3))
    if unreadable is None:
        run.files.csv.mkdir()
    else:
        run.files.csv.write_bytes(unreadable)
    run.play()
    assert run.best()[1]["score"] == 3
    assert any("episode reward 3" in line for line in run.log())
    if unreadable is None:
        assert any("cannot read the scores so far" in line for line in run.log())
    else:
        assert [row[2] for row in checkpoint.read_csv(run.files.csv)] == [3, 3]


@pytest.mark.parametrize("policy", ["greedy", "sampled"])
def test_evaluations_choose_actions_by_the_policy_of_the_description_and_say_so(tmp_path, policy):
    run = Evaluations(tmp_path, [(1.0, 30)] * PER_EVALUATION)
    run.policy = policy
    run.play()
    first, second = run.actions  # two games of the same pictures
    assert (first == second) == (policy == "greedy")
    assert run.best()[1]["policy"] == policy
    assert run.log()[0].endswith(", sampled actions") == (policy == "sampled")


def test_an_evaluation_that_takes_long_says_each_minute_how_far_it_is(tmp_path, monkeypatch):
    now = [0.0]
    run = Evaluations(tmp_path, [(1.0, 3), (1.0, 5)])
    run.server.first_step = 700
    monkeypatch.setattr(test_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(test_module, "PROGRESS_SECONDS", 60)

    def during(game, time):
        if game == 1:
            now[0] += 40

    run.during = during
    run.play()
    under_way = "evaluation of agent step 700 under way for 00h "
    assert run.log()[:-1] == [
        f"{under_way}01m 20s: 0 of 2 games ended, 4 agent steps played",
        f"{under_way}02m 40s: 1 of 2 games ended, 7 agent steps played",
    ]


@pytest.mark.parametrize("evaluation", [0.1, 14.0, 16.0, 3600.0])  # seconds of processor time
def test_without_an_interval_evaluations_take_a_fifth_of_a_core_at_most(evaluation):
    assert evaluation <= (evaluation + test_module.pause(None, evaluation)) / 5


@pytest.mark.parametrize("stop_at", [(0, 1), (1, 3), (2, 2), (3, 1)])
def test_a_stop_ends_the_evaluation_within_a_step_and_records_no_part_of_it(tmp_path, stop_at):
    run = Evaluations(tmp_path, [(1.0, 4)] * 4)

    def during(game, time):
        if (game, time) == stop_at:
            run.server.stop()

    run.during = during
    run.play()
    game, time = stop_at
    complete = game // PER_EVALUATION
    assert int(run.server.evaluation["evaluations"]) == complete
    assert len(checkpoint.read_csv(run.files.csv)) == complete * PER_EVALUATION
    assert len(run.log()) == complete
    assert run.files.model.exists() == (complete > 0)
    lengths = [len(actions) for actions in run.actions]
    assert lengths == [4] * complete * PER_EVALUATION + [time] * PER_EVALUATION


def test_a_stop_after_some_games_of_an_evaluation_records_none_of_them(tmp_path):
    run = Evaluations(tmp_path, [(1.0, 2), (1.0, 6)])

    def during(game, time):
        if (game, time) == (1, 4):
            run.server.stop()

    run.during = during
    run.play()
    assert run.finished == 1
    assert int(run.server.evaluation["evaluations"]) == 0
    assert not run.files.csv.exists()
    assert not run.files.model.exists()
    assert run.log() == []


@pytest.mark.parametrize(
    ("eval_interval", "seconds", "expected"),
    [(None, 2.0, 60.0), (None, 150.0, 600.0), (0.0, 150.0, 0.0), (30.0, 150.0, 30.0)],
)
def test_the_pause_is_the_interval_or_by_the_length_of_the_evaluation(
    tmp_path, monkeypatch, eval_interval, seconds, expected
):
    """`seconds` of processor time per evaluation, on a machine that is shared with two others."""
    now, processor, slept = [0.0], [0.0], []
    run = Evaluations(tmp_path, same_scores(1, 2))
    run.args.eval_interval = eval_interval
    monkeypatch.setattr(test_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(test_module.time, "process_time", lambda: processor[0])

    def sleep(duration):
        now[0] += 0.5
        slept.append(0.5)

    def during(game, time):
        if time == 1:
            processor[0] += seconds / PER_EVALUATION
            now[0] += 3 * seconds / PER_EVALUATION

    monkeypatch.setattr(test_module.time, "sleep", sleep)
    run.during = during
    run.play()
    assert sum(slept) == expected


def test_the_test_process_seems_to_hang_neither_in_a_game_nor_while_it_waits(tmp_path, monkeypatch):
    run = Evaluations(tmp_path, same_scores(1, 2))
    run.args.eval_interval = 1.0
    run.server.figures["updates"].zero_()
    now, beats = [0.0], []

    def sleep(duration):
        now[0] += 0.5
        run.server.figures["updates"][1] = 1
        beats.append(float(run.server.evaluation["beats"]))

    def during(game, time):
        now[0] += 0.1
        if game % PER_EVALUATION == 0:
            beats.append(float(run.server.evaluation["beats"]))

    monkeypatch.setattr(test_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(test_module.time, "sleep", sleep)
    run.during = during
    run.play()
    assert len(set(beats)) == len(beats) == 1 + 2 + 2 + 2  # the start, a game, the pause, a game


def test_a_stop_during_the_pause_ends_at_once(tmp_path):
    run = Evaluations(tmp_path, same_scores(1))
    run.args.eval_interval = 3600.0
    run.play()  # or the test's time-out ends it
    assert int(run.server.evaluation["evaluations"]) == 1


def test_a_run_that_is_already_stopped_plays_nothing(tmp_path):
    run = Evaluations(tmp_path, same_scores(1))
    run.server.figures.values.zero_()  # and nothing has been learned
    run.server.stop()
    run.play()
    assert run.started == 0
    assert not run.files.model.exists()
    assert not run.files.csv.exists()


@pytest.mark.parametrize(
    ("description", "steps"),
    [
        (None, None),  # weights without a description
        ({"agent_steps": 7}, 7),  # written before "loaded"
        ({"agent_steps": 7, "loaded": None}, 7),
        ({"agent_steps": 7, "loaded": {"agent_steps": 5, "loaded": {"agent_steps": 3}}}, 15),
        ({"agent_steps": 7, "loaded": {"agent_steps": None}}, None),  # started from such weights
        ({"agent_steps": 7, "loaded": {"agent_steps": 5, "loaded": "nonsense"}}, None),
    ],
)
def test_all_steps_are_those_of_the_run_and_of_what_it_loaded(description, steps):
    assert checkpoint.all_steps(description) == steps
