"""The house: which module imports which, how large main.py is, what starts without torch."""

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
MODULES = {path.stem: path for path in PROJECT.glob("*.py")}


def imports(path: Path) -> set[str]:
    """Names of our own modules that this one imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found & MODULES.keys()


def test_imports_run_one_way():
    graph = {name: imports(path) for name, path in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_main_stays_a_page_or_six():
    assert len(MODULES["main"].read_text(encoding="utf-8").splitlines()) < 450


def test_the_kernels_and_the_network_know_nothing_of_the_suite():
    assert imports(MODULES["model"]) == imports(MODULES["kernels"]) == set()


QUOTAS = {"half a core": ("50000 100000", 1), "one core": ("100000 100000", 1)}
QUOTAS["none"] = ("max 100000", len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("quota", QUOTAS)
def test_the_default_number_of_workers_respects_a_processor_quota(quota):
    """A real file of cgroup v2, in a mount namespace of its own."""
    text, workers = QUOTAS[quota]
    script = f"""
mount -t tmpfs tmpfs /sys/fs/cgroup && echo "{text}" > /sys/fs/cgroup/cpu.max || exit 77
exec "{sys.executable}" -c "import options; print(options.build_parser().parse_args([]).workers)"
"""
    try:
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script],
            cwd=PROJECT, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("no unshare on this system")
    if done.returncode == 77 or "not permitted" in done.stderr:
        pytest.skip("no permission to mount")
    assert int(done.stdout) == workers, done.stderr
