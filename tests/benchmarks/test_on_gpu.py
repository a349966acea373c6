import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "on_gpu.sh"
REPORTS = ("device_path", "train_speed", "sample_speed", "quality_per_minute", "gain")


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_through_on_a_cpu(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    pytest.importorskip("denoising_diffusion_pytorch")
    settings = {"OUT": str(tmp_path), "DEVICE": "cpu", "QUICK": "1", "INSTALLED": "1", "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", str(SCRIPT)], env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    summaries = {name: json.loads((tmp_path / f"{name}.json").read_text())["summary"] for name in REPORTS}
    assert summaries["device_path"]["all_right"]
    assert summaries["train_speed"]["train_ratio_min"] > 0
    assert "cascade" in (tmp_path / "log.txt").read_text()
