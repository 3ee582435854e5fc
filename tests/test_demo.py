from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parents[1] / "examples/demo.py"


def run(*arguments):
    return subprocess.run([sys.executable, DEMO, *arguments], capture_output=True, text=True, check=False)


def test_the_demo_goes_the_whole_way(tmp_path):
    output = tmp_path / "demo"
    result = run("--output", str(output), "--scale", "0.005")
    assert result.returncode == 0, result.stderr
    report = json.loads((output / "report.json").read_text())
    assert set(report["results"]) == {"pretrained", "random weights", "raw coordinates"}
    for metrics in report["results"].values():
        assert metrics["track-finding"]["num_events"] == 8
        assert metrics["noise-tagging"]["accuracy"] is not None
    assert (output / "event.png").read_bytes().startswith(b"\x89PNG")
    for row in report["results"]:
        assert row in result.stdout
    again = run("--output", str(output))
    assert again.returncode != 0
    assert "not empty" in again.stderr
