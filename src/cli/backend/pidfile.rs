//! The file with the number of the process (`-P`).

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process;

/// Holds the file open: who has become another user can still write and empty it.
/// Removed when dropped, unless another process has come in the place of this one.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Opens or makes the file, and leaves in it what it says.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        Ok(Self {
            path: path.to_owned(),
            file: options.open(path)?,
        })
    }

    /// Writes the number of this process into it.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub(super) fn write(&self) -> io::Result<()> {
        let line = line();
        // Not emptied first: somebody may read it at any time.
        self.file.write_all_at(line.as_bytes(), 0)?;
        if self.file.metadata()?.is_file() {
            self.file.set_len(u64::try_from(line.len()).unwrap_or(0))?;
        }
        // A device takes it too, and stays what it is.
        Ok(())
    }

    /// Whether it says nothing, or the number of this process.
    fn is_ours(&self) -> io::Result<bool> {
        let mut text = [0; 32];
        let length = self.file.read_at(&mut text, 0)?;
        let text = text.get(..length).unwrap_or_default();
        Ok(self.file.metadata()?.is_file() && (text.is_empty() || text == line().as_bytes()))
    }

    /// Removes the name, if it still leads to the file.
    fn remove(&self) -> io::Result<()> {
        let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
        if id(fs::metadata(&self.path)?) == id(self.file.metadata()?) {
            fs::remove_file(&self.path)
        } else {
            Ok(())
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.is_ours().unwrap_or(false) && self.remove().is_err() {
            // The folder is not the user's whom the process has become. An empty file
            // misleads nobody; the number will be another process's one day.
            let _ = self.file.set_len(0);
        }
    }
}

fn line() -> String {
    format!("{}\n", process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("ketch-test-{}-{name}.pid", process::id()))
    }

    #[test]
    fn the_file_is_removed_with_the_process_that_wrote_it() {
        let path = path("own");
        fs::write(&path, "1234567890 and what else was there\n").unwrap();
        let file = PidFile::open(&path).unwrap();
        file.write().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), line());
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_device_is_written_to_and_not_removed() {
        let file = PidFile::open(Path::new("/dev/null")).unwrap();
        file.write().unwrap();
        assert!(!file.is_ours().unwrap());
        drop(file);
        assert!(Path::new("/dev/null").exists());
    }

    #[test]
    fn the_file_of_another_process_stays() {
        let path = path("other");
        let file = PidFile::open(&path).unwrap();
        file.write().unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n", "written over");

        let file = PidFile::open(&path).unwrap();
        file.write().unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n", "made anew");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_start_that_fails_leaves_the_number_of_who_runs() {
        let path = path("failed");
        fs::write(&path, "1\n").unwrap();
        drop(PidFile::open(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        fs::remove_file(&path).unwrap();
    }
}
