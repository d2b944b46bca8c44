# shellcheck shell=bash
# Debian 12's packages together with backports', while the machine's own package sources stay as they are. Sourced by
# `build` and ./check, which set:
#   work      a temporary folder
: "${work:?}"

# apt_aside TOOL ARGUMENT...: apt with package lists of our own, which know backports.
apt_aside() {
    local tool=$1
    shift
    "$tool" -q -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$work/sources" \
        -o Dir::State::Lists="$work/lists" "$@"
}

# apt_aside_update: fetches those lists, from the mirror that the machine uses.
apt_aside_update() {
    local mirror
    # shellcheck disable=SC2016 # the variable is apt's
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' | sed -n 1p)
    mkdir -p "$work/sources" "$work/lists/partial"
    cat >"$work/sources/debian.sources" <<SOURCES
Types: deb
URIs: ${mirror:-http://deb.debian.org/debian}
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
    apt_aside apt-get update
}

# install_qemu: Debian's own, or backports' where it would drive out a part of qemu that came from there.
install_qemu() {
    local options=(-y --no-install-recommends --no-remove)
    command -v qemu-system-x86_64 >/dev/null && return
    export DEBIAN_FRONTEND=noninteractive
    apt-get install "${options[@]}" qemu-system-x86 && return
    apt_aside_update && apt_aside apt-get install "${options[@]}" -t bookworm-backports qemu-system-x86
}
