#!/usr/bin/env bash
# Trains the networks of this folder and evaluates them by class. From the root of the repository:
#     bash results/train.sh DATA
# DATA holds the data sets in official formats. Interrupted runs go on where they stopped. On one core of the machine
# of docs/results.md, busy with other work, a run takes about an hour.
set -euo pipefail
data=$1
export OMP_WAIT_POLICY=PASSIVE
run() {  # name, method, model, data set, recipe, radius, the model of the run that its held-out score prefers
    name=$1 method=$2 model=$3 set=$4 recipe=$5 eps=$6 which=$7
    classwise train "$method" --model "$model" --data "$set" --data-dir "$data" --recipe "$recipe" --wrappers ema \
        --eps "$eps" --seed 0 --out "runs/$name"
    classwise evaluate "run:runs/$name@$which" --data "$set" --data-dir "$data" --eps "$eps" --limit 1000 --seed 0 \
        --attacks fast,autoattack --out "results/$name"
    cp "runs/$name"/{run.json,log.jsonl,summary.json} "runs/$name/$which.safetensors" "results/$name/"
}
