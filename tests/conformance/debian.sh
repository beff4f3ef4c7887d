#!/usr/bin/env bash
# Run CPython's manager tests with the Pythons of Debian unstable: newer ones than most machines have.
#
#   tests/conformance/debian.sh FOLDER                  CPython's manager tests, with each of them
#   tests/conformance/debian.sh FOLDER COMMAND...       a command of yours, in a copy of this tree
#   tests/conformance/debian.sh FOLDER make test PYTHON=python3.15 ARGS=tests/unit
#
# FOLDER holds the Debian, about 1 GB; it is made when it is not there and used again when it is.
# Needs root, debootstrap and the network.  Nothing outside FOLDER is changed.
set -euo pipefail

VERSIONS=${VERSIONS:-"3.14 3.15"}
MIRROR=${MIRROR:-http://deb.debian.org/debian}

[ $# -ge 1 ] || { sed -n '2,9s/^# \?//p' "$0"; exit 2; }
[ "$(id -u)" -eq 0 ] || { echo "$0: chroot needs root" >&2; exit 2; }
tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift

# What is mounted below is seen by nobody else, and is gone when this ends, however it ends.
if [ -z "${FASTMGR_UNSHARED:-}" ]; then
    FASTMGR_UNSHARED=1 exec unshare --mount --propagation private "$0" "$folder" "$@"
fi

inside() {
    env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive PIP_ROOT_USER_ACTION=ignore \
        chroot "$folder" "$@"
}

if [ ! -e "$folder/etc/debian_version" ]; then
    debootstrap --variant=minbase --include=ca-certificates,gcc,libc6-dev,make \
        sid "$folder" "$MIRROR"
    # A mirror that lags behind, or a clock that is wrong, is no matter here.
    cat >"$folder/etc/apt/apt.conf.d/99fastmgr" <<'APT'
Acquire::Check-Valid-Until "false";
APT::Install-Recommends "false";
APT
fi
mount --bind /proc "$folder/proc"
mount -t tmpfs none "$folder/dev"
for device in null zero random urandom; do
    touch "$folder/dev/$device"
    mount --bind "/dev/$device" "$folder/dev/$device"
done
ln -s /proc/self/fd "$folder/dev/fd"
mkdir -m 1777 "$folder/dev/shm"
# pip is to reach PyPI there as it does here, through what this machine trusts.
cp /etc/resolv.conf "$folder/etc/resolv.conf"
cp /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/ca-certificates.crt"

wanted=()
for version in $VERSIONS; do
    [ -d "$folder/usr/lib/python$version/test" ] && [ -e "$folder/usr/bin/python$version" ] ||
        wanted+=("python$version-dev" "python$version-venv" "libpython$version-testsuite")
done
if [ ${#wanted[@]} -gt 0 ]; then
    inside apt-get update -qq
    inside apt-get install -qq -y "${wanted[@]}"
fi

# Another run with this folder would take the tree away from under this one.
exec 9>"$folder/root/.lock"
flock 9
# The environments stay, all else is this tree's, and new: builds go by the time of files.
mkdir -p "$folder/root/fastmgr"
find "$folder/root/fastmgr" \( -name ".venv*" -o -name "*.egg-info" \) -prune -o -type f -exec rm {} +
git -C "$tree" ls-files -z --cached --others --exclude-standard |
    tar -C "$tree" -cf - --null --files-from - |
    tar -C "$folder/root/fastmgr" -xf - --no-same-owner --touch

for version in $VERSIONS; do newest=python$version; done
[ $# -gt 0 ] || set -- "$newest" tests/conformance/runner.py --all
inside sh -c 'cd /root/fastmgr && exec "$@"' sh "$@"
