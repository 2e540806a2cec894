//! Domain names as DNS writes them (RFC 1035), for the search lists of DHCPv4, DHCPv6 and router advertisements.
//!
//! Names come from a pod's resolv.conf or a manifest, so a bad one is left out and never an error: a guest with
//! one search domain less boots, a launcher that stops over it does not.

use std::collections::BTreeMap;

/// The name in uncompressed wire form, or `None` if it is not a name that a resolver could search.
pub(crate) fn encode(name: &str) -> Option<Vec<u8>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        let len = u8::try_from(label.len())
            .ok()
            .filter(|len| (1..=63).contains(len))?;
        if !label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        {
            return None;
        }
        bytes.push(len);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    (bytes.len() <= 255).then_some(bytes)
}

/// All good names, uncompressed, one after the other: what DHCPv6 (RFC 3646) wants.
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a String>) -> Vec<u8> {
    names
        .into_iter()
        .filter_map(|name| encode(name))
        .flatten()
        .collect()
}

/// The first names, as many as have a text that clients read: dhcpcd takes nothing of a list of more than 1024 characters.
pub(crate) fn readable(names: &[String]) -> &[String] {
    const CHARACTERS: usize = 1024;
    let mut used = 0;
    let count = names
        .iter()
        .take_while(|name| {
            used += name.len() + 1;
            used <= CHARACTERS
        })
        .count();
    names.get(..count).unwrap_or_default()
}

/// As much of what [`list`] wrote as has whole names in `room` bytes.
pub(crate) fn first(list: &[u8], room: usize) -> &[u8] {
    let mut at = 0;
    let mut whole = 0;
    while let Some(len) = list.get(at) {
        at += 1 + usize::from(*len);
        if *len == 0 {
            if at > room {
                break;
            }
            whole = at;
        }
    }
    list.get(..whole).unwrap_or_default()
}

/// All good names with the tails they share written once (RFC 1035 4.1.4), as option 119 wants (RFC 3397).
pub(crate) fn compressed<'a>(names: impl IntoIterator<Item = &'a String>) -> Vec<u8> {
    const POINTER: u16 = 0xc000;
    let mut out: Vec<u8> = Vec::new();
    let mut seen: BTreeMap<Vec<u8>, u16> = BTreeMap::new();
    for name in names.into_iter().filter_map(|name| encode(name)) {
        let mut rest: &[u8] = &name;
        loop {
            let len = usize::from(rest.first().copied().unwrap_or(0));
            if len == 0 {
                out.push(0);
                break;
            }
            if let Some(offset) = seen.get(rest) {
                out.extend_from_slice(&(POINTER | offset).to_be_bytes());
                break;
            }
            if let Some(offset) = u16::try_from(out.len())
                .ok()
                .filter(|offset| offset & POINTER == 0)
            {
                seen.insert(rest.to_vec(), offset);
            }
            let Some((label, tail)) = rest.split_at_checked(len + 1) else {
                break;
            };
            out.extend_from_slice(label);
            rest = tail;
        }
    }
    out
}

/// What [`compressed`] wrote, without its last name; `None` where there is one at most. Names point back only, so what is before
/// one does not need it.
pub(crate) fn without_last(list: &[u8]) -> Option<Vec<u8>> {
    const POINTER: u8 = 0xc0;
    let mut at = 0;
    let mut last = 0;
    while at < list.len() {
        last = at;
        loop {
            match *list.get(at)? {
                0 => {
                    at += 1;
                    break;
                }
                pointer if pointer & POINTER == POINTER => {
                    at += 2;
                    break;
                }
                label => at += 1 + usize::from(label),
            }
        }
    }
    list.get(..last)
        .filter(|rest| !rest.is_empty())
        .map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    /// The example of RFC 3397, section 3: the three options' data joined.
    #[test]
    fn the_search_list_of_rfc_3397() {
        let names = strings(&["eng.apple.com.", "marketing.apple.com."]);
        assert_eq!(
            compressed(&names),
            b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04"
        );
    }

    /// Equal names become a bare pointer, and a tail of a pointed-to name can be pointed to as well.
    #[test]
    fn whole_names_and_inner_tails_are_shared() {
        let names = strings(&["a.svc.local", "svc.local", "local", "a.svc.local"]);
        assert_eq!(
            compressed(&names),
            b"\x01a\x03svc\x05local\x00\xc0\x02\xc0\x06\xc0\x00"
        );
    }

    #[test]
    fn a_list_is_no_longer_than_clients_read() {
        let names: Vec<_> = (0..32).map(|n| format!("{n:03}.{}", "x".repeat(60))).collect();
        assert_eq!(readable(&names).len(), 1024 / 65);
        assert_eq!(readable(&names[..3]), &names[..3]);
    }

    #[test]
    fn a_list_gets_shorter_name_by_name() {
        let names = strings(&["a.svc.local", "svc.local", "other.example"]);
        let mut list = Some(compressed(&names));
        for len in [3, 2, 1] {
            assert_eq!(list.clone(), Some(compressed(&names[..len])), "{len}");
            list = list.and_then(|list| without_last(&list));
        }
        assert_eq!(list, None);
        assert_eq!(without_last(&[]), None);
        assert_eq!(without_last(&[9, 1]), None, "cut short");
    }

    #[test]
    fn bad_names_are_left_out() {
        let long_label = "x".repeat(64);
        let long_name = ["x".repeat(63).as_str(); 4].join(".");
        let bad = [
            "",
            ".",
            "a..b",
            ".a",
            "a b",
            "\u{e9}.fr",
            "a.b..",
            &long_label,
            &long_name,
        ];
        for name in bad {
            assert_eq!(encode(name), None, "{name:?}");
        }
        let mut names = strings(&bad);
        names.push("_ok-1.example.".into());
        assert_eq!(list(&names), b"\x05_ok-1\x07example\x00");
        assert_eq!(encode(&"x".repeat(63)).map(|w| w.len()), Some(65));
    }
}
