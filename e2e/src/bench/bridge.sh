#!/bin/sh
# A guest on a bridge in the pod's place by hand, as everybody does it: the interface gets another MAC and loses its
# addresses, the guest has both. Run in the pod's network namespace.
set -e
ip tuntap add dev tap0 mode tap vnet_hdr
ip link add br0 type bridge
ip address flush dev eth0
ip link set eth0 down
ip link set eth0 address 0a:00:00:00:00:09
ip link set eth0 master br0
ip link set tap0 master br0
for link in eth0 tap0 br0; do ip link set $link up; done
