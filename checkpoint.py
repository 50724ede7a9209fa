"""What a run leaves on disk: weights with their description, checkpoint, CSV.

A file is replaced at once or not at all. To a CSV rows are appended; what is torn of the last is
left out.
"""

import contextlib
import glob
import hashlib
import io
import json
import math
import os
import platform
import re
import subprocess
import time
import warnings
import zipfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from environment import game_name, known_env_ids

TRAINING_ENDING = ".training.csv"  # after the name of the environment


class Files(NamedTuple):
    """Where a run leaves its files."""

    model: Path  # trained_models/ENV.dat; its description ends in .json
    checkpoint: Path  # trained_models/ENV.ckpt
    lock: Path  # trained_models/ENV.lock
    log: Path  # logs/ENV_log
    csv: Path  # logs/ENV.csv, evaluated games
    training_csv: Path  # logs/ENV.training.csv, training games
    tensorboard: Path  # logs/tensorboard/ENV, a folder

    @classmethod
    def of(cls, name: str, save_model_dir: str, log_dir: str) -> "Files":
        """name: the environment's, as environment.file_name gives it."""
        models, logs = Path(save_model_dir), Path(log_dir)
        return cls(
            models / f"{name}.dat",
            models / f"{name}.ckpt",
            models / f"{name}.lock",
            logs / f"{name}_log",
            logs / f"{name}.csv",
            logs / f"{name}{TRAINING_ENDING}",
            logs / "tensorboard" / name,
        )

    @property
    def log_lock(self) -> Path:
        """What `lock` is to the other folder; the same file if there is but one."""
        return self.csv.with_suffix(".lock")

    @property
    def failed_log(self) -> Path:
        """What the log becomes when a run fails before it has learned anything."""
        return self.log.with_name(f"{self.log.name}.failed")

    def kept(self, steps: int) -> Path:
        """Where --save-max keeps the best weights of that agent step."""
        return self.model.with_name(f"{self.model.stem}.step-{steps}.dat")

    def existing(self) -> list[Path]:
        """Files of an earlier run."""
        kept = (
            path
            for path in self.model.parent.glob(f"{glob.escape(self.model.stem)}.step-*")
            if ".old-" not in path.name  # set aside before
        )
        models = (self.model, self.model.with_suffix(".json"), self.checkpoint)
        csvs = (self.csv, self.training_csv, dropped(self.csv), dropped(self.training_csv))
        logs = (self.log, *csvs, self.tensorboard)
        return [path for path in (*models, *logs, *kept) if path.exists()]

    def leftovers(self) -> list[Path]:
        """What a process that was killed left of its writes to this environment's files.

        Not what gym_eval.py writes beside the run, such as a moving picture of that name.
        """
        name = glob.escape(self.model.stem)
        folders = {self.model.parent, self.csv.parent}
        paths = [path for folder in folders for path in folder.glob(f"{name}.*.tmp")]
        return [path for path in paths if {".dat", ".ckpt", ".json", ".csv"} & {*path.suffixes}]


RUNS = "trained_models/"  # where runs leave their models, in the current folder
PUBLISHED = Path(__file__).parent / "trained_models" / "published"  # no run writes there

POLICIES = ("greedy", "sampled")  # the most probable action, or one drawn from the policy
DESCRIPTION_TYPES = {  # of what is read from ENV.json
    "sha256": str,
    "normalizer": dict,
    "actions": list,
    "count_lives": bool,
    "skip_rate": int,
    "hidden_size": (int, type(None)),
    "agent_steps": int,
    "score": (float, int, type(None)),
    "loaded": (dict, type(None)),
}
# Scores can be compared if these are the same; with what holds where a description, of an earlier
# version, says nothing. Of AS_NOW nobody knows: it then counts as unchanged.
AS_NOW = object()
RULES = {
    "env": None,
    "game_config": AS_NOW,
    "count_lives": None,
    "skip_rate": None,
    "max_episode_length": None,
    "max_idle_steps": None,
    "policy": "greedy",
}
RELOADS = 10  # attempts to find weights and description that belong together
# Of a game: when it ended, or of an evaluated one when the weights that play were read, in seconds
# and agent steps of the run over all workers and sessions; raw points; agent steps, FIRE included.
CSV_HEADER = ["seconds", "agent_steps", "score", "length"]
TORN_ROW = re.compile(rb"([-+.,e\d]*|[a-z_,]*)\r?")  # what a crash may leave of a row or the header


def write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write aside, flush to the disk, rename: whoever reads sees the old file or the new one."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        if error.errno:
            error.filename = error.filename or str(path)  # a full disk names none
        raise
    finally:
        aside.unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Versions of what decides about a score."""
    packages = ("torch", "gymnasium", "ale-py", "numpy")
    found = {name: version(name) for name in packages}
    return {"python": platform.python_version(), "opencv": cv2.__version__, **found}


def commit() -> str:
    """The suite's: '75f396d', or 'unknown'.

    '75f396d-dirty-1a2b3c4d' where a program, recipe or crop table is not as committed, or a program
    is new: the last part tells one edit from another.
    """
    folder = Path(__file__).parent

    def git(*command: str) -> list[str]:
        done = subprocess.run(["git", *command], cwd=folder, capture_output=True, check=False)
        return os.fsdecode(done.stdout).strip("\n\0").split("\0")

    name, edited = "", []
    if (folder / ".git").exists():  # else it may be inside another project
        with contextlib.suppress(FileNotFoundError):  # no git
            (name,) = git("rev-parse", "--short", "HEAD")
            kinds = (":(glob)*.py", ":(glob)*.toml", ":(glob)*.json")
            edited = git("diff", "--name-only", "-z", "HEAD", "--", *kinds)
            edited += git("ls-files", "--others", "--exclude-standard", "-z", "--", kinds[0])
    if any(edited):
        content = hashlib.sha256()
        for path in (folder / file for file in sorted(filter(None, edited))):
            content.update(os.fsencode(path.name) + b"\0")
            content.update(path.read_bytes() if path.exists() else b"deleted")
        name += f"-dirty-{content.hexdigest()[:8]}"
    return name or "unknown"


def to_bytes(content: dict) -> bytes:
    """What torch.save writes. In memory first: a full disk is then an OSError, nothing else.

    content: tensors that no other process writes meanwhile, or the file counts as damaged:
    torch.save takes a tensor's checksum before it writes it.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def save_model(path: Path, state_dict: dict[str, Tensor], description: dict) -> None:
    """Write weights to `path` (.dat) and their description, with the weights' sha256, beside it.

    The description comes first, under a name with the sha256, and gets its own name last: whenever
    the process is killed, the weights on disk have theirs. See load_model and mend_leftovers.
    """
    # Clones: the tensors are views of one vector, and torch.save writes whole storages.
    weights = {name: tensor.detach().cpu().clone() for name, tensor in state_dict.items()}
    content = to_bytes(weights)
    sha256 = hashlib.sha256(content).hexdigest()
    text = json.dumps({**description, "sha256": sha256}, indent=2) + "\n"
    early = _early_description(path, sha256)
    try:
        write_atomically(early, lambda file: file.write(text.encode()))
        write_atomically(path, lambda file: file.write(content))
    except OSError:
        early.unlink(missing_ok=True)
        raise
    os.replace(early, path.with_suffix(".json"))


def _early_description(path: Path, sha256: str) -> Path:
    """Where the description of weights with that sha256 waits until they are in `path`."""
    return path.with_name(f"{path.stem}.json.{sha256}.tmp")


def mend_leftovers(files: Files) -> None:
    """Give weights the description that waits for them, and remove all other leftovers.

    No other process writes meanwhile.
    """
    for path in files.leftovers():
        name, _, sha256 = path.name.removesuffix(".tmp").rpartition(".json.")
        model = path.with_name(f"{name}.dat")
        if name and model.exists() and hashlib.sha256(model.read_bytes()).hexdigest() == sha256:
            path.replace(model.with_suffix(".json"))
        else:
            path.unlink()


def describe(
    description: dict, steps: int, seconds: float, normalizer: Sequence[float], score: float | None
) -> dict:
    """The content of ENV.json: the run's description and where in it the weights were taken.

    score: mean over the games of one evaluation, played with the policy that the description
        names; None for weights that were not evaluated.
    """
    return {
        **description,
        "agent_steps": steps,
        "seconds": round(seconds, 1),  # of training
        "score": score,
        "normalizer": dict(zip(("count", "mean", "std"), map(float, normalizer), strict=True)),
    }


def origin(path: Path, description: dict | None) -> dict:
    """What a run that starts from these weights keeps of their description; None for what it lacks.

    The run counts its agent steps and seconds from 0; what its weights have had in all is the sum
    down the chain of "loaded".
    """
    keys = ("agent_steps", "seconds", "score", "command", "sessions", "sha256", "loaded")
    if not description:
        return dict.fromkeys(keys) | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return {key: description.get(key) for key in keys}


def all_steps(description: dict | None) -> int | None:
    """Agent steps that the weights have had, down the chain of "loaded"; None if not known."""
    steps = 0
    while isinstance(description, dict) and isinstance(description.get("agent_steps"), int):
        steps += description["agent_steps"]
        description = description.get("loaded")
        if description is None:
            return steps
    return None


def find_model(
    folder: str | None, name: str, published: bool = False, last: bool = False
) -> Path:
    """Which file has the weights for `name`: a run's own ones, else the published ones.

    folder: of the run, named by the user, and then nothing stands in for it; None is RUNS.
    published: the published ones are wanted.  last: a run's last ones are, its checkpoint.
    ValueError: one line that says what there is and what to do.
    """
    own = Path(folder or RUNS, f"{name}.dat")
    here = Path.cwd()
    models = PUBLISHED.relative_to(here) if PUBLISHED.is_relative_to(here) else PUBLISHED
    shipped = models / own.name
    if last and published:
        raise ValueError("published weights have no checkpoint for --last to play; leave it out")
    if last:
        path = own.with_suffix(".ckpt")
        if not path.exists():
            others = [p for p in ((own,) if folder else (own, shipped)) if p.exists()]
            hint = f"; without --last, {others[0]} is played" if others else ""
            raise ValueError(f"{path}: no such file; --last plays the checkpoint of a run{hint}")
        return path
    if not published and (folder or own.exists()):
        return own
    if not shipped.exists():
        names = ", ".join(sorted(path.stem for path in models.glob("*.dat"))) or "none"
        missing = "" if published else f"{own}: no such file; "
        raise ValueError(
            f"{missing}no weights of {name} are published (there are: {names}); train with "
            "main.py first, or name another --load-model-dir, or with gym_eval.py a file of "
            "another id by --load-model"
        )
    return shipped


def introduce(path: Path, description: dict | None, env_id: str) -> list[str]:
    """Lines about loaded weights: whose they are, what they have had, and if for another game."""
    shipped = path.resolve().is_relative_to(PUBLISHED.resolve())
    whose = "published" if shipped else "a run's own" if description else "an unknown run's"
    lines = [f"{path}: {whose} weights, {in_words(all_steps(description))} agent steps"]
    if of_another_game(description, env_id):
        lines.append(f"{path}: trained on {description['env']}, another game than {env_id}")
    return lines


def of_another_game(description: dict | None, env_id: str) -> bool:
    """Whether these weights are known to be trained on another game than that of `env_id`."""
    trained = (description or {}).get("env", env_id)
    return trained in known_env_ids() and game_name(trained) != game_name(env_id)


def in_words(agent_steps: int | None) -> int | str:
    return "an unknown number of" if agent_steps is None else agent_steps


def changed_rules(old: dict, new: dict) -> str:
    """How the RULES of two descriptions differ, in words; "" if they do not."""
    found = []
    for rule, default in RULES.items():
        is_now = new.get(rule, default)
        was = old.get(rule, is_now if default is AS_NOW else default)
        if was != is_now:
            found.append(f"{rule} was {was} and is {is_now}")
    return ", ".join(found)


def load_file(path: Path) -> tuple[dict, str]:
    """Load what torch.save wrote, tensors and plain types only, onto the CPU.

    Returns the content and the file's sha256.
    ValueError: one line that says why the file cannot be used.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ValueError(f"{path}: {reason}") from None
    try:
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                damaged = archive.testzip()  # torch.load does not check the sums
            if damaged:
                raise ValueError(f"its part {damaged} is damaged")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle of a file that is refused anyway
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # arbitrary bytes make the unpickler fail in any way
        reason = str(error).split("\n")[0].split(". ")[0]
        raise ValueError(f"{path}: not a readable PyTorch file ({reason})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a dictionary")
    return content, hashlib.sha256(data).hexdigest()


def load_model(path: Path) -> tuple[dict[str, Tensor], dict | None]:
    """Weights of a network, and their description; None if there is no file with one.

    ValueError: one line that says why they cannot be used.
    """
    for _ in range(RELOADS):
        state_dict, sha256 = load_file(path)
        # In this order: a run may just give the one file the name of the other.
        description = _load_description(_early_description(path, sha256))
        description = description or _load_description(path.with_suffix(".json"))
        if description is None or description["sha256"] == sha256:
            break
        time.sleep(0.1)  # a run may have replaced the weights since they were read
    else:
        raise ValueError(
            f"{path.with_suffix('.json')}: describes other weights than {path.name} (the sha256 "
            "differs); without this file the weights can be used, with a new normaliser"
        )
    _check_state_dict(path, state_dict)
    return state_dict, description


def _check_state_dict(path: Path, state_dict: dict) -> None:
    for name, tensor in state_dict.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{path}: {name!r} is not a tensor; this is no state dict")
        try:
            if tensor.is_complex():
                raise RuntimeError
            finite = bool(tensor.float().isfinite().all())  # as the network will have it
        except RuntimeError:  # or sparse, quantized or without content
            raise ValueError(f"{path}: {name} is no tensor of plain numbers") from None
        if not finite:
            raise ValueError(f"{path}: {name} holds values that are not finite")


CHECKPOINT_TYPES = {
    "model": dict,
    "optimizer": (dict, list),
    "steps": int,
    "seconds": float,
    "best_score": (float, type(None)),
    "normalizer": dict,
    "args": dict,
}
LATER_TYPES = {  # of what earlier versions did not write
    "loaded": (dict, type(None)),
    "description": (dict, type(None)),
    "record_id": str,
    "unwritten": list,
}


def load_checkpoint(path: Path) -> dict:
    """What --resume continues from. ValueError: one line that says why it cannot be used."""
    return _load_checkpoint(path)[0]


def load_last(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Last weights of a run, from its checkpoint, and their description, with that file's sha256.

    ValueError: one line that says why they cannot be used.
    """
    content, sha256 = _load_checkpoint(path)
    if not isinstance(content.get("description"), dict):
        raise ValueError(f"{path}: from a version that wrote no description; resume the run first")
    normalizer = normalizer_state(path, content)
    described = describe(
        content["description"], content["steps"], content["seconds"], normalizer, None
    )
    return content["model"], _check_description(path, described | {"sha256": sha256})


def load_any(path: Path) -> tuple[dict[str, Tensor], dict | None]:
    """Weights of a file, those of a .ckpt the last of its run, and their description if there is
    one. ValueError: one line that says why they cannot be used.
    """
    return (load_last if path.suffix == ".ckpt" else load_model)(path)


def trained_on(path: Path, description: dict | None) -> str:
    """The environment id of these weights; where no description says it, by the file's name.

    ValueError: neither says it.
    """
    if env_id := (description or {}).get("env"):
        return env_id
    env_id = path.stem.replace("ALE-", "ALE/")
    if env_id not in known_env_ids():
        raise ValueError(f"{path}: no description says which game these weights play; give --env")
    return env_id


def _load_checkpoint(path: Path) -> tuple[dict, str]:
    content, sha256 = load_file(path)
    for key in CHECKPOINT_TYPES:
        if key not in content:
            raise ValueError(f"{path}: no checkpoint of this suite ({key!r} is missing)")
    for key, types in (CHECKPOINT_TYPES | LATER_TYPES).items():
        if key in content and not isinstance(content[key], types):
            found = type(content[key]).__name__
            raise ValueError(f"{path}: no checkpoint of this suite ({key!r} is of type {found})")
    if content["steps"] < 0 or not math.isfinite(content["seconds"]):
        raise ValueError(f"{path}: its 'steps' or 'seconds' are not those of a run")
    if not all(map(_is_row, content.get("unwritten", ()))):
        raise ValueError(f"{path}: its 'unwritten' are not games of a CSV")
    folders = [content["args"].get(key, "") for key in ("save_model_dir", "log_dir")]
    if not all(isinstance(folder, str) for folder in folders):
        raise ValueError(f"{path}: its 'args' have a folder that is no name")
    description = content.get("description") or {}
    if not isinstance(description.get("game_config", {}), dict):
        raise ValueError(f"{path}: its 'description' has a 'game_config' that is no table")
    actions = description.get("actions", [])
    if not isinstance(actions, list) or not all(isinstance(name, str) for name in actions):
        raise ValueError(f"{path}: its 'description' has 'actions' that are no names")
    _check_state_dict(path, content["model"])
    normalizer_state(path, content)
    return content, sha256


def _is_row(row) -> bool:
    """Whether it is what append_csv takes as one."""
    if not isinstance(row, tuple) or len(row) != len(CSV_HEADER):
        return False
    return all(isinstance(x, float | int) and math.isfinite(x) for x in row)


def normalizer_state(path: Path, content: dict) -> list[float]:
    """Count, mean and standard deviation from the content of `path`. ValueError without them."""
    try:
        state = [float(content["normalizer"][key]) for key in ("count", "mean", "std")]
    except (KeyError, TypeError, ValueError):
        state = [math.nan]
    if not all(map(math.isfinite, state)) or min(state) < 0:
        raise ValueError(f"{path}: its 'normalizer' is not a count, a mean and a std")
    return state


def load_weights(path: Path, model: nn.Module, state_dict: dict[str, Tensor]) -> None:
    """Put weights from the file `path` into the model. ValueError: one line if they do not fit."""
    if unknown := sorted(map(str, state_dict.keys() - model.state_dict().keys())):
        raise ValueError(f"{path}: the network has no {unknown[0]}")
    for name, tensor in model.state_dict().items():
        if name not in state_dict or state_dict[name].shape != tensor.shape:
            found = tuple(state_dict[name].shape) if name in state_dict else "nothing"
            raise ValueError(f"{path}: {name} should be {tuple(tensor.shape)}, found {found}")
    model.load_state_dict(state_dict)


def check_actions(
    path: Path, state_dict: dict[str, Tensor], description: dict | None, actions: list[str]
) -> None:
    """ValueError: the weights in `path` are for other actions than the game has now."""
    trained = (description or {}).get("actions", actions)
    number, _ = matrix_shapes(state_dict).get("actor_linear.weight", (len(trained), None))
    if trained == actions and number == len(actions):
        return
    before = f"the actions {' '.join(trained)}" if number == len(trained) else f"{number} actions"
    raise ValueError(
        f"{path}: for {before}, but this game has {' '.join(actions)}; see 'actions' of the crop "
        "table"
    )


def matrix_shapes(state_dict: dict[str, Tensor]) -> dict[str, tuple[int, int]]:
    """By name; a network of somebody else has other names."""
    return {name: tuple(t.shape) for name, t in state_dict.items() if t.dim() == 2}


def _load_description(path: Path) -> dict | None:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise ValueError(f"{path}: not valid JSON") from None
    if not isinstance(description, dict):
        raise ValueError(f"{path}: not an object")
    return _check_description(path, description)


def _check_description(path: Path, description: dict) -> dict:
    for key, types in DESCRIPTION_TYPES.items():
        if not isinstance(description.get(key), types):
            raise ValueError(f"{path}: no description of this suite ({key!r} is missing or wrong)")
    if not isinstance(description.get("game_config", {}), dict):
        raise ValueError(f"{path}: 'game_config' is not an object")
    if not isinstance(description.get("env", ""), str):
        raise ValueError(f"{path}: 'env' is no id")
    if (description.get("hidden_size") or 1) < 1:
        raise ValueError(f"{path}: 'hidden_size' is not 1 or more")
    if description.get("policy", "greedy") not in POLICIES:
        raise ValueError(f"{path}: 'policy' is neither {' nor '.join(POLICIES)}")
    normalizer_state(path, description)
    return description


def set_aside(paths: list[Path]) -> list[tuple[Path, Path]]:
    """Rename from NAME.ext to NAME.old-N.ext, N new. Returns the (old, new) names.

    OSError: a file cannot be renamed; those that were get their names back.
    """
    number = 1
    while any(_renamed(path, f"old-{number}").exists() for path in paths):
        number += 1
    renamed: list[tuple[Path, Path]] = []
    try:
        for old in paths:
            new = _renamed(old, f"old-{number}")
            old.rename(new)
            renamed.append((old, new))
    except OSError:
        for old, new in renamed:
            with contextlib.suppress(OSError):
                new.rename(old)
        raise
    return renamed


def _renamed(path: Path, what: str) -> Path:
    """NAME.what.ext for NAME.ext."""
    ending = TRAINING_ENDING if path.name.endswith(TRAINING_ENDING) else path.suffix
    # ENV_log, and TensorBoard's folder, have none.
    return path.with_name(f"{path.name.removesuffix(ending)}.{what}{ending}")


def dropped(path: Path) -> Path:
    """Where rows of a CSV go that --resume takes out of it."""
    return _renamed(path, "dropped")


def append_csv(path: Path, rows: Sequence[tuple]) -> None:
    """Add one row per game: seconds, agent steps, score, length.

    OSError: none of the rows is in the file; they may be given again.
    """
    with open(path, "ab+", buffering=0) as file:
        file.seek(max(0, file.tell() - 1))
        end = file.read()
    if end not in (b"", b"\n"):  # a crash has cut off the last row
        mend_csv(path)
    with open(path, "ab", buffering=0) as file:
        size = file.tell()
        data = _to_lines(rows if size else [CSV_HEADER, *rows])
        try:
            while data:  # a disk that gets full takes a part
                data = data[file.write(data) :]
        except OSError:
            file.truncate(size)
            raise


def read_csv(path: Path) -> list[tuple[float, int, float, int]]:
    """Rows of a run's CSV; none if there is no file.

    Whatever else is in the file is left out. OSError: it cannot be read.
    """
    return _read_csv(path)[0]


def mend_csv(path: Path, up_to_step: float = math.inf) -> Path | None:
    """Leave only the rows up to that agent step in a run's CSV; add the others to dropped(path).

    If there was more in it than rows and a last line that a crash has cut off, the file as it was
    is kept as NAME.damaged-N.csv. Returns that name.
    """
    rows, damaged = _read_csv(path)
    kept = None
    if damaged:
        number = 1
        while (kept := _renamed(path, f"damaged-{number}")).exists():
            number += 1
        content = path.read_bytes()
        write_atomically(kept, lambda file: file.write(content))
    if newer := [row for row in rows if row[1] > up_to_step]:
        append_csv(dropped(path), newer)
    lines = _to_lines([CSV_HEADER, *(row for row in rows if row[1] <= up_to_step)])
    write_atomically(path, lambda file: file.write(lines))
    return kept


def _to_lines(rows: Sequence[Sequence]) -> bytes:
    return "".join(",".join(map(str, row)) + "\r\n" for row in rows).encode()


def _read_csv(path: Path) -> tuple[list[tuple[float, int, float, int]], bool]:
    """The rows, and whether there are lines that are none; see mend_csv."""
    if not path.exists():
        return [], False
    rows, damaged = [], False
    lines = path.read_bytes().split(b"\n")
    for line in lines[:-1]:  # the rest has no end: cut off, even in the middle of a number
        try:
            seconds, steps, score, length = line.decode().split(",")
            row = (float(seconds), int(steps), float(score), int(length))
            if not all(map(math.isfinite, row)):
                raise ValueError
        except (ValueError, OverflowError):  # no text, no numbers, or far too large ones
            damaged |= line.strip() != ",".join(CSV_HEADER).encode()
        else:
            rows.append(row)
    return rows, damaged or not TORN_ROW.fullmatch(lines[-1])


def by_evaluation(rows: list[tuple]) -> np.ndarray:
    """(evaluations, 4): seconds, agent steps, mean score and its standard error.

    rows: of a run's CSV. The standard error of a single game is nan.
    """
    table = np.array(rows, float).reshape(-1, 4)  # (games, 4)
    groups = np.split(table, np.flatnonzero(np.diff(table[:, 1])) + 1) if rows else []
    result = np.empty((len(groups), 4))
    for row, group in zip(result, groups, strict=True):
        scores = group[:, 2]
        error = scores.std(ddof=1) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan
        row[:] = *group[0, :2], scores.mean(), error
    return result
