//! `/config`: the configuration in force.

use std::fmt::Write as _;

use super::state::State;
use crate::clock;

/// The text of the file that is in force, as it is. What there is to say about it
/// stands before it, in comments, so that the page can be used as a file.
pub fn render(state: &State) -> String {
    let source = state.source.load();
    let now = clock::unix_seconds();
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        page,
        "# in force: {}, read {} s ago, hash {:016x}",
        source.path.display(),
        now.saturating_sub(source.read_at),
        source.hash,
    );
    if let Some(refusal) = state.reloads.refusal() {
        let age = now.saturating_sub(refusal.at);
        let _ = writeln!(page, "# a newer file was refused {age} s ago:");
        for line in refusal.problem.lines() {
            let _ = writeln!(page, "#   {line}");
        }
    }
    page + &source.text
}
