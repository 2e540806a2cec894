//! A Markdown page, as far as these pages use Markdown.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) struct Page {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl Page {
    pub(crate) fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { path, text }
    }

    /// The lines outside code blocks, and those within.
    fn split(&self) -> (Vec<&str>, Vec<&str>) {
        let (mut prose, mut code) = (Vec::new(), Vec::new());
        let mut fenced = false;
        let mut item = false;
        for line in self.text.lines() {
            if line.starts_with("```") {
                fenced = !fenced;
                continue;
            }
            // A list item's text is indented too, but not by four blanks after an empty line.
            if line.starts_with("- ")
                || line
                    .split_once(". ")
                    .is_some_and(|(number, _)| number.parse::<u8>().is_ok())
            {
                item = true;
            } else if line.is_empty() || !line.starts_with(' ') {
                item = false;
            }
            if fenced || (line.starts_with("    ") && !item) {
                code.push(line);
            } else {
                prose.push(line);
            }
        }
        (prose, code)
    }

    /// Everything but code blocks, on one line.
    pub(crate) fn prose(&self) -> String {
        self.split().0.join(" ")
    }

    /// Inline code.
    pub(crate) fn spans(&self) -> Vec<String> {
        let prose = self.prose();
        prose.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    /// Everything but code.
    pub(crate) fn words(&self) -> String {
        self.prose().split('`').step_by(2).collect()
    }

    /// Targets of links.
    pub(crate) fn links(&self) -> Vec<String> {
        let text = self.words();
        let mut links = Vec::new();
        for (at, mark) in text.match_indices("](") {
            links.extend(text[at + mark.len()..].split(')').next().map(str::to_owned));
        }
        links
    }

    /// What GitHub makes of the headings.
    pub(crate) fn anchors(&self) -> BTreeSet<String> {
        let headings = self.split().0.into_iter().filter(|line| line.starts_with('#'));
        let slug = |heading: &str| {
            let text = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = text
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        };
        headings.map(slug).collect()
    }

    /// Lines of code blocks, continued ones joined and without comments, then inline code.
    pub(crate) fn code(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut whole = String::new();
        for line in self.split().1 {
            // What stands behind two blanks explains the line.
            let line = line.trim().split("  ").next().unwrap_or_default();
            match line.strip_suffix('\\') {
                Some(begun) => whole.push_str(begun),
                None => {
                    whole.push_str(line);
                    lines.push(std::mem::take(&mut whole));
                }
            }
        }
        lines.extend(self.spans());
        lines
    }

    /// Each `hawser VERB …` of the code, as a shell would be given it.
    pub(crate) fn invocations(&self) -> Vec<String> {
        let mut found = Vec::new();
        for line in self.code() {
            // Drawings have names in them, not command lines; and to cargo hawser is a package.
            // `kubectl hawser` is another program, whose own tests parse its lines.
            if line.starts_with("cargo ")
                || line.contains("kubectl hawser ")
                || line.chars().any(|c| ('\u{2500}'..='\u{25ff}').contains(&c))
            {
                continue;
            }
            let mut words = line
                .split_whitespace()
                .skip_while(|word| *word != "hawser")
                .peekable();
            let Some(program) = words.next() else { continue };
            let is_verb = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase());
            let Some(verb) = words.next_if(is_verb) else {
                continue;
            };
            let mut call = vec![program.to_owned(), verb.to_owned()];
            // What comes behind a pipe is another program's, and behind a redirection the shell's.
            for word in words.take_while(|word| !["|", "<", ">"].contains(word)) {
                let word = word.trim_matches(['[', ']']);
                // The end of a quotation that began before it: a command line in another one's option.
                if let Some(last) = word.strip_suffix('\'')
                    && !call.iter().any(|word| word.contains('\''))
                    && !last.contains('\'')
                {
                    call.push(last.to_owned());
                    break;
                }
                call.push(word.split('|').next().unwrap_or_default().to_owned());
            }
            found.push(call.join(" "));
        }
        found
    }

    /// The rows of the first table below the heading whose first line begins so.
    pub(crate) fn table(&self, heading: &str, head: &str) -> Vec<Vec<String>> {
        let lines = self.text.lines().skip_while(|line| !line.starts_with(heading));
        let rows = lines.skip_while(|line| !line.starts_with(head)).skip(2);
        let rows: Vec<Vec<String>> = rows
            .take_while(|line| line.starts_with('|'))
            .map(|line| {
                line.trim_matches('|')
                    .split('|')
                    .map(|cell| cell.trim().to_owned())
                    .collect()
            })
            .collect();
        assert!(!rows.is_empty(), "{self}: no table {head} below {heading}");
        rows
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.strip_prefix(repository()).unwrap_or(&self.path);
        path.display().fmt(f)
    }
}

pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"))
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                walk(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

/// The Rust files, but for this test.
pub(crate) fn sources(repository: &Path) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    walk(repository, &mut files);
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files.retain(|path| !path.ends_with("launcher/tests/docs.rs"));
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap_or_default();
        (path, text)
    };
    files.into_iter().map(read).collect()
}

pub(crate) fn packages(repository: &Path) -> Vec<String> {
    let mut files = Vec::new();
    walk(repository, &mut files);
    files.retain(|path| path.file_name().is_some_and(|name| name == "Cargo.toml"));
    let name = |path: PathBuf| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("name = \""))?;
        Some(line.trim_end_matches('"').to_owned())
    };
    files.into_iter().filter_map(name).collect()
}
