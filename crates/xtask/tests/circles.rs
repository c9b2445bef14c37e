//! The files of a crate form layers: no more than two of them import each other in a circle.
//!
//! Read from the sources themselves. A file imports another if a path in its code leads there, in a
//! `use` declaration or written out where it is used. A parent module counts as the file it is in,
//! both if it defines items and if it re-exports them. Code under `#[cfg(test)]` does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use lexer::{Piece, pieces};

#[path = "../src/lexer.rs"]
mod lexer;

/// The largest number of files that may import each other in a circle.
const FILES_MAX: usize = 2;

/// A module, as the names that lead to it from the root of its crate.
type Module = Vec<String>;

/// Returns the tokens without the items that are compiled only for tests.
fn without_tests(tokens: &[Piece]) -> Vec<Piece> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        let marked = tokens.len() >= index + MARK.len()
            && MARK
                .iter()
                .zip(&tokens[index..])
                .all(|(mark, token)| *mark == token.text);
        if marked {
            index = after_item(tokens, index + MARK.len());
        } else {
            kept.push(tokens[index].clone());
            index += 1;
        }
    }
    kept
}

fn after_item(tokens: &[Piece], start: usize) -> usize {
    let is_import = tokens[start..]
        .iter()
        .take_while(|token| token.text != ";" && token.text != "{")
        .any(|token| token.text == "use");
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(start) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 && !is_import {
                    return index + 1;
                }
            }
            ";" if depth == 0 => return index + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// A path in the code.
#[derive(Debug, PartialEq, Eq)]
struct Mention {
    /// The module that contains it, modules inside a file included.
    within: Module,
    path: Vec<String>,
    /// The name that a `use` declaration gives it. `None` outside of `use` declarations.
    import: Option<String>,
    line: usize,
}

/// A source file.
#[derive(Debug, Default)]
struct Source {
    mentions: Vec<Mention>,
    /// Modules that are files of their own.
    declared: Vec<Module>,
    /// Modules within this file, without the file's own.
    inline: Vec<Module>,
}

impl Source {
    fn read(module: &Module, code: &str) -> Self {
        let mut tokens = pieces(code);
        tokens.retain(|token| !token.is_comment());
        let tokens = without_tests(&tokens);
        let text = |index: usize| tokens.get(index).map_or("", |token| token.text.as_str());
        let mut source = Self::default();
        let mut within = module.clone();
        let mut ends = Vec::new();
        let (mut depth, mut index) = (0, 0);
        while index < tokens.len() {
            let line = tokens[index].line;
            match text(index) {
                "mod" if text(index + 2) == ";" => {
                    source.declared.push(joined(&within, text(index + 1)));
                    index += 3;
                }
                "mod" if text(index + 2) == "{" => {
                    within.push(text(index + 1).to_owned());
                    source.inline.push(within.clone());
                    depth += 1;
                    ends.push(depth);
                    index += 3;
                }
                "{" => {
                    depth += 1;
                    index += 1;
                }
                "}" => {
                    if ends.last() == Some(&depth) {
                        ends.pop();
                        within.pop();
                    }
                    depth -= 1;
                    index += 1;
                }
                // `use<'a>` in a return type is not an import.
                "use" if text(index + 1) != "<" => {
                    let end = (index..tokens.len()).find(|&end| text(end) == ";");
                    let end = end.unwrap_or(tokens.len());
                    for (path, name) in imports(&tokens[index + 1..end]) {
                        source.mentions.push(Mention {
                            within: within.clone(),
                            path,
                            import: Some(name),
                            line,
                        });
                    }
                    index = end + 1;
                }
                name if is_name(name) => {
                    let mut path = vec![name.to_owned()];
                    // `$crate` is the crate of the macro, but its path is missing at the call.
                    // `pub(in super::super)` is a visibility and not an import.
                    let before = |distance| index.checked_sub(distance).map_or("", text);
                    let is_visibility = [before(3), before(2), before(1)] == ["pub", "(", "in"];
                    let begins = !is_visibility && !matches!(before(1), "::" | "." | "$" | "'");
                    index += 1;
                    while text(index) == "::" && is_name(text(index + 1)) {
                        path.push(text(index + 1).to_owned());
                        index += 2;
                    }
                    if begins && path.len() > 1 {
                        source.mentions.push(Mention {
                            within: within.clone(),
                            path,
                            import: None,
                            line,
                        });
                    }
                }
                _ => index += 1,
            }
        }
        source
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

fn joined(module: &[String], name: &str) -> Module {
    let mut module = module.to_vec();
    module.push(name.to_owned());
    module
}

/// Returns all paths of a `use` declaration, each with the name it is given.
fn imports(tree: &[Piece]) -> Vec<(Vec<String>, String)> {
    let mut path: Vec<String> = Vec::new();
    let mut index = 0;
    while index < tree.len() {
        match tree[index].text.as_str() {
            "::" => {}
            "*" => return vec![(path, "*".to_owned())],
            "as" => {
                let name = tree.get(index + 1).map_or("_", |token| &token.text);
                return vec![(path, name.to_owned())];
            }
            "{" => {
                return branches(&tree[index + 1..tree.len() - 1])
                    .into_iter()
                    .flat_map(imports)
                    .map(|(mut rest, name)| {
                        // `a::{self}` is `a`, but `{self::a}` starts at the current module.
                        if rest == ["self"] && !path.is_empty() {
                            rest.clear();
                        }
                        let mut path = path.clone();
                        path.append(&mut rest);
                        let own = path.last().cloned().unwrap_or_default();
                        (path, if name == "self" { own } else { name })
                    })
                    .collect();
            }
            name => path.push(name.to_owned()),
        }
        index += 1;
    }
    let name = path.last().cloned();
    name.map(|name| (path, name)).into_iter().collect()
}

/// Returns the parts of a group between its commas.
fn branches(group: &[Piece]) -> Vec<&[Piece]> {
    let mut depth = 0;
    group
        .split(|token| {
            match token.text.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            depth == 0 && token.text == ","
        })
        .filter(|branch| !branch.is_empty())
        .collect()
}

/// The files of a crate, and for each the files that it imports, with the import.
type Graph = BTreeMap<String, BTreeMap<String, String>>;

/// Reads a crate from the file at its root.
fn read_crate(root: &Path) -> Graph {
    let folder = root.parent().expect("a file is in a folder");
    let mut sources: BTreeMap<String, (Module, Source)> = BTreeMap::new();
    let mut files: BTreeMap<Module, String> = BTreeMap::new();
    let mut left: Vec<(Module, PathBuf)> = vec![(Module::new(), root.to_owned())];
    while let Some((module, path)) = left.pop() {
        let code = fs::read_to_string(&path).expect("a declared module has a file");
        let source = Source::read(&module, &code);
        let name = path
            .strip_prefix(folder)
            .expect("a module is in the folder");
        let name = name.display().to_string();
        for child in &source.declared {
            let stem = folder.join(child.iter().collect::<PathBuf>());
            let (file, parent) = (stem.with_extension("rs"), stem.join("mod.rs"));
            left.push((child.clone(), if file.exists() { file } else { parent }));
        }
        for module in source.inline.iter().chain([&module]) {
            files.insert(module.clone(), name.clone());
        }
        sources.insert(name, (module, source));
    }
    graph(&sources, &files)
}

fn graph(sources: &BTreeMap<String, (Module, Source)>, files: &BTreeMap<Module, String>) -> Graph {
    let mut graph = Graph::new();
    for (name, (_, source)) in sources {
        let no_names = BTreeMap::new();
        let names: BTreeMap<&str, Module> = source
            .mentions
            .iter()
            .filter_map(|mention| {
                let given = mention.import.as_deref()?;
                let (module, rest) = resolve(&mention.path, &mention.within, &no_names, files)?;
                rest.is_empty().then_some((given, module))
            })
            .collect();
        let uses = graph.entry(name.clone()).or_default();
        for mention in &source.mentions {
            let Some((module, _)) = resolve(&mention.path, &mention.within, &names, files) else {
                continue;
            };
            let file = &files[&module];
            if file != name {
                let why = format!("line {}: {}", mention.line, mention.path.join("::"));
                uses.entry(file.clone()).or_insert(why);
            }
        }
    }
    graph
}

/// Returns the innermost module on a path, and the rest of the path. `None` if it leads out of the
/// crate.
fn resolve<'a>(
    path: &'a [String],
    within: &Module,
    names: &BTreeMap<&str, Module>,
    files: &BTreeMap<Module, String>,
) -> Option<(Module, &'a [String])> {
    let (first, mut rest) = path.split_first()?;
    let mut module = match first.as_str() {
        "crate" => Module::new(),
        "self" => within.clone(),
        "super" => {
            let mut module = within.clone();
            module.pop()?;
            while let [next, others @ ..] = rest
                && next == "super"
            {
                module.pop()?;
                rest = others;
            }
            module
        }
        name => {
            let child = joined(within, name);
            if files.contains_key(&child) {
                child
            } else {
                names.get(name)?.clone()
            }
        }
    };
    while let [next, others @ ..] = rest {
        let child = joined(&module, next);
        if !files.contains_key(&child) {
            break;
        }
        (module, rest) = (child, others);
    }
    Some((module, rest))
}

fn reached(graph: &Graph, start: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![start];
    while let Some(name) = left.pop() {
        for next in graph.get(name).into_iter().flat_map(BTreeMap::keys) {
            if found.insert(next.clone()) {
                left.push(next);
            }
        }
    }
    found
}

/// Returns the sets of files in which each file imports each other one, directly or indirectly.
fn circles(graph: &Graph) -> BTreeSet<BTreeSet<String>> {
    let reached: BTreeMap<&str, BTreeSet<String>> = graph
        .keys()
        .map(|name| (name.as_str(), reached(graph, name)))
        .collect();
    let circle = |name: &str| {
        let mut circle = reached[name].clone();
        circle.retain(|other| reached[other.as_str()].contains(name));
        circle
    };
    let mut circles: BTreeSet<_> = graph.keys().map(|name| circle(name)).collect();
    circles.retain(|circle| circle.len() > FILES_MAX);
    circles
}

/// Describes a circle with the imports that form it.
fn described(graph: &Graph, circle: &BTreeSet<String>) -> String {
    let imports = circle.iter().flat_map(|name| {
        let others = graph[name].iter();
        let inside = others.filter(|(other, _)| circle.contains(*other));
        inside.map(move |(other, why)| format!("  {name} imports {other} ({why})\n"))
    });
    let imports: String = imports.collect();
    format!("{} files in a circle:\n{imports}", circle.len())
}

fn roots() -> Vec<PathBuf> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut roots = Vec::new();
    for entry in fs::read_dir(crates).expect("the folder can be read") {
        let sources = entry.expect("the folder can be read").path().join("src");
        roots.extend(["lib.rs", "main.rs"].map(|name| sources.join(name)));
    }
    roots.retain(|root| root.exists());
    roots.sort();
    roots
}

#[test]
fn no_more_than_two_files_of_a_crate_import_each_other() {
    let mut found = Vec::new();
    let (mut files, mut uses) = (0, 0);
    for root in roots() {
        let graph = read_crate(&root);
        files += graph.len();
        uses += graph.values().map(BTreeMap::len).sum::<usize>();
        for circle in circles(&graph) {
            let circle = described(&graph, &circle);
            found.push(format!("{}: {circle}", root.display()));
        }
    }
    assert!(
        files > 100 && uses > files,
        "{files} files with {uses} imports are not all of the sources"
    );
    assert!(found.is_empty(), "{}", found.concat());
}

fn paths_of(code: &str) -> Vec<String> {
    let source = Source::read(&vec!["here".to_owned()], code);
    let paths = source.mentions.iter();
    paths
        .map(|mention| format!("{} {}", mention.within.join("::"), mention.path.join("::")))
        .collect()
}

#[test]
fn every_path_of_a_nested_group_is_read() {
    let paths = paths_of("pub(crate) use crate::{a::{self, B as C}, d::*, super::e,};");
    let expected = ["crate::a", "crate::a::B", "crate::d", "crate::super::e"];
    assert_eq!(paths, expected.map(|path| format!("here {path}")));
}

#[test]
fn paths_in_code_are_read_and_those_in_text_and_tests_are_not() {
    let code = r##"
        // crate::comment::X
        /* crate::block /* crate::nested */ */
        fn f<'a>(x: &'a str) -> char { crate::code::f('"', '\'', "crate::text", r#"crate::"raw"#); 'x' }
        #[cfg(test)]
        use crate::{test::X};
        #[cfg(test)]
        fn only() { crate::test::f(); }
        mod inner { fn g() { super::g(); } }
        pub(in super::super) struct Seen;
        macro_rules! m { () => { $crate::called::X } }
        #[cfg(test)]
        mod tests { use super::*; }
        fn each() { for one in crate::all() {} }
        fn last() -> impl Sized + use<> { self::last() }
    "##;
    let expected = [
        "here crate::code::f",
        "here::inner super::g",
        "here crate::all",
        "here self::last",
    ];
    assert_eq!(paths_of(code), expected);
}

fn graph_of(sources: &[(&str, &[&str], &str)]) -> Graph {
    let read = |(file, module, code): &(&str, &[&str], &str)| {
        let module: Module = module.iter().map(|&name| name.to_owned()).collect();
        let source = Source::read(&module, code);
        ((*file).to_owned(), (module, source))
    };
    let sources: BTreeMap<_, _> = sources.iter().map(read).collect();
    let files = sources
        .iter()
        .map(|(file, (module, _))| (module.clone(), file.clone()))
        .collect();
    graph(&sources, &files)
}

#[test]
fn circle_of_three_files_is_found_and_one_of_two_is_not() {
    let three = graph_of(&[
        ("lib.rs", &[], "mod a; mod b; mod c; pub use a::A;"),
        ("a.rs", &["a"], "use crate::b::B;"),
        ("b.rs", &["b"], "use super::c; fn f() { c::f(); }"),
        ("c.rs", &["c"], "fn f() { crate::a::f(); }"),
    ]);
    let found = circles(&three);
    assert_eq!(found.len(), 1);
    let circle = found.first().unwrap();
    let expected = "3 files in a circle:\n  a.rs imports b.rs (line 1: crate::b::B)\n  \
        b.rs imports c.rs (line 1: super::c)\n  c.rs imports a.rs (line 1: crate::a::f)\n";
    assert_eq!(described(&three, circle), expected);

    let two = graph_of(&[
        ("lib.rs", &[], "mod a; mod b; pub use a::A;"),
        ("a.rs", &["a"], "use crate::b::B;"),
        ("b.rs", &["b"], "use crate::a::A;"),
    ]);
    assert!(circles(&two).is_empty());
}

#[test]
fn parent_that_re_exports_is_a_file_like_any_other() {
    let graph = graph_of(&[
        ("lib.rs", &[], "mod p;"),
        (
            "p/mod.rs",
            &["p"],
            "mod a; mod b; pub use a::A; pub use b::B;",
        ),
        ("p/a.rs", &["p", "a"], "use super::B;"),
        ("p/b.rs", &["p", "b"], "use super::A;"),
    ]);
    assert_eq!(circles(&graph).first().map(BTreeSet::len), Some(3));
}
