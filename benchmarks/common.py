"""What the benchmarks share: models of several sizes, interleaved timing, and the report."""

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
# Qwen2 models with random weights: hidden size, intermediate size, layers, heads, key heads and
# vocabulary. The last is Qwen2.5-Math-1.5B.
SIZES = {
    "50m": (512, 1408, 12, 8, 2, 32_000),
    "350m": (1024, 2816, 28, 16, 4, 32_000),
    "1.5b": (1536, 8960, 28, 12, 2, 151_936),
}

# One way of doing the same work, as a function without arguments.
Rivals = dict[str, Callable[[], object]]


# --- Flags and models ---


def arguments(description: str, **defaults) -> argparse.Namespace:
    """The flags that all benchmarks have, and further ones by their default values.

    A list as default makes a flag that takes several values, False one that takes none.
    `profile=True` adds --profile, which goes with `profiled`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="tiny", help="tiny, 50m, 350m, 1.5b or the folder of a checkpoint"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="rounds; every rival runs once in each"
    )
    parser.add_argument("--output_dir", default=RESULTS, type=Path, help="where the JSON file goes")
    parser.add_argument("--label", default="", help="put into the JSON file's name")
    if defaults.pop("profile", False):
        parser.add_argument(
            "--profile",
            action="store_true",
            help="measure each operator's share of the time instead of the time",
        )
    for name, value in defaults.items():
        if value is False:
            parser.add_argument(f"--{name}", action="store_true")
        elif isinstance(value, list):
            parser.add_argument(f"--{name}", default=value, type=type(value[0]), nargs="+")
        else:
            parser.add_argument(f"--{name}", default=value, type=type(value))
    return parser.parse_args()


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(name: str, dtype: torch.dtype | None = None):
    """Tokenizer and model. A model with random weights goes with the tiny base's tokenizer, for its
    end token.

    Args:
        dtype: of the weights; None is bfloat16 on a GPU and float32 on a CPU.
    """
    if dtype is None:
        dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    folder = name if Path(name).is_dir() else TINY_BASE
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if name in SIZES:
        torch.manual_seed(0)
        config = qwen2_config(name, tokenizer)
        with device():  # a GPU draws a large model's weights in no time
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return tokenizer, model.to(device()).eval()


def qwen2_config(size: str, tokenizer) -> Qwen2Config:
    """A Qwen2 of one of SIZES, with a vocabulary as large as a real one's."""
    hidden, intermediate, layers, heads, key_heads, vocabulary = SIZES[size]
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


# --- Measuring ---


def measure(rivals: Rivals, repeats: int) -> dict[str, list[float]]:
    """Seconds of each rival in `repeats` rounds.

    In every round each rival runs once, so that a slow spell of the machine meets all of them. A
    first round warms up and is thrown away.
    """
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(repeats + 1):
        for name, run in rivals.items():
            spent = _seconds_of(run)
            print(f"  round {turn}: {name} {spent:.3f} s", file=sys.stderr, flush=True)
            if turn > 0:
                seconds[name].append(spent)
    return seconds


def _seconds_of(run: Callable[[], object]) -> float:
    """Seconds until the work is done, on a GPU too, where a call returns before that."""
    wait_for_gpu()
    start = time.perf_counter()
    run()
    wait_for_gpu()
    return time.perf_counter() - start


def wait_for_gpu() -> None:
    """Until all that was asked of the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def kernel_share(run: Callable[[], object]) -> float:
    """The share of a run's time in which the GPU runs kernels.

    The rest is spent waiting for the CPU to launch them.
    """
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        seconds = _seconds_of(run)
    in_kernels = sum(event.self_device_time_total for event in profile.key_averages())
    return round(in_kernels / 1e6 / seconds, 3)


def peak_bytes(run: Callable[[], object]) -> int | None:
    """The most memory that a run holds on the GPU at once, with what is there; None without one."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated()


def shares(run: Callable[[], object], largest: int = 8) -> dict[str, float]:
    """The operators that take most of a run's time on the CPU, and their shares of it in
    percent. The run is warmed up once."""
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    spent = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    total = sum(spent.values())
    names = sorted(spent, key=spent.get, reverse=True)[:largest]
    return {name: round(100 * spent[name] / total, 1) for name in names}


# --- Reporting ---


def profiled(script: str, args: argparse.Namespace, rivals: Rivals) -> None:
    """Prints and writes the `shares` of each rival."""
    shares_of = {name: shares(run) for name, run in rivals.items()}
    for name, operators in shares_of.items():
        cells = [f"{operator} {percent} %" for operator, percent in operators.items()]
        print(f"{name}: {', '.join(cells)}")
    name = f"profile-{script}-{Path(args.model).name}"
    write_results(args.output_dir, name, {"settings": settings_of(args), "shares": shares_of})


def report(
    script: str,
    args: argparse.Namespace,
    seconds: dict[str, list[float]],
    ours: str,
    more: dict | None = None,
) -> None:
    """Prints how many times as long as `ours` each rival takes, as median and range over rounds,
    and writes the JSON.

    Args:
        seconds: of each rival, one per round.
        more: what the JSON holds beside them.
    """
    rivals = {}
    for name, values in seconds.items():
        ratios = [value / own for value, own in zip(values, seconds[ours])]
        median = statistics.median(ratios)
        least = min(ratios)
        most = max(ratios)
        rivals[name] = {"seconds": values, "ratio": median, "range": [least, most]}
        times = f"{median:5.2f} x {ours} ({least:.2f} to {most:.2f})"
        print(f"{name:28} {statistics.median(values):8.3f} s   {times}")
    results = {"settings": settings_of(args), "rivals": rivals, **(more or {})}
    write_results(args.output_dir, f"{script}{label_of(args)}-{Path(args.model).name}", results)


def label_of(args: argparse.Namespace) -> str:
    """--label as a part of a file's name."""
    return f"-{args.label}" if args.label else ""


def made_with() -> dict:
    """The machine and the versions that a result was measured with."""
    cores = f"{os.cpu_count()} CPU cores"
    return {
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else cores,
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "threads": torch.get_num_threads(),
    }


def settings_of(args: argparse.Namespace) -> dict:
    """The flags that a result was measured with, as plain JSON. Where it is written is none of
    them."""
    of_files = ("output_dir", "work_dir", "label")
    settings = {name: value for name, value in vars(args).items() if name not in of_files}
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in settings.items()
    }


def write_results(output_dir: Path, name: str, results: dict) -> None:
    """Writes NAME.json into a folder, with the machine and the versions after the settings, and
    prints its path."""
    record = {"settings": results["settings"], **made_with(), **results}
    path = output_dir / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")
