//! The arguments of `ketch backend`: memcached's, and a few of our own.
//!
//! Which of them work, which are taken but mean nothing here and which are refused
//! is written in `docs/backend.md`; a test there compares the two.

use std::path::PathBuf;

use clap::ArgAction;
use ketch::backend::execute::VERSION;
use ketch::backend::server::Dialect;

/// Least and most bytes of an item (`-I`); memcached's bounds.
const ITEM_BYTES: std::ops::RangeInclusive<usize> = 1024..=1 << 30;

/// Most threads; as many as workers of the proxy.
const THREADS_MAX: u16 = 256;

/// Run a cache that speaks as memcached does and takes its flags.
///
/// docs/backend.md says what each of them does here.
#[derive(Debug, clap::Args)]
#[command(version = VERSION, args_override_self = true, max_term_width = 100)]
pub(crate) struct Args {
    /// TCP port; 0 for none, -1 for one that the system chooses.
    #[arg(short = 'p', long, value_name = "NUMBER", default_value_t = 11211)]
    #[arg(allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1..=65535))]
    pub(super) port: i32,

    /// UDP port; taken, but nothing listens there.
    #[arg(short = 'U', long, value_name = "NUMBER", default_value_t = 0)]
    #[arg(allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1..=65535))]
    pub(super) udp_port: i32,

    /// Path of a unix socket to listen on instead of TCP.
    #[arg(short = 's', long, value_name = "FILE")]
    pub(super) unix_socket: Option<PathBuf>,

    /// Permissions of the unix socket, in octal.
    #[arg(short = 'a', long, value_name = "MODE", default_value = "700", value_parser = octal)]
    pub(super) unix_mask: u32,

    /// Let clients end the process with `shutdown`.
    #[arg(short = 'A', long)]
    pub(super) enable_shutdown: bool,

    /// Addresses to listen on: host, host:port or proto[ascii]:tag[NAME]:host:port; * is every one.
    #[arg(short = 'l', long, value_name = "ADDRESS,...", value_delimiter = ',')]
    pub(super) listen: Vec<String>,

    /// Go on in the background.
    #[arg(short = 'd', long)]
    pub(super) daemon: bool,

    /// Let the system write core files of any size.
    #[arg(short = 'r', long)]
    pub(super) enable_coredumps: bool,

    /// Whom to become when started as root.
    #[arg(short = 'u', long, value_name = "NAME")]
    pub(super) user: Option<String>,

    /// What everything together may take up, in MiB.
    #[arg(short = 'm', long, value_name = "MIB", default_value_t = 64)]
    #[arg(allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub(super) memory_limit: u32,

    /// Refuse new items when memory is short instead of evicting others.
    #[arg(short = 'M', long)]
    pub(super) disable_evictions: bool,

    /// Most clients at a time.
    #[arg(short = 'c', long, value_name = "NUMBER", default_value_t = 1024)]
    #[arg(allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) conn_limit: u32,

    /// Keep all memory in RAM.
    #[arg(short = 'k', long)]
    pub(super) lock_memory: bool,

    /// Log more: once what is listened on, the start and the end; twice also clients that
    /// are turned away; thrice all there is.
    #[arg(short = 'v', long, action = ArgAction::Count)]
    pub(super) verbose: u8,

    /// Print the licences.
    #[arg(short = 'i', long)]
    pub(super) license: bool,

    /// A file for the number of the process.
    #[arg(short = 'P', long, value_name = "FILE")]
    pub(super) pidfile: Option<PathBuf>,

    /// Without meaning here: there are no slabs.
    #[arg(short = 'f', long, value_name = "FACTOR", default_value_t = 1.25)]
    #[arg(allow_negative_numbers = true)]
    pub(super) slab_growth_factor: f64,

    /// Without meaning here: there are no slabs.
    #[arg(short = 'n', long, value_name = "BYTES", default_value_t = 48)]
    #[arg(allow_negative_numbers = true)]
    pub(super) slab_min_size: u32,

    /// Without meaning here: huge pages are used anyway, where the system has them.
    #[arg(short = 'L', long)]
    pub(super) enable_largepages: bool,

    /// Count by prefix of key, up to this character.
    #[arg(short = 'D', value_name = "CHARACTER", value_parser = delimiter)]
    pub(super) delimiter: Option<u8>,

    /// Worker threads.
    #[arg(short = 't', long, value_name = "NUMBER", default_value_t = 4)]
    #[arg(allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=i64::from(THREADS_MAX)))]
    pub(super) threads: u16,

    /// Requests of one client before it is the turn of others; without it all that have
    /// been read at once.
    #[arg(short = 'R', long, value_name = "NUMBER")]
    #[arg(allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_reqs_per_event: Option<u32>,

    /// Items get no cas ids.
    #[arg(short = 'C', long)]
    pub(super) disable_cas: bool,

    /// Clients that wait in the kernel to be accepted.
    #[arg(short = 'b', long, value_name = "NUMBER", default_value_t = 1024)]
    #[arg(allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(0..))]
    pub(super) listen_backlog: i32,

    /// Which dialects are spoken: auto, ascii or binary.
    #[arg(short = 'B', long, value_name = "NAME", default_value = "auto", value_parser = dialect)]
    pub(super) protocol: Dialect,

    /// Largest item, in bytes, or with k or m in KiB or MiB; 1k to 1024m.
    #[arg(short = 'I', long, value_name = "SIZE", default_value = "1m", value_parser = item_size)]
    #[arg(allow_negative_numbers = true)]
    pub(super) max_item_size: usize,

    /// Refuse `flush_all`.
    #[arg(short = 'F', long)]
    pub(super) disable_flush_all: bool,

    /// Refuse to list keys.
    #[arg(short = 'X', long)]
    pub(super) disable_dumping: bool,

    /// Refuse `watch`.
    #[arg(short = 'W', long)]
    pub(super) disable_watch: bool,

    /// A file of `name:password` lines: who may use the server, over text.
    #[arg(short = 'Y', long, value_name = "FILE")]
    pub(super) auth_file: Option<PathBuf>,

    /// Refused: items do not outlive the process.
    #[arg(short = 'e', long, value_name = "FILE", hide = true)]
    pub(super) memory_file: Option<PathBuf>,

    /// Refused.
    #[arg(short = 'S', long, hide = true)]
    pub(super) enable_sasl: bool,

    /// Refused.
    #[arg(short = 'Z', long, hide = true)]
    pub(super) enable_ssl: bool,

    /// Refused.
    #[arg(short = 'N', long, value_name = "NUMBER", hide = true)]
    pub(super) napi_ids: Option<u32>,

    /// Further options of memcached, as name or name=value.
    #[arg(short = 'o', long, value_name = "OPTION,...", value_delimiter = ',')]
    pub(super) extended: Vec<String>,

    /// Where operators ask over HTTP for /metrics and /healthz.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) admin: Option<String>,

    /// Set for the process that goes on in the background.
    #[arg(long, hide = true)]
    pub(super) detached: bool,
}

fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("not the octal number of permissions, such as 700".to_owned()),
    }
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        [byte] => Ok(*byte),
        _ => Err("a delimiter is one character".to_owned()),
    }
}

fn dialect(text: &str) -> Result<Dialect, String> {
    match text {
        "auto" => Ok(Dialect::Auto),
        "ascii" => Ok(Dialect::Ascii),
        "binary" => Ok(Dialect::Binary),
        _ => Err("protocols are auto, ascii and binary".to_owned()),
    }
}

fn item_size(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.as_bytes() {
        [digits @ .., b'k' | b'K'] => (digits.len(), 1 << 10),
        [digits @ .., b'm' | b'M'] => (digits.len(), 1 << 20),
        digits => (digits.len(), 1),
    };
    let number = text.get(..digits).map(str::parse::<usize>);
    let Some(Ok(number)) = number else {
        return Err("a size is a whole number, of bytes or with k or m, such as 4m".to_owned());
    };
    number
        .checked_mul(unit)
        .filter(|size| ITEM_BYTES.contains(size))
        .ok_or_else(|| "item sizes are from 1k to 1024m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Line::try_parse_from(["backend"].into_iter().chain(line.split_whitespace()))
            .map(|line| line.args)
    }

    #[test]
    fn flags_are_read_as_getopt_reads_them() {
        let args = parse("-m64 -vvp 11311 -l a,b -l c -U 0 -U 33 -I 2m -Bascii -u root").unwrap();
        assert_eq!((args.memory_limit, args.verbose, args.port), (64, 2, 11311));
        assert_eq!(args.listen, ["a", "b", "c"]);
        assert_eq!((args.udp_port, args.max_item_size), (33, 2 << 20));
        assert_eq!(args.protocol, Dialect::Ascii);
        let args = parse("--port=-1 --memory-limit=5 --unix-socket=/x --unix-mask=777").unwrap();
        assert_eq!(
            (args.port, args.memory_limit, args.unix_mask),
            (-1, 5, 0o777)
        );
    }

    #[test]
    fn every_flag_is_documented() {
        use clap::CommandFactory;
        let page = include_str!("../../../docs/backend.md");
        let command = Line::command();
        for arg in command
            .get_arguments()
            .filter(|arg| arg.get_id() != "detached")
        {
            let name = match (arg.get_short(), arg.get_long()) {
                (Some(short), Some(long)) => format!("| `-{short}`, `--{long}` |"),
                (Some(short), None) => format!("| `-{short}` |"),
                (None, long) => format!("| `--{}` |", long.unwrap_or_default()),
            };
            assert!(page.contains(&name), "{name}");
        }
        for option in crate::cli::backend::extended::WITHOUT_EFFECT {
            assert!(page.contains(&format!("`{option}`")), "{option}");
        }
    }

    #[test]
    fn a_number_below_what_there_may_be_is_told_as_one() {
        use clap::error::ErrorKind;
        let lines = [
            "-m -1", "-t -1", "-R -3", "-b -1", "-c -5", "-n -1", "-I -1", "-p -2", "-U -2",
        ];
        for line in lines {
            let error = parse(line).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ValueValidation, "{line}: {error}");
        }
        assert_eq!(parse("-b 0").unwrap().listen_backlog, 0);
    }

    #[test]
    fn sizes_of_items_are_whole_numbers_with_or_without_a_unit() {
        assert_eq!(item_size("4K"), Ok(4096));
        assert_eq!(item_size("2048"), Ok(2048));
        for text in ["1.5m", "1G", "m", "", "-1", "1 k"] {
            assert!(
                item_size(text).unwrap_err().contains("whole number"),
                "{text}"
            );
        }
        for text in ["0", "1023", "1025m", "18446744073709551615m"] {
            assert!(
                item_size(text).unwrap_err().contains("1k to 1024m"),
                "{text}"
            );
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let lines = [
            "-c 0", "-c -1", "-t 0", "-B http", "-I 1000", "-I 2g", "-a 9", "-D ab",
        ];
        for line in lines {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
