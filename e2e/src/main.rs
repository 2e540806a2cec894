#[cfg_attr(not(test), expect(dead_code, reason = "the command line comes next"))]
mod report;

fn main() {}
