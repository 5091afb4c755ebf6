#!/usr/bin/env bash
# All figures of one GPU by one command, in at most 8 minutes; --small runs every part at its smallest, on a CPU.
#
#   bash benchmarks/gpu.sh [--small] [--wheels DIR] [--data DIR] [--gguf "FILE ..."] [--seconds N] [--output_dir DIR]
#       [--tar FILE] [PART ...]
#
# Parts, in order of worth; without any named all but the last of them run:
#   tests     tests/test_device.py: sampling, packs under each attention, bfloat16, memory, resuming
#   sampling  trees against flat generate, continuous batching and the floor by memory traffic and FLOPs
#   training  packs under three attentions, adapters and all weights, gradient checkpointing
#   update    a whole update by phase, peak memory against --dry_run's estimate, and TRL's GRPOTrainer
#   memory    peak memory as a tree widens
#   model     SmolLM2-135M-Instruct on SVAMP: base, TreeRPO, GRPO at equal sampled tokens; it takes what time is left
#   gsm8k     the same on GSM8K, where its base is right in 1 of 100 problems
# In 8 minutes the part model has little time: better a second call, `bash benchmarks/gpu.sh model`.
#
# Every measurement writes its JSON into the output folder as it ends, and parts.jsonl gets a line for each command: what a
# run that is cut off has finished is kept. A part that fails or takes too long does not stop the others.
#
# --wheels  a folder of wheels to install first, without network (benchmarks/requirements-gpu.txt says which)
# --data    holds svamp.jsonl, train_gsm8k.jsonl and gsm8k.jsonl, for the last two parts; default ../shared/data
# --gguf    SmolLM2-135M-Instruct as GGUF, in one file or in parts (benchmarks/gguf_checkpoint.py says where from); not needed
#           where results/smollm2/model is there
# --tar     packs what is written, without the runs of the last two parts, into one file after each command, to take home
set -u
cd "$(dirname "$0")/.."
root=$PWD

small=""
wheels=""
data=../shared/data
gguf=""
seconds=480
output=$root/results/gpu
tar=""
parts=()
while [ $# -gt 0 ]; do
    case $1 in
        --small) small=yes ;;
        --wheels) wheels=$2; shift ;;
        --data) data=$2; shift ;;
        --gguf) gguf=$2; shift ;;
        --seconds) seconds=$2; shift ;;
        --output_dir) output=$2; shift ;;
        --tar) tar=$2; shift ;;
        -*) echo "unknown flag $1; the head of $0 lists them" >&2; exit 2 ;;
        *) parts+=("$1") ;;
    esac
    shift
done
[ ${#parts[@]} -gt 0 ] || parts=(tests sampling training update memory model)
mkdir -p "$output"
deadline=$(($(date +%s) + seconds))

python=${PYTHON:-python3}
[ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ] && python=.venv/bin/python
if [ -n "$wheels" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl || exit 1
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
if [ -n "$small" ]; then # which measures nothing, and may run beside other work
    export OMP_NUM_THREADS=1
    deadline=$((deadline + 3600))
fi

# A signal ends the command at hand too.
child=""
trap '[ -n "$child" ] && kill -TERM "$child" 2>/dev/null; exit 143' TERM INT

failed=0
# run NAME LIMIT COMMAND...: within LIMIT seconds, and before the deadline.
run() {
    local name=$1 limit=$2 start status
    shift 2
    start=$(date +%s)
    [ -z "$small" ] || limit=600
    [ $((deadline - start)) -lt "$limit" ] && limit=$((deadline - start))
    if [ "$limit" -lt 5 ]; then
        echo "$name: no time left"
        status=skipped
    else
        timeout --kill-after 10 "$limit" "$@" >"$output/$name.log" 2>&1 &
        child=$!
        wait "$child"
        status=$?
        child=""
        grep -v '^ *round\|Warning\|it/s\]' "$output/$name.log" | tail -n 15
        echo "$name: exit $status after $(($(date +%s) - start)) s; log in $output/$name.log"
        [ "$status" = 0 ] || failed=1
    fi
    echo "{\"command\": \"$name\", \"exit\": \"$status\", \"seconds\": $(($(date +%s) - start))}" >>"$output/parts.jsonl"
    # Renamed once it is whole: a run may be cut off at any time.
    [ -z "$tar" ] || { tar -czf "$tar.part" -C "$output" --exclude=./runs . && mv "$tar.part" "$tar"; }
}

# benchmark LABEL LIMIT SCRIPT FLAGS...
benchmark() {
    local label=$1 limit=$2 script=$3
    shift 3
    run "$script-$label" "$limit" "$python" "benchmarks/$script.py" --label "$label" --output_dir "$output" "$@"
}

part_tests() {
    run device-tests 75 "$python" benchmarks/device_tests.py --output_dir "$output"
}

part_sampling() {
    if [ -n "$small" ]; then
        benchmark small 60 sampling --branching 2 --depth 2 --step_tokens 2 --prompt 4 --prompts 1 --repeats 1 \
            --skip continuous
        return
    fi
    # The paper's tree with shorter steps against all rivals, then as the paper has it, and many prompts.
    benchmark 128 100 sampling --model 1.5b --branching 8 --prompt 256 --prompts 1 --max_rows 512 \
        --step_tokens 128 --repeats 2 --skip reprefill,floor
    benchmark 384 45 sampling --model 1.5b --branching 8 --prompt 256 --prompts 1 --max_rows 512 \
        --step_tokens 384 --repeats 1 --skip other,flat,reprefill,floor,continuous
}

part_training() {
    if [ -n "$small" ]; then
        benchmark small 60 training --branching 2 --depth 2 --step_tokens 2 --prompt 4 --repeats 1 \
            --gradient_checkpointing --lora_r 0
        return
    fi
    local tree=(--model 1.5b --branching 4 --step_tokens 384 --prompt 256 --repeats 2)
    local ours=(--skip step_rows path_rows floor)
    benchmark lora-8192 60 training "${tree[@]}" --max_pack_tokens 8192
    benchmark all-8192-checkpointed 45 training "${tree[@]}" --max_pack_tokens 8192 --lora_r 0 \
        --gradient_checkpointing "${ours[@]}"
    benchmark lora-16384-checkpointed 40 training "${tree[@]}" --max_pack_tokens 16384 --gradient_checkpointing \
        "${ours[@]}"
    benchmark lora-4096 40 training "${tree[@]}" --max_pack_tokens 4096 "${ours[@]}"
}

part_update() {
    if [ -n "$small" ]; then
        benchmark small 60 update --branching 2 --depth 2 --step_tokens 2 --prompt 4 --prompts 2 --batch 4 --repeats 1
        return
    fi
    # The paper's update, cut to 8 prompts and a smaller tree.
    benchmark paper 90 update --model 1.5b --lora_r 0 --gradient_checkpointing --prompts 8 --branching 4 \
        --step_tokens 128 --prompt 256 --max_rows 512 --max_pack_tokens 16384 --batch 16 --repeats 1
}

part_memory() {
    if [ -n "$small" ]; then
        benchmark small 60 memory --sizes 64 --step_tokens 1 --prompt 2
        return
    fi
    benchmark widths 60 memory --model 1.5b --step_tokens 64 --prompt 256 --max_rows 256 --max_pack_tokens 8192 \
        --sizes 64 1024
}

# real_model RECIPE: base, TreeRPO, GRPO.
real_model() {
    local recipe=$1 work=$root/results/smollm2
    if [ -n "$small" ]; then
        run "real-model-$recipe" 120 "$python" benchmarks/real_model.py . --recipe "$recipe" --seconds 0.5 \
            --output_dir "$output" --work_dir "$output/runs" --set model_name_or_path=data/tiny_base \
            dataset_name=arithmetic "benchmarks=arithmetic[:2]" 'prompt_template={problem}' prompts_per_update=1 \
            num_samples=0 max_steps=2 lora_r=4 max_prompt_length=64
        return
    fi
    if [ ! -e "$work/model/config.json" ]; then
        # shellcheck disable=SC2086  (the parts of one file)
        run gguf 120 "$python" benchmarks/gguf_checkpoint.py $gguf "$work/model"
    fi
    # Three evaluations and two starts take about 90 s; GRPO trains for up to one and a half times as long as TreeRPO.
    local left=$((deadline - $(date +%s) - 90))
    [ "$left" -gt 25 ] || left=25
    run "real-model-$recipe" 480 "$python" benchmarks/real_model.py "$data" --recipe "$recipe" \
        --seconds $((left * 2 / 5)) --output_dir "$output" --work_dir "$work"
}

part_model() {
    real_model smollm2-svamp
}

part_gsm8k() {
    real_model smollm2-gsm8k
}

for part in "${parts[@]}"; do
    declare -F "part_$part" >/dev/null || { echo "no part $part; the head of $0 lists them" >&2; exit 2; }
done
for part in "${parts[@]}"; do
    echo "== $part"
    "part_$part"
done
exit $failed
