"""How much memory a process can still take."""

from __future__ import annotations

import subprocess
import sys

from agq.system.memory import available_memory


def test_the_limit_of_the_address_space_counts() -> None:
    asked = "from agq.system.memory import available_memory; print(available_memory())"
    limited = f"ulimit -v 1000000; exec '{sys.executable}' -c '{asked}'"
    found = int(subprocess.run(["sh", "-c", limited], capture_output=True, text=True, check=True).stdout)
    assert 500_000_000 < found < 1_024_000_000 < available_memory()
