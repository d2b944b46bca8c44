# shellcheck shell=bash
# Where the OpenZFS machine lies. Sourced by `build` and `run`.

# What `build` makes, as two files: vmlinuz and base.cpio.gz.
built_machine=${XDG_CACHE_HOME:-$HOME/.cache}/dotstream/openzfs

# machine_folder: one that lies beside the checkout, else the one that was built.
machine_folder() {
    local folder
    for folder in "$(dirname "${BASH_SOURCE[0]}")/../../../shared/openzfs-vm" "$built_machine"; do
        if [ -e "$folder/vmlinuz" ] && [ -e "$folder/base.cpio.gz" ]; then
            (cd "$folder" && pwd)
            return
        fi
    done
    echo "There is no OpenZFS machine yet: make it with tests/openzfs/build (about ten minutes)" >&2
    return 1
}
