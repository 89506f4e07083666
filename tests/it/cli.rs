//! The program as its users call it: arguments in, text and an exit code out.

mod inspect;
mod run;

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// The program, in the root of the project.
fn ketch(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ketch"));
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(args)
        .stdin(Stdio::null());
    command
}

/// What the program says, and how it ends.
fn output(args: &[&str]) -> (i32, String, String) {
    said(&ketch(args).output().unwrap())
}

fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// A file for one test, gone with it.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, text: &str) -> Self {
        let name = format!("ketch-cli-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
