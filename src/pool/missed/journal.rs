//! What is remembered, on disk: so that a proxy that was killed forgets nothing.
//!
//! Each process has a file of its own for each server, locked for as long as it
//! lives. Records are appended, each with a checksum; when nothing is remembered
//! any more the file is cut down to its header, and when most of it is out of
//! date it is written anew beside and renamed. Whoever starts reads the files of
//! all processes for its server, and removes those whose process has ended.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

/// How a file begins.
const HEADER: &[u8] = b"ketch missed keys 1\n";
/// How the names of files end.
const ENDING: &str = "missed";
/// Bytes of a checksum.
const SUM_BYTES: usize = 4;
/// Bytes of a file beyond twice those in use at which it is written anew.
const WASTE_BYTES_MAX: u64 = 1 << 20;

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A change of this key has been missed.
    Missed {
        /// The key.
        key: &'a [u8],
        /// Whether it may still be carried out.
        in_doubt: bool,
    },
    /// More has been missed than is remembered.
    Everything,
}

impl Record<'_> {
    /// Appends the record: kind, length, key, and a checksum over those.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let (kind, key): (u8, &[u8]) = match self {
            Self::Missed { key, in_doubt } => (1 + u8::from(*in_doubt), *key),
            Self::Everything => (3, &[]),
        };
        let key = key.get(..usize::from(u8::MAX)).unwrap_or(key);
        out.push(kind);
        out.push(u8::try_from(key.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(key);
        let sum = sum(out.get(start..).unwrap_or_default());
        out.extend_from_slice(&sum);
    }
}

fn sum(bytes: &[u8]) -> [u8; SUM_BYTES] {
    let [a, b, c, d, ..] = xxh3_64(bytes).to_le_bytes();
    [a, b, c, d]
}

/// Cuts the first record out of `bytes`; `None` if there is no whole and sound
/// one.
fn cut(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let (&[kind, len], _) = bytes.split_first_chunk::<2>()?;
    let (body, rest) = bytes.split_at_checked(2 + usize::from(len))?;
    let (told, rest) = rest.split_first_chunk::<SUM_BYTES>()?;
    if *told != sum(body) {
        return None;
    }
    let key = body.get(2..)?;
    let record = match kind {
        1 | 2 => Record::Missed {
            key,
            in_doubt: kind == 2,
        },
        3 => Record::Everything,
        _ => return None,
    };
    Some((record, rest))
}

/// Shows every record of a file up to the first that is torn or damaged. Says
/// whether there was one: what follows it is lost.
pub fn decode(bytes: &[u8], mut each: impl FnMut(Record<'_>)) -> bool {
    let Some(mut rest) = bytes.strip_prefix(HEADER) else {
        return !bytes.is_empty();
    };
    while let Some((record, behind)) = cut(rest) {
        each(record);
        rest = behind;
    }
    !rest.is_empty()
}

/// The file of this process for one server.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Journal {
    /// Opens a file of our own for the server at `place` in `folder`, and shows
    /// what all processes have left there.
    ///
    /// # Errors
    ///
    /// If the folder cannot be made, read or written.
    pub fn open(
        folder: &Path,
        place: &str,
        mut each: impl FnMut(Record<'_>),
    ) -> io::Result<Opened> {
        fs::create_dir_all(folder)?;
        let stem = stem(place);
        let mut leftovers = Vec::new();
        let mut torn = 0;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let mut parts = name.unwrap_or_default().rsplitn(3, '.');
            let (ending, _, named) = (parts.next(), parts.next(), parts.next());
            if ending != Some(ENDING) || named != Some(&stem) {
                continue;
            }
            let mut file = File::open(&path)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            torn += usize::from(decode(&bytes, &mut each));
            // A process that lives goes on writing to its own.
            if file.try_lock().is_ok() {
                leftovers.push(path);
            }
        }
        let mut number = std::process::id();
        loop {
            let path = folder.join(format!("{stem}.{number}.{ENDING}"));
            let opened = OpenOptions::new()
                .read(true)
                .append(true)
                .create_new(true)
                .open(&path);
            match opened {
                Ok(mut file) => {
                    file.try_lock().map_err(io::Error::from)?;
                    file.write_all(HEADER)?;
                    let journal = Self {
                        file,
                        path,
                        bytes: len(HEADER),
                    };
                    return Ok(Opened {
                        journal,
                        leftovers,
                        torn,
                    });
                }
                // An earlier process had our number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    number = number.wrapping_add(1 << 22);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Appends encoded records.
    ///
    /// # Errors
    ///
    /// If they cannot be written. Part of them may have been: the file ends with a
    /// torn record then, and has to be replaced.
    pub fn append(&mut self, records: &[u8]) -> io::Result<()> {
        self.file.write_all(records)?;
        self.bytes += len(records);
        Ok(())
    }

    /// Sees to it that what was appended survives a loss of power.
    ///
    /// # Errors
    ///
    /// If the disk does not take it.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Forgets all records.
    ///
    /// # Errors
    ///
    /// If the file cannot be cut.
    pub fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(len(HEADER))?;
        self.file.seek(SeekFrom::End(0))?;
        self.bytes = len(HEADER);
        Ok(())
    }

    /// Whether most of the file is out of date, if `live` bytes of records are
    /// not.
    pub fn is_wasteful(&self, live: u64) -> bool {
        self.bytes > live.saturating_mul(2).saturating_add(WASTE_BYTES_MAX)
    }

    /// Puts a file with just these records in the place of this one, on the disk
    /// before it counts.
    ///
    /// # Errors
    ///
    /// If it cannot be written; the old one stays.
    pub fn replace(&mut self, records: &[u8]) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .truncate(false)
            .open(&beside)?;
        file.set_len(0)?;
        file.try_lock().map_err(io::Error::from)?;
        file.write_all(HEADER)?;
        file.write_all(records)?;
        file.sync_data()?;
        fs::rename(&beside, &self.path)?;
        self.file = file;
        self.bytes = len(HEADER) + len(records);
        Ok(())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Nothing is lost with a file that says nothing.
        if self.bytes == len(HEADER) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A journal that has been opened.
#[derive(Debug)]
pub struct Opened {
    /// The journal.
    pub journal: Journal,
    /// Files of processes that have ended: to be removed when what they say is in
    /// the journal.
    pub leftovers: Vec<PathBuf>,
    /// Files whose end was torn or damaged.
    pub torn: usize,
}

/// The beginning of the names of a server's files.
fn stem(place: &str) -> String {
    percent_encoding::utf8_percent_encode(place, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A folder that is removed when dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("ketch-journal-{}-{number}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn open(&self) -> (Opened, Vec<Vec<u8>>) {
            let mut keys = Vec::new();
            let opened = Journal::open(&self.0, "10.0.0.1:11211", |record| match record {
                Record::Missed { key, .. } => keys.push(key.to_vec()),
                Record::Everything => keys.push(b"*".to_vec()),
            });
            (opened.unwrap(), keys)
        }

        fn files(&self) -> usize {
            fs::read_dir(&self.0).unwrap().count()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn record(key: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let in_doubt = false;
        Record::Missed { key, in_doubt }.encode(&mut out);
        out
    }

    #[test]
    fn a_later_process_finds_what_an_earlier_one_left() {
        let folder = Folder::new();
        let (mut first, found) = folder.open();
        assert!(found.is_empty());
        first.journal.append(&record(b"a")).unwrap();
        first.journal.append(&record(b"b")).unwrap();
        first.journal.sync().unwrap();
        // While it lives its file is read and not taken.
        let (second, found) = folder.open();
        assert_eq!(found, [b"a", b"b"]);
        assert!(second.leftovers.is_empty());
        drop(second);
        drop(first);
        let (third, found) = folder.open();
        assert_eq!(found, [b"a", b"b"]);
        assert_eq!((third.leftovers.len(), third.torn), (1, 0));
    }

    #[test]
    fn what_is_forgotten_is_not_found() {
        let folder = Folder::new();
        let (mut first, _) = folder.open();
        first.journal.append(&record(b"a")).unwrap();
        first.journal.clear().unwrap();
        first.journal.append(&record(b"b")).unwrap();
        first.journal.replace(&record(b"c")).unwrap();
        first.journal.append(&record(b"d")).unwrap();
        drop(first);
        let (mut second, found) = folder.open();
        assert_eq!(found, [b"c", b"d"]);
        second.journal.clear().unwrap();
        for path in &second.leftovers {
            fs::remove_file(path).unwrap();
        }
        drop(second);
        assert_eq!(folder.files(), 0, "empty ones are not left behind");
    }

    #[test]
    fn a_torn_end_loses_what_was_torn_and_no_more() {
        let folder = Folder::new();
        let (mut first, _) = folder.open();
        first.journal.append(&record(b"a")).unwrap();
        let torn = record(b"bbbb");
        first.journal.append(&torn[..torn.len() - 1]).unwrap();
        drop(first);
        let (second, found) = folder.open();
        assert_eq!((found, second.torn), (vec![b"a".to_vec()], 1));
    }

    #[test]
    fn a_file_that_grows_in_vain_is_noticed() {
        let folder = Folder::new();
        let (mut opened, _) = folder.open();
        let many = record(&[b'k'; 250]).repeat(5000);
        opened.journal.append(&many).unwrap();
        assert!(opened.journal.is_wasteful(1000));
        assert!(!opened.journal.is_wasteful(len(&many)));
    }

    proptest! {
        #[test]
        fn decoding_what_was_encoded_is_identity(
            keys in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..=250), any::<bool>()), 0..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = HEADER.to_vec();
            let mut ends = vec![bytes.len()];
            for (key, in_doubt) in &keys {
                Record::Missed { key, in_doubt: *in_doubt }.encode(&mut bytes);
                ends.push(bytes.len());
            }
            let mut found = Vec::new();
            let keep = |found: &mut Vec<_>, record: Record<'_>| match record {
                Record::Missed { key, in_doubt } => found.push((key.to_vec(), in_doubt)),
                Record::Everything => {}
            };
            prop_assert!(!decode(&bytes, |record| keep(&mut found, record)));
            prop_assert_eq!(&found, &keys);
            // Any prefix gives a prefix.
            let at = cut.index(bytes.len() + 1);
            let mut found = Vec::new();
            decode(&bytes[..at], |record| keep(&mut found, record));
            let whole = ends.iter().filter(|end| **end <= at).count().saturating_sub(1);
            prop_assert_eq!(&found[..], &keys[..whole]);
        }

        #[test]
        fn damage_is_noticed(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(),
            bit in 0..8u8,
        ) {
            let mut file = HEADER.to_vec();
            file.extend(record(&bytes[..bytes.len().min(250)]));
            let place = HEADER.len() + at.index(file.len() - HEADER.len());
            file[place] ^= 1 << bit;
            let mut found = 0;
            prop_assert!(decode(&file, |_| found += 1));
            prop_assert_eq!(found, 0);
        }
    }
}
