#!/usr/bin/env bash
# Singularity.def as users run it: built, its own %test, then the participant level of two people
# of the demo in a closed container. Ends in one line, "verified" or "skipped: reason"; anything
# else is a failure. Needs root on an x86-64 Debian 12 when apptainer is not installed.
# usage: apptainer.sh [IMAGE.sif]      an image that exists already is tested as it is
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
export CONTAINERS_CONF=$here/containers.conf DEBIAN_FRONTEND=noninteractive

say() { echo "[${SECONDS}s] $*"; }
skip() { echo "skipped: $*"; exit 0; }
fail() { echo "failed: $*" >&2; exit 1; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
sif=$(realpath -m "${1:-$scratch/brainwhy.sif}")
if ! command -v apptainer > /dev/null; then
  [ "$(id -u)" = 0 ] || skip "apptainer is not installed, and only root can do it"
  folder=$("$here/get_apptainer.sh" /opt/apptainer 2> "$scratch/get.log") \
    || skip "no apptainer to be had: $(tail -n 1 "$scratch/get.log")"
  PATH=$folder:$PATH
fi
say "$(apptainer --version)"

if [ $# = 0 ]; then
  for tool in podman runc mmdebstrap; do
    command -v "$tool" > /dev/null || skip "$tool is not installed (container.sh installs it)"
  done
  "$here/base_image.sh" > "$scratch/base.log" 2>&1 \
    || skip "no base image: $(tail -n 1 "$scratch/base.log")"
  "$here/build_sif.sh" "$project" "$sif" > "$scratch/build.log" 2>&1 \
    || { tail -n 30 "$scratch/build.log"; fail "image build"; }
  say "image built, $(stat --format %s "$sif" | numfmt --to=si)B"
fi

mkdir "$scratch"/{bids,out}
closed=(--containall --cleanenv)
apptainer test "${closed[@]}" "$sif" > "$scratch/test.log" 2>&1 \
  || { tail "$scratch/test.log"; fail "%test"; }
say "%test passed"
apptainer exec "${closed[@]}" --bind "$scratch/bids:/bids" "$sif" \
  brainwhy-demo make /bids --participants 4 2> "$scratch/demo.log" \
  || { tail -n 30 "$scratch/demo.log"; fail "brainwhy-demo make"; }
say "demo made"
apptainer run "${closed[@]}" --bind "$scratch/bids:/data:ro" --bind "$scratch/out:/out" "$sif" \
  /data /out participant --recipe demo-t1w --participant-label 01 02 --nprocs 2 \
  > "$scratch/run.log" 2>&1 || { tail -n 30 "$scratch/run.log"; fail "participant level"; }
for person in 01 02; do
  [ -f "$scratch/out/sub-$person.html" ] || fail "no sub-$person.html"
done
say "participant level done, two people"
echo verified
