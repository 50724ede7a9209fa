#!/usr/bin/env bash
# Ray 2.60.0 on Linux: ray.init(_node_ip_address="127.0.0.1") replaces that address with the machine's public one, and the
# servers of a cluster of one machine listen on every address. Guess: they listen on 127.0.0.1. What does it is a variable
# that is named after other systems, set before ray is imported: RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0.
#
# Seen: "127.0.0.1 asked for: gcs_server listens on *; with the variable: on [::ffff:127.0.0.1]".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ray==2.60.0
cat > "$folder/finding.py" <<'END'
import subprocess
import sys

import ray

options = {"_node_ip_address": "127.0.0.1"} if sys.argv[1] == "asked" else {}
ray.init("local", num_cpus=1, object_store_memory=10**8, logging_level="ERROR", **options)
lines = subprocess.run(["ss", "-ltnp"], capture_output=True, text=True).stdout.splitlines()
mine = str(ray._private.worker._global_node.all_processes["gcs_server"][0].process.pid)
[address] = [line.split()[3] for line in lines if f"pid={mine}," in line]
print(address.rpartition(":")[0])
ray.shutdown()
END
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(printf 'ab%.0s' $(seq 32)) RAY_USAGE_STATS_ENABLED=0 RAY_TMPDIR=$folder
asked=$("$folder/venv/bin/python" "$folder/finding.py" asked)
set_to_0=$(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 "$folder/venv/bin/python" "$folder/finding.py" variable)
[ "$asked" = "*" ] && [ "$set_to_0" = "[::ffff:127.0.0.1]" ]
echo "127.0.0.1 asked for: gcs_server listens on $asked; with the variable: on $set_to_0"
