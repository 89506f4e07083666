//! Whatever stands in a file, it is either taken or refused with a place.

use proptest::prelude::*;

use super::*;

const FILES: [&str; 3] = [
    include_str!("../../../proxy.yaml"),
    include_str!("../../../examples/twemproxy-replacement.yaml"),
    include_str!("../../../examples/unix-socket.yaml"),
];

/// What a mutation puts in: what YAML and our grammars look at.
const PIECES: [&str; 40] = [
    "", " ", "\n", "\t", ":", ": ", "- ", "#", "[", "]", "{", "}", ",", "'", "\"", "&a ", "*a",
    "<<: *a", "!x ", "|", ">", "%", "@", "~", "0", "-1", "1e999", ".nan", "0x10", "0660", "1s",
    "1MiB", "::1", "[::1]:1", "embedded", "unix:/x", "é", "\u{0}", "\u{feff}", "---\n",
];

/// Parses, and looks at everything that there is to look at.
fn digest(text: &str) -> Result<(), TestCaseError> {
    // What ends a line for YAML 1.1, whose reader this is.
    let ends = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'];
    // The end of the file counts as a line of its own.
    let lines = text.matches(ends).count() + 2;
    match Config::parse("test.yaml", text) {
        Ok(config) => {
            let settings = &config.settings;
            prop_assert_eq!(config.placements.len(), settings.pools.len());
            prop_assert_eq!(config.routes.len(), settings.listen.len());
            let _ = config.changes();
            for warning in &config.warnings {
                prop_assert!(warning.position.line <= lines);
            }
        }
        Err(Error::Invalid { problems, .. }) => {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                prop_assert!(problem.position.line <= lines);
                prop_assert!(!problem.to_string().is_empty());
            }
        }
        Err(error) => return Err(TestCaseError::fail(error.to_string())),
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_mutated_file_never_panics(
        file in prop::sample::select(&FILES[..]),
        mutations in prop::collection::vec(
            (any::<prop::sample::Index>(), 0_usize..12, prop::sample::select(&PIECES[..])), 1..6,
        ),
    ) {
        let mut chars: Vec<char> = file.chars().collect();
        for (at, remove, piece) in mutations {
            let at = at.index(chars.len() + 1);
            let end = (at + remove).min(chars.len());
            chars.splice(at..end, piece.chars());
        }
        digest(&chars.into_iter().collect::<String>())?;
    }

    #[test]
    fn lines_in_another_order_never_panic(
        file in prop::sample::select(&FILES[..]), picks in prop::collection::vec(any::<prop::sample::Index>(), 1..40),
    ) {
        let lines: Vec<&str> = file.lines().filter(|line| !line.contains('#')).collect();
        let picked: Vec<&str> = picks.iter().map(|pick| lines[pick.index(lines.len())]).collect();
        digest(&picked.join("\n"))?;
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        digest(&text)?;
    }
}
