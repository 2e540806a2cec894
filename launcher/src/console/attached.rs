//! The launcher's side of one `hawser console`.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::{Console, Viewer};
use crate::control;

/// Says who types, then passes bytes both ways, until either side ends.
pub(crate) async fn serve(
    console: &Console,
    types: bool,
    mut reading: OwnedReadHalf,
    mut writing: OwnedWriteHalf,
) -> io::Result<()> {
    let mut viewer = console.attach(types);
    writing.write_all(&control::console_head(viewer.state)).await?;
    let Viewer { output, keyboard, .. } = &mut viewer;
    let shows = async {
        while let Some(bytes) = output.recv().await {
            writing.write_all(&bytes).await?;
        }
        writing.shutdown().await
    };
    let types = async {
        let mut buffer = [0; 1024];
        loop {
            let read = reading.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            // What somebody types who may not goes nowhere.
            if let Some(keyboard) = keyboard {
                let typed = buffer.get(..read).unwrap_or_default().to_vec();
                if keyboard.send(typed).await.is_err() {
                    return Ok(());
                }
            }
        }
    };
    tokio::select! {
        ended = shows => ended,
        ended = types => ended,
    }
}
