#!/usr/bin/env bash
# Runs the paper preset on a GPU within a time budget, most wanted methods first, and gathers the
# records. Each method gets an equal part of the time that is left. Run it again to go on.
#
#   benchmarks/gpu_campaign.sh BUDGET OUT [DATASET] [METHOD ...]
#   benchmarks/gpu_campaign.sh 14m out polymnist shala mmvae+ mvtcae
#
# OUT/runs is the store (weights and checkpoints stay there); OUT/records is what to bring home.
# PRESET and DEVICE override paper and cuda, for a rehearsal.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -lt 2 ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
budget=$1 out=$2 dataset=${3:-polymnist}
shift "$(($# < 3 ? $# : 3))"
[ $# -gt 0 ] || set -- shala mmvae+ mvtcae

case $budget in
  *h) seconds=$((${budget%h} * 3600)) ;;
  *m) seconds=$((${budget%m} * 60)) ;;
  *) seconds=${budget%s} ;;
esac
end=$((SECONDS + seconds)) methods=$#

for method in "$@"; do
  left=$(((end - SECONDS) / methods)) code=0
  methods=$((methods - 1))
  if [ "$left" -le 0 ]; then break; fi
  python bench.py run --models "$method" --dataset "$dataset" --preset "${PRESET:-paper}" \
    --device "${DEVICE:-cuda}" --store "$out/runs" --time-limit "${left}s" || code=$?
  if [ "$code" -eq 2 ]; then exit 2; fi # wrong input: the next method would fail alike
done
python bench.py export "$out/records" --store "$out/runs"
