"""The README's figures are those of the published models, and it stays a page or two."""

import itertools
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import results

import checkpoint

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_the_readme_is_that_of_the_descriptions():
    lines = README.splitlines()
    assert [row for row in results.table() if row not in lines] == []


def test_every_picture_and_page_that_a_text_shows_is_there():
    for text in (ROOT / "README.md", *ROOT.glob("benchmarks/*.md")):
        shown = re.findall(r'\]\(([^):]+)\)|src="([^"]+)"', text.read_text(encoding="utf-8"))
        for name in filter(None, itertools.chain(*shown)):
            assert (text.parent / name).is_file(), name


def test_every_published_model_has_the_score_of_its_policy_among_its_results():
    for path in results.published():
        description = json.loads(path.read_text(encoding="utf-8"))
        own = [r for r in description["results"] if r["policy"] == description["policy"]]
        assert own, path
        # A greedy agent plays one and the same game on an id without chance.
        assert all(r["episodes"] == 100 or r["standard_error"] is None for r in own)


def test_the_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= 160
    assert max(map(len, lines)) <= 120


@pytest.fixture
def copies(tmp_path, monkeypatch):
    shutil.copy(ROOT / "trained_models/published/Pong-v0.json", tmp_path)
    monkeypatch.setattr(checkpoint, "PUBLISHED", tmp_path)
    return tmp_path


def evaluation(folder: Path, **changes) -> Path:
    description = json.loads((folder / "Pong-v0.json").read_text(encoding="utf-8"))
    found = {
        "policy": "sampled", "seed": 3, "episodes": 100, "mean": 1.5, "standard_error": 0.5,
        "sha256": description["sha256"], **changes,
    }  # fmt: skip
    path = folder / "eval"
    path.write_text(json.dumps(found))
    return path


def test_an_evaluation_is_added_and_replaces_the_one_before(copies):
    for mean in (1.5, 2.5):
        results.add(evaluation(copies, mean=mean))
    added = json.loads((copies / "Pong-v0.json").read_text(encoding="utf-8"))["results"]
    assert [r["mean"] for r in added if r["policy"] == "sampled" and r["seed"] == 3] == [2.5]
    assert len([r for r in added if r["policy"] == "greedy"]) == 2


def test_an_evaluation_of_other_weights_is_refused(copies):
    with pytest.raises(ValueError, match="not published"):
        results.add(evaluation(copies, sha256="0"))


@pytest.mark.parametrize(
    ("mean", "error", "text"),
    [
        (20.0, 0.12, "20.00 ± 0.12"),
        (291.18, 10.0, "291.2 ± 10.0"),
        (1048.04, 34.9, "1,048 ± 35"),
        (21.0, None, "21.00 (one game)"),
    ],
)
def test_a_score_has_as_many_digits_as_it_deserves(mean, error, text):
    assert results.score(mean, error) == text
