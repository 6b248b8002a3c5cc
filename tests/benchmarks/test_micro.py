"""The micro-benchmark still runs when the storage changes how it uses the driver."""

from __future__ import annotations

import pytest

from benchmarks import micro


async def test_micro_benchmark_measures_load_and_save(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints load and save, alone and together, of cached and other visitors."""
    monkeypatch.setattr(micro, "REPEATS", 1)
    monkeypatch.setattr(micro, "TRIES", 1)
    monkeypatch.setattr(micro, "UNCACHED_VISITORS", micro.SESSIONS)

    await micro.main()

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["deriving", "a", *["load", "save"] * 4]
