"""Sessions that an earlier release stored are opened by this one."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.storage.conftest import Clock, MakeStorage, OpenSite, every_driver
from tests.storage.direct import load, values, visit
from tests.storage.released.write import FOLDER, from_json, make_release, to_json

RELEASES = [json.loads(file.read_text("ascii")) for file in sorted(FOLDER.glob("*.json"))]
SESSIONS = [
    pytest.param(release, session, id=f"{release['release']}: {session['about']}")
    for release in RELEASES
    for session in release["sessions"]
]

Release = dict[str, Any]


def test_this_release_has_its_file() -> None:
    """Every release adds a file of its sessions; `tests/storage/released/write.py` says how."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())

    assert project["project"]["version"] in {release["release"] for release in RELEASES}


@every_driver
@pytest.mark.parametrize(("release", "session"), SESSIONS)
async def test_released_session_is_opened(
    release: Release, session: Release, collection: Any, make_storage: MakeStorage, clock: Clock
) -> None:
    """Its values, handle, owner, label and max_age are unchanged."""
    clock.now = release["read_at"]
    await collection.insert_one(from_json(session["document"]))
    storage = make_storage(secrets=release["secrets"])

    found = (await load(storage, session["cookie"])).session

    assert dict(found) == session["values"]
    assert storage.handle(found) == session["handle"]
    assert found.max_age == session["max_age"]
    if session["owner"] is not None:
        (listed,) = [info async for info in storage.sessions(session["owner"])]
        assert listed.handle == session["handle"]
        assert listed.label == (session["label"] or "")


@every_driver
@pytest.mark.parametrize(("release", "session"), SESSIONS)
async def test_released_session_is_changed_and_touched(
    release: Release, session: Release, collection: Any, make_storage: MakeStorage, clock: Clock
) -> None:
    """After an upgrade no value is lost and no field is stored twice."""
    clock.now = release["read_at"] + 1
    await collection.insert_one(from_json(session["document"]))
    storage = make_storage(secrets=release["secrets"])
    changed = {**session["values"], "a": "changed", "added": 1}

    await visit(storage, session["cookie"], lambda found: found.update(changed))

    assert await values(storage, session["cookie"]) == changed
    (document,) = await collection.find().to_list(None)
    assert len(document["values"]) == len(changed)


@pytest.mark.parametrize("release", RELEASES, ids=[release["release"] for release in RELEASES])
async def test_released_sessions_are_served_over_http(
    release: Release, collection: Any, make_storage: MakeStorage, open_site: OpenSite, clock: Clock
) -> None:
    """A visitor who comes back after the upgrade is still signed in."""
    clock.now = release["read_at"]
    signed_in = next(s for s in release["sessions"] if s["about"] == "signed in")
    await collection.insert_one(from_json(signed_in["document"]))
    site = await open_site(make_storage(secrets=release["secrets"]))

    visitor = await site.visitor(signed_in["cookie"])

    assert await visitor.session() == signed_in["values"]


async def test_what_is_stored_today_has_the_fields_and_types_of_the_released_files() -> None:
    """A new or missing field is a new format: it needs a release of its own."""
    newest = RELEASES[-1]

    made = await make_release(newest["release"])

    for today, released in zip(made["sessions"], newest["sessions"], strict=True):
        assert shape(today["document"]) == shape(released["document"])
    assert from_json(to_json(made)) == made


def shape(document: Release) -> dict[str, Any]:
    """Return each field with its type, and with its length where that is fixed."""
    types = {name: type(value).__name__ for name, value in document.items()}
    fixed = {name: len(from_json(document[name])) for name in ("_id", "key_id")}
    return {"types": types, "fixed": fixed, "values": len(document["values"])}
