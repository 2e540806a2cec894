#!/bin/sh
# The masquerade wiring of one dual-stack guest by hand, with ip and nft and nothing else: what `cargo e2e bench`
# compares hawser with: the same links, addresses and chains, so that the kernel has the same to do. One process for each thing that takes one, batches where the tools have them.
set -e
ip tuntap add dev tap0 mode tap user 107 group 107 vnet_hdr
ip tuntap add dev srv0 mode tap user 107 group 107
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
echo 1 >/proc/sys/net/ipv4/conf/tap0/route_localnet
echo 0 >/proc/sys/net/ipv6/conf/tap0/accept_ra
ip -batch - <<'IP'
link set dev tap0 address 02:00:00:00:00:00 mtu 1450
address add 10.0.2.1/24 dev tap0
address add fd10:0:2::1/120 dev tap0 nodad
address add fe80::1/64 dev tap0 nodad
link set dev tap0 up
link set dev srv0 address 02:00:00:00:00:01 mtu 1450 arp off
link set dev srv0 up
route add local ::1 dev tap0 table local metric 1024
neighbour replace 10.0.2.2 lladdr 02:11:aa:33:44:55 dev tap0 nud permanent
neighbour replace fd10:0:2::2 lladdr 02:11:aa:33:44:55 dev tap0 nud permanent
IP
nft -f - <<'NFT'
table inet byhand {
	set ports { type inet_proto . inet_service; elements = { tcp . 80, tcp . 22, udp . 53 } }
	chain in { type nat hook prerouting priority dstnat
		iifname "eth0" fib daddr type local meta nfproto ipv4 meta l4proto . th dport @ports dnat ip to 10.0.2.2
		iifname "eth0" fib daddr type local meta nfproto ipv6 meta l4proto . th dport @ports dnat ip6 to fd10:0:2::2
	}
	chain local { type nat hook output priority -100
		ip daddr 127.0.0.1 meta l4proto . th dport @ports dnat ip to 10.0.2.2
		ip6 daddr ::1 meta l4proto . th dport @ports dnat ip6 to fd10:0:2::2
	}
	chain out { type nat hook postrouting priority srcnat
		ip saddr 10.0.2.2 oifname "eth0" masquerade
		ip6 saddr fd10:0:2::2 oifname "eth0" masquerade
		ip saddr 127.0.0.1 oifname "tap0" snat ip to 10.0.2.1
		ip6 saddr ::1 oifname "tap0" snat ip6 to fd10:0:2::1
	}
	chain forward { type filter hook forward priority filter
		iifname "tap0" ip saddr 10.0.2.2 accept
		iifname "tap0" ip6 saddr fd10:0:2::2 accept
		iifname "tap0" drop
		oifname "tap0" ct state established,related accept
		oifname "tap0" ct status dnat accept
		oifname "tap0" drop
	}
}
table netdev byhand {
	chain from-tap0 { type filter hook ingress device "tap0" priority filter
		ether saddr != 02:11:aa:33:44:55 drop
		udp dport { 67, 547 } limit rate over 200/second burst 200 packets drop
		udp dport { 67, 547 } fwd to "srv0"
		icmpv6 type nd-router-solicit limit rate over 200/second burst 200 packets drop
		icmpv6 type nd-router-solicit fwd to "srv0"
		icmpv6 type { nd-router-advert, nd-redirect } drop
		udp sport 67 udp dport 68 drop
		udp sport 547 udp dport 546 drop
		ip daddr 127.0.0.0/8 drop
		ip saddr != 10.0.2.2 drop
		ip6 saddr != { ::, fd10:0:2::2, fe80::/10 } drop
	}
	chain from-srv0 { type filter hook ingress device "srv0" priority filter
		fwd to "tap0"
	}
}
NFT
