#!/usr/bin/env bash
# apptainer build of CONTEXT's Singularity.def on the base image in podman's local storage, with
# this machine's pip settings lent to it through /mnt.
# usage: build_sif.sh CONTEXT IMAGE.sif
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
context=$(realpath "${1:?context}")
sif=$(realpath -m "${2:?image}")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
podman save --quiet --format oci-archive --output "$scratch/base.oci" \
  docker.io/library/debian:bookworm-slim
python3 "$here/lend_pip.py" "$scratch/lent" /mnt
cd "$context"
APPTAINERENV_PIP_CONFIG_FILE=/mnt/pip.conf apptainer build --fakeroot --force \
  --mksquashfs-args '-comp zstd -Xcompression-level 1' --bind "$scratch/lent:/mnt" \
  --build-arg BOOTSTRAP=oci-archive --build-arg FROM="$scratch/base.oci" "$sif" Singularity.def
