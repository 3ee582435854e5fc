from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[1] / "examples/demo.py"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the demo in this process, which has loaded all that it needs; `make demo` runs it as users do."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(DEMO), *map(str, arguments)])
        runpy.run_path(str(DEMO), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_the_demo_goes_the_whole_way(run, tmp_path):
    output = tmp_path / "demo"
    said = run("--output", output, "--scale", "0.005")
    report = json.loads((output / "report.json").read_text())
    assert set(report["results"]) == {"pretrained", "random weights", "raw coordinates"}
    for metrics in report["results"].values():
        assert metrics["track-finding"]["num_events"] == 8
        assert metrics["noise-tagging"]["accuracy"] is not None
    assert (output / "event.png").read_bytes().startswith(b"\x89PNG")
    for row in report["results"]:
        assert row in said
    with pytest.raises(SystemExit, match="not empty"):
        run("--output", output)
