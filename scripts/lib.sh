# shellcheck shell=bash
# What ./quickstart and ./check share: named and timed steps, packages, daemons, Docker, ZFS and images. Sourced, not run.
#
# Both set before they source it:
#   root      the checkout
#   run_dir   where pid files and logs of the daemons that this script starts lie
#   out       the file descriptor that takes what a step's programs print
# A step is a function. It may set `result` (one line on success) and `hint` (what to do on failure). It returns non-zero
# on failure and does not rely on `set -e`, which bash ignores inside a condition.
: "${root:?}" "${run_dir:?}" "${out:?}"

base_image=python:3.11-slim-bookworm
task_image=dotstream/task:latest
ca_bundle=/etc/ssl/certs/ca-certificates.crt

# Steps ------------------------------------------------------------------------------------------

number=0
result=
hint=

# step NAME WHAT FUNCTION [ARGUMENT...]
step() {
    local name=$1 what=$2 began=${EPOCHREALTIME/[.,]/} status=0
    shift 2
    number=$((number + 1)) result='' hint=''
    printf '[%d] %s: %s\n' "$number" "$name" "$what" >&3
    "$@" >&"$out" 2>&1 || status=$?
    if [ "$status" -eq 0 ]; then
        printf '    ok, %s%s\n' "$(seconds_since "$began")" "${result:+: $result}" >&3
    else
        printf '    FAILED after %s\n' "$(seconds_since "$began")" >&3
        printf '    What to do: %s\n' "${hint:-see the messages of the failed command, then run this again}" >&3
    fi
    return "$status"
}

# seconds_since MICROSECONDS
seconds_since() {
    local tenths=$(((${EPOCHREALTIME/[.,]/} - $1) / 100000))
    printf '%d.%d s' $((tenths / 10)) $((tenths % 10))
}

# Packages ---------------------------------------------------------------------------------------

packages_listed=

# install_packages PACKAGE...: those that are missing, with one `apt-get update` for all calls.
install_packages() {
    local package missing=()
    for package; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    if [ ${#missing[@]} -eq 0 ]; then
        result="nothing to install"
        return 0
    fi
    hint="apt-get could not install ${missing[*]}: install them yourself, then run this again"
    command -v apt-get >/dev/null || return 1
    if [ -z "$packages_listed" ]; then
        apt-get update || return 1
        packages_listed=yes
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" || return 1
    result="installed ${missing[*]}"
}

# Daemons ----------------------------------------------------------------------------------------
# A pid file holds "<pid> <start time>", so that a process which got the number later is never taken for ours.

# started_at PID: the start time of a process in clock ticks since boot, field 22 of its stat file. Nothing if it has ended
# and only waits for its parent to notice (state Z).
started_at() {
    sed 's/^.*) //' "/proc/$1/stat" 2>/dev/null | awk '$1 != "Z" { print $20 }'
}

# daemon_start NAME PROGRAM [ARGUMENT...]
daemon_start() {
    local name=$1
    shift
    mkdir -p "$run_dir" || return 1
    setsid "$@" </dev/null >>"$run_dir/$name.log" 2>&1 3>&- 4>&- &
    echo "$! $(started_at $!) $(basename "$1")" >"$run_dir/$name.pid"
}

# daemon_pid NAME: the pid, if it is the very process that daemon_start started.
daemon_pid() {
    local pid began program
    read -r pid began program 2>/dev/null <"$run_dir/$1.pid" || return 1
    [ "$(started_at "$pid")" = "$began" ] && [ "$(cat "/proc/$pid/comm")" = "${program:0:15}" ] || return 1
    echo "$pid"
}

# daemon_stop NAME: asks it to end and waits; only what daemon_start started.
daemon_stop() {
    local pid tries
    [ -e "$run_dir/$1.pid" ] || return 0
    if pid=$(daemon_pid "$1"); then
        kill "$pid" || return 1
        for ((tries = 0; tries < 300; tries++)); do
            daemon_pid "$1" >/dev/null || break
            sleep 0.1
        done
        if daemon_pid "$1" >/dev/null; then
            hint="$1 (pid $pid) does not end: see $run_dir/$1.log; as a last resort, kill -9 $pid"
            return 1
        fi
    fi
    rm -f "$run_dir/$1.pid"
}

# daemon_wait NAME SECONDS COMMAND [ARGUMENT...]: until the command succeeds; gives up at once if the daemon ends.
daemon_wait() {
    local name=$1 deadline=$((SECONDS + $2))
    shift 2
    until "$@" >/dev/null 2>&1; do
        if [ -e "$run_dir/$name.pid" ] && ! daemon_pid "$name" >/dev/null; then
            hint="$name ended by itself; its last words are above, all of them in $run_dir/$name.log"
            tail -n 15 "$run_dir/$name.log"
            return 1
        fi
        if [ "$SECONDS" -ge "$deadline" ]; then
            hint="$name does not answer; see $run_dir/$name.log"
            [ ! -e "$run_dir/$name.log" ] || tail -n 15 "$run_dir/$name.log"
            return 1
        fi
        sleep 0.2
    done
}

# service_start NAME PROGRAM [ARGUMENT...]: by systemd where it runs, else as a daemon of our own. The file NAME.unit says
# that it is ours to stop.
service_start() {
    if systemd_runs; then
        hint="\`systemctl status $1\` says why it did not start"
        mkdir -p "$run_dir" && touch "$run_dir/$1.unit" && systemctl start "$1"
    else
        daemon_start "$@"
    fi
}

# service_ours NAME: whether service_start started it.
service_ours() {
    [ -e "$run_dir/$1.unit" ] || daemon_pid "$1" >/dev/null
}

# service_stop NAME: only what service_start started.
service_stop() {
    if [ -e "$run_dir/$1.unit" ]; then
        hint="\`systemctl status $1\` says why it did not stop"
        systemctl stop "$1" && rm -f "$run_dir/$1.unit"
    else
        daemon_stop "$1"
    fi
}

systemd_runs() {
    [ -d /run/systemd/system ]
}

# Docker and ZFS ---------------------------------------------------------------------------------

docker_answers() {
    docker info
}

docker_up() {
    if ! docker_answers >/dev/null 2>&1; then
        # Where the kernel has AppArmor on, Docker needs its parser, which Debian only recommends.
        command -v dockerd >/dev/null || install_packages docker.io apparmor || return 1
        # Installing it may have started it; with systemd, it is then ours to stop.
        if systemd_runs || ! docker_answers >/dev/null 2>&1; then
            service_start docker dockerd || return 1
        fi
        daemon_wait docker 60 docker_answers || return 1
    fi
    result="Docker $(docker version --format '{{.Server.Version}}')"
}

zfs_answers() {
    zpool list
}

zfs_up() {
    if ! zfs_answers >/dev/null 2>&1; then
        if zfs version 2>/dev/null | grep -q '^zfs-[0-9]'; then
            hint="OpenZFS's programs are installed but its kernel module is not loaded: run \`modprobe zfs\`, or remove the package zfsutils-linux, and zfs-fuse is used instead"
            return 1
        fi
        if [ ! -e /dev/fuse ]; then
            hint="/dev/fuse is missing: run \`modprobe fuse\`; in a container, start it with --device /dev/fuse"
            return 1
        fi
        command -v zfs-fuse >/dev/null || install_packages zfs-fuse || return 1
        if systemd_runs || ! zfs_answers >/dev/null 2>&1; then
            service_start zfs-fuse zfs-fuse --no-daemon || return 1
        fi
        daemon_wait zfs-fuse 30 zfs_answers || return 1
    fi
    result=$(zfs version 2>/dev/null | head -n 1)
    [ -n "$result" ] || result=zfs-fuse
}

# Images -----------------------------------------------------------------------------------------

image_exists() {
    docker image inspect "$1" >/dev/null 2>&1
}

# base_image_ready: present, or pulled, or, where no registry answers, made here.
base_image_ready() {
    if image_exists "$base_image"; then
        result="present"
    elif image_pull "$base_image"; then
        result="pulled"
    else
        echo "No registry gave $base_image; making it from Debian's packages."
        base_image_make || return 1
        result="made with debootstrap, since no registry answered"
    fi
}

# image_pull IMAGE: 20 seconds for the registry to answer, 15 minutes for the layers.
image_pull() {
    local messages pid tries status=0
    messages=$(mktemp) || return 1
    timeout 900 docker pull "$1" >"$messages" 2>&1 3>&- 4>&- &
    pid=$!
    for ((tries = 0; tries < 100; tries++)); do
        grep -q 'Pulling from' "$messages" && break
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.2
    done
    grep -q 'Pulling from' "$messages" || kill "$pid" 2>/dev/null
    wait "$pid" || status=$?
    cat "$messages"
    rm -f "$messages"
    return "$status"
}

# base_image_make: Debian 12's Python is 3.11. Behaves as the official image does: `python` and `pip` by these names, and
# pip installs into the system. The machine's CA bundle goes in, so that pip works behind a proxy with a CA of its own.
base_image_make() {
    local tree status=0
    install_packages debootstrap ca-certificates || return 1
    tree=$(mktemp -d -p /var/tmp dotstream-base.XXXXXX) || return 1
    base_image_tree "$tree" && base_image_import "$tree" || status=$?
    rm -rf --one-file-system "$tree"
    return "$status"
}

base_image_tree() {
    local tree=$1 mirror
    # shellcheck disable=SC2016 # the variable is apt's
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' 2>/dev/null | head -n 1)
    mirror=${mirror:-http://deb.debian.org/debian}
    hint="debootstrap could not make a Debian tree from $mirror; is the mirror reachable?"
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv \
        bookworm "$tree" "$mirror" || return 1
    rm -f "$tree"/usr/lib/python3.11/EXTERNALLY-MANAGED
    ln -s /usr/bin/python3 "$tree"/usr/local/bin/python || return 1
    cp "$ca_bundle" "$tree$ca_bundle" || return 1
    rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/* "$tree"/usr/share/{doc,man,locale}/*
}

base_image_import() {
    hint="the Docker daemon refused the image; see its message"
    tar -C "$1" -c . | docker import \
        --change 'ENV LANG=C.UTF-8' \
        --change "ENV PIP_CERT=$ca_bundle" \
        --change "ENV SSL_CERT_FILE=$ca_bundle" \
        --change "ENV REQUESTS_CA_BUNDLE=$ca_bundle" \
        --change 'CMD ["python3"]' \
        - "$base_image"
}

# task_image_ready: built, unless the one there is of the same Dockerfile and base image.
task_image_ready() {
    local folder=$root/deploy/images/task recipe have name arguments=()
    recipe=$({ cat "$folder"/* && docker image inspect -f '{{.Id}}' "$base_image"; } | sha256sum | cut -c 1-16)
    have=$(docker image inspect -f '{{index .Config.Labels "dotstream.recipe"}}' "$task_image" 2>/dev/null)
    if [ "$have" = "$recipe" ]; then
        result="$task_image is up to date"
        return 0
    fi
    # Where pip finds packages on this machine; Docker knows the proxies by itself once they are named.
    for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT \
        http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
        [ -z "${!name:-}" ] || arguments+=(--build-arg "$name")
    done
    hint="if pip found no packages: can containers reach the network, and does this machine need PIP_INDEX_URL or a proxy?"
    docker build --label "dotstream.recipe=$recipe" "${arguments[@]}" -t "$task_image" "$folder" || return 1
    result="built $task_image"
}

images_ready() {
    local base
    base_image_ready || return 1
    base=$result
    task_image_ready || return 1
    result="$base_image $base; $result"
}
