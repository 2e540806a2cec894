#!/bin/sh
# Masquerade of one guest by hand, with the least that does it: what `cargo e2e bench --datapath` compares hawser's with.
# Run in the pod's network namespace, where IPv6 forwarding is on.
set -e
ip tuntap add dev tap0 mode tap vnet_hdr
ip address add 10.0.2.1/24 dev tap0
ip address add fd10:0:2::1/120 dev tap0 nodad
ip link set tap0 up
echo 1 >/proc/sys/net/ipv4/ip_forward
nft -f - <<'NFT'
table inet byhand {
	chain in { type nat hook prerouting priority dstnat
		iifname "eth0" fib daddr type local meta nfproto ipv4 dnat ip to 10.0.2.2
		iifname "eth0" fib daddr type local meta nfproto ipv6 dnat ip6 to fd10:0:2::2
	}
	chain out { type nat hook postrouting priority srcnat
		ip saddr 10.0.2.2 oifname "eth0" masquerade
		ip6 saddr fd10:0:2::2 oifname "eth0" masquerade
	}
}
NFT
