//! The command line of ketch.

mod cli;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use cli::args::{Args, Command};
use ketch::config::{self, Config};

fn main() -> ExitCode {
    ketch::net::memory::prepare();
    match execute(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told if this fails.
            let _ = writeln!(io::stderr(), "{error:#}");
            cli::exit_code(&error)
        }
    }
}

fn execute(args: Args) -> anyhow::Result<()> {
    match args.task() {
        Command::Proxy { config } => cli::proxy::run(Config::load(&config)?),
        Command::Backend(args) => cli::backend::run(&args),
        Command::Check { file } => {
            let config = Config::load(&file)?;
            print(|out| cli::check::report(&config, out))
        }
        Command::Diff { old, new } => {
            let (old, new) = (Config::load(&old)?, Config::load(&new)?);
            print(|out| cli::diff::report(&old, &new, out))
        }
        Command::Route(asked) => {
            let config = Config::load(&asked.config)?;
            let pool = cli::route::pool(&config, asked.listen.as_deref())?;
            print(|out| cli::route::explain(&config, pool, &asked, out))
        }
        Command::Schema => print(|out| {
            serde_json::to_writer_pretty(&mut *out, &config::schema())?;
            writeln!(out)
        }),
    }
}

/// Writes to standard output. A reader that has heard enough is no failure.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.context("cannot write to standard output"),
    }
}
