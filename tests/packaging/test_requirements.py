"""The packages that pyproject.toml names, and those that requirements/ pins."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.packaging.conftest import lowest, pinned_in, pyproject


def test_lowest_versions_are_those_of_the_project() -> None:
    """Each `>=` of the package and its extra is in the group `lowest` as `==`."""
    promised = dict(requirement.split(">=") for requirement in _dependencies())
    tested = lowest()

    assert tested.keys() == promised.keys()
    for name, version in promised.items():
        assert Version(tested[name]) == Version(version), name


def test_extra_of_the_web_app_is_its_group() -> None:
    """`pip install '.[webapp]'` and requirements.txt install the same packages."""
    settings = pyproject()

    extra = settings["project"]["optional-dependencies"]["webapp"]

    assert extra == settings["dependency-groups"]["webapp"]


@pytest.mark.parametrize("file", ["../requirements.txt", "dev.txt"])
def test_dependencies_are_pinned_in_accepted_versions(file: str) -> None:
    """Anyone who changes a dependency in pyproject.toml runs `make lock`."""
    _assert_pinned(_dependencies(), file)


@pytest.mark.parametrize("group", pyproject()["dependency-groups"])
def test_packages_of_a_group_are_pinned_in_accepted_versions(group: str) -> None:
    """Anyone who changes a group in pyproject.toml runs `make lock`."""
    file = "../requirements.txt" if group == "webapp" else f"{group}.txt"
    _assert_pinned(pyproject()["dependency-groups"][group], file)


def _dependencies() -> list[str]:
    project = pyproject()["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["webapp"]]


def _assert_pinned(requirements: list[str], file: str) -> None:
    pins = pinned_in(file)
    for requirement in map(Requirement, requirements):
        assert requirement.name in pins, requirement
        assert requirement.specifier.contains(pins[requirement.name]), requirement
