"""Does a real model learn? Base score, then TreeRPO and GRPO at equal sampled tokens, scores after.

    python benchmarks/gguf_checkpoint.py SMOLLM2.gguf results/smollm2/model
    python benchmarks/real_model.py DIR --seconds 150
    python benchmarks/real_model.py DIR --seconds 150 --recipe smollm2-gsm8k

DIR holds the recipe's data: svamp.jsonl, or train_gsm8k.jsonl and gsm8k.jsonl. TreeRPO trains
for --seconds and stops after the update at hand. GRPO trains until it has sampled as many tokens,
or for half as long again. Each is then scored on the recipe's benchmarks. The JSON is written after
each of the three, so that a run that is cut off keeps what it has.
"""

import argparse
import gc
import json
import os
import shutil
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from common import RESULTS, ROOT, settings_of, write_results

import eval_math
import train_treerpo
from run.flags import flag_words
from run.folder import checkpoints

METHODS = {"TreeRPO": "", "GRPO": "-grpo"}  # and what the recipe's name ends with
SECONDS_BETWEEN_LOOKS = 0.2


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_dir", type=Path, help="folder with the data set's files")
    parser.add_argument(
        "--recipe", default="smollm2-svamp", help="TreeRPO's; that of GRPO ends with -grpo"
    )
    parser.add_argument("--seconds", type=float, default=150, help="of TreeRPO's training")
    parser.add_argument("--output_dir", default=RESULTS, type=Path, help="where the JSON file goes")
    parser.add_argument(
        "--work_dir",
        default=ROOT / "results" / "smollm2",
        type=Path,
        help="where the runs go; those of an earlier call are replaced",
    )
    parser.add_argument(
        "--set", default=[], nargs="*", help="further flags of the trainer, as name=value"
    )
    return parser.parse_args()


def sampled_tokens(run: Path) -> int:
    """The tokens that a run has sampled so far."""
    metrics = run / "metrics.jsonl"
    if not metrics.exists():
        return 0
    lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
    # The last line may still be being written.
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return sum(row.get("sampled_tokens", 0) for row in rows)


@contextmanager
def stopping(run: Path, seconds: float, tokens: float):
    """Inside it this process's run is asked to stop after so many seconds or sampled tokens.

    Both count from its first update on. It is asked by the signal that the trainer takes for it.
    """
    done = threading.Event()

    def watch() -> None:
        while not sampled_tokens(run) and not done.wait(SECONDS_BETWEEN_LOOKS):
            pass
        start = time.monotonic()
        while not done.wait(SECONDS_BETWEEN_LOOKS):
            if time.monotonic() - start > seconds or sampled_tokens(run) >= tokens:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    # Should the signal come when the run is over.
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        signal.signal(signal.SIGTERM, before)


def train(name: str, args: argparse.Namespace, seconds: float, tokens: float) -> Path:
    """Trains by a recipe; returns the run's folder."""
    run = args.work_dir / name
    shutil.rmtree(run, ignore_errors=True)
    recipe = ROOT / "recipes" / f"{args.recipe}{METHODS[name]}.yaml"
    words = [f"--{setting}" for setting in args.set]
    data = ["--data_dir", str(args.data_dir)]
    sys.argv = [
        "train_treerpo.py",
        "--config",
        str(recipe),
        *data,
        "--output_dir",
        str(run),
        *words,
    ]
    with stopping(run, seconds, tokens):
        try:
            train_treerpo.main()
        except SystemExit as end:
            asked_to_stop = 128 + signal.SIGTERM
            if end.code != asked_to_stop:
                raise
    release_memory()
    return run


def evaluate(name: str, args: argparse.Namespace, adapter: Path | None) -> dict:
    """The scores of the recipe's benchmarks, with an adapter or without."""
    words = ["--config", str(ROOT / "recipes" / f"{args.recipe}.yaml"), "--data_dir"]
    flags = train_treerpo.read_flags(
        [*words, str(args.data_dir), *(f"--{setting}" for setting in args.set)]
    )
    output = args.work_dir / f"eval-{name}"
    shutil.rmtree(output, ignore_errors=True)
    settings = {
        "model_name_or_path": flags.model_name_or_path,
        "prompt_template": flags.prompt_template,
        "benchmarks": flags.benchmarks,
        "num_samples": flags.num_samples,
        "temperature": flags.temperature,
        "max_new_tokens": flags.depth * flags.step_tokens,
        "max_rows": flags.max_rows,
        "data_dir": args.data_dir,
        "adapter": adapter,
        "output_dir": output,
    }
    sys.argv = ["eval_math.py", *flag_words(settings)]
    eval_math.main()
    release_memory()
    return json.loads((output / "scores.json").read_text(encoding="utf-8"))["scores"]


def release_memory() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def main() -> None:
    args = parsed()
    results: dict = {"settings": settings_of(args)}

    def write() -> None:
        write_results(args.output_dir, f"real-model-{args.recipe}", results)

    results["base"] = {"scores": evaluate("base", args, None)}
    write()
    limits = {"seconds": args.seconds, "tokens": float("inf")}
    for name in METHODS:
        start = time.monotonic()
        run = train(name, args, **limits)
        trained = {
            "seconds": time.monotonic() - start,
            "updates": int(checkpoints(run)[-1].name.removeprefix("step-")),
            "sampled_tokens": sampled_tokens(run),
        }
        results[name] = {**trained, "scores": evaluate(name, args, checkpoints(run)[-1])}
        write()
        # The other one samples as many tokens.
        limits = {"seconds": 1.5 * args.seconds, "tokens": trained["sampled_tokens"]}


if __name__ == "__main__":
    main()
