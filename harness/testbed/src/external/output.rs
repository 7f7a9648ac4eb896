//! The output of an external program, whole, in a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Where everything that a program writes is written too; by default nowhere.
#[derive(Clone, Debug, Default)]
pub struct Output {
    path: Option<PathBuf>,
    file: Option<Arc<Mutex<File>>>,
}

impl Output {
    /// To a file, which is made if need be, as is its folder; what it had is gone.
    ///
    /// # Errors
    /// If the system does not allow it.
    pub fn to_file(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(path)?;
        Ok(Self { path: Some(path.to_owned()), file: Some(Arc::new(Mutex::new(file))) })
    }

    /// The file, if there is one.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The same stream; whatever is read from it is written to the file.
    pub(super) fn copying<R>(&self, stream: R) -> Copying<R> {
        Copying { stream, file: self.file.clone() }
    }
}

pub(super) struct Copying<R> {
    stream: R,
    file: Option<Arc<Mutex<File>>>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Copying<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        let written = match &self.file {
            Some(file) => {
                file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&buffer.filled()[before..])
            }
            None => Ok(()),
        };
        if let Err(error) = written {
            tracing::warn!("the output of a component is not kept in its file any more: {error}");
            self.file = None;
        }
        Poll::Ready(read)
    }
}
