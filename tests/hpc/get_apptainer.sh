#!/usr/bin/env bash
# Unpack Debian's apptainer into PREFIX, and print its folder of commands. The package is in
# Debian's unstable suite only and wants a newer C library than Debian 12 has: it gets that library
# beside it, and the system's own stays as it is. Needs root on an x86-64 Debian 12.
# usage: get_apptainer.sh PREFIX
set -euo pipefail
prefix=$(realpath -m "${1:?prefix}")
libraries=lib/x86_64-linux-gnu
[ -x "$prefix/bin/apptainer" ] && { echo "$prefix/bin"; exit 0; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
chmod 755 "$scratch"
apt-get install -y -qq --no-install-recommends patchelf squashfs-tools squashfuse fuse2fs uidmap \
  e2fsprogs libseccomp2 libsqlite3-0 > /dev/null

# The newer suites, from wherever this machine's packages come from, in lists of their own.
mkdir -p "$scratch"/{sources,lists/partial,cache/archives/partial,packages}
# shellcheck disable=SC2016 # $(SITE) is apt-get's own
site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Codename: bookworm' \
  | sort -u | head -n 1)
for suite in trixie sid; do echo "deb $site $suite main"; done > "$scratch/sources/newer.list"
newer=(-o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$scratch/sources"
  -o Dir::State::Lists="$scratch/lists" -o Dir::Cache="$scratch/cache"
  -o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=root)
apt-get "${newer[@]}" -qq update >&2
(cd "$scratch/packages" && apt-get "${newer[@]}" -qq download apptainer/sid libc6/trixie >&2)
dpkg -x "$scratch"/packages/apptainer_*.deb "$scratch/apptainer"
dpkg -x "$scratch"/packages/libc6_*.deb "$scratch/libc"

mkdir -p "$prefix"/{bin,etc,glibc,"$libraries",var/lib/apptainer/mnt/{session,source}}
for name in libc.so.6 libm.so.6 libresolv.so.2 ld-linux-x86-64.so.2; do
  cp -L "$scratch/libc/usr/$libraries/$name" "$prefix/glibc/"
done
cp -a "/usr/$libraries"/libseccomp.so.2* "/usr/$libraries"/libsqlite3.so.0* "$prefix/glibc/"
cp -a "$scratch/apptainer/etc/apptainer" "$prefix/etc/"
cp -a "$scratch/apptainer/usr/$libraries/apptainer" "$prefix/$libraries/"
cp -a "$scratch/apptainer/usr/bin/apptainer" "$prefix/bin/"
# From a prefix of its own, the starter looks for its settings one folder too low.
ln -s ../etc "$prefix/lib/etc"
ln -s ../var "$prefix/lib/var"
for binary in "$prefix/$libraries/apptainer/bin/starter" "$prefix/bin/apptainer"; do
  patchelf --set-interpreter "$prefix/glibc/ld-linux-x86-64.so.2" \
    --set-rpath "$prefix/glibc" "$binary"
done
# A root without every capability, as on many build machines, must not ask for all of them.
sed -i 's/^root default capabilities = full/root default capabilities = no/' \
  "$prefix/etc/apptainer/apptainer.conf"
for file in /etc/subuid /etc/subgid; do
  grep -qs '^root:' "$file" || echo 'root:100000:65536' >> "$file"
done
echo "$prefix/bin"
