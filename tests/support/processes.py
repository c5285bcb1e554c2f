"""Python in a process of its own, which neither Triton's interpreter nor a GPU must touch."""

import os
import subprocess
import sys


def last_line(script, **environment):
    """Run a script; the last line of what it prints."""
    kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", script], env=kept | environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.strip().splitlines()[-1] if result.stdout.strip() else ""
