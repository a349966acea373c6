import sys

import pytest

from diffaug.tracking.system import system_metrics


def test_figures_of_the_machine_have_the_names_that_mlflow_shows():
    pytest.importorskip("psutil")
    system_metrics()
    figures = system_metrics()
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= figures.keys()
    assert all(value >= 0 for value in figures.values())
    assert 0 < figures["system/system_memory_usage_percentage"] <= 100


def test_without_psutil_there_are_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert system_metrics() == {}
