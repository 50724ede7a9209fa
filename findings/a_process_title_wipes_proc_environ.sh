#!/usr/bin/env bash
# setproctitle 1.3.8 on Linux: a title is written over the memory of the environment too, so /proc/PID/environ is empty
# of it afterwards, though os.environ is as before. Batch systems and build servers that find the processes of a job by
# a variable see the parent and not its titled children. Guess: a title changes what ps shows, and nothing else.
# SPT_NOENV=1, set before the import, keeps the environment and has less room for the title.
#
# Seen: "JOB=7 in /proc: True before the title, False after it; with SPT_NOENV=1: True".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet setproctitle==1.3.8
cat > "$folder/finding.py" <<'END'
def found():
    return b"JOB=7" in open("/proc/self/environ", "rb").read()


before = found()
import setproctitle

setproctitle.setproctitle("Train Agent: 0")
print(before, found())
END
plain=$(JOB=7 "$folder/venv/bin/python" "$folder/finding.py")
kept=$(JOB=7 SPT_NOENV=1 "$folder/venv/bin/python" "$folder/finding.py")
[ "$plain" = "True False" ] && [ "$kept" = "True True" ]
echo "JOB=7 in /proc: True before the title, False after it; with SPT_NOENV=1: True"
