"""The tests that a GPU can fail: tests/test_device.py, with each outcome in a JSON file.

python benchmarks/device_tests.py
"""

import argparse
import sys
from pathlib import Path

import pytest
from common import RESULTS, ROOT, settings_of, write_results


class Outcomes:
    """Takes down how each test ends, and how long it took."""

    def __init__(self) -> None:
        self.tests: dict[str, dict] = {}

    def pytest_runtest_logreport(self, report) -> None:
        # A skipped test has no call, and a broken fixture fails before it.
        if report.when == "call" or report.outcome != "passed":
            name = report.nodeid.split("::", 1)[-1]
            self.tests[name] = {"outcome": report.outcome, "seconds": round(report.duration, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", default=RESULTS, type=Path, help="where the JSON file goes")
    args = parser.parse_args()
    outcomes = Outcomes()
    words = [
        str(ROOT / "tests" / "test_device.py"),
        "--rootdir",
        str(ROOT),
        "-p",
        "no:cacheprovider",
    ]
    code = pytest.main(words, plugins=[outcomes])
    results = {"settings": settings_of(args), "tests": outcomes.tests}
    write_results(args.output_dir, "device-tests", results)
    sys.exit(int(code))


if __name__ == "__main__":
    main()
