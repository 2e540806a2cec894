//! Options into the room there is: RFC 2131's three fields and RFC 3396's splitting.
//!
//! Everything goes into the options field if it fits. If not, `file` and `sname` are used as well (option 52). If
//! that is too little, the least important options are left out, one by one, in the order of [`LEAST_FIRST`],
//! until the rest fits; what a reply cannot do without is not in that list. A search list goes name by name.

use super::message::{END, MESSAGE_TYPE, OVERLOAD, SEARCH};
use crate::names;

/// The order in which options are given up: first what can be derived from others, then what the manifest adds
/// (an arbitrary amount of it), names before the boot file, and what the network needs last.
const LEAST_FIRST: [u8; 14] = [28, 59, 58, 42, 119, 12, 15, 66, 67, 108, 26, 6, 249, 3];
const LAST: u8 = 121;

const FILE: usize = 128;
const SNAME: usize = 64;

/// One option, of any length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) code: u8,
    pub(super) data: Vec<u8>,
}

impl Item {
    pub(super) fn new(code: u8, data: impl Into<Vec<u8>>) -> Self {
        Self {
            code,
            data: data.into(),
        }
    }

    /// Bytes it takes when it is written in one field.
    fn size(&self) -> usize {
        self.data.len() + 2 * self.data.len().div_ceil(255).max(1)
    }

    /// How dearly it is kept; `None` for what is never given up.
    fn importance(&self) -> Option<usize> {
        match self.code {
            // Private options: after the derivable ones, the highest code first.
            224..=254 => Some(10 + usize::from(254 - self.code)),
            LAST => Some(usize::MAX),
            code => {
                let place = LEAST_FIRST.iter().position(|listed| *listed == code)?;
                // The first three stand before all private options, the others after them.
                Some(if place < 3 { place } else { 100 + place })
            }
        }
    }
}

/// Filled fields; `file` and `sname` only where options were put there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Packed {
    pub(super) options: Vec<u8>,
    pub(super) file: Option<Vec<u8>>,
    pub(super) sname: Option<Vec<u8>>,
}

/// Packs `items`, in order, into an options field of `room` bytes. `displaced` are the options to add if the
/// header fields that would have carried them may be taken for overload. `None` if even the least does not fit.
pub(super) fn pack(mut items: Vec<Item>, displaced: Vec<Item>, room: usize) -> Option<Packed> {
    if let Some(packed) = plain(&items, room) {
        return Some(packed);
    }
    items.extend(displaced);
    loop {
        if let Some(packed) = plain(&items, room).or_else(|| overloaded(&items, room)) {
            return Some(packed);
        }
        let (least, _) = items
            .iter()
            .enumerate()
            .filter_map(|(at, item)| item.importance().map(|importance| (at, importance)))
            .min_by_key(|(_, importance)| *importance)?;
        match items.get_mut(least) {
            Some(search) if search.code == SEARCH && names::without_last(&search.data).is_some() => {
                search.data = names::without_last(&search.data).unwrap_or_default();
            }
            _ => drop(items.remove(least)),
        }
    }
}

fn plain(items: &[Item], room: usize) -> Option<Packed> {
    let total: usize = items.iter().map(Item::size).sum();
    if total + 1 > room {
        return None;
    }
    let mut options = Vec::with_capacity(total + 1);
    for item in items {
        put(&mut options, item.code, &item.data);
    }
    options.push(END);
    Some(Packed {
        options,
        ..Packed::default()
    })
}

fn put(field: &mut Vec<u8>, code: u8, data: &[u8]) {
    if data.is_empty() {
        field.extend_from_slice(&[code, 0]);
    }
    for chunk in data.chunks(255) {
        field.extend_from_slice(&[code, u8::try_from(chunk.len()).unwrap_or(u8::MAX)]);
        field.extend_from_slice(chunk);
    }
}

fn overloaded(items: &[Item], room: usize) -> Option<Packed> {
    /// Bytes of option 52 itself.
    const OWN: usize = 3;
    // One byte of each field is for its end option.
    let most = [room.checked_sub(OWN + 1)?, FILE - 1, SNAME - 1];
    let mut fields: [Vec<u8>; 3] = Default::default();
    for item in items {
        let free = |at: usize, fields: &[Vec<u8>; 3]| {
            most.get(at)
                .zip(fields.get(at))
                .map_or(0, |(most, field)| most.saturating_sub(field.len()))
        };
        // Whole into one field if possible: not every client joins split options.
        if let Some(at) = (0..fields.len()).find(|at| free(*at, &fields) >= item.size()) {
            put(fields.get_mut(at)?, item.code, &item.data);
            continue;
        }
        // What a client needs to read the rest must not be spread.
        item.importance()?;
        let mut rest = item.data.as_slice();
        for at in 0..fields.len() {
            while !rest.is_empty() && free(at, &fields) > 2 {
                let (chunk, after) = rest.split_at(rest.len().min(255).min(free(at, &fields) - 2));
                put(fields.get_mut(at)?, item.code, chunk);
                rest = after;
            }
        }
        if !rest.is_empty() {
            return None;
        }
    }
    let [mut options, file, sname] = fields;
    let used = u8::from(!file.is_empty()) | (u8::from(!sname.is_empty()) << 1);
    if used != 0 {
        // Right behind the message type, so that a reader learns of it early. The message type is always first.
        let at = if options.first() == Some(&MESSAGE_TYPE) {
            3
        } else {
            0
        };
        options.splice(at..at, [OVERLOAD, 1, used]);
    }
    options.push(END);
    let close = |mut field: Vec<u8>| {
        field.push(END);
        field
    };
    Some(Packed {
        options,
        file: Some(file).filter(|field| !field.is_empty()).map(close),
        sname: Some(sname).filter(|field| !field.is_empty()).map(close),
    })
}
