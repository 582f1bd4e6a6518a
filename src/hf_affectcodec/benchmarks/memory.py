"""Memory of this process."""

import resource
import sys
from pathlib import Path


def peak_memory() -> float:
    """Largest resident memory of this process so far, in GB."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    # A process that was forked starts with its parent's `ru_maxrss`, which may lie above all that it holds itself. Some
    # sandboxes have the file, but not the line.
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak if sys.platform == "darwin" else peak * 1024) / 1e9
