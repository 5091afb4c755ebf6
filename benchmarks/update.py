"""A whole update, sampling to optimizer, against TRL's GRPOTrainer: same model, LoRA, prompt,
number of completions and length.

    pip install trl==1.16.0
    python benchmarks/update.py --model 50m

Rewards are random 0 or 1 on both sides, so that every group trains; grading.py times the grading of
answers. Both make one update per round on --prompts prompts, in float32 on the CPU and in bfloat16
on a GPU. --lora_r 0 trains all weights, in float32 under autocast on a GPU. The JSON also has our
seconds by phase and, on a GPU, our peak memory by phase beside the estimate of --dry_run.
"""

import random
import tempfile
import time
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from common import arguments, device, load, report, wait_for_gpu
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback, get_scheduler

import budget
import train_treerpo
from learner import Learner, update_policy
from policy import checkpoint_layers
from tree_sampler import TreeSampler

args = arguments(
    __doc__,
    branching=4,
    depth=3,
    step_tokens=32,
    prompt=64,
    prompts=1,
    max_rows=0,  # the leaves of a tree
    max_pack_tokens=4096,
    lora_r=16,
    gradient_checkpointing=False,
    batch=64,
    without_trl=False,
)
leaves = args.branching**args.depth
longest = args.depth * args.step_tokens
lora = LoraConfig(
    r=args.lora_r or 16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
)
text = "1+" * (args.prompt // 2)
on_gpu = device().type == "cuda"
all_weights = args.lora_r == 0
autocasts = on_gpu and all_weights
flags = train_treerpo.Flags(
    branching=[args.branching] * args.depth,
    depth=args.depth,
    step_tokens=args.step_tokens,
    prompts_per_update=args.prompts,
    max_rows=args.max_rows or leaves,
    max_pack_tokens=args.max_pack_tokens,
    use_peft=not all_weights,
    gradient_checkpointing=args.gradient_checkpointing,
)


def load_to_train():
    """The tokenizer and the model, whose weights are float32 where all of them train."""
    return load(args.model, torch.float32 if all_weights else None)


# What each of our updates but the first took: seconds by phase, and bytes on the GPU at most.
phases: dict[str, list[float]] = {"sample": [], "train": []}
peaks: dict[str, int] = {}


@contextmanager
def phase(name: str):
    """Measures a phase of an update."""
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    wait_for_gpu()
    start = time.perf_counter()
    yield
    wait_for_gpu()
    phases[name].append(time.perf_counter() - start)
    if on_gpu:
        peaks[name] = max(peaks.get(name, 0), torch.cuda.max_memory_allocated())


def ours() -> tuple[list[float], dict]:
    """Seconds of each of our updates but the first, and --dry_run's estimate of the memory."""
    tokenizer, model = load_to_train()
    if not all_weights:
        model = get_peft_model(model, lora)
    if args.gradient_checkpointing:
        checkpoint_layers(model)
    sampler = TreeSampler(
        model, tokenizer, args.branching, args.depth, args.step_tokens, max_rows=flags.max_rows
    )
    if on_gpu:  # random weights end a path now and then; the estimate is of full trees
        sampler.engine.stop_at([])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    scheduler = get_scheduler("constant", optimizer)
    accelerator = Accelerator(mixed_precision="bf16" if autocasts else "no")
    learner = Learner(model, tokenizer, optimizer, scheduler, accelerator, flags)
    prompt = tokenizer.encode(text)

    for turn in range(args.repeats + 1):
        seeds = [turn * args.prompts + i for i in range(args.prompts)]
        with phase("sample"), accelerator.autocast():
            trees = sampler.sample([prompt] * args.prompts, seeds)
        with phase("train"):
            rewards = [torch.randint(0, 2, (len(tree.parent),)).float() for tree in trees]
            _, advantages = train_treerpo.credit(trees, rewards, flags)
            result = update_policy(learner, trees, advantages)
        times = ", ".join(f"{name} {values[-1]:.2f} s" for name, values in phases.items())
        print(f"  tree update {turn}: {times}, {result.trained_tokens} trained tokens", flush=True)
    for values in phases.values():
        del values[0]
    sizes = budget.update_sizes(flags, len(prompt), processes=1)
    dtype = torch.bfloat16 if on_gpu else torch.float32
    memory = budget.update_memory(flags, model, sizes, dtype)
    estimates = {
        "sample": memory.weights + memory.converted + memory.caches,
        "train": memory.trained_weights + memory.converted + memory.activations,
    }
    return [sum(parts) for parts in zip(*phases.values())], estimates


class Clock(TrainerCallback):
    """The times at which TRL's optimizer steps end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_, **__) -> None:
        self.ends.append(time.perf_counter())


def theirs() -> list[float]:
    """Seconds of each of TRL's updates but the first."""
    from trl import GRPOTrainer  # here, so that ours are measured where it can't be imported

    tokenizer, model = load_to_train()
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model,
            reward_funcs=random_rewards,
            args=grpo_config(folder),
            train_dataset=Dataset.from_list([{"prompt": text}] * 64),
            processing_class=tokenizer,
            peft_config=None if all_weights else lora,
            callbacks=[clock],
        )
        trainer.train()
    # From the end of one step to the end of the next: in some versions of TRL generation comes
    # before a step's beginning is reported.
    return [end - previous for previous, end in zip(clock.ends, clock.ends[1:])]


def random_rewards(completions: list, **_) -> list[float]:
    return [float(random.random() < 0.5) for _ in completions]


def grpo_config(folder: str):
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=folder,
        # The same work as ours: as many completions as leaves, as long as the longest path, before
        # each optimizer step.
        num_generations=leaves,
        per_device_train_batch_size=args.batch,
        gradient_accumulation_steps=args.prompts * leaves // args.batch,
        max_completion_length=longest,
        max_steps=args.repeats + 1,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        beta=0.0,
        learning_rate=1e-5,
        gradient_checkpointing=args.gradient_checkpointing,
        use_cpu=device().type == "cpu",
        bf16=device().type == "cuda",
        # Nothing is written or shown meanwhile.
        report_to="none",
        save_strategy="no",
        logging_steps=1000,
        disable_tqdm=True,
    )


our_seconds, estimates = ours()
seconds = {"TreeRPO": our_seconds}
more = {"phases": phases, "peak_bytes": peaks, "estimated_bytes": estimates, "not_run": {}}
print(f"{args.prompts} x {leaves} completions of at most {longest} tokens")
for name, peak in peaks.items():
    print(f"{name}: at most {peak / 2**30:.2f} GiB, estimated {estimates[name] / 2**30:.2f}")
report("update", args, seconds, "TreeRPO", more)  # should the other side fail or take too long
if not args.without_trl:
    seconds["TRL GRPOTrainer"] = theirs()
    report("update", args, seconds, "TreeRPO", more)
