#!/usr/bin/env bash
# trackio 0.43.0: to resume a run replaces its whole config by that of the new trackio.init(), without a word, and the
# date of its creation, too. An evaluation that adds its score to the run of a finished training, and gives no config,
# takes away the learning rate, the seed and all else by which runs are told apart; the metrics stay. Guess: the config
# stays, or is merged with the new one, as trackio calls itself a drop-in replacement of wandb. Who resumes must give
# all of it again.
#
# Seen: "trained: lr 0.0001, seed 1"; "resumed without a config: nothing"; "resumed with another key: episodes 100".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet trackio==0.43.0
cat > "$folder/finding.py" <<'END'
import contextlib
import io

import trackio


def session(metrics, **options):
    """The run's config after one more session: what the user gave, and the date."""
    with contextlib.redirect_stdout(io.StringIO()):
        trackio.init(
            project="project", name="Pong", embed=False, auto_log_gpu=False, auto_log_cpu=False, **options
        )
        trackio.log(metrics)
        trackio.finish()
        (run,) = trackio.Api().runs("project")
        config = dict(run.config)
    given = {name: value for name, value in config.items() if not name.startswith("_")}
    return given, config["_Created"]


def text(config):
    return ", ".join(f"{name} {value}" for name, value in config.items()) or "nothing"


trained, created = session({"loss": 1.0}, config={"lr": 1e-4, "seed": 1})
print("trained:", text(trained))
resumed, later = session({"score": 20.0}, resume="must")
print("resumed without a config:", text(resumed))
other, _ = session({"score": 21.0}, resume="must", config={"episodes": 100})
print("resumed with another key:", text(other))
assert (trained, resumed, other) == ({"lr": 1e-4, "seed": 1}, {}, {"episodes": 100})
assert later > created
END
TRACKIO_DIR=$folder/trackio HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/finding.py"
