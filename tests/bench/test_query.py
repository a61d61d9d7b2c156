"""``python -m bench query`` asks every question, and says what it promises to say."""

from __future__ import annotations

import json
import subprocess
import sys


def test_every_question_is_measured_beside_the_list() -> None:
    command = [
        sys.executable,
        "-m",
        "bench",
        "query",
        "--endpoints",
        "120",
        "--policies",
        "8",
        "--rounds",
        "1",
        "--json",
    ]
    result = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=300).stdout)
    assert (result["endpoints"], result["policies"]) == (120, 8)
    for name in ("list", "endpoint", "host", "eval", "policy"):
        assert result[f"{name}_cpu_seconds"] > 0
    assert result["eval_over_list"] > 0
