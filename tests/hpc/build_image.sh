#!/usr/bin/env bash
# podman build of CONTEXT's Dockerfile with this machine's pip settings lent to it: bind mounts,
# so that neither the Dockerfile nor the image's content knows them.
# usage: build_image.sh CONTEXT TAG [podman build options]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
context=${1:?context} tag=${2:?tag}
shift 2
lent=$(mktemp -d)
trap 'rm -rf "$lent"' EXIT
python3 "$here/lend_pip.py" "$lent" /mnt
podman build --pull=never --network host \
  --volume "$lent:/mnt:ro" --volume "$lent/pip.conf:/etc/pip.conf:ro" \
  --tag "$tag" "$@" "$context"
