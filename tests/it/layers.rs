//! The direction of imports: a module knows those below it and no others.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules of each layer, the lowest first. Those of a layer do not know each
/// other.
const LAYERS: [&[&str]; 6] = [
    &["clock", "log", "stats", "usage"],
    &["protocol"],
    &["net"],
    &["pool", "router"],
    &["proxy", "backend"],
    &["admin", "config"],
];

/// Modules that know nothing of the outside: no I/O, no clock.
const PURE: [&str; 2] = ["protocol", "router"];

fn layer(module: &str) -> usize {
    LAYERS
        .iter()
        .position(|layer| layer.contains(&module))
        .unwrap_or_else(|| unreachable!("{module} has no layer: add it to LAYERS"))
}

/// All Rust files below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// The modules that a file names as `crate::module`.
fn imports(text: &str) -> Vec<String> {
    text.match_indices("crate::")
        .map(|(at, prefix)| {
            let rest = &text[at + prefix.len()..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            rest[..end.unwrap_or(rest.len())].to_owned()
        })
        .filter(|module| LAYERS.iter().any(|layer| layer.contains(&module.as_str())))
        .collect()
}

#[test]
fn imports_point_downwards() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&source, &mut found);
    let mut wrong = Vec::new();
    for path in found {
        let inner = path.strip_prefix(&source).unwrap();
        let first = inner.components().next().unwrap().as_os_str();
        let module = Path::new(first).file_stem().unwrap().to_str().unwrap();
        if ["main", "lib", "cli"].contains(&module) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for imported in imports(&text) {
            let downwards = layer(&imported) < layer(module);
            let pure = !PURE.contains(&module) || imported == "protocol";
            if imported != module && !(downwards && pure) {
                wrong.push(format!("{}: crate::{imported}", inner.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn imports_are_found_wherever_they_stand() {
    let text = "use crate::net::inbox;\nfn f() { crate::pool::g(); }\nuse crate::admin;";
    assert_eq!(imports(text), ["net", "pool", "admin"]);
}
