"""What the benchmarks share: models of four sizes, interleaved timing, and the report."""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config  # noqa: E402

TINY_BASE = ROOT / "data" / "tiny_base"
RESULTS = ROOT / "results" / "benchmarks"
SIZES = {
    "50m": (512, 1408, 12, 8),
    "350m": (1024, 2816, 28, 16),
}  # hidden, intermediate, layers, heads


def arguments(description: str, **defaults) -> argparse.Namespace:
    """The flags that all benchmarks have, and those given with their defaults; `profile` goes with
    `profiled`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="tiny", help="tiny, 50m, 350m or the folder of a checkpoint"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="rounds; every rival runs once in each"
    )
    parser.add_argument("--output_dir", default=RESULTS, type=Path, help="where the JSON file goes")
    if defaults.pop("profile", False):
        parser.add_argument(
            "--profile",
            action="store_true",
            help="not the times, but each operator's share of them",
        )
    for name, value in defaults.items():
        many = isinstance(value, list)
        kind = type(value[0] if many else value)
        parser.add_argument(f"--{name}", default=value, type=kind, nargs="+" if many else None)
    return parser.parse_args()


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(name: str):
    """Tokenizer (the tiny base's, for its end token, where weights are random) and model, in
    bfloat16 on a GPU."""
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    folder = name if Path(name).is_dir() else TINY_BASE
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if name in SIZES:
        torch.manual_seed(0)
        hidden, intermediate, layers, heads = SIZES[name]
        config = Qwen2Config(
            vocab_size=32000,
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 4,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return tokenizer, model.to(device()).eval()


def measure(rivals: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each rival, `repeats` times in turns after one round that is thrown away."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(repeats + 1):
        for name, run in rivals.items():
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - start)
            print(
                f"  round {turn}: {name} {time.perf_counter() - start:.3f} s",
                file=sys.stderr,
                flush=True,
            )
    return seconds


def shares(run: Callable[[], object], largest: int = 8) -> dict[str, float]:
    """The operators that take most of a run's time on the CPU, and their shares of it in
    percent."""
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    spent = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    top = sorted(spent, key=spent.get, reverse=True)[:largest]
    return {name: round(100 * spent[name] / sum(spent.values()), 1) for name in top}


def profiled(
    script: str, args: argparse.Namespace, rivals: dict[str, Callable[[], object]]
) -> None:
    """Prints and writes the `shares` of each rival."""
    found = {name: shares(run) for name, run in rivals.items()}
    for name, operators in found.items():
        print(
            f"{name}: "
            + ", ".join(f"{operator} {share} %" for operator, share in operators.items())
        )
    name = f"profile-{script}-{Path(args.model).name}"
    write_results(args.output_dir, name, {"settings": settings_of(args), "shares": found})


def report(
    script: str,
    args: argparse.Namespace,
    seconds: dict[str, list[float]],
    ours: str,
    more: dict | None = None,
):
    """Prints how many times as long as `ours` each rival takes (median and range over rounds) and
    writes the JSON."""
    rows = {}
    for name, values in seconds.items():
        ratios = [value / own for value, own in zip(values, seconds[ours])]
        rows[name] = {
            "seconds": values,
            "ratio": statistics.median(ratios),
            "range": [min(ratios), max(ratios)],
        }
        times = f"{rows[name]['ratio']:5.2f} x {ours} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:28} {statistics.median(values):8.3f} s   {times}")
    machine = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    )
    made_with = {
        "machine": machine,
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "threads": torch.get_num_threads(),
    }
    found = {"settings": settings_of(args), **made_with, "rivals": rows, **(more or {})}
    write_results(args.output_dir, f"{script}-{Path(args.model).name}", found)


def settings_of(args: argparse.Namespace) -> dict:
    """The flags that a result was measured with, as plain JSON; where it was written is none of
    them."""
    kept = {key: value for key, value in vars(args).items() if key != "output_dir"}
    return {key: str(value) if isinstance(value, Path) else value for key, value in kept.items()}


def write_results(output_dir: Path, name: str, found: dict) -> None:
    path = output_dir / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")
