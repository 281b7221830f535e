#!/usr/bin/env bash
# Both levels on a real Slurm of one node: the scripts of docs/slurm as they are, participant level
# as an array, group level after it; then the group level again, each step a job of nipype's SLURM
# plugin. Ends in one line, "verified" or "skipped: reason"; anything else is a failure.
# usage: slurm.sh [IMAGE.sif]     without an image, the brainwhy on PATH is run
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
export DEBIAN_FRONTEND=noninteractive

say() { echo "[${SECONDS}s] $*"; }
skip() { echo "skipped: $*"; exit 0; }
fail() { echo "failed: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || skip "only root can start the daemons of Slurm"
command -v brainwhy > /dev/null || skip "no brainwhy on PATH; install it"
if ! command -v slurmctld > /dev/null || ! command -v munged > /dev/null; then
  command -v apt-get > /dev/null || skip "Slurm is not installed, and there is no apt-get"
  { apt-get update && apt-get install -y --no-install-recommends slurm-wlm munge; } > /dev/null \
    || skip "apt-get could not install slurm-wlm and munge"
  say "installed slurm-wlm and munge"
fi

scratch=$(mktemp -d)
chmod 755 "$scratch"
cleanup() { "$here/one_node_slurm.sh" down "$scratch/slurm"; rm -rf "$scratch"; }
trap cleanup EXIT
"$here/one_node_slurm.sh" up "$scratch/slurm" || fail "Slurm does not start"
export SLURM_CONF=$scratch/slurm/slurm.conf
say "$(sinfo --version) is up"

cd "$scratch"
export DATA=$scratch/bids OUT=$scratch/out PEOPLE=$scratch/people.txt
mkdir -p "$OUT"
cp "$here/slurm.toml" "$OUT"
recipe=$OUT/slurm.toml
export RECIPE=$recipe
if [ $# = 1 ]; then
  IMAGE=$(realpath "$1")
  export IMAGE RECIPE=/out/slurm.toml
fi
brainwhy-demo make "$DATA" --participants 6 2> demo.log || { tail demo.log; fail "demo"; }
for folder in "$DATA"/sub-*/; do basename "$folder"; done > "$PEOPLE"
say "demo made, $(wc -l < "$PEOPLE") people"

ended() { # ended NAME: every job of that name has left the queue
  while squeue --noheader --name "$1" | grep -q .; do
    squeue --noheader --name "$1" --format %r | grep -qE 'PartitionConfig|Never|BadConstraints' \
      && fail "$1 can never run here: $(squeue --noheader --name "$1" --format '%i %r')"
    sleep 1
  done
}

cpus=$(sinfo --noheader --format %c)
first=$(sbatch --parsable --array="1-$(wc -l < "$PEOPLE")" --mem=2G \
  "$project/docs/slurm/participant.sbatch")
second=$(sbatch --parsable --dependency="afterany:${first%%;*}" --gres=none \
  --cpus-per-task=$((cpus < 2 ? cpus : 2)) \
  --mem=4G "$project/docs/slurm/group.sbatch")
squeue --noheader --job "$second" --format %E | grep -q '^afterany' \
  || fail "the group level does not wait"
ended brainwhy-participant
say "array of participants has ended"
ended brainwhy-group
# One person of the demo has no image: that task says so and fails, the others do not care.
for folder in "$DATA"/sub-*/anat/*_T1w.nii.gz; do
  person=$(basename "${folder%/anat/*}")
  [ -f "$OUT/$person.html" ] || { tail -n 30 brainwhy-participant*.log; fail "no $person.html"; }
done
[ -f "$OUT/group.html" ] || { tail -n 30 "brainwhy-group-$second.log"; fail "no group.html"; }
say "group level has run after it"

cat > plugin.json << 'END'
{"plugin": "SLURM", "plugin_args": {"sbatch_args": "--mem=2G --cpus-per-task=1"}}
END
mkdir again
cp -r "$OUT"/. again
rm -rf again/.work again/models again/group* again/logs
before=$(wc -l < "$scratch/slurm/ended.txt")
brainwhy "$DATA" again group --recipe "$recipe" --use-plugin plugin.json > plugin.log 2>&1 \
  || { tail -n 30 plugin.log; fail "group level through nipype's SLURM plugin"; }
jobs=$(($(wc -l < "$scratch/slurm/ended.txt") - before))
[ "$jobs" -gt 5 ] || fail "only $jobs jobs: the plugin was not used"
say "group level again, as $jobs jobs of nipype's SLURM plugin"
scores=group/model-slurm_desc-oof_predictions.tsv
cmp "$OUT/$scores" "again/$scores" || fail "the two group levels disagree: $scores"
say "the same predictions to the digit"
echo verified
