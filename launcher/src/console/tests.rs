use std::io::Read;

use super::*;

fn text(viewer: &mut Viewer) -> String {
    let mut all = Vec::new();
    while let Ok(bytes) = viewer.output.try_recv() {
        all.extend(bytes);
    }
    String::from_utf8(all).unwrap()
}

#[test]
fn whoever_attaches_sees_what_was_printed_before_and_since() {
    let console = Console::default();
    console.print(b"boot\r\n");
    let mut viewer = console.attach(true);
    console.print(b"login: ");
    assert_eq!(text(&mut viewer), "boot\r\nlogin: ");
    assert_eq!(viewer.state, Keyboard::Lacking);
    console.close();
    assert!(viewer.output.try_recv().is_err() && viewer.output.is_closed());
    assert_eq!(text(&mut console.attach(false)), "boot\r\nlogin: ");
}

#[test]
fn the_scrollback_is_bounded_and_has_the_end() {
    let console = Console::default();
    console.print(&vec![b'a'; SCROLLBACK]);
    console.print(b"end");
    let shown = text(&mut console.attach(false));
    assert_eq!(shown.len(), SCROLLBACK);
    assert!(shown.ends_with("aend"));
}

#[test]
fn whoever_does_not_read_is_detached_and_holds_nobody_up() {
    let console = Console::default();
    let (idle, mut reader) = (console.attach(false), console.attach(false));
    text(&mut reader);
    for _ in 0..2 * MAX_WAITING {
        console.print(b"x");
        assert_eq!(text(&mut reader), "x");
    }
    assert_eq!(console.lock().viewers.len(), 1);
    drop(idle);
    drop(reader);
    assert!(console.lock().viewers.is_empty());
}

#[test]
fn one_types_until_it_detaches() {
    let pty = hawser_linux::pty::raw().unwrap();
    let console = Console::new(Some(pty.other));
    let first = console.attach(true);
    assert_eq!(first.state, Keyboard::Yours);
    assert_eq!(console.attach(true).state, Keyboard::Taken);
    assert_eq!(console.attach(false).state, Keyboard::NotWanted);
    let keyboard = first.keyboard.clone().unwrap();
    keyboard.blocking_send(b"root\r".to_vec()).unwrap();
    let mut read = [0; 5];
    File::from(pty.terminal).read_exact(&mut read).unwrap();
    assert_eq!(&read, b"root\r");
    drop(first);
    assert_eq!(console.attach(true).state, Keyboard::Yours);
}
