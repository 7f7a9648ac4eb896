//! External commands: programs of this machine, run as processes of a machine of the lab.
//!
//! An [`Enclosure`] is where such programs live: in the network namespace of a machine of the lab, and
//! in pid, mount, UTS and IPC namespaces of its own, whose first process is the running executable
//! executed again. What is where inside:
//!
//! - `/run` is empty and the enclosure's own, as is every other folder that was asked for;
//! - [`DIRECTORY`], `{dir}` of a command, has the files it was given;
//! - `/proc` shows the enclosure's processes, and its network's sysctls can be written;
//! - `/etc/hosts` and `/etc/resolv.conf` are the lab machine's;
//! - where containers are to run, `/sys` has control groups of the enclosure's own;
//! - everything else is as it is outside, and can only be read; or `/` is the file system of an image, of
//!   which what is written is in memory.
//!
//! So a program leaves nothing behind, and all of it is gone with the enclosure: when that is dropped,
//! and also when this process is killed. [`External`] is one program in it that is to run until it is
//! stopped; its end is noticed.

mod command;
mod inside;
mod output;

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

pub(crate) use self::command::search_path;
pub use self::command::{CommandError, CommandLine, Values};
pub use self::inside::inside_main;
pub use self::output::Output;
use crate::cgroup::NodeCgroups;
use crate::kubelet::container::{c_strings, nothing};
use crate::kubelet::init::candidates;
pub use crate::kubelet::spawn::User;
use crate::kubelet::spawn::{self, Child, Children, Exit};
use crate::kubelet::{Log, StartFailure};
use crate::namespace::NetNamespace;

/// The folder of an enclosure that its commands know as `{dir}`. It is in memory.
pub const DIRECTORY: &str = "/run/stickler";

/// How long making an enclosure may take; it takes a few milliseconds.
const OPEN_BOUND: Duration = Duration::from_secs(10);
/// How long a program may take to say its version.
const VERSION_BOUND: Duration = Duration::from_secs(10);
/// How long killed processes may take to be gone.
const END_BOUND: Duration = Duration::from_secs(5);
/// How many of its last lines a message about a program has.
const LAST_LINES: usize = 8;

/// What an enclosure is to be.
#[derive(Clone, Debug)]
pub struct EnclosureSpec {
    /// The network it is in.
    pub network: NetNamespace,
    /// The folder that is to be `/` inside: the file system of an image. Without one, `/` is this machine's.
    pub root: Option<PathBuf>,
    /// Who its programs are, if not root. The files it is given are that user's too.
    pub user: Option<User>,
    /// Variables its programs get beside, or instead of, those they always have.
    pub environment: Vec<(String, String)>,
    /// The name of the machine.
    pub hostname: String,
    /// Folders of this machine that are empty inside, and can be written. `/run` always is one.
    pub private: Vec<PathBuf>,
    /// Files to write first: an absolute path in a private folder, and contents. Nobody else may
    /// read them.
    pub files: Vec<(PathBuf, String)>,
    /// `/etc/hosts` inside.
    pub hosts: String,
    /// `/etc/resolv.conf` inside.
    pub resolver: String,
    /// Control groups of its own, for programs that run containers: then it has a `/sys` too, and what
    /// they tune of the whole machine is theirs alone.
    pub cgroups: Option<NodeCgroups>,
}

/// Namespaces for external programs. Dropping it kills every process in them, and waits until they
/// are gone.
#[derive(Debug)]
pub struct Enclosure {
    children: Children,
    first: Child,
    cgroups: Option<NodeCgroups>,
    user: Option<User>,
    /// What programs always find in their environment, and what they are given.
    environment: Vec<(String, String)>,
}

impl EnclosureSpec {
    /// The variables of its programs. An image says itself where its temporary files are.
    fn environment(&self) -> Vec<(String, String)> {
        let mut always = vec![("PATH", search_path())];
        if self.root.is_none() {
            always.extend([("HOME", DIRECTORY.to_owned()), ("TMPDIR", format!("{DIRECTORY}/tmp"))]);
        }
        let is_given = |name: &str| self.environment.iter().any(|(given, _)| given == name);
        let always = always.into_iter().filter(|(name, _)| !is_given(name));
        always.map(|(name, value)| (name.to_owned(), value)).chain(self.environment.iter().cloned()).collect()
    }
}

impl Enclosure {
    /// Makes the namespaces and what is in them.
    ///
    /// # Errors
    /// What could not be made, and what the system said.
    pub async fn open(spec: EnclosureSpec) -> Result<Self, StartFailure> {
        let cannot = |error: io::Error| StartFailure::new(format!("cannot make an enclosure: {error}"));
        let children = Children::default();
        let (cgroups, environment, user) = (spec.cgroups.clone(), spec.environment(), spec.user);
        let (first, failure) = Self::launch(&children, spec).await.map_err(cannot)?;
        if failure.is_empty() {
            return Ok(Self { children, first, cgroups, user, environment });
        }
        Err(serde_json::from_slice(&failure)
            .unwrap_or_else(|_| StartFailure::new("the first process of an enclosure failed to say why")))
    }

    /// Starts the first process; what it says before it is done is a failure.
    async fn launch(children: &Children, spec: EnclosureSpec) -> io::Result<(Child, Vec<u8>)> {
        let plan = inside::Plan {
            hostname: spec.hostname,
            root: spec.root,
            user: spec.user,
            store: spawn::store()?.inside().to_owned(),
            private: spec.private,
            files: spec.files,
            hosts: spec.hosts,
            resolver: spec.resolver,
            cgroups: spec.cgroups.as_ref().map(NodeCgroups::mounts),
        };
        let (from_plan, plan_writer) = spawn::pipe()?;
        let (failure, to_failure) = spawn::pipe()?;
        let start = spawn::Start {
            name: inside::NAME,
            namespaces: vec![spawn::duplicate(spec.network.as_fd())?],
            descriptors: vec![nothing()?, nothing()?, nothing()?, from_plan, to_failure],
            cgroups: spec.cgroups.as_ref().map(NodeCgroups::files).transpose()?,
        };
        let mut plan_writer = pipe::Sender::from_owned_fd(plan_writer)?;
        let mut failure = pipe::Receiver::from_owned_fd(failure)?;
        let first = children.start(start).await?;
        let mut said = Vec::new();
        let inside = async {
            // If it dies before it has read all, its end says more than this error.
            let _ = plan_writer.write_all(&serde_json::to_vec(&plan)?).await;
            drop(plan_writer);
            failure.read_to_end(&mut said).await
        };
        timeout(OPEN_BOUND, inside).await??;
        if said.is_empty() && first.exit().is_some() {
            return Err(io::Error::other("its first process ended at once"));
        }
        Ok((first, said))
    }

    /// Starts a program. Its environment is a `PATH`, with `HOME` and `TMPDIR` in [`DIRECTORY`] unless its
    /// root is an image's, and what was asked for.
    ///
    /// # Errors
    /// If it is not found, or the system does not start it.
    pub async fn start(
        &self,
        words: &[String],
        log: &Arc<Log>,
        output: Output,
    ) -> Result<Child, StartFailure> {
        self.start_reading(words, None, log, output).await
    }

    /// The same, with a file as its standard input.
    async fn start_reading(
        &self,
        words: &[String],
        input: Option<OwnedFd>,
        log: &Arc<Log>,
        output: Output,
    ) -> Result<Child, StartFailure> {
        let name = words.first().map_or("", String::as_str);
        self.join(words, input, log, output).await.map_err(|error| {
            StartFailure::new(match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => format!("`{name}` is not found"),
                Some(libc::EACCES) => format!("`{name}` may not be executed"),
                Some(libc::ESRCH) => format!("the enclosure of `{name}` is gone"),
                _ => format!("`{name}` cannot be started: {error}"),
            })
        })
    }

    async fn join(
        &self,
        words: &[String],
        input: Option<OwnedFd>,
        log: &Arc<Log>,
        output: Output,
    ) -> io::Result<Child> {
        let path = search_path();
        let name = words.first().map_or("", String::as_str);
        let candidates = candidates(name, &path);
        let environment: Vec<String> =
            self.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let (stdout, to_stdout) = spawn::pipe()?;
        let (stderr, to_stderr) = spawn::pipe()?;
        if let Some(User { id, group }) = self.user {
            // Some open what they write to by its name, `/dev/stdout`.
            for end in [&to_stdout, &to_stderr] {
                std::os::unix::fs::fchown(end, Some(id), Some(group))?;
            }
        }
        let join = spawn::Join {
            target: self.first.clone(),
            candidates: candidates
                .into_iter()
                .map(|path| Ok(CString::new(path.into_os_string().into_vec())?))
                .collect::<io::Result<_>>()?,
            arguments: c_strings(words)?,
            environment: c_strings(&environment)?,
            directory: CString::new(DIRECTORY)?,
            stdio: [input.map_or_else(nothing, Ok)?, to_stdout, to_stderr],
            terminal: false,
            cgroups: self.cgroups.as_ref().map(NodeCgroups::files).transpose()?,
            user: self.user,
        };
        let child = self.children.join(join).await?;
        for stream in [stdout, stderr] {
            let stream = output.copying(pipe::Receiver::from_owned_fd(stream)?);
            let log = Arc::clone(log);
            tokio::spawn(async move { log.capture(stream).await });
        }
        Ok(child)
    }

    /// Runs a program to its end, with these bytes as its standard input; returns how it ended and what it
    /// said last.
    ///
    /// # Errors
    /// If it is not found, or the system does not start it.
    pub async fn feed(
        &self,
        words: &[String],
        input: &Arc<[u8]>,
    ) -> Result<(Exit, Vec<String>), StartFailure> {
        let cannot = |error: io::Error| StartFailure::new(format!("cannot make a pipe: {error}"));
        let (reader, writer) = spawn::pipe().map_err(cannot)?;
        let mut writer = pipe::Sender::from_owned_fd(writer).map_err(cannot)?;
        let log = Arc::new(Log::new(2));
        let child = self.start_reading(words, Some(reader), &log, Output::default()).await?;
        let input = Arc::clone(input);
        // One that ends before it has read all says itself why.
        let feeding = tokio::spawn(async move {
            let _ = writer.write_all(&input).await;
        });
        let exit = child.wait().await;
        feeding.abort();
        log.closed().await;
        Ok((exit, last_lines(&log)))
    }

    /// What a program says its version is: the first line with a digit that it writes when it is given
    /// `--version`; without such a line, the first.
    /// Nothing if it does not say within ten seconds, or fails.
    pub async fn version(&self, program: &Path) -> Option<String> {
        let log = Arc::new(Log::new(2));
        let asked = [program.display().to_string(), "--version".to_owned()];
        let child = self.start(&asked, &log, Output::default()).await.ok()?;
        let answered = timeout(VERSION_BOUND, async {
            let exit = child.wait().await;
            log.closed().await;
            exit
        });
        match answered.await {
            Ok(Exit::Code(0)) => version_in(&lines_of(&log)),
            Ok(_) => None,
            Err(_) => {
                // Nobody is left to be told if it is gone already.
                let _ = child.signal(libc::SIGKILL);
                None
            }
        }
    }
}

/// Some draw a line first, or say their name.
fn version_in(lines: &[String]) -> Option<String> {
    let mut said = lines.iter().filter(|line| !line.is_empty()).peekable();
    let first = said.peek().copied();
    let line = said.find(|line| line.contains(|letter: char| letter.is_ascii_digit())).or(first)?;
    Some(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The end of a program that nobody stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// What it was, as in `proxy on kube1.vm`.
    pub title: String,
    pub exit: Exit,
    /// What it said last.
    pub last_lines: Vec<String>,
    /// Where all that it said is kept.
    pub log: Option<PathBuf>,
}

impl Loss {
    /// How it ended, as in `proxy on kube1.vm was ended by signal 9`.
    pub fn ending(&self) -> String {
        let Self { title, exit, .. } = self;
        match exit {
            Exit::Code(code) => format!("{title} ended by itself with exit status {code}"),
            Exit::Signal(signal) => format!("{title} was ended by signal {signal}"),
        }
    }

    /// What it said last, and where the rest of that is: how the sentence goes on.
    pub fn last_words(&self) -> String {
        if self.last_lines.is_empty() {
            return " and had said nothing".to_owned();
        }
        let log = self.log.as_ref().map(|log| format!("; all it said is in `{}`", log.display()));
        format!("; it said last: {}{}", self.last_lines.join(" | "), log.unwrap_or_default())
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.ending(), self.last_words())
    }
}

/// The programs that ended by themselves, of all that share this.
#[derive(Clone, Debug)]
pub struct Losses(Arc<watch::Sender<Vec<Loss>>>);

impl Losses {
    pub fn none() -> Self {
        Self(Arc::new(watch::Sender::new(Vec::new())))
    }

    fn add(&self, loss: Loss) {
        self.0.send_modify(|losses| losses.push(loss));
    }

    /// Waits until there are more than this many, and returns all.
    pub async fn more_than(&self, known: usize) -> Vec<Loss> {
        let mut losses = self.0.subscribe();
        match losses.wait_for(|losses| losses.len() > known).await {
            Ok(losses) => losses.clone(),
            // The sender lives in `self`, so the channel cannot have closed.
            Err(_) => Vec::new(),
        }
    }
}

/// A program that is to run until it is stopped.
#[derive(Debug)]
pub struct External {
    enclosure: Arc<Enclosure>,
    title: String,
    words: Vec<String>,
    output: Output,
    losses: Losses,
    ends_all: bool,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    log: Arc<Log>,
    supervisor: tokio::task::JoinHandle<()>,
}

impl External {
    /// Starts a program. Should it end before it is stopped, `losses` are told.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn start(
        enclosure: Arc<Enclosure>,
        title: String,
        words: Vec<String>,
        output: Output,
        losses: Losses,
    ) -> Result<Self, StartFailure> {
        let running = Mutex::new(None);
        let external = Self { enclosure, title, words, output, losses, ends_all: false, running };
        external.resume().await?;
        Ok(external)
    }

    /// From now on whatever is in its enclosure ends when it is stopped, as in a container: what it started
    /// would have the ports that it needs when it is started again.
    #[must_use]
    pub fn ending_all(mut self) -> Self {
        self.ends_all = true;
        self
    }

    /// Kills it, and returns when it is gone; what it started goes on, as on any machine, unless it was
    /// started [as a container](Self::ending_all). Stopping it twice is the same as stopping it once.
    pub async fn stop(&self) {
        if let Some(Running { child, log, supervisor }) = self.running.lock().await.take() {
            supervisor.abort();
            // Whoever is gone already needs no signal.
            let _ = child.signal(libc::SIGKILL);
            child.wait().await;
            if self.ends_all {
                let _ = self.enclosure.first.signal(inside::END_ALL);
                // Who is killed closes what it wrote to. Who had closed that before was a daemon.
                let _ = timeout(END_BOUND, log.closed()).await;
            }
        }
    }

    /// Starts it again, in the same enclosure and with everything it left there. One that runs is left
    /// alone.
    ///
    /// # Errors
    /// If it cannot be started any more.
    pub async fn resume(&self) -> Result<(), StartFailure> {
        let mut running = self.running.lock().await;
        if running.as_ref().is_some_and(|running| running.child.exit().is_none()) {
            return Ok(());
        }
        let log = Arc::new(Log::new(2));
        let child = self.enclosure.start(&self.words, &log, self.output.clone()).await?;
        let supervisor = {
            let (child, log) = (child.clone(), Arc::clone(&log));
            let (title, losses) = (self.title.clone(), self.losses.clone());
            let path = self.output.path().map(Path::to_owned);
            tokio::spawn(async move {
                let exit = child.wait().await;
                // A process it left behind may hold the pipes.
                let _ = timeout(Duration::from_secs(1), log.closed()).await;
                losses.add(Loss { title, exit, last_lines: last_lines(&log), log: path });
            })
        };
        *running = Some(Running { child, log, supervisor });
        Ok(())
    }

    /// Does it run?
    pub async fn is_running(&self) -> bool {
        self.running.lock().await.as_ref().is_some_and(|running| running.child.exit().is_none())
    }

    /// What it said last, for a message about it.
    pub async fn last_lines(&self) -> Vec<String> {
        match &*self.running.lock().await {
            Some(running) => last_lines(&running.log),
            None => Vec::new(),
        }
    }
}

impl Drop for External {
    fn drop(&mut self) {
        if let Some(running) = self.running.get_mut().take() {
            running.supervisor.abort();
            // The enclosure kills whoever this misses.
            let _ = running.child.signal(libc::SIGKILL);
        }
    }
}

fn lines_of(log: &Log) -> Vec<String> {
    let lines = log.since(0).0;
    lines.iter().map(|line| String::from_utf8_lossy(&line.text).trim_end().to_owned()).collect()
}

fn last_lines(log: &Log) -> Vec<String> {
    let mut lines = lines_of(log);
    lines.retain(|line| !line.is_empty());
    lines.split_off(lines.len().saturating_sub(LAST_LINES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_a_digit() {
        let said =
            |lines: &[&str]| version_in(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>());
        let lines = ["----", "NGINX Ingress controller", "  Release:       v1.15.0", "  Build: 7"];
        assert_eq!(said(&lines).as_deref(), Some("Release: v1.15.0"));
        assert_eq!(said(&["", "Kubernetes v1.36.2"]).as_deref(), Some("Kubernetes v1.36.2"));
        assert_eq!(said(&["devel", "unknown"]).as_deref(), Some("devel"));
        assert_eq!(said(&[""]), None);
    }
}
