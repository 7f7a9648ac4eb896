//! Containers: processes in a pod's sandbox, each with a root of its own; and processes that join them.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::image;
use super::init::{self, Mount, Plan, StartFailure};
use super::log::Log;
use super::sandbox::Sandbox;
use super::spawn::{self, Child, Children, Exit};

/// How long the inside of a start may take; it takes about two milliseconds.
const START_BOUND: Duration = Duration::from_secs(10);

/// What a container runs, with everything resolved.
#[derive(Clone, Debug, Default)]
pub struct ContainerSpec {
    /// The command with its arguments.
    pub command: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// The working directory; made if it does not exist.
    pub directory: String,
    /// Small files to write into the root: path and contents.
    pub files: Vec<(String, String)>,
    /// Parts of volumes.
    pub mounts: Vec<Mount>,
}

/// A started container.
#[derive(Clone, Debug)]
pub struct Container {
    child: Child,
    log: Arc<Log>,
    environment: Vec<(String, String)>,
    directory: String,
}

impl Container {
    /// The first process of the container; its end is the container's.
    pub fn process(&self) -> &Child {
        &self.child
    }

    /// What it wrote so far.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Waits for the end of the container and of its output.
    pub async fn wait(&self) -> Exit {
        let exit = self.child.wait().await;
        // With the first process every other has ended, so the pipes are closed; the bound is for a
        // descriptor that was passed out of the container.
        let _ = timeout(Duration::from_secs(1), self.log.closed()).await;
        exit
    }
}

/// A process to be started in a running container.
#[derive(Clone, Debug, Default)]
pub struct ExecSpec {
    /// The command with its arguments.
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Connect all three to one terminal.
    pub terminal: bool,
}

/// A process that was started in a running container, and the other ends of its streams.
#[derive(Debug)]
pub struct Session {
    pub process: Child,
    pub stdin: Option<pipe::Sender>,
    pub stdout: Option<pipe::Receiver>,
    pub stderr: Option<pipe::Receiver>,
    pub terminal: Option<Terminal>,
}

/// Starts containers out of the running executable, and ends them all when dropped.
#[derive(Debug)]
pub struct Runtime {
    children: Children,
    applets: Vec<String>,
}

impl Runtime {
    /// `applets` are the names under which the running executable is found inside; under each it must
    /// behave as that program.
    pub fn new(applets: &[&str]) -> Self {
        Self {
            children: Children::default(),
            applets: applets.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    /// Starts a container and returns when it executes its command.
    pub async fn start(&self, sandbox: &Sandbox, spec: ContainerSpec) -> Result<Container, StartFailure> {
        let (child, streams, failure) = self.launch(sandbox, &spec).await.map_err(cannot_start)?;
        if !failure.is_empty() {
            child.wait().await;
            return Err(serde_json::from_slice(&failure)
                .unwrap_or_else(|_| StartFailure::new("the container's first process failed to say why")));
        }
        let log = Arc::new(Log::new(streams.len()));
        for stream in streams {
            let log = Arc::clone(&log);
            tokio::spawn(async move { log.capture(stream).await });
        }
        Ok(Container { child, log, environment: spec.environment, directory: spec.directory })
    }

    async fn launch(
        &self,
        sandbox: &Sandbox,
        spec: &ContainerSpec,
    ) -> io::Result<(Child, [pipe::Receiver; 2], Vec<u8>)> {
        let plan = Plan {
            command: spec.command.clone(),
            environment: spec.environment.clone(),
            directory: spec.directory.clone(),
            applets: self.applets.clone(),
            libraries: image::shared_objects().to_vec(),
            files: spec.files.clone(),
            mounts: spec.mounts.clone(),
        };
        let (stdout, to_stdout) = spawn::pipe()?;
        let (stderr, to_stderr) = spawn::pipe()?;
        let (from_plan, plan_writer) = spawn::pipe()?;
        let (failure, to_failure) = spawn::pipe()?;
        let start = spawn::Start {
            name: init::NAME,
            namespaces: sandbox.entrances()?,
            descriptors: vec![nothing()?, to_stdout, to_stderr, from_plan, to_failure],
            cgroups: None,
        };
        let streams = [pipe::Receiver::from_owned_fd(stdout)?, pipe::Receiver::from_owned_fd(stderr)?];
        let mut plan_writer = pipe::Sender::from_owned_fd(plan_writer)?;
        let mut failure = pipe::Receiver::from_owned_fd(failure)?;
        let child = self.children.start(start).await?;
        let mut said = Vec::new();
        let inside = async {
            // If it dies before it has read all, its end says more than this error.
            let _ = plan_writer.write_all(&serde_json::to_vec(&plan)?).await;
            drop(plan_writer);
            failure.read_to_end(&mut said).await
        };
        match timeout(START_BOUND, inside).await {
            Ok(Ok(_)) => Ok((child, streams, said)),
            stuck => {
                child.signal(libc::SIGKILL)?;
                child.wait().await;
                Err(stuck.map_or_else(
                    |_| io::Error::from(io::ErrorKind::TimedOut),
                    |read| read.err().unwrap_or_else(|| io::ErrorKind::Other.into()),
                ))
            }
        }
    }

    /// Starts a process inside a running container.
    pub async fn exec(&self, container: &Container, spec: ExecSpec) -> Result<Session, StartFailure> {
        let name = spec.command.first().cloned().unwrap_or_default();
        self.join(container, spec).await.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => StartFailure::new(init::not_found(&name)),
            Some(libc::EACCES) => StartFailure::new(format!("exec: \"{name}\": permission denied")),
            Some(libc::ESRCH) => StartFailure::new("the container is not running"),
            _ => StartFailure::new(format!("exec: \"{name}\": {error}")),
        })
    }

    async fn join(&self, container: &Container, spec: ExecSpec) -> io::Result<Session> {
        let path = container.environment.iter().rev().find(|(key, _)| key == "PATH");
        let name = spec.command.first().map_or("", String::as_str);
        let candidates = init::candidates(name, path.map_or(image::PATH, |(_, path)| path));
        let mut environment = container.environment.clone();
        let mut join = spawn::Join {
            target: container.child.clone(),
            candidates: candidates
                .into_iter()
                .map(|path| Ok(CString::new(path.into_os_string().into_vec())?))
                .collect::<io::Result<_>>()?,
            arguments: c_strings(&spec.command)?,
            environment: Vec::new(),
            directory: CString::new(container.directory.as_str())?,
            stdio: [nothing()?, nothing()?, nothing()?],
            terminal: spec.terminal,
            cgroups: None,
            user: None,
        };
        let (mut stdin, mut stdout, mut stderr, mut terminal) = (None, None, None, None);
        if spec.terminal {
            environment.push(("TERM".to_owned(), "xterm".to_owned()));
            let (ours, theirs) = Terminal::open(container.child.pid())?;
            join.stdio = [theirs.try_clone()?, theirs.try_clone()?, theirs];
            stdin = Some(pipe::Sender::from_owned_fd_unchecked(ours.try_clone()?)?);
            stdout = Some(pipe::Receiver::from_owned_fd_unchecked(ours.try_clone()?)?);
            terminal = Some(Terminal(ours));
        } else {
            if spec.stdin {
                let (theirs, ours) = spawn::pipe()?;
                join.stdio[0] = theirs;
                stdin = Some(pipe::Sender::from_owned_fd(ours)?);
            }
            for (wanted, ours, theirs) in [(spec.stdout, &mut stdout, 1), (spec.stderr, &mut stderr, 2)] {
                if wanted {
                    let (reader, writer) = spawn::pipe()?;
                    join.stdio[theirs] = writer;
                    *ours = Some(pipe::Receiver::from_owned_fd(reader)?);
                }
            }
        }
        let variables: Vec<_> = environment.iter().map(|(key, value)| format!("{key}={value}")).collect();
        join.environment = c_strings(&variables)?;
        let process = self.children.join(join).await?;
        Ok(Session { process, stdin, stdout, stderr, terminal })
    }

    /// How many processes we started have not been reaped.
    pub fn alive(&self) -> usize {
        self.children.alive()
    }

    /// Ends every process at once; also done by dropping the runtime.
    pub fn shutdown(&self) {
        self.children.kill_all();
    }
}

/// Our side of the terminal of a process.
#[derive(Debug)]
pub struct Terminal(OwnedFd);

impl Terminal {
    /// A new terminal, from the container's own `/dev/pts` so that it has a name there.
    #[expect(unsafe_code, reason = "terminals are made with ioctl")]
    fn open(container: i32) -> io::Result<(OwnedFd, OwnedFd)> {
        let open = |path: &str| {
            let flags = libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NONBLOCK;
            OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
        };
        let inside = format!("/proc/{container}/root/dev/pts/ptmx");
        let ours: OwnedFd = open(&inside).or_else(|_| open("/dev/ptmx"))?.into();
        let locked: libc::c_int = 0;
        // SAFETY: the descriptor is open and the integer outlives the call.
        if unsafe { libc::ioctl(ours.as_raw_fd(), libc::TIOCSPTLCK, &raw const locked) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        // SAFETY: the descriptor is open; a successful call returns a new one that nobody else owns.
        match unsafe { libc::ioctl(ours.as_raw_fd(), libc::TIOCGPTPEER, flags) } {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: as above.
            theirs => Ok((ours, unsafe { OwnedFd::from_raw_fd(theirs) })),
        }
    }

    /// Tells the process how large its window is.
    #[expect(unsafe_code, reason = "a window's size is set with ioctl")]
    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is open and the size outlives the call.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

pub(crate) fn nothing() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open("/dev/null")?.into())
}

pub(crate) fn c_strings(strings: &[String]) -> io::Result<Vec<CString>> {
    strings.iter().map(|string| Ok(CString::new(string.as_str())?)).collect()
}

fn cannot_start(error: io::Error) -> StartFailure {
    StartFailure::new(format!("cannot start a process in new namespaces: {error}"))
}
