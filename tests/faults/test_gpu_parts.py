"""Every part of benchmarks/gpu.sh at its smallest on the CPU, to its end. It takes minutes, so that
`make faults` alone runs it."""

import json
import os

import pytest
from test_gpu_script import PARTS, finished, run

KILLS = int(os.environ.get("KILLS", 1))
pytestmark = pytest.mark.skipif(KILLS < 3, reason="a part of `make faults`")


@pytest.mark.parametrize("part", PARTS)
def test_a_part_at_its_smallest(part, tmp_path):
    done = run(tmp_path, "--small", part)
    assert done.returncode == 0, done.stdout + done.stderr
    file, key = PARTS[part]
    record = json.loads((tmp_path / file).read_text(encoding="utf-8"))
    assert record[key] and record["machine"] and record["torch"]
    assert [row["exit"] for row in finished(tmp_path)] == ["0"]
    if part == "tests":
        outcomes = {test["outcome"] for test in record["tests"].values()}
        assert "passed" in outcomes and outcomes <= {"passed", "skipped"}
    if part in ("model", "gsm8k"):
        for name in ("TreeRPO", "GRPO"):
            assert record[name]["sampled_tokens"] > 0 and record[name]["scores"]
        # GRPO goes on until it has sampled as many tokens, unless it is at its last update.
        enough = record["GRPO"]["sampled_tokens"] >= record["TreeRPO"]["sampled_tokens"]
        assert enough or record["GRPO"]["updates"] == 2
