//! An Ethernet address: how it is written, read and turned into an IPv6 address.
//!
//! A crate of its own, because the manifest, the wiring and the DHCP server know nothing of each other and all have MACs.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Its bytes, in the order in which they are sent. As text it is written with colons; JSON has the text.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether one station can have it (IEEE 802, clause 8.2.2), and it is not the one that stands for none.
    pub fn is_unicast(self) -> bool {
        let [first, ..] = self.0;
        first & 1 == 0 && self != Self::default()
    }

    /// The link-local address that SLAAC makes of it: its modified EUI-64 below fe80::/64 (RFC 4291, appendix A).
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let pair = u16::from_be_bytes;
        Ipv6Addr::new(
            0xfe80,
            0,
            0,
            0,
            pair([a ^ 2, b]),
            pair([c, 0xff]),
            pair([0xfe, d]),
            pair([e, f]),
        )
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mac({self})")
    }
}

/// The text is not a MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAMac;

impl fmt::Display for NotAMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected six hex pairs joined by ':' or '-'")
    }
}

impl std::error::Error for NotAMac {}

/// Six pairs of hex digits with `:` or with `-` between them (IEEE 802 writes both), not mixed.
impl FromStr for Mac {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let separator = if text.contains(':') { ':' } else { '-' };
        let mut bytes = [0; 6];
        let mut pairs = text.split(separator);
        for byte in &mut bytes {
            *byte = pairs.next().and_then(hex_pair).ok_or(NotAMac)?;
        }
        match pairs.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(NotAMac),
        }
    }
}

/// `from_str_radix` alone would take a sign, and a single digit.
fn hex_pair(text: &str) -> Option<u8> {
    let is_pair = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u8::from_str_radix(text, 16).ok().filter(|_| is_pair)
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x02, 0xab, 0, 0, 0, 0xff]);

    #[test]
    fn it_is_read_in_both_notations_and_written_in_one() {
        for text in ["02:ab:00:00:00:ff", "02-AB-00-00-00-FF"] {
            assert_eq!(text.parse(), Ok(MAC), "{text}");
        }
        assert_eq!(MAC.to_string(), "02:ab:00:00:00:ff");
        let json = serde_json::to_string(&MAC).unwrap();
        assert_eq!(json, "\"02:ab:00:00:00:ff\"");
        assert_eq!(serde_json::from_str::<Mac>(&json).unwrap(), MAC);
        assert!(serde_json::from_str::<Mac>("\"02:ab\"").is_err());
    }

    #[test]
    fn neither_a_group_nor_nobody_is_a_station() {
        for (text, expected) in [
            ("02:ab:00:00:00:ff", true),
            ("00:00:00:00:00:01", true),
            ("00:00:00:00:00:00", false),
            ("01:00:5e:00:00:01", false),
            ("ff:ff:ff:ff:ff:ff", false),
        ] {
            assert_eq!(text.parse::<Mac>().unwrap().is_unicast(), expected, "{text}");
        }
    }

    #[test]
    fn nothing_else_is_a_mac() {
        for text in [
            "",
            "02:ab:00:00:00",
            "02:ab:00:00:00:ff:00",
            "02:ab-00:00:00:ff",
            "2:ab:00:00:00:ff",
            "02:ab:00:00:00:+f",
            "02:ab:00:00:00:fg",
            "02ab.0000.00ff",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(NotAMac), "{text}");
        }
    }

    #[test]
    fn the_link_local_address_has_the_universal_bit_inverted() {
        // The example of RFC 4291, appendix A, with the bytes of its EUI-48.
        let mac: Mac = "34:56:78:9a:bc:de".parse().unwrap();
        assert_eq!(
            mac.link_local(),
            "fe80::3656:78ff:fe9a:bcde".parse::<Ipv6Addr>().unwrap()
        );
    }
}
