#!/usr/bin/env bash
# The image as users run it: built from the Dockerfile, then the participant level of two people of
# the demo, on a read-only root, without a network, without capabilities, as a user that the image
# has never heard of. Ends in one line, "verified" or "skipped: reason"; anything else is a failure.
# usage: container.sh [IMAGE]      an image that exists already is tested as it is
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
image=${1:-brainwhy:test}
user=4321:4321
export CONTAINERS_CONF=$here/containers.conf DEBIAN_FRONTEND=noninteractive

say() { echo "[${SECONDS}s] $*"; }
skip() { echo "skipped: $*"; exit 0; }
fail() { echo "failed: $*" >&2; exit 1; }

tools=(podman runc mmdebstrap)
missing=()
for tool in "${tools[@]}"; do command -v "$tool" > /dev/null || missing+=("$tool"); done
if [ ${#missing[@]} -gt 0 ]; then
  [ "$(id -u)" = 0 ] || skip "not installed, and only root can do it: ${missing[*]}"
  command -v apt-get > /dev/null || skip "not installed, and there is no apt-get: ${missing[*]}"
  { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } > /dev/null \
    || skip "apt-get could not install ${missing[*]}"
  say "installed ${missing[*]}"
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
chmod 755 "$scratch"
cd "$scratch" # podman may leave files where it is started
mkdir bids out
chmod 777 bids out

if [ $# = 0 ]; then
  "$here/base_image.sh" > base.log 2>&1 || skip "no base image: $(tail -n 1 base.log)"
  say base image there
  "$here/build_image.sh" "$project" "$image" > build.log 2>&1 \
    || { tail -n 30 build.log; fail "image build"; }
  say "image built, $(podman image inspect --format '{{.Size}}' "$image" | numfmt --to=si)B"
fi

sums() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum); }

run() { # run [podman options] -- [arguments of the entry point]
  local options=()
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  shift
  podman run --rm --network none --read-only --tmpfs /tmp --cap-drop ALL \
    --security-opt no-new-privileges --user "$user" "${options[@]}" "$image" "$@"
}

run -- > /dev/null 2>&1 && fail "brainwhy without arguments must not succeed"
version=$(run -- --version)
label=$(podman image inspect "$image" \
  --format '{{index .Labels "org.opencontainers.image.version"}}')
[ "$version" = "brainwhy $label" ] || fail "the image is labelled $label but says '$version'"
say "$version"

run --entrypoint mrdegibbs -- -version > /dev/null || fail "no MRtrix3 in the image"
granted=$(run --cpus 1 --memory 2g --entrypoint python -- -c \
  'from bidsapp import machine; print(machine.cpu_count(), round(machine.memory_gb(), 2))')
[ "$granted" = "1 2.0" ] || fail "granted 1 CPU and 2 GB, the app sees $granted"
say "sees what it is granted: 1 CPU, 2 GB"

run -v "$scratch/bids:/bids" --entrypoint brainwhy-demo -- make /bids --participants 4 2> demo.log \
  || { tail -n 30 demo.log; fail "brainwhy-demo make"; }
sums bids > before
say "demo made"

# Whatever becomes of HOME, and whoever runs it.
for home in --env=HOME=/ --unsetenv=HOME; do
  run "$home" --user 54321:0 --cpus 1 --memory 4g -v "$scratch/bids:/data:ro" \
    -v "$scratch/out:/out" -- /data /out participant --recipe demo-t1w --participant-label 01 \
    > home.log 2>&1 || { tail home.log; fail "$home"; }
  [ -f out/sub-01.html ] || fail "no page with $home"
  find out -mindepth 1 -delete
done
say "one person done with HOME=/, and without HOME, on 1 CPU and 4 GB"

run --name "brainwhy-stop-$$" -v "$scratch/bids:/data:ro" -v "$scratch/out:/out" -- \
  /data /out participant --recipe demo-t1w --nprocs 2 > stop.log 2>&1 &
stopped=$!
for _ in $(seq 300); do grep -q 'preprocess:' stop.log && break; sleep 0.2; done
before=$SECONDS
podman stop --time 30 "brainwhy-stop-$$" > /dev/null
code=0
wait "$stopped" || code=$?
if [ "$code" != 143 ] || [ $((SECONDS - before)) -ge 10 ]; then
  tail stop.log
  fail "podman stop: code $code after $((SECONDS - before)) s"
fi
find out -mindepth 1 -delete
say "podman stop is heard at once"

run -v "$scratch/bids:/data:ro" -v "$scratch/out:/out" -- /data /out participant \
  --recipe demo-t1w --participant-label 01 02 --nprocs 2 > run.log 2>&1 \
  || { tail -n 30 run.log; fail "participant level"; }
say "participant level done, two people"

sums bids | cmp -s before - || fail "/data has changed"
others=$(find out -mindepth 1 ! -uid "${user%:*}" -o ! -gid "${user#*:}")
[ -z "$others" ] || fail "these do not belong to $user: $others"
for person in 01 02; do
  for file in sub-$person{.html,/anat/*_T1w.nii.gz,/anat/*_mask.nii.gz}; do
    compgen -G "out/$file" > /dev/null || fail "no $file"
  done
done
[ -f out/dataset_description.json ] || fail "no dataset_description.json"
say "outputs complete, owned by $user; input untouched"
echo verified
