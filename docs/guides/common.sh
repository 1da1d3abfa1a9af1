# What the walk-throughs share. Each runs in a machine of the lab, as root, with nothing configured.
set -eu
sluice=${SLUICE_BIN:-sluice}
sluice() { "$sluice" "$@"; }

# Prints a command as it would be typed, then runs it.
show() {
    printf '# %s\n' "$*"
    "$@"
}

# Waits until a command succeeds.
until_true() {
    for _ in $(seq 300); do
        "$@" >/dev/null 2>&1 && return
        sleep .2
    done
    echo "gave up waiting for: $*"
    exit 1
}

# The index of a pod's RoCE v2 GID with an IPv4 address.
gid_index() { # POD DEVICE ADDRESS
    local wanted
    wanted=$(printf 'ffff:%02x%02x:%02x%02x' $(echo "$3" | tr . ' '))
    ip netns exec "$1" sh -c "cd /sys/class/infiniband/$2/ports/1/gids && grep -l '$wanted' * | tail -1"
}

# One RDMA write test between two pods: the passive side, then the active one.
write_bandwidth() { # POD DEVICE ADDRESS POD DEVICE ADDRESS
    # Two seconds until it resends: the machine may be slow.
    local options='-F -s 2048 -n 50 -u 19'
    ip netns exec "$1" ib_write_bw -d "$2" -x "$(gid_index "$1" "$2" "$3")" $options >/dev/null 2>&1 &
    until_true ip netns exec "$1" grep -q ':4853 .* 0A ' /proc/net/tcp /proc/net/tcp6
    echo "# ib_write_bw -d $5 $options $3     # in pod $4"
    ip netns exec "$4" ib_write_bw -d "$5" -x "$(gid_index "$4" "$5" "$6")" $options "$3" | grep -A1 '#bytes'
    wait $!
}
