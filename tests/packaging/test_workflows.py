"""The workflows of the public CI service."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.packaging.conftest import ROOT, supported_versions

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def jobs(name: str) -> dict[str, Any]:
    """Return the jobs of one workflow."""
    text = (ROOT / ".github" / "workflows" / name).read_text()
    return dict(yaml.safe_load(text)["jobs"])


def test_every_python_of_the_classifiers_runs_what_ci_runs() -> None:
    """No other Python does, and each runs the whole of .ci/run."""
    job = jobs("tests.yml")["tests"]
    steps = [step["run"] for step in job["steps"] if "run" in step]

    assert job["strategy"]["matrix"]["python"] == supported_versions()
    assert steps[-1] == ".ci/run"
    assert job["steps"][-1]["env"] == {"PYTHON": "python${{ matrix.python }}"}


def test_only_the_job_that_uploads_may_publish() -> None:
    """It waits for the approval of its environment, and runs no code of the repository."""
    release = jobs("release.yml")

    assert release["build"]["permissions"] == {"contents": "read"}
    assert release["upload"]["permissions"] == {"id-token": "write"}
    assert release["upload"]["environment"] == "pypi"
    assert all("uses" in step for step in release["upload"]["steps"])


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_with_their_version(workflow: Path) -> None:
    """A tag of an action can be moved, a commit cannot."""
    used = re.findall(r"uses: (.*)", workflow.read_text())

    assert used
    for action in used:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
