#!/bin/bash
# Two pods on virtual functions, each with its own RDMA device: exclusive mode. Run it in the lab:
#   cargo xtask lab run --env SLUICE_BIN=$PWD/target/release/sluice -- bash docs/guides/sriov-exclusive.sh
. "$(dirname "$0")/common.sh"

# The mode has to be chosen before there is any other network namespace; for good, write
# "options ib_core netns_mode=0" to /etc/modprobe.d/.
show modprobe ib_core netns_mode=0
modprobe -a ib_uverbs rdma_rxe
show rdma system

# The PF must be up before it makes functions.
show ip link set eth0 up
until_true grep -q 1 /sys/class/net/eth0/carrier
echo '# echo 2 > /sys/class/net/eth0/device/sriov_numvfs'
echo 2 >/sys/class/net/eth0/device/sriov_numvfs
until_true ls /sys/class/net/eth0/device/virtfn1/net/
sluice agent --config /dev/null >/dev/null 2>&1 &
until_true sluice status

for n in 1 2; do
    vf=$(ls /sys/class/net/eth0/device/virtfn$((n - 1))/net)
    show ip netns add pod$n
    show ip link set "$vf" netns pod$n name net1
    show ip -n pod$n address add 10.1.0.1$n/24 dev net1
    show ip -n pod$n link set net1 up
    show ip netns exec pod$n rdma link add rxe$n type rxe netdev net1
    show rdma dev set rxe$n netns pod$n
    show sluice attach --netns pod$n net1 --pod default/pod$n
done

# The node sees neither device, each pod its own.
show rdma link
show ip netns exec pod1 rdma link
until_true ip netns exec pod1 ping -c1 -W1 10.1.0.12

write_bandwidth pod1 rxe1 10.1.0.11 pod2 rxe2 10.1.0.12
show sluice endpoints
show sluice stats
show ip netns exec pod2 rdma statistic show link rxe2

# A pod's end gives its function back to the node, and Sluice forgets it.
show ip netns delete pod2
until_true sh -c "! '$sluice' endpoints | grep -q pod2"
until_true ls /sys/class/net/eth0/device/virtfn1/net/
show sluice endpoints
