#!/usr/bin/env bash
# Trains networks of our own and evaluates them by class. From the root of the repository:
#     bash results/train.sh DATA
# DATA holds the data sets in official formats. Interrupted runs go on where they stopped. One core takes six to
# eight minutes an epoch on MNIST, and fourteen on CIFAR-10 (the machine of docs/results.md).
set -euo pipefail
data=$1
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
mnist="mnist(epochs=10, schedule='cyclic', lr=0.03, milestones=(), steps=7, step_size=0.075, eps_warmup=3)"

train_and_evaluate() {  # name of the run, method, model, data, recipe, eps
    classwise train "$2" --model "$3" --data "$4" --data-dir "$data" --recipe "$5" --wrappers ema --eps "$6" --seed 0 \
        --out "runs/$1"
    classwise evaluate "run:runs/$1" --data "$4" --data-dir "$data" --eps "$6" --limit 1000 --audit 2 --seed 0 \
        --out "results/$1"
    cp "runs/$1"/{run.json,log.jsonl,summary.json,best.safetensors} "results/$1/"
}
train_and_evaluate mnist-small-cnn-at at small_cnn mnist "$mnist" 0.3
train_and_evaluate mnist-small-cnn-trades trades small_cnn mnist "$mnist" 0.3
train_and_evaluate cifar10-small-resnet-at at small_resnet cifar10 "cpu-small(epochs=8)" 8/255
