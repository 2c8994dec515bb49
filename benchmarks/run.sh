#!/usr/bin/env bash
# Makes every file in benchmarks/attacks/results. Takes about an hour and a half on one core; run it on a quiet machine, from the root of the repository:
#     bash benchmarks/run.sh SHARED DATA
# SHARED holds models/*/load.py (small robust networks that others trained), DATA the data sets in official formats.
set -euo pipefail
shared=$1 data=$2
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=PASSIVE
bench() {  # script, options
    script=$1; shift
    python "benchmarks/attacks/$script.py" --shared "$shared" --data-dir "$data" "$@"
}
bench pgd20
bench pgd20 --model mnist_smallcnn_trades --n 300 --repeat 3
bench pgd20 --model small_resnet --n 300 --repeat 3
bench engine --model small_resnet --n 100 --repeat 2
bench engine --n 1000 --repeat 2
bench memory
bench fast
bench fast --model digits_cnn --n 360
bench fast --model mnist_smallcnn_trades --n 200
bench fast --eps 2/255 --n 300 --audit 0
bench fast --model mnist_rounded --n 40 --audit 0
bench full --n 500
bench full --model small_resnet --n 40
bench fast --model small_resnet --n 500 --audit 0
