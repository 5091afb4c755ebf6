#!/usr/bin/env bash
# Trains on two "machines" of one process each: two network namespaces that a veth pair joins.
#   unshare --user --map-root-user --net --mount bash tests/faults/two_machines.sh PYTHON FLAGS OF train_treerpo.py ...
set -eu
cd "$(dirname "$0")/../.."
python=$1
shift
unshare --net sleep 600 &
other=$!
trap 'kill $other' EXIT
sleep 0.5 # until it has its namespace
ip link set lo up
ip link add near type veth peer name far netns $other
ip addr add 10.77.0.1/24 dev near
ip link set near up
nsenter --net --target $other sh -c 'ip link set lo up; ip addr add 10.77.0.2/24 dev far; ip link set far up'

machine() { # rank, network interface, words before the command, flags
    local rank=$1 interface=$2 enter=$3
    shift 3
    GLOO_SOCKET_IFNAME=$interface OMP_NUM_THREADS=1 $enter "$python" -m accelerate.commands.launch --multi_gpu \
        --num_processes 2 --num_machines 2 --machine_rank "$rank" --main_process_ip 10.77.0.1 \
        --main_process_port 29511 --mixed_precision no --dynamo_backend no train_treerpo.py "$@"
}
machine 1 far "nsenter --net --target $other" "$@" &
second=$!
machine 0 near "" "$@"
wait $second
