#!/usr/bin/env bash
# Ray 2.60.0: "excludes" of a working_dir are patterns as in .gitignore, but they are also asked about the folder itself,
# whose name is then ".". "*" excludes that, so ["*", "!*.py"], "nothing but the Python files", sends an empty folder, without a
# word; the machines then say that a module is missing. Guess: as with git, the files that ! names are sent.
# ["*", "!.", "!*.py"] sends them.
#
# Seen: "['*', '!*.py'] sends []; ['*', '!.', '!*.py'] sends ['module.py']".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ray==2.60.0
mkdir "$folder/suite"
touch "$folder/suite/module.py" "$folder/suite/notes.md"
cat > "$folder/finding.py" <<'END'
import os
import sys

import ray


def files_here():
    return os.listdir(".")


def sent(excludes):
    env = {"working_dir": sys.argv[1], "excludes": excludes}
    ray.init("local", num_cpus=1, object_store_memory=10**8, runtime_env=env, logging_level="ERROR")
    try:
        return ray.get(ray.remote(files_here).remote())
    finally:
        ray.shutdown()


for excludes, files in ((["*", "!*.py"], []), (["*", "!.", "!*.py"], ["module.py"])):
    assert sent(excludes) == files
    print(excludes, "sends", files)
END
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(printf 'ab%.0s' $(seq 32)) RAY_USAGE_STATS_ENABLED=0 RAY_TMPDIR=$folder
"$folder/venv/bin/python" "$folder/finding.py" "$folder/suite"
