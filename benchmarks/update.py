"""A whole update, sampling to optimizer, against TRL's GRPOTrainer: same model, LoRA, prompt,
number of completions and length.

    pip install trl==1.16.0
    python benchmarks/update.py --model 50m

Rewards are random 0 or 1 on both sides, so that every group trains; grading.py times the grading of
answers. Both make one update per round on one prompt, in float32 on the CPU and in bfloat16 on a
GPU.
"""

import random
import tempfile
import time

import torch
from accelerate import Accelerator
from common import arguments, device, load, report
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback, get_scheduler
from trl import GRPOConfig, GRPOTrainer

import train_treerpo
from learner import Learner, update_policy
from tree_sampler import TreeSampler

args = arguments(__doc__, branching=4, depth=3, step_tokens=32, prompt=64, batch=64)
leaves = args.branching**args.depth
longest = args.depth * args.step_tokens
lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
text = "1+" * (args.prompt // 2)


def ours() -> list[float]:
    """Seconds of each of our updates but the first."""
    tokenizer, model = load(args.model)
    model = get_peft_model(model, lora)
    flags = train_treerpo.Flags(
        branching=[args.branching] * args.depth,
        depth=args.depth,
        step_tokens=args.step_tokens,
        prompts_per_update=1,
    )
    sampler = TreeSampler(
        model, tokenizer, args.branching, args.depth, args.step_tokens, max_rows=leaves
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    scheduler = get_scheduler("constant", optimizer)
    learner = Learner(model, tokenizer, optimizer, scheduler, Accelerator(), flags)
    prompt = tokenizer.encode(text)

    seconds = []
    for turn in range(args.repeats + 1):
        start = time.perf_counter()
        trees = sampler.sample([prompt], [turn])
        rewards = [torch.randint(0, 2, (len(tree.parent),)).float() for tree in trees]  # [nodes]
        _, advantages = train_treerpo.credit(trees, rewards, flags)
        result = update_policy(learner, trees, advantages)
        seconds.append(time.perf_counter() - start)
        tokens = f"{result.trained_tokens} trained tokens"
        print(f"  tree update {turn}: {seconds[-1]:.2f} s, {tokens}", flush=True)
    return seconds[1:]


class Clock(TrainerCallback):
    """The times at which TRL's optimizer steps end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_, **__) -> None:
        self.ends.append(time.perf_counter())


def theirs() -> list[float]:
    """Seconds of each of TRL's updates but the first."""
    tokenizer, model = load(args.model)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model,
            reward_funcs=random_rewards,
            args=grpo_config(folder),
            train_dataset=Dataset.from_list([{"prompt": text}] * 64),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[clock],
        )
        trainer.train()
    # From the end of one step to the end of the next: in some versions of TRL generation comes
    # before a step's beginning is reported.
    return [end - previous for previous, end in zip(clock.ends, clock.ends[1:])]


def random_rewards(completions: list, **_) -> list[float]:
    return [float(random.random() < 0.5) for _ in completions]


def grpo_config(folder: str) -> GRPOConfig:
    return GRPOConfig(
        output_dir=folder,
        # The same work as ours: as many completions as leaves, as long as the longest path.
        num_generations=leaves,
        per_device_train_batch_size=args.batch,
        gradient_accumulation_steps=leaves // args.batch,
        max_completion_length=longest,
        max_steps=args.repeats + 1,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        beta=0.0,
        learning_rate=1e-5,
        gradient_checkpointing=False,
        use_cpu=device().type == "cpu",
        bf16=device().type == "cuda",
        # Nothing is written or shown meanwhile.
        report_to="none",
        save_strategy="no",
        logging_steps=1000,
        disable_tqdm=True,
    )


seconds = {"TreeRPO": ours(), "TRL GRPOTrainer": theirs()}
print(f"{leaves} completions of at most {longest} tokens")
report("update", args, seconds, "TreeRPO")
