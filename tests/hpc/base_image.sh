#!/usr/bin/env bash
# Make sure that IMAGE is in podman's local storage, without any image registry: where it is not,
# a stand-in is made from Debian's own packages. For the published image, `podman pull` it before.
# usage: base_image.sh [IMAGE [SUITE]]
set -euo pipefail
image=${1:-docker.io/library/debian:bookworm-slim}
suite=${2:-bookworm}
podman image exists "$image" && exit 0

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# What the published slim images leave out, too.
mmdebstrap --quiet --variant=minbase \
  --aptopt='APT::Install-Recommends "false"' \
  --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-include=/usr/share/doc/*/copyright' \
  "$suite" "$scratch/base.tar"
podman import --quiet --change 'CMD ["bash"]' "$scratch/base.tar" "$image"
