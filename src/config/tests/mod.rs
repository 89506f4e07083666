//! Tests of whole files.

mod build;
mod diff;
mod faults;
mod files;
mod keys;
mod mutations;
mod values;

use super::{Config, Error, Settings};

/// The configuration that `yaml` is.
fn good(yaml: &str) -> Config {
    match Config::parse("test.yaml", yaml) {
        Ok(config) => config,
        Err(error) => panic!("{error}\n{yaml}"),
    }
}

fn settings(yaml: &str) -> Settings {
    good(yaml).settings
}

/// What is told of a file that is wrong, one line each.
fn told(yaml: &str) -> Vec<String> {
    match Config::parse("test.yaml", yaml) {
        Ok(config) => panic!("nothing is wrong: {:?}\n{yaml}", config.settings),
        Err(error @ Error::Invalid { .. }) => {
            error.to_string().lines().map(str::to_owned).collect()
        }
        Err(error) => panic!("{error}"),
    }
}

/// What is warned of, one line each.
fn warned(yaml: &str) -> Vec<String> {
    let warnings = good(yaml).warnings;
    warnings.iter().map(ToString::to_string).collect()
}

/// A pool with this one line beside its servers.
fn in_pool(line: &str) -> String {
    format!("pools:\n  main:\n    servers: [192.0.2.1:11211, 192.0.2.2:11211]\n    {line}\n")
}

/// Checks that `yaml` is wrong in one way only.
#[track_caller]
fn assert_told(yaml: &str, expected: &str) {
    assert_eq!(told(yaml), [format!("test.yaml:{expected}")], "{yaml}");
}

/// The same for a line of a pool, which begins at the fifth column.
#[track_caller]
fn assert_told_in_pool(line: &str, expected: &str) {
    assert_told(&in_pool(line), expected);
}
