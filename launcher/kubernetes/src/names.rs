//! Names that Kubernetes takes, made of a guest's name, which may be longer than they can be.
//!
//! Names of objects: <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>; values of labels: at most
//! 63 characters, beginning and ending with a letter or digit.

use sha2::{Digest, Sha256};

/// Name of the container that runs the guest.
pub const GUEST: &str = "guest";
/// The user and the group that KubeVirt runs guests as.
pub(crate) const GUEST_USER: u32 = 107;
/// A label's value, a volume's, a container's and a Service's name.
pub(crate) const LABEL_MAX: usize = 63;
/// Names of most objects.
pub(crate) const NAME_MAX: usize = 253;
/// Hex digits of a hash that stand for what was cut off, or for content.
const HASH_DIGITS: usize = 10;

/// `name`, or its beginning and a hash where it is longer than `max`.
pub(crate) fn bounded(name: &str, max: usize) -> String {
    if name.len() <= max {
        return name.to_owned();
    }
    let kept: String = name.chars().take(max.saturating_sub(HASH_DIGITS + 1)).collect();
    let kept = kept.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    format!("{kept}-{}", hash(name.as_bytes()))
}

/// `name-suffix`, with the name shortened where both are too long together.
pub(crate) fn with_suffix(name: &str, suffix: &str, max: usize) -> String {
    let room = max.saturating_sub(suffix.len() + 1);
    format!("{}-{suffix}", bounded(name, room))
}

/// The first hex digits of the SHA-256.
pub(crate) fn hash(content: &[u8]) -> String {
    let digest = Sha256::digest(content);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.chars().take(HASH_DIGITS).collect()
}

/// Whether it is a label of RFC 1035, as a Service's name has to be.
pub(crate) fn is_service_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=LABEL_MAX).contains(&name.len())
        && name.bytes().all(allowed)
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
}

/// A name of letters, digits and dashes for a container, of one that may have other characters.
pub(crate) fn container(prefix: &str, name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() => c,
            _ => '-',
        })
        .collect();
    if plain == name {
        return bounded(&format!("{prefix}-{name}"), LABEL_MAX);
    }
    // Two names that differ in such characters only stay different.
    with_suffix(
        &format!("{prefix}-{}", plain.trim_matches('-')),
        &hash(name.as_bytes()),
        LABEL_MAX,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_and_stay_different() {
        let one = format!("{}.a", "x".repeat(62));
        let other = format!("{}.b", "x".repeat(62));
        for name in [&one, &other] {
            assert_eq!(bounded(name, LABEL_MAX).len(), LABEL_MAX);
        }
        assert_ne!(bounded(&one, LABEL_MAX), bounded(&other, LABEL_MAX));
        let dots = format!("{}...{}", "x".repeat(50), "y".repeat(50));
        assert!(!bounded(&dots, LABEL_MAX).contains(".-"));
        assert_eq!(bounded("short", LABEL_MAX), "short");
        assert_eq!(with_suffix(&"n".repeat(300), "vmi", NAME_MAX).len(), NAME_MAX);
    }

    #[test]
    fn names_of_containers_and_services() {
        assert_eq!(container("plugin", "l2"), "plugin-l2");
        assert_ne!(container("plugin", "a_b"), container("plugin", "a.b"));
        assert!(is_service_name("web-1") && !is_service_name("1web") && !is_service_name("a.b"));
    }
}
