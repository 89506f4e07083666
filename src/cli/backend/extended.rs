//! memcached's further options (`-o`).

use std::time::Duration;

use ketch::backend::watch;

use super::super::BadUsage;

/// Least and most KiB that may wait for a watcher, or on the shelf of a thread. A line is
/// shorter than one.
const LOGBUF_KIB: std::ops::RangeInclusive<usize> = 2..=1 << 20;

/// Options that steer what does not exist here, or is always so: taken without
/// effect. A value may follow each.
pub(super) const WITHOUT_EFFECT: [&str; 29] = [
    "hashpower",
    "no_hashexpand",
    "slab_reassign",
    "no_slab_reassign",
    "slab_automove",
    "no_slab_automove",
    "slab_automove_ratio",
    "slab_automove_window",
    "slab_automove_freeratio",
    "slab_sizes",
    "slab_chunk_max",
    "no_chunked_items",
    "tail_repair_time",
    "hash_algorithm",
    "lru_crawler_sleep",
    "lru_crawler_tocrawl",
    "hot_lru_pct",
    "warm_lru_pct",
    "hot_max_factor",
    "warm_max_factor",
    "temporary_ttl",
    "inline_ascii_resp",
    "no_inline_ascii_resp",
    "read_buf_mem_limit",
    "resp_obj_mem_limit",
    "no_maxconns_fast",
    "drop_privileges",
    "no_drop_privileges",
    "sock_cookie_id",
];

/// Of those, what is not worth a warning because it is as asked.
const SILENT: [&str; 3] = [
    "no_drop_privileges",
    "no_inline_ascii_resp",
    "no_slab_reassign",
];

/// What the options say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extended {
    /// `idle_timeout`.
    pub(super) idle_timeout: Duration,
    /// `lru_crawler`: whether the janitor's work is told under that name.
    pub(super) crawls: bool,
    /// `lru_maintainer`: whether the queues are told.
    pub(super) maintains: bool,
    /// `track_sizes`.
    pub(super) tracks_sizes: bool,
    /// `watcher_logbuf_size` and `worker_logbuf_size`.
    pub(super) watch_room: watch::Settings,
    /// `relaxed_privileges`, of memcached's debug build: whether clients may move
    /// the clock.
    pub(super) moves_clock: bool,
    /// Options that mean nothing here.
    pub(super) without_effect: Vec<String>,
}

impl Extended {
    /// Reads the options in their order.
    ///
    /// # Errors
    ///
    /// [`BadUsage`] if there is one that memcached does not have, that cannot be had
    /// here, or whose value makes no sense.
    pub(super) fn read<'a>(options: impl IntoIterator<Item = &'a str>) -> Result<Self, BadUsage> {
        let mut extended = Self {
            idle_timeout: Duration::ZERO,
            crawls: true,
            maintains: true,
            tracks_sizes: false,
            watch_room: watch::Settings::default(),
            moves_clock: false,
            without_effect: Vec::new(),
        };
        for option in options.into_iter().filter(|option| !option.is_empty()) {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            extended.take(name, value)?;
        }
        Ok(extended)
    }

    fn take(&mut self, name: &str, value: Option<&str>) -> Result<(), BadUsage> {
        match name {
            "maxconns_fast" | "modern" => {}
            "no_modern" => (self.crawls, self.maintains) = (false, false),
            "idle_timeout" => {
                let seconds = value.and_then(|value| value.parse().ok());
                let seconds = seconds.ok_or_else(|| bad(name, "needs a number of seconds"))?;
                self.idle_timeout = Duration::from_secs(seconds);
            }
            "lru_crawler" => self.crawls = true,
            "no_lru_crawler" => self.crawls = false,
            "lru_maintainer" => self.maintains = true,
            "no_lru_maintainer" => self.maintains = false,
            "track_sizes" => self.tracks_sizes = true,
            "watcher_logbuf_size" => self.watch_room.watcher_bytes = logbuf_bytes(name, value)?,
            "worker_logbuf_size" => self.watch_room.worker_bytes = logbuf_bytes(name, value)?,
            "relaxed_privileges" => self.moves_clock = true,
            _ if SILENT.contains(&name) => {}
            _ if WITHOUT_EFFECT.contains(&name) => self.without_effect.push(name.to_owned()),
            _ if name.starts_with("ext_") => return Err(bad(name, "there is no external storage")),
            _ if name.starts_with("ssl_") => return Err(bad(name, "there is no TLS")),
            _ if name.starts_with("proxy_") => {
                return Err(bad(
                    name,
                    "the proxy of ketch has a configuration of its own",
                ));
            }
            _ => return Err(bad(name, "memcached has no such option")),
        }
        Ok(())
    }
}

fn logbuf_bytes(name: &str, value: Option<&str>) -> Result<usize, BadUsage> {
    let kib = value.and_then(|value| value.parse().ok());
    let kib = kib.filter(|kib| LOGBUF_KIB.contains(kib));
    let kib = kib.ok_or_else(|| bad(name, "needs a number of KiB, 2 to 1048576"))?;
    Ok(kib << 10)
}

fn bad(name: &str, why: &str) -> BadUsage {
    BadUsage(format!("-o {name}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &str) -> Result<Extended, BadUsage> {
        Extended::read(options.split(','))
    }

    #[test]
    fn options_are_read_in_their_order() {
        let extended = read("no_modern,lru_crawler,idle_timeout=3,track_sizes,").unwrap();
        assert!(extended.crawls && !extended.maintains && extended.tracks_sizes);
        assert_eq!(extended.idle_timeout, Duration::from_secs(3));
        assert!(extended.without_effect.is_empty());
    }

    #[test]
    fn watchers_get_the_room_that_is_asked_for() {
        let room = read("watcher_logbuf_size=8,track_sizes")
            .unwrap()
            .watch_room;
        assert_eq!((room.watcher_bytes, room.worker_bytes), (8 << 10, 64 << 10));
        let room = read("worker_logbuf_size=1024").unwrap().watch_room;
        assert_eq!(
            (room.watcher_bytes, room.worker_bytes),
            (256 << 10, 1 << 20)
        );
    }

    #[test]
    fn what_means_nothing_here_is_told() {
        let extended = read("slab_chunk_max=16,hashpower=20,drop_privileges").unwrap();
        let told = ["slab_chunk_max", "hashpower", "drop_privileges"];
        assert_eq!(extended.without_effect, told);
    }

    /// Every option of memcached 1.6.45, however it is built.
    const ALL: &str = "maxconns_fast hashpower no_hashexpand slab_reassign slab_automove \
        slab_automove_ratio slab_automove_window tail_repair_time hash_algorithm lru_crawler \
        lru_crawler_sleep lru_crawler_tocrawl lru_maintainer hot_lru_pct warm_lru_pct \
        hot_max_factor warm_max_factor temporary_ttl idle_timeout watcher_logbuf_size \
        worker_logbuf_size slab_sizes slab_chunk_max track_sizes no_inline_ascii_resp modern \
        no_modern no_chunked_items no_slab_reassign no_slab_automove no_maxconns_fast \
        inline_ascii_resp no_lru_crawler no_lru_maintainer no_drop_privileges drop_privileges \
        resp_obj_mem_limit read_buf_mem_limit ssl_chain_cert ssl_key ssl_verify_mode \
        ssl_keyformat ssl_ciphers ssl_ca_cert ssl_wbuf_size ssl_session_cache ssl_kernel_tls \
        ssl_min_version proxy_config proxy_arg proxy_uring proxy_memprofile relaxed_privileges \
        sock_cookie_id ext_page_size ext_wbuf_size ext_threads ext_io_depth ext_path \
        ext_item_size ext_item_age ext_low_ttl ext_recache_rate ext_compact_under \
        ext_drop_under ext_max_sleep ext_max_frag ext_drop_unread slab_automove_freeratio";

    #[test]
    fn every_option_of_memcached_is_known_and_documented() {
        let page = include_str!("../../../docs/backend.md");
        for name in ALL.split_whitespace() {
            if let Err(why) = read(&format!("{name}=3")) {
                assert!(!why.0.contains("no such option"), "{why}");
                let family = name.split('_').next().unwrap();
                assert!(page.contains(&format!("`{family}_...`")), "{name}");
            } else {
                assert!(page.contains(&format!("`{name}`")), "{name}");
            }
        }
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        for option in [
            "ext_path=/x:1G",
            "ssl_key=x",
            "proxy_config=x",
            "nonsense",
            "idle_timeout",
            "watcher_logbuf_size",
            "worker_logbuf_size=0",
            "worker_logbuf_size=1048577",
        ] {
            assert!(read(option).is_err(), "{option}");
        }
    }
}
