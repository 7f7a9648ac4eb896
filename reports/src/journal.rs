//! The journal of a run: one JSON line per event, written as it happens, so that a crash loses
//! nothing but the line it interrupted.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::{Record, Reporter};

/// An error of a journal file.
#[derive(Debug, Error)]
pub enum JournalError {
    #[error("could not write the journal `{path}`")]
    Write { path: PathBuf, source: io::Error },
    #[error("could not read the journal `{path}`")]
    Read { path: PathBuf, source: io::Error },
    #[error("line {line} of the journal `{path}` is not an event: {source}")]
    Parse { path: PathBuf, line: usize, source: serde_json::Error },
}

/// Appends every event to a file.
pub struct Journal {
    path: PathBuf,
    file: File,
    /// The first failure; it is told once, at the end.
    failed: Option<io::Error>,
}

impl Journal {
    /// Starts a journal; an older one at the same place is replaced.
    pub fn create(path: &Path) -> Result<Self, JournalError> {
        match File::create(path) {
            Ok(file) => Ok(Self { path: path.to_owned(), file, failed: None }),
            Err(source) => Err(JournalError::Write { path: path.to_owned(), source }),
        }
    }

    /// Ends the journal, and says whether every event reached it.
    pub fn finish(self) -> Result<(), JournalError> {
        match self.failed {
            Some(source) => Err(JournalError::Write { path: self.path, source }),
            None => Ok(()),
        }
    }

    fn append(&mut self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        // One write per line: a killed run leaves whole lines.
        self.file.write_all(&line)
    }
}

impl Reporter for Journal {
    fn hear(&mut self, record: &Record) {
        if self.failed.is_none() {
            self.failed = self.append(record).err();
        }
    }
}

/// Reads a journal back. A last line that was cut off by a crash is left out.
pub fn read_journal(path: &Path) -> Result<Vec<Record>, JournalError> {
    let read = |source| JournalError::Read { path: path.to_owned(), source };
    let lines: Vec<String> =
        BufReader::new(File::open(path).map_err(read)?).lines().collect::<Result<_, _>>().map_err(read)?;
    let mut records = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        match serde_json::from_str(line) {
            Ok(record) => records.push(record),
            Err(_) if index + 1 == lines.len() => break,
            Err(source) => {
                return Err(JournalError::Parse { path: path.to_owned(), line: index + 1, source });
            }
        }
    }
    Ok(records)
}
