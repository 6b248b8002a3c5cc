"""The micro-benchmark keeps running when the storage changes how it talks to the driver."""

from __future__ import annotations

import pytest

from benchmarks import micro


async def test_micro_benchmark_measures_load_and_save(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Load and save, alone and together, of known visitors and others; how fast is not asked."""
    monkeypatch.setattr(micro, "REPEATS", 1)
    monkeypatch.setattr(micro, "TRIES", 1)
    monkeypatch.setattr(micro, "STRANGERS", micro.SESSIONS)

    await micro.main()

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["deriving", "a", *["load", "save"] * 4]
