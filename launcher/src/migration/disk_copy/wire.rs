//! What goes over the disks' connection: blocks, and after each round a question whether all of them are written.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes of a block; the last one of a disk may be shorter.
pub(super) const BLOCK: usize = 64 << 10;
/// Of the target's reason, in bytes.
const MAX_WHY: u16 = 2000;

const DATA: u8 = 1;
const ZERO: u8 = 2;
const ROUND: u8 = 3;
const LAST: u8 = 4;

/// Source to target.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// The disks by their place among those that are copied.
    Data { disk: u16, at: u64, bytes: Vec<u8> },
    /// So many bytes are zero.
    Zero { disk: u16, at: u64, length: u32 },
    /// A round has ended: the target answers once all that came before is written.
    End { last: bool },
}

pub(super) async fn write(to: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> io::Result<()> {
    let (kind, disk, at, length, bytes): (u8, u16, u64, u32, &[u8]) = match frame {
        Frame::Data { disk, at, bytes } => {
            let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
            (DATA, *disk, *at, length, bytes)
        }
        Frame::Zero { disk, at, length } => (ZERO, *disk, *at, *length, &[]),
        Frame::End { last: false } => (ROUND, 0, 0, 0, &[]),
        Frame::End { last: true } => (LAST, 0, 0, 0, &[]),
    };
    let mut head = vec![kind];
    head.extend(disk.to_be_bytes());
    head.extend(at.to_be_bytes());
    head.extend(length.to_be_bytes());
    to.write_all(&head).await?;
    to.write_all(bytes).await
}

/// Not cancel-safe.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
    let kind = from.read_u8().await?;
    let disk = from.read_u16().await?;
    let at = from.read_u64().await?;
    let length = from.read_u32().await?;
    let size = usize::try_from(length).unwrap_or(usize::MAX);
    if size > BLOCK {
        return Err(invalid(format!(
            "a block of {size} bytes, at most {BLOCK} are taken"
        )));
    }
    match kind {
        DATA => {
            let mut bytes = vec![0; size];
            from.read_exact(&mut bytes).await?;
            Ok(Frame::Data { disk, at, bytes })
        }
        ZERO => Ok(Frame::Zero { disk, at, length }),
        ROUND => Ok(Frame::End { last: false }),
        LAST => Ok(Frame::End { last: true }),
        other => Err(invalid(format!("frame {other} is not known"))),
    }
}

/// Target to source: all of it is written, or why not.
pub(super) async fn answer(to: &mut (impl AsyncWrite + Unpin), why: Result<(), &str>) -> io::Result<()> {
    let text = why.err().unwrap_or_default().as_bytes();
    let length = u16::try_from(text.len()).unwrap_or(MAX_WHY).min(MAX_WHY);
    let text = text.get(..length.into()).unwrap_or_default();
    to.write_u8(u8::from(why.is_err())).await?;
    to.write_u16(length).await?;
    to.write_all(text).await?;
    to.flush().await
}

/// Not cancel-safe.
pub(super) async fn answered(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Result<(), String>> {
    let failed = from.read_u8().await?;
    let length = from.read_u16().await?;
    let mut text = vec![0; length.into()];
    from.read_exact(&mut text).await?;
    Ok(match failed {
        0 => Ok(()),
        _ => Err(String::from_utf8_lossy(&text).into_owned()),
    })
}

pub(super) fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
