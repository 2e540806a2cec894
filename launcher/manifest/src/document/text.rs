//! Rules for texts that KubeVirt and Kubernetes share.

/// An empty string is an absent one in KubeVirt's API (`omitempty`).
pub(crate) fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// A label of RFC 1123: up to 63 of `a-z`, `0-9` and `-`, no `-` at either end.
pub(crate) fn is_label(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

pub(crate) fn is_dns_name(text: &str) -> bool {
    // Kubernetes bounds the whole, not the parts; DNS bounds both, and the name becomes a host name.
    text.len() <= 253 && text.split('.').all(is_label)
}
