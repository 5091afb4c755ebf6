"""What GRPO reaches with the tokens that the demo sampled, from the committed runs.

    python results/beside_grpo.py results/demo-TIME

Prints the last evaluation of a run of recipes/demo.yaml beside what the arms of the sweep chain,
whose curves are results/ablations/chain/results.json, had reached at as many sampled tokens.
`make demo` ends with it; `make compare` trains both afresh.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from results.evidence import arm_of, arms_of, best_arm, curves_of  # noqa: E402
from run.errors import run_script  # noqa: E402
from run_ablations import curve, point_at, score_name, with_interval  # noqa: E402

# Its first arm is the demo's.
SWEEP = "chain"


def beside_grpo(folder: Path) -> str:
    """Three lines: the run, and the committed runs of the demo's arm and of GRPO's best at as many
    sampled tokens, or at the last that all of them reached if those are fewer.

    Raises:
        BadInput: the run holds no evaluation.
    """
    last = curve(folder)[-1]
    score = score_name(last)
    curves = curves_of(SWEEP)
    arms = [arm_of(curves, "treerpo"), best_arm(arms_of(SWEEP), "grpo")]
    reached = [points[-1]["sampled_tokens"] for arm in arms for points in curves[arm]]
    tokens = min(last["sampled_tokens"], *reached)
    lines = [f"{'this run':34}{_scores([last], score)}  at {last['sampled_tokens']:,} tokens"]
    for arm in arms:
        points = [point_at(points, "sampled_tokens", tokens) for points in curves[arm]]
        label = f"{arm}, {len(points)} seeds"
        lines.append(f"{label:34}{_scores(points, score)}  at {tokens:,.0f} tokens, as committed")
    return "\n".join(lines)


def _scores(points: list[dict], score: str) -> str:
    """Sampled and greedy pass@1 and the sampled length, each a mean over runs."""
    sampled, greedy = (
        with_interval([100 * point[name] for point in points]) for name in (score, "pass@1")
    )
    length = with_interval([point["sampled_length"] for point in points])
    return f"sampled {sampled} %, greedy {greedy} %, {length} tokens long"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of a run of recipes/demo.yaml")
    print(beside_grpo(parser.parse_args().run))


if __name__ == "__main__":
    run_script(main)
