#!/usr/bin/env bash
# Makes every result in this folder. From this folder: bash run.sh SHARED DATA (see results/run.sh)
# The fifteen networks for digits train in seconds each; the homing studies take thirteen trainings a seed.
set -euo pipefail
shared=$1 data=$2
export OMP_WAIT_POLICY=PASSIVE
classwise evaluate "$shared/models/cifar_resnet2b_adv/load.py:load_model" --data cifar10 --data-dir "$data" --eps 2/255 \
    --limit 5000 --seed 0 --out cifar10-resnet2b-adv-2-many --attacks "fgsm,pgd,pgd(steps=100),margin-pgd,temperature-pgd,\
pgd(restarts=10),margin-pgd(restarts=10),apgd-ce,apgd-dlr,square(queries=500),fast"
for seed in 0 1 2; do for method in at trades mart alp "he(base='at')"; do
    name=$(tr -dc a-z <<< "$method" | cut -c1-5)  # at, trade, mart, alp, hebas
    classwise train "$method" --model digits_cnn --data digits --seed $seed --out "digits/$name-$seed/run"
    classwise evaluate "run:digits/$name-$seed/run" --data digits --seed 0 --out "digits/$name-$seed/strong" \
        --attacks "fgsm,pgd,margin-pgd,apgd-ce,apgd-t,square(queries=500)"
done; done
for seed in 0 1 2; do
    classwise homing --data digits --method at --seed $seed --attacks apgd-ce,apgd-t --out homing-$seed
    cp homing-$seed/homing.json homing-$seed.json
done
# As [homing] of studies/paper-mnist-small.toml, which made the file here; an hour on one core.
classwise homing --data mnist --data-dir "$data" --method at --seed 0 --attacks apgd-ce,apgd-t --test-limit 2000 \
    --recipe "mnist(epochs=6, schedule='cyclic', lr=0.05, milestones=(), steps=7, step_size=0.075, eps_warmup=2)" \
    --out homing-mnist-0
cp homing-mnist-0/homing.json homing-mnist-0.json
