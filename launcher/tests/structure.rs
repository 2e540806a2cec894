//! Holds the structure of the code: within a crate no modules import one another in a circle, and no file grows without end.
//!
//! A module is a file. A path that begins with `crate::`, `super::` or `self::` is an arrow to the file that it leads into. A
//! parent and its children are one house: what they have of each other is no arrow.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use petgraph::algo::tarjan_scc;
use petgraph::graph::DiGraph;
use syn::visit::{self, Visit};

/// Lines of a file before its tests.
const MAX_LINES: usize = 430;

type Module = Vec<String>;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The crates of the workspace, by their directories.
fn crates() -> Vec<PathBuf> {
    let manifest = fs::read_to_string(top().join("Cargo.toml")).unwrap();
    let members = manifest.lines().find(|line| line.starts_with("members")).unwrap();
    members
        .split('"')
        .skip(1)
        .step_by(2)
        .map(|member| top().join(member))
        .collect()
}

/// Every file of a crate that is not a test's, by its module's path.
fn modules(dir: &Path, at: &Module, found: &mut BTreeMap<Module, PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut module = at.clone();
        if path.is_dir() {
            module.push(name);
            modules(&path, &module, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            if !matches!(name.as_str(), "mod" | "lib" | "main") {
                module.push(name);
            }
            // A crate of a library and a program: both are its root.
            found.entry(module).or_insert(path);
        }
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|path| path.is_ident("test"))
    })
}

/// Collects what a file names.
#[derive(Default)]
struct Names {
    paths: Vec<Vec<String>>,
    /// Modules that are there for tests only.
    tests: Vec<String>,
}

impl Names {
    fn use_tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.use_tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.paths.push(with(&name.ident)),
            syn::UseTree::Rename(rename) => self.paths.push(with(&rename.ident)),
            syn::UseTree::Glob(_) => self.paths.push(before.to_vec()),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.use_tree(before, tree)),
        }
    }
}

impl<'a> Visit<'a> for Names {
    fn visit_item(&mut self, item: &'a syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => {
                if is_test(&item.attrs) && item.content.is_none() {
                    self.tests.push(item.ident.to_string());
                }
                &item.attrs
            }
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Const(item) => &item.attrs,
            _ => &Vec::new(),
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        self.use_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let segments = path.segments.iter().map(|segment| segment.ident.to_string());
        self.paths.push(segments.collect());
        visit::visit_path(self, path);
    }

    /// What a macro is given is no syntax yet; paths in it are found by their words.
    fn visit_macro(&mut self, call: &'a syn::Macro) {
        let text = call.tokens.to_string().replace(" :: ", "::");
        let is_word = |char: char| char.is_alphanumeric() || char == '_' || char == ':';
        for word in text.split(|char| !is_word(char)) {
            if word.starts_with("crate::") || word.starts_with("super::") {
                self.paths.push(word.split("::").map(str::to_owned).collect());
            }
        }
        visit::visit_macro(self, call);
    }
}

/// The module that a path of `from` leads into.
fn target(from: &Module, path: &[String], modules: &BTreeMap<Module, PathBuf>) -> Option<Module> {
    let mut at = match path.first()?.as_str() {
        "crate" => Vec::new(),
        "super" | "self" => from.clone(),
        _ => return None,
    };
    for name in path {
        match name.as_str() {
            "crate" | "self" => {}
            "super" => drop(at.pop()),
            name => at.push(name.to_owned()),
        }
    }
    while !modules.contains_key(&at) {
        at.pop()?;
    }
    Some(at)
}

fn circles(dir: &Path) -> Vec<Vec<String>> {
    let mut modules_found = BTreeMap::new();
    modules(&dir.join("src"), &Vec::new(), &mut modules_found);
    let mut names = BTreeMap::new();
    for (module, path) in &modules_found {
        let file = syn::parse_file(&fs::read_to_string(path).unwrap()).unwrap();
        let mut found = Names::default();
        found.visit_file(&file);
        names.insert(module.clone(), found);
    }
    let tests: Vec<Module> = names
        .iter()
        .flat_map(|(module, found)| {
            let below = |name: &String| [module.as_slice(), std::slice::from_ref(name)].concat();
            found.tests.iter().map(below)
        })
        .collect();
    names.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
    let mut graph = DiGraph::new();
    let nodes: BTreeMap<_, _> = names
        .keys()
        .map(|module| (module.clone(), graph.add_node(module.join("::"))))
        .collect();
    for (module, found) in &names {
        for path in &found.paths {
            let Some(to) = target(module, path, &modules_found) else {
                continue;
            };
            if !module.starts_with(&to)
                && !to.starts_with(module)
                && let Some(node) = nodes.get(&to)
            {
                graph.update_edge(nodes[module], *node, ());
            }
        }
    }
    tarjan_scc(&graph)
        .into_iter()
        .filter(|circle| circle.len() > 1)
        .map(|circle| circle.into_iter().map(|node| graph[node].clone()).collect())
        .collect()
}

#[test]
fn no_modules_import_one_another() {
    let all: Vec<_> = crates()
        .into_iter()
        .flat_map(|dir| circles(&dir).into_iter().map(move |circle| (dir.clone(), circle)))
        .collect();
    assert!(
        all.is_empty(),
        "modules that import one another in a circle; decide which one is not to know the other: {all:#?}"
    );
}

#[test]
fn no_file_grows_without_end() {
    let mut long = Vec::new();
    // The scenarios are as long as what they play through.
    for dir in crates().into_iter().filter(|dir| !dir.ends_with("e2e")) {
        let mut found = BTreeMap::new();
        modules(&dir.join("src"), &Vec::new(), &mut found);
        for path in found.into_values() {
            let text = fs::read_to_string(&path).unwrap();
            let lines = text
                .lines()
                .take_while(|line| line.trim() != "#[cfg(test)]")
                .count();
            if lines > MAX_LINES && !path.to_str().unwrap().contains("test") {
                long.push((path, lines));
            }
        }
    }
    assert!(long.is_empty(), "longer than {MAX_LINES} lines: {long:#?}");
}

/// A node's clock is set while guests run: no wait and no lease may depend on it. The status and the lines of the log alone say
/// when something was, and `kubectl hawser`, which runs on its user's machine, says so of a migration.
#[test]
fn the_clock_of_the_node_is_asked_to_say_when_something_was() {
    let mut found = Vec::new();
    for dir in crates().into_iter().filter(|dir| !dir.ends_with("e2e")) {
        let mut modules_found = BTreeMap::new();
        modules(&dir.join("src"), &Vec::new(), &mut modules_found);
        for path in modules_found.into_values() {
            let text = fs::read_to_string(&path).unwrap();
            let clocks = ["SystemTime::now", "CLOCK_REALTIME", "OffsetDateTime::now"];
            if clocks.iter().any(|clock| text.contains(clock)) {
                found.push(path.strip_prefix(top()).unwrap().display().to_string());
            }
        }
    }
    assert_eq!(
        found,
        [
            "launcher/src/control/board.rs",
            "launcher/src/log/json.rs",
            // A client: it shows how long the launcher's migration has taken, and when each of its own steps was.
            "launcher/kubectl/src/progress.rs",
            "launcher/kubectl/src/steps.rs",
        ]
    );
}

/// The test can fail: these import one another.
#[test]
fn a_circle_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let src = dir.path().join("src");
    fs::create_dir_all(src.join("a")).unwrap();
    let write = |name: &str, text: &str| fs::write(src.join(name), text).unwrap();
    write("lib.rs", "mod a; mod b; mod c; #[cfg(test)] mod d;");
    write("a/mod.rs", "mod inner; pub(crate) use inner::X;");
    write("a/inner.rs", "pub(crate) struct X(super::super::b::Y);");
    write(
        "b.rs",
        "pub(crate) struct Y; fn f() { println!(\"{}\", crate::c::g()); }",
    );
    write("c.rs", "pub(crate) fn g() -> u8 { 1 }");
    write("d.rs", "use crate::b::Y; use crate::a::X;");
    assert!(circles(dir.path()).is_empty());
    write(
        "c.rs",
        "pub(crate) fn g() -> u8 { drop(None::<crate::a::inner::X>); 1 }",
    );
    let mut found = circles(dir.path());
    found.iter_mut().for_each(|circle| circle.sort());
    assert_eq!(found, [["a::inner", "b", "c"]]);
}
