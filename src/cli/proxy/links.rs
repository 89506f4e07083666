//! The names on the way to a file: what has to change for the file to change.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// Symbolic links that are followed, as many as Linux follows.
const LINKS_MAX: usize = 40;

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// The directory, free of symbolic links.
    pub(super) directory: PathBuf,
    /// The name in it.
    pub(super) name: OsString,
}

/// Every name whose replacement replaces the file at `path`: its own, and those
/// of the symbolic links on the way to it, in directories too. What is not there
/// is named as far as the way goes.
pub(super) fn names_to(path: &Path) -> Vec<Name> {
    let Ok(path) = std::path::absolute(path) else {
        return Vec::new();
    };
    let mut left: VecDeque<OsString> = parts(&path);
    let mut at = PathBuf::from("/");
    let mut names = Vec::new();
    let mut links = 0;
    while let Some(part) = left.pop_front() {
        if part == ".." {
            at.pop();
            continue;
        }
        let here = at.join(&part);
        let name = Name {
            directory: at.clone(),
            name: part,
        };
        match std::fs::read_link(&here) {
            Ok(target) if links < LINKS_MAX => {
                links += 1;
                names.push(name);
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                for part in parts(&target).into_iter().rev() {
                    left.push_front(part);
                }
            }
            _ if left.is_empty() => names.push(name),
            _ => at = here,
        }
    }
    names
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(part) => Some(part.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn all_links_on_the_way_are_named() {
        let root = std::env::temp_dir().join(format!("ketch-links-{}", std::process::id()));
        let data = root.join("..2026");
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("proxy.yaml"), "").unwrap();
        symlink("..2026", root.join("..data")).unwrap();
        symlink("..data/proxy.yaml", root.join("proxy.yaml")).unwrap();
        let real = fs::canonicalize(&root).unwrap();
        let names: Vec<_> = names_to(&root.join("proxy.yaml"))
            .into_iter()
            .filter(|name| name.directory.starts_with(&real))
            .map(|name| name.directory.join(name.name))
            .collect();
        let expected = ["proxy.yaml", "..data", "..2026/proxy.yaml"].map(|name| real.join(name));
        assert_eq!(names, expected);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_circle_of_links_ends() {
        let root = std::env::temp_dir().join(format!("ketch-circle-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        assert!(names_to(&root.join("a")).len() <= LINKS_MAX + 1);
        fs::remove_dir_all(&root).unwrap();
    }
}
