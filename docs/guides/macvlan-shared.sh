#!/bin/bash
# Two pods on macvlan, their soft-RoCE devices in shared mode. Run it in the lab:
#   cargo xtask lab run --env SLUICE_BIN=$PWD/target/release/sluice -- bash docs/guides/macvlan-shared.sh
. "$(dirname "$0")/common.sh"

modprobe -a ib_core ib_uverbs rdma_rxe
show rdma system
show ip link set eth0 up
show ip address add 10.1.0.1/24 dev eth0
sluice agent --config /dev/null >/dev/null 2>&1 &
until_true sluice status
show sluice uplink add eth0

for n in 1 2; do
    show ip netns add pod$n
    show ip link add link eth0 name net1 netns pod$n type macvlan mode bridge
    show ip -n pod$n address add 10.1.0.1$n/24 dev net1
    show ip -n pod$n link set net1 up
    show ip netns exec pod$n rdma link add rxe$n type rxe netdev net1
    show sluice attach --netns pod$n net1 --pod default/pod$n
done
show rdma link
until_true ip netns exec pod1 ping -c1 -W1 10.1.0.12

# The node and its pod reach each other: host reach.
show ping -c 2 -q 10.1.0.11
write_bandwidth pod1 rxe1 10.1.0.11 pod2 rxe2 10.1.0.12
show sluice endpoints
show sluice stats
show rdma statistic show link rxe2
