//! The arguments.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// The configuration is wrong or cannot be read.
pub(super) const BAD_CONFIGURATION: u8 = 1;
/// The arguments are wrong; clap's own code.
pub(super) const BAD_USAGE: u8 = 2;
/// An address cannot be listened on.
pub(super) const CANNOT_LISTEN: u8 = 3;
/// The system refuses something else.
pub(super) const OTHER: u8 = 4;

/// The file that is read if none is named.
const FILE: &str = "proxy.yaml";

const EXIT_CODES: &str = "Exit codes: 0 done, 1 bad configuration, 2 bad usage, \
                          3 cannot listen on an address, 4 anything else.";

/// A memcached proxy: routing, pooling, and a bundled cache.
///
/// Without a command it runs the proxy.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// The configuration.
    #[arg(short, long, value_name = "FILE", default_value = FILE)]
    config: PathBuf,
}

impl Args {
    /// What to do.
    pub(crate) fn task(self) -> Command {
        let config = self.config;
        self.command.unwrap_or(Command::Proxy { config })
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the proxy.
    Proxy {
        /// The configuration.
        #[arg(short, long, value_name = "FILE", default_value = FILE)]
        config: PathBuf,
    },
    /// Run a cache that speaks as memcached does and takes its flags.
    Backend(Box<super::backend::Args>),
    /// Check a configuration and say what it would do, without doing it.
    Check {
        /// The configuration.
        #[arg(value_name = "FILE", default_value = FILE)]
        file: PathBuf,
    },
    /// Say what would change, and how many keys would move, if one configuration
    /// took the place of another.
    Diff {
        /// The configuration before.
        #[arg(value_name = "OLD")]
        old: PathBuf,
        /// The configuration after.
        #[arg(value_name = "NEW")]
        new: PathBuf,
    },
    /// Say which server holds a key, and why.
    Route(Route),
    /// Print the JSON schema of the configuration.
    Schema,
}

/// Which keys are asked about.
#[derive(Debug, clap::Args)]
pub(crate) struct Route {
    /// The configuration.
    #[arg(short, long, value_name = "FILE", default_value = FILE)]
    pub(crate) config: PathBuf,

    /// The listener that the keys come in at, by its address; needed if
    /// listeners lead to different pools.
    #[arg(short, long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,

    /// Read keys from standard input, one in a line.
    #[arg(long)]
    pub(crate) stdin: bool,

    /// The keys.
    #[arg(value_name = "KEY", required_unless_present = "stdin")]
    pub(crate) keys: Vec<OsString>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(args: &[&str]) -> Command {
        let args = ["ketch"].iter().chain(args);
        Args::try_parse_from(args).unwrap().task()
    }

    #[test]
    fn the_arguments_make_sense_to_clap() {
        Args::command().debug_assert();
    }

    #[test]
    fn without_a_command_the_proxy_runs() {
        for args in [&["-c", "a.yaml"][..], &["proxy", "--config", "a.yaml"]] {
            let Command::Proxy { config } = parse(args) else {
                panic!("{args:?}");
            };
            assert_eq!(config, PathBuf::from("a.yaml"));
        }
        let Command::Proxy { config } = parse(&[]) else {
            panic!("another command");
        };
        assert_eq!(config, PathBuf::from("proxy.yaml"));
    }

    #[test]
    fn a_route_is_asked_for_keys_or_standard_input() {
        assert!(Args::try_parse_from(["ketch", "route"]).is_err());
        assert!(matches!(parse(&["route", "--stdin"]), Command::Route(_)));
        let Command::Route(route) = parse(&["route", "-c", "a", "-l", "b", "one", "two"]) else {
            panic!("another command");
        };
        assert_eq!(route.keys.len(), 2);
    }
}
