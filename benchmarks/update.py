"""A whole update, sampling to optimizer, against TRL's GRPOTrainer: same model, LoRA, prompt,
completions and length.

    pip install trl==1.16.0
    python benchmarks/update.py --model 50m

Rewards are random 0 or 1 on both sides, so that every group trains; verifying answers is timed by
grading.py. Both make one optimizer update a round on one prompt, in float32 on the CPU and in
bfloat16 on a GPU."""

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
from tree_sampler import TreeSampler
from update import Learner, update_policy

args = arguments(__doc__, branching=4, depth=3, step_tokens=32, prompt=64, batch=64)
leaves, longest = args.branching**args.depth, args.depth * args.step_tokens
lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
text = "1+" * (args.prompt // 2)


def ours() -> list[float]:
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
    seconds = []
    for turn in range(args.repeats + 1):
        start = time.perf_counter()
        trees = sampler.sample([tokenizer.encode(text)], [turn])
        rewards = [torch.randint(0, 2, (len(tree.parent),)).float() for tree in trees]
        _, advantages = train_treerpo.credit(trees, rewards, flags)
        result = update_policy(learner, trees, advantages)
        seconds.append(time.perf_counter() - start)
        print(
            f"  tree update {turn}: {seconds[-1]:.2f} s, {result.trained_tokens} trained tokens",
            flush=True,
        )
    return seconds[1:]


class Clock(TrainerCallback):
    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_begin(self, *_, **__) -> None:
        self.times.append(time.perf_counter())

    def on_step_end(self, *_, **__) -> None:
        self.times.append(time.perf_counter())


def theirs() -> list[float]:
    tokenizer, model = load(args.model)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=args.batch,
            gradient_accumulation_steps=leaves // args.batch,
            num_generations=leaves,
            max_completion_length=longest,
            max_steps=args.repeats + 1,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            beta=0.0,
            learning_rate=1e-5,
            report_to="none",
            save_strategy="no",
            logging_steps=1000,
            use_cpu=device().type == "cpu",
            bf16=device().type == "cuda",
            gradient_checkpointing=False,
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model,
            reward_funcs=lambda completions, **_: [
                float(random.random() < 0.5) for _ in completions
            ],
            args=config,
            train_dataset=Dataset.from_list([{"prompt": text}] * 64),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[clock],
        )
        trainer.train()
    # A step's time runs from its end to the next one's: generation comes before on_step_begin in
    # some versions.
    ends = clock.times[1::2]
    return [after - before for before, after in zip(ends, ends[1:])]


seconds = {"TreeRPO": ours(), "TRL GRPOTrainer": theirs()}
print(f"{leaves} completions of at most {longest} tokens")
report("update", args, seconds, "TreeRPO")
