#!/usr/bin/env bash
# Numba 0.68.1: NUMBA_BOUNDSCHECK=1 is no part of the key of a cache=True function. Where the function was compiled
# before, the run that looks for a wrong index gets the old code from the cache, without a check, and finds nothing;
# where it was not, the checked code stays in the cache, and later runs without the variable raise. Guess: the variable
# decides for the run that has it. It needs a NUMBA_CACHE_DIR of its own.
#
# Seen: "cached without a check: NUMBA_BOUNDSCHECK=1 compiles nothing, takes 1 from the cache"; "cached with a check: a
# run without the variable raises IndexError".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numba==0.68.1 numpy==2.4.6
unset NUMBA_BOUNDSCHECK
cat > "$folder/finding.py" <<'END'
import sys

import numba
import numpy as np


@numba.njit(cache=True)
def element(array, index):
    return array[index]


index = int(sys.argv[1])
try:
    element(np.arange(4)[:2], index)  # 3 is outside of the view, and inside of the memory
    result = "value"
except IndexError:
    result = "IndexError"
print(result, element.stats.cache_misses.total(), element.stats.cache_hits.total())
END
run() { "$@" "$folder/venv/bin/python" "$folder/finding.py" "$index"; }

index=1
export NUMBA_CACHE_DIR=$folder/unchecked
[ "$(run env)" = "value 1 0" ]
[ "$(run env NUMBA_BOUNDSCHECK=1)" = "value 0 1" ]
echo "cached without a check: NUMBA_BOUNDSCHECK=1 compiles nothing, takes 1 from the cache"
index=3
export NUMBA_CACHE_DIR=$folder/checked
[ "$(run env NUMBA_BOUNDSCHECK=1)" = "IndexError 1 0" ]
[ "$(run env)" = "IndexError 0 1" ]
echo "cached with a check: a run without the variable raises IndexError"
