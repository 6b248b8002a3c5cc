"""The micro-benchmark keeps running when the storage changes how it talks to the driver."""

from __future__ import annotations

import pytest

from benchmarks import micro


async def test_micro_benchmark_measures_load_and_save(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four lines come out: load and save, alone and together; how fast is not asked here."""
    monkeypatch.setattr(micro, "REPEATS", 1)
    monkeypatch.setattr(micro, "TRIES", 1)

    await micro.main()

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["load", "save", "load", "save"]
