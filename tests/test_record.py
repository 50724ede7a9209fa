"""The video of a game: every frame at the emulator's rate, and the game that was reported."""

import functools
import itertools
import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from test_gym_eval import CONFIG, lively_weights, own_loggers, run, save  # noqa: F401

import gym_eval
import record
from agent import Agent
from environment import Emulator, Normalizer, game_config, make_env, read_config
from model import A3Clstm
from player import play_games
from stopping import StopSignal
from utils import EVALUATE, game_seed

ENV = "Pong-v0"
LIMIT = 40  # agent steps


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save(folder, ENV, lively_weights(6))
    return folder


def pictures(path) -> tuple[list[np.ndarray], float, list[float]]:
    """The frames of a video as RGB, its frames per second, and when each is shown."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [(f.to_ndarray(format="rgb24"), float(f.time)) for f in container.decode(video=0)]
        return [f for f, _ in frames], float(stream.average_rate), [t for _, t in frames]


def emulated(monkeypatch, seed: int) -> list[np.ndarray]:
    """Counts, from outside the recorder, the screens of what is played next: fills the list."""
    screens = []
    act = Emulator.step

    def step(self, action):
        before = self.ale.getEpisodeFrameNumber()
        result = act(self, action)
        screens.append((self.ale.getEpisodeFrameNumber() - before, self.ale.getScreenRGB()))
        return result

    monkeypatch.setattr(Emulator, "step", step)
    return screens


@pytest.mark.parametrize("panel", [True, False])
def test_a_video_shows_every_frame_at_the_emulators_rate(models, tmp_path, monkeypatch, panel):
    steps = emulated(monkeypatch, 1)
    path = tmp_path / "game.mp4"
    options = ("-ne", "1", "-mel", str(LIMIT), "--record", str(path), "--record-panel", str(panel))
    assert run(models, tmp_path, *options) == 0
    steps = steps[LIMIT:]  # those of the evaluation come first
    assert len(steps) == LIMIT
    frames, rate, times = pictures(path)
    assert len(frames) == sum(count for count, _ in steps)
    assert rate == record.EMULATOR_RATE
    np.testing.assert_allclose(np.diff(times), 1 / 60, atol=1e-4)
    assert frames[0].shape == (420, 320 + panel * record.PANEL_WIDTH, 3)
    last = [sum(count for count, _ in steps[: i + 1]) - 1 for i in range(LIMIT)]
    for at, (_, screen) in zip(last, steps, strict=True):  # lossy, so not exactly
        shown = frames[at][:420:2, :320:2].astype(int)
        assert np.abs(shown - screen).mean() < 3


def test_a_gif_shows_every_third_frame_exactly(models, tmp_path, monkeypatch):
    steps = emulated(monkeypatch, 1)
    path = tmp_path / "game.gif"
    assert run(models, tmp_path, "-ne", "1", "-mel", str(LIMIT), "--record", str(path)) == 0
    steps = steps[LIMIT:]
    frames, _, times = pictures(path)
    total = sum(count for count, _ in steps)
    assert len(frames) == -(-total // 3)
    np.testing.assert_allclose(np.diff(times), 0.05)
    last = np.cumsum([count for count, _ in steps]) - 1
    checked = 0
    for at, (_, screen) in zip(last.tolist(), steps, strict=True):
        if at % 3 == 0:
            np.testing.assert_array_equal(frames[at // 3][:420:2, :320:2], screen)
            checked += 1
    assert checked > 5


def test_the_recorded_game_is_the_reported_one(models, tmp_path):
    """Of a whole evaluation, side by side, the best; its score is told apart from the others'."""
    path = tmp_path / "best.MP4"
    options = ("-ne", "11", "--workers", "11", "-mel", "300", "--stochastic", "True")
    recorded = ("--record", str(path), "--record-game", "best", "--record-panel", "False")
    assert run(models, tmp_path, *options, *recorded) == 0
    summary = json.loads((tmp_path / f"{ENV}_eval.json").read_text())
    best = summary["scores"].index(max(summary["scores"]))
    line = (tmp_path / f"{ENV}_mon_log").read_text().splitlines()[-1]
    assert f"best.MP4: game {best}, score {summary['best']:g}, " in line


def test_a_replayed_game_has_the_score_of_the_evaluation(tmp_path):
    index = 9
    model = A3Clstm(6, 32)
    model.load_state_dict(lively_weights(6))
    config = game_config(read_config(CONFIG), ENV)
    make = functools.partial(make_env, ENV, config, 4, 700)
    seeds = [game_seed(3, EVALUATE, i) for i in range(10)]
    normalizer = Normalizer(np.array([1000.0, 100.0, 5.0]), frozen=True)
    results = sorted(play_games(model, make, seeds, normalizer, True, True, side_by_side=10))
    agent = Agent(model, make, normalizer, True, True)
    score, length, _ = record.record_game(tmp_path / "a.mp4", agent, 3, index, False)
    assert (score, length) == (results[index].score, results[index].length)
    assert len({result.score for result in results}) > 1


def test_a_video_ends_with_the_frame_that_ends_the_game(tmp_path, monkeypatch):
    """Not with repeats of it for the rest of the frame skip, in which the emulator stands still."""
    save(tmp_path, "Breakout-v4", lively_weights(4))
    path = tmp_path / "game.mp4"
    emulated = []  # frames of the game after each call
    act = record.FrameTap.act

    def count(self, *arguments):
        reward = act(self, *arguments)
        emulated.append(self.ale.getEpisodeFrameNumber())
        return reward

    monkeypatch.setattr(record.FrameTap, "act", count)
    agent = Agent.load(tmp_path / "Breakout-v4.dat", env_config=CONFIG)
    _, _, frames = record.record_game(path, agent, 1, 3, False)
    assert emulated[-2] == emulated[-1] < len(emulated)  # the end lay inside a skip
    assert len(pictures(path)[0]) == frames == emulated[-1]


def test_a_clip_shows_the_seconds_asked_for_of_the_game_asked_for(models, tmp_path):
    def recorded(name: str, *options: str) -> tuple[list[np.ndarray], str]:
        path = tmp_path / name
        games = ("-ne", "2", "-mel", "80", "--record", str(path), "--record-game", "1")
        assert run(models, tmp_path, *games, *options) == 0
        return pictures(path)[0], (tmp_path / f"{ENV}_mon_log").read_text().splitlines()[-1]

    whole, line = recorded("whole.gif")
    assert "whole.gif: game 1, score " in line
    clip, line = recorded("clip.gif", "--record-from", "1.5", "--record-seconds", "2")
    np.testing.assert_array_equal(clip, whole[30:70])  # with what the network thought before, too
    assert line.endswith(", 120 frames, 00h 00m 02s")
    rest, _ = recorded("rest.gif", "--record-from", "1.5")
    np.testing.assert_array_equal(rest, whole[30:])


@pytest.mark.parametrize(
    ("options", "message", "games"),
    [
        (("--record-game", "2"), "--record-game 2: the games are 0 to 1", 0),
        (("--record-game", "last"), "'last' is neither first nor best nor a game's number", 0),
        (("--record-from", "99"), "nothing to record from second 99 on", 2),
    ],
)
def test_a_clip_that_there_is_not_is_one_line(models, tmp_path, capsys, options, message, games):
    path = tmp_path / "a.gif"
    short = ("-ne", "2", "-mel", "5", "--record", str(path))
    assert run(models, tmp_path / "logs", *short, *options) == 2
    out, error = capsys.readouterr()
    assert message in error
    assert error.count("\n") == 1
    assert out.count(" : game ") == games
    assert {p.name for p in tmp_path.iterdir()} <= {"logs"}


def test_a_gif_leaves_out_what_has_not_changed(tmp_path):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 4, (210, 160, 1), dtype=np.uint8).repeat(3, 2) * 80
    sizes = []
    for repeats in (1, 20):
        video = record.Video(tmp_path / f"{repeats}.gif", 210, 160)
        for i in range(repeats):
            picture[100, 100] = i  # a new colour each time
            for _ in range(record.GIF_STRIDE):
                video.add(picture)
        video.close()
        sizes.append((tmp_path / f"{repeats}.gif").stat().st_size)
    assert sizes[1] < 1.2 * sizes[0]


@pytest.mark.parametrize("part", ["add", "close"])
def test_an_interrupted_recording_leaves_no_file_and_says_so(
    models, tmp_path, monkeypatch, capsys, part
):
    stop = StopSignal()
    call = getattr(record.Video, part)

    def call_and_stop(self, *arguments):
        stop.received = True
        return call(self, *arguments)

    monkeypatch.setattr(record.Video, part, call_and_stop)
    path = tmp_path / "a.gif"
    path.write_text("of an earlier recording")
    argv = ["-lmd", str(models), "-lgd", str(tmp_path / "logs"), "-ne", "1", "-mel", "20"]
    assert gym_eval.main([*argv, "--record", str(path)], stop) == 130
    assert path.read_text() == "of an earlier recording"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gif", "logs"]
    assert capsys.readouterr().out.endswith(f" : interrupted: {path} was not written\n")


@pytest.mark.parametrize(("name", "message"), [("a.avi", ".mp4"), ("no/a.mp4", "no folder")])
def test_a_video_that_cannot_be_written_is_refused_before_any_game(
    models, tmp_path, monkeypatch, capsys, name, message
):
    monkeypatch.chdir(tmp_path)
    assert run(models, tmp_path / "logs", "--record", name) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_of_that_name_is_refused_before_any_game(models, tmp_path, capsys):
    path = tmp_path / "a.mp4"
    path.mkdir()
    assert run(models, tmp_path / "logs", "--record", str(path)) == 2
    assert capsys.readouterr().err == f"gym_eval.py: error: {path}: not a file\n"


def test_a_file_is_no_folder_for_a_video_and_that_of_the_log_need_not_be_there(
    models, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text("text")
    assert run(models, tmp_path / "logs", "--record", "README.md/a.gif") == 2
    assert capsys.readouterr().err == (
        "gym_eval.py: error: README.md: no folder that can be written\n"
    )
    assert not Path("logs").exists()
    games = ("-ne", "1", "-mel", "5")
    assert run(models, tmp_path / "logs", *games, "--record", "logs/a.gif") == 0
    assert Path("logs/a.gif").stat().st_size


def test_a_full_disk_leaves_no_part_of_a_video(tmp_path):
    class Full:
        def close(self):
            raise OSError(28, "No space left on device")

    video = record.Video(tmp_path / "a.gif", 4, 4)
    video.container.close()
    video.container = Full()
    with pytest.raises(OSError, match="No space left"):
        video.discard()
    assert not list(tmp_path.iterdir())


def test_another_game_than_the_reported_one_is_an_error(models, tmp_path, monkeypatch, capsys):
    record_game = gym_eval.record_game
    monkeypatch.setattr(
        gym_eval, "record_game", lambda *a, **k: (20.5, *record_game(*a, **k)[1:])
    )
    assert run(models, tmp_path, "-ne", "1", "-mel", "5", "--record", str(tmp_path / "a.gif")) == 1
    assert "not the game of the evaluation" in capsys.readouterr().out


def test_a_palette_is_exact_up_to_its_number_of_colours():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (record.COLOURS, 3), dtype=np.uint8)
    palette = record.Palette()
    for _ in range(3):
        picture = colours[rng.integers(0, record.COLOURS, (20, 30))]
        index = palette.index(picture)
        np.testing.assert_array_equal(palette.colours[index, 1:], picture)


def test_a_full_palette_takes_the_nearest_colour():
    palette = record.Palette()
    greys = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, 2)
    palette.index(greys)
    picture = np.array([[[10, 11, 10]]], np.uint8)
    assert palette.colours[palette.index(picture)[0, 0], 1:].tolist() == [10, 10, 10]


def test_the_panel_shows_policy_and_value():
    mind = record.Mind(["NOOP", "FIRE"], 420)
    picture = np.zeros((80, 80), np.uint8)
    sure = mind.draw(picture, np.array([1.0, 0.0]), 0, 0.5)
    unsure = mind.draw(picture, np.array([0.5, 0.5]), 0, 0.5)
    chosen, other = (
        [(panel == colour).all(2).sum() for panel in (sure, unsure)]
        for colour in (record.CHOSEN, record.BAR)
    )
    assert chosen[0] > 1.8 * chosen[1] > 0
    assert other[1] > other[0]


def test_every_game_has_room_for_its_actions(monkeypatch):
    names = make_env("Seaquest-v0", game_config(read_config(CONFIG), "Seaquest-v0")).action_meanings
    assert len(names) == 18
    rows = []

    def write(panel, text, x, y):
        (width, height), _ = cv2.getTextSize(text, *record.FONT, 1)
        if text.upper() in names:
            assert width <= record.NAME_WIDTH
            rows.append((y - height, y))  # without what reaches below the line

    monkeypatch.setattr(record, "write", write)
    record.Mind(names, 420).draw(np.zeros((80, 80), np.uint8), np.full(18, 1 / 18), 3, 0.0)
    assert len(rows) == 18
    for (_, bottom), (top, _) in itertools.pairwise(rows):
        assert bottom <= top
    assert rows[-1][1] <= 20 + 80 * record.PICTURE_SCALE  # the lower edge of the input
