"""How busy the machine is, under the names by which MLflow shows metrics of the system."""

import sys
from typing import Any

MEGABYTE = 1e6


def system_metrics() -> dict[str, float]:
    """Use of processors since the last call, in percent, and of memory now, of the machine and of GPUs in use.

    Empty without psutil, which is installed with the extra `mlflow`, whose pages show them.
    """
    try:
        import psutil
    except ImportError:
        return {}
    memory = psutil.virtual_memory()
    return {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / MEGABYTE,
        "system/system_memory_usage_percentage": memory.percent,
        **_of_gpus(sys.modules.get("torch")),
    }


def _of_gpus(torch: Any) -> dict[str, float]:
    """Memory of the GPUs that this process uses already; asking for others would take some of it."""
    if torch is None or not torch.cuda.is_initialized():
        return {}
    figures = {}
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        figures[f"system/gpu_{number}_memory_usage_megabytes"] = (total - free) / MEGABYTE
        figures[f"system/gpu_{number}_memory_usage_percentage"] = 100 * (total - free) / total
    return figures
