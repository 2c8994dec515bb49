#!/usr/bin/env bash
# Makes every result in this folder, and the tables of docs/results.md from them. From the root of the repository:
#     bash results/run.sh SHARED DATA
# SHARED holds models/*/load.py (small robust networks that others trained), DATA the data sets in official formats
# (python SHARED/data/unpack.py DATA). Folders that are finished are left as they are; after a change of statistics
# python results/again.py DATA makes texts and tables anew from the outcomes that are stored.
set -euo pipefail
shared=$1 data=$2
export OMP_WAIT_POLICY=PASSIVE
evaluate() {  # name, network, data set, further options
    name=$1 network=$2 set=$3; shift 3
    classwise evaluate "$shared/models/$network/load.py:load_model" --data "$set" --data-dir "$data" \
        --seed 0 --out "results/$name" "$@"
}
family=pgd,margin-pgd,temperature-pgd
evaluate mnist-smallcnn-trades-0.3 mnist_smallcnn_trades mnist --eps 0.3 --limit 1000 --attacks $family
evaluate cifar10-resnet2b-adv-2 cifar_resnet2b_adv cifar10 --eps 2/255 --limit 1000 --attacks $family
evaluate cifar10-resnet2b-adv-8 cifar_resnet2b_adv cifar10 --eps 8/255 --limit 1000 --attacks $family
# The grid of Temperature-PGD takes ten times the steps of PGD-20; the fair comparison gives the others ten restarts.
equal="pgd(restarts=10),margin-pgd(restarts=10),temperature-pgd"
evaluate mnist-smallcnn-trades-0.3-equal-steps mnist_smallcnn_trades mnist --eps 0.3 --limit 1000 --attacks "$equal"
evaluate cifar10-resnet2b-adv-8-equal-steps cifar_resnet2b_adv cifar10 --eps 8/255 --limit 1000 --attacks "$equal"
# AutoAttack standard beside them: the PGD family is an upper bound of it.
evaluate cifar10-resnet2b-adv-8-autoattack cifar_resnet2b_adv cifar10 --eps 8/255 --limit 1000 --attacks autoattack
# The default plan, audited.
evaluate cifar10-resnet2b-adv-8-fast cifar_resnet2b_adv cifar10 --eps 8/255 --limit 1000
evaluate cifar10-resnet2b-adv-2-fast cifar_resnet2b_adv cifar10 --eps 2/255 --limit 1000
evaluate mnist-smallcnn-trades-0.3-fast mnist_smallcnn_trades mnist --eps 0.3 --limit 500 --audit 2
# The smallest radius that is found to break each image; docs/critical-eps.md.
critical() {  # name, network, data set, further options
    name=$1 network=$2 set=$3; shift 3
    classwise critical-eps "$shared/models/$network/load.py:load_model" --data "$set" --data-dir "$data" \
        --seed 0 --out "results/critical-eps/$name" "$@"
}
critical cifar10-resnet2b-adv cifar_resnet2b_adv cifar10 --eps-max 32/255 --radii 2/255,4/255,8/255,16/255 --limit 1000
critical mnist-smallcnn-trades mnist_smallcnn_trades mnist --eps-max 0.5 --radii 0.1,0.2,0.3,0.4 --limit 500
