"""Lines for the terminal and the log, where one of them cannot be written."""

import argparse
import errno
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import main
import options
import utils
from utils import Output, close_logger, setup_logger

PROJECT = Path(utils.__file__).parent
FULL = Path("/dev/full")  # every write fails as on a full disk
needs_full = pytest.mark.skipif(not FULL.exists(), reason="Linux has it")


def test_counted_nouns():
    assert [utils.count(n, "game") for n in (0, 1, 2)] == ["0 games", "1 game", "2 games"]


def test_scores_have_all_their_digits_before_the_point():
    scores = (-20.25, 7.5, 21.0, 40.0, 17.999, -0.004, 1234567.0, 999999.5, 3600)
    words = ["-20.25", "7.5", "21", "40", "18", "0", "1234567", "999999.5", "3600"]
    assert [utils.points(score) for score in scores] == words


def test_tenths_of_thousands_and_millions_are_whole_numbers():
    for tenths in range(1, 2000):
        assert utils.whole(f"{tenths / 10}k") == tenths * 100
        assert utils.whole(f"{tenths / 10}M") == tenths * 100_000
    wrong = ("1.0000001M", "0.0001k", "1e-1", "1e-7", "0.0000000001k", "nanM", "infk", "1e99", "eM")
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number above 0"):
            utils.positive_int(text)


def test_a_long_error_of_a_library_is_one_short_line(capsys):
    error = RuntimeError("no answer " + 99 * "from 10.0.0.1 " + "\nTraceback of a process")
    logger = setup_logger("far", os.devnull)

    def call():
        raise error

    main._reach(logger, call)
    line = capsys.readouterr().out
    assert "error: the other machines cannot be reached: RuntimeError: no answer from" in line
    assert line.count("\n") == 1
    assert len(line) < 300


@pytest.mark.parametrize(
    ("text", "number"),
    [("2000000", 2_000_000), ("2M", 2_000_000), ("2e6", 2_000_000), ("2.5k", 2500)],
)
def test_whole_numbers_may_have_units(text, number):
    assert utils.positive_int(text) == number


@pytest.mark.parametrize("text", ["1.5", "M", "1e999", "-1", "nan", "", "1e-3", "infM", "0.0005k"])
def test_what_is_no_whole_number_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number above 0"):
        utils.positive_int(text)


def test_a_misspelt_option_ends_with_the_nearest(capsys):
    with pytest.raises(SystemExit):
        options.build_parser().parse_args(["--max-step", "100"])
    assert capsys.readouterr().err.endswith(": --max-step 100; the nearest is --max-steps\n")


@needs_full
@pytest.mark.parametrize(
    ("output", "shown"),
    [
        (Output.LINES, ["cannot write", "first", "second", "error: third"]),
        (Output.QUIET, ["cannot write", "error: third"]),
        (Output.DISPLAY, []),
    ],
)
def test_a_log_that_cannot_be_written_is_one_line_and_stops_nobody(capsys, output, shown):
    logger = setup_logger("full", str(FULL), output)
    logger.info("first")
    logger.info("second")
    logger.error("third")
    close_logger(logger)
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    for words, line in zip(shown, lines, strict=True):
        assert words in line
    if shown:
        told = "error: cannot write /dev/full: No space left on device; going on without it"
        assert captured.out.count(told) == 1


def test_what_a_full_disk_did_not_take_follows_once_there_is_room(tmp_path, capsys):
    class Disk(io.FileIO):
        full = True

        def write(self, data):
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    path = tmp_path / "log"
    logger = setup_logger("room", str(path))
    disk = Disk(path, "a")
    logger.handlers[0].setStream(io.TextIOWrapper(io.BufferedWriter(disk)))
    logger.info("first")
    assert path.read_text() == ""
    disk.full = False
    logger.info("second")
    close_logger(logger)
    assert [line.split()[-1] for line in path.read_text().splitlines()] == ["first", "second"]
    assert "Traceback" not in capsys.readouterr().err


def test_a_log_whose_folder_was_removed_goes_on_once_it_is_made_again(tmp_path, capsys):
    path = tmp_path / "logs" / "log"
    path.parent.mkdir()
    logger = setup_logger("gone", str(path))
    logger.info("first")
    shutil.rmtree(path.parent)
    logger.info("second")
    logger.info("third")
    path.parent.mkdir()
    logger.info("fourth")
    logger.info("fifth")
    close_logger(logger)
    assert [line.split()[-1] for line in path.read_text().splitlines()] == ["fourth", "fifth"]
    captured = capsys.readouterr()
    assert captured.out.count("No such file or directory; going on without it") == 1
    assert captured.err == ""


def test_a_last_argument_that_ends_in_any_letter_is_no_hindrance():
    for letter in "é本":
        code = "import utils, setproctitle; setproctitle.setproctitle('a title')"
        done = subprocess.run(
            [sys.executable, "-c", code, letter], cwd=PROJECT, capture_output=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("where", ["closed pipe", pytest.param("full disk", marks=needs_full)])
def test_output_that_cannot_be_written_stops_nobody(tmp_path, where):
    if where == "full disk":
        stdout = os.open(FULL, os.O_WRONLY)
    else:
        reader, stdout = os.pipe()
        os.close(reader)
    code = "import utils; utils.say('a'); utils.setup_logger('x', 'log').info('b'); utils.say('c')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=stdout, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(PROJECT)}, timeout=60,
    )  # fmt: skip
    os.close(stdout)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "log").read_text().endswith("b\n")


@pytest.mark.parametrize("where", ["memory.max", "memory/memory.limit_in_bytes"])
def test_a_limit_of_memory_is_known(where):
    """A real file of cgroup version 2 or 1, in a mount namespace of its own."""
    script = f"""
mount -t tmpfs tmpfs /sys/fs/cgroup && cd /sys/fs/cgroup || exit 77
mkdir memory; echo max > memory.max; echo 123456789 > {where}
cd "{PROJECT}" && exec "{sys.executable}" -c "import utils; print(utils.memory_limit())"
"""
    try:
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("no unshare on this system")
    if done.returncode == 77 or "not permitted" in done.stderr:
        pytest.skip("no permission to mount")
    version = "memory" if where.startswith("memory/") else ""
    groups = Path("/proc/self/cgroup").read_text().splitlines()
    if version not in [line.split(":")[1] for line in groups]:
        pytest.skip("this system has the other version of cgroups")
    assert done.stdout == "123456789\n", done.stderr
