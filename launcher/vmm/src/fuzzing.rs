//! What fuzz targets and tests feed with bytes (`launcher/fuzz/`). Nothing else calls it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::api::converse;
use crate::events::{MAX_EVENT, Splitter};

/// Bytes of an error's text: the 2000 characters of a body that it quotes, and what is around them.
const MAX_TEXT: usize = 4 * 2000 + 200;

/// The event stream. How the bytes arrive does not matter, and what is held of them has a bound.
pub fn vmm_event(bytes: &[u8]) {
    let read = |size: usize| {
        let mut splitter = Splitter::default();
        let mut events = Vec::new();
        for piece in bytes.chunks(size) {
            splitter.feed(piece);
            events.extend(std::iter::from_fn(|| splitter.take()));
            assert!(splitter.held() <= MAX_EVENT.saturating_add(size));
        }
        events
    };
    let whole = read(bytes.len().max(1));
    // What is too long is an event if it comes at once, and is skipped if it comes in pieces.
    if bytes.len() <= MAX_EVENT {
        for size in [1, 7, 4096] {
            assert_eq!(read(size), whole, "in pieces of {size}");
        }
    }
}

/// All that the VMM sends in answer to one request. The request is answered or fails, and the text of the failure is one
/// line that can be logged.
pub fn vmm_reply(bytes: &[u8]) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else {
        return;
    };
    let answered = runtime.block_on(async {
        let (ours, mut theirs) = tokio::io::duplex(64 << 10);
        let bytes = bytes.to_vec();
        let vmm = tokio::spawn(async move {
            // The head of the request; it has no body.
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\n") {
                match theirs.read_u8().await {
                    Ok(byte) => seen.push(byte),
                    Err(_) => return,
                }
            }
            let _ = theirs.write_all(&bytes).await;
        });
        let answered = converse(ours, hyper::Method::GET, "vmm.ping", None).await;
        vmm.abort();
        answered
    });
    if let Err(error) = answered {
        let text = error.to_string();
        assert!(text.len() <= MAX_TEXT, "{}", text.len());
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}
