"""`make test-lowest` installs the lowest versions that pyproject.toml promises."""

from __future__ import annotations

import tomllib

from packaging.version import Version

from tests.packaging.conftest import ROOT, lowest


def test_lowest_versions_are_those_of_the_project() -> None:
    """Each `>=` of the package and its extra is in the group `lowest` as `==`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    promised = dict(
        requirement.split(">=")
        for requirement in (*project["dependencies"], *project["optional-dependencies"]["webapp"])
    )
    tested = lowest()

    assert tested.keys() == promised.keys()
    for name, version in promised.items():
        assert Version(tested[name]) == Version(version), name
