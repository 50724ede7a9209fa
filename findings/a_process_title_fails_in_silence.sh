#!/usr/bin/env bash
# setproctitle 1.3.8 on Linux: where the first variable of the environment was changed in os.environ before the first
# title, setproctitle() does nothing and raises nothing: ps and top go on to show the old command line. It finds the
# memory of the command line by where that variable lies. bash puts what is set for one command first, so workers of
# `OMP_NUM_THREADS=4 python train.py`, whose code sets OMP_NUM_THREADS anew, have no titles, and those of a script that
# exported the variable may have them; OpenCV changes LD_LIBRARY_PATH whenever it is imported. Guess: the environment
# has nothing to do with a title. One call of getproctitle() before the change is the remedy.
#
# Seen: "titled: False after the change, True after another variable's, True with getproctitle() before it".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet setproctitle==1.3.8
cat > "$folder/finding.py" <<'END'
import os
import sys

import setproctitle

name, early = sys.argv[1:]
assert next(iter(os.environ)) == "OMP_NUM_THREADS"
if early == "early":
    setproctitle.getproctitle()
os.environ[name] = "1"
setproctitle.setproctitle("Train Agent: 0")
print(open("/proc/self/cmdline", "rb").read().startswith(b"Train Agent: 0"))
END
titled() {
    env -i OMP_NUM_THREADS=4 OTHER=4 "$folder/venv/bin/python" "$folder/finding.py" "$@"
}
changed=$(titled OMP_NUM_THREADS late)
other=$(titled OTHER late)
early=$(titled OMP_NUM_THREADS early)
[ "$changed $other $early" = "False True True" ]
echo "titled: $changed after the change, $other after another variable's, $early with getproctitle() before it"
