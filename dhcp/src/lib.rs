//! What our one guest is told: DHCPv4, DHCPv6 and router advertisements.
