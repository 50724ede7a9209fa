"""--track with the real packages, offline: the records hold what the CSVs hold."""

import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import checkpoint
import main
from stopping import StopSignal

PROJECT = Path(main.__file__).parent
SMALL = ["--workers", "1", "--envs-per-worker", "2", "--num-steps", "5", "--hidden-size", "16"]
SMALL += ["--max-episode-length", "40", "--eval-episodes", "2", "--eval-interval", "0", "--quiet"]
SMALL += ["--env-config", str(PROJECT / "config.json")]
BLOCK = 32768  # bytes, of the log format of LevelDB, which wandb's files have


def run(folder: Path, *options: str) -> None:
    environment = {**os.environ, "TRACKIO_DIR": str(folder / "trackio")}
    for name in ("WANDB_MODE", "WANDB_DIR"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, str(PROJECT / "main.py"), *SMALL, *options],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def wandb_records(path: Path) -> Iterator:
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, content = path.read_bytes(), 7, b""  # after the magic number
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:  # no room for a header
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        content += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(content)
            content = b""


def read_wandb(folder: Path) -> tuple[set[str], dict, list[dict]]:
    """Ids, the options and the points of all sessions."""
    ids, config, points = set(), {}, []
    for path in sorted(folder.glob("logs/wandb/offline-run-*/*.wandb")):
        for record in wandb_records(path):
            if record.HasField("run"):
                ids.add(record.run.run_id)
                config = {c.key: json.loads(c.value_json) for c in record.run.config.update}
            if record.HasField("history"):
                names = {i.key or i.nested_key[0]: i.value_json for i in record.history.item}
                points.append({name: json.loads(text) for name, text in names.items()})
    return ids, config, points


def read_trackio(folder: Path) -> tuple[set[str], dict, list[dict]]:
    """As read_wandb."""
    with sqlite3.connect(folder / "trackio" / "a3c-lstm.db") as database:
        rows = database.execute("select run_id, step, metrics from metrics order by id").fetchall()
        [[config]] = database.execute("select config from configs").fetchall()
    points = [json.loads(text) for _, _, text in rows]
    assert [step for _, step, _ in rows] == [point["agent_steps"] for point in points]
    return {row[0] for row in rows}, json.loads(config), points


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_a_record_has_what_the_csvs_have_and_a_resumed_run_continues_it(tracker, tmp_path):
    pytest.importorskip(tracker)
    run(tmp_path, "--track", tracker, "--max-steps", "400", "--seed", "5")
    run(tmp_path, "--resume", "--max-steps", "800")
    ids, config, points = (read_wandb if tracker == "wandb" else read_trackio)(tmp_path)
    assert len(ids) == 1
    assert (config["seed"], config["num_steps"], config["env"]) == (5, 5, "Pong-v0")
    assert config["versions"]["suite"] == checkpoint.commit()
    assert config["command"].startswith("python main.py")
    files = checkpoint.Files.of("Pong-v0", tmp_path / "trained_models", tmp_path / "logs")
    evaluations = checkpoint.by_evaluation(checkpoint.read_csv(files.csv))
    expected = [(row[1], row[2]) for row in evaluations]
    found = [(p["agent_steps"], p["evaluation/score"]) for p in points if "evaluation/score" in p]
    assert found == expected
    assert found[0][0] < 400 < found[-1][0]
    games = checkpoint.read_csv(files.training_csv)
    training = [point for point in points if "training/score" in point]
    assert max(point["agent_steps"] for point in training) >= 800
    lengths = [point["training/length"] for point in training]
    assert min(row[3] for row in games) <= min(lengths) <= max(lengths) <= 40
    assert {point["gradient/learning rate"] > 0 for point in training} == {True}


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_a_tracker_that_is_missing_is_one_line(tracker, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, tracker, None)
    assert main.main(["--track", tracker], StopSignal()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"--track {tracker} needs {tracker}: pip install -r requirements-extra.txt" in error
    assert list(tmp_path.iterdir()) == []
