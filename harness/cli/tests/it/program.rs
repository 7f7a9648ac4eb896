//! The program under test: how it is started, watched and stopped, with a bound on everything.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The most any one command may take, on a machine that is busy with something else.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// Where no container engine answers.
pub(crate) const NO_ENGINE: &str = "unix:///nowhere/docker.sock";

/// `stickler` with these arguments, working in this folder.
pub(crate) fn stickler(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stickler"));
    command.args(arguments).current_dir(folder).env_remove("KUBECONFIG").env_remove("STICKLER_LOG");
    // Whoever performs the tests there wants no annotations of theirs.
    command.env_remove("GITHUB_ACTIONS").env_remove("GITHUB_STEP_SUMMARY");
    // What it does with a container engine is looked at apart: a killed run's container lives on a while.
    command.env("DOCKER_HOST", NO_ENGINE);
    // Whatever goes to a temporary folder is to be seen as left behind.
    command.env("HOME", folder).env("TMPDIR", folder);
    command
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// Runs a command to its end.
pub(crate) fn output(command: Command) -> Ended {
    Running::start(command).end()
}

/// A command on its way. It is killed when this is dropped.
pub(crate) struct Running {
    child: Child,
    what: String,
    lines: Receiver<String>,
    seen: Vec<String>,
    stdout: Receiver<String>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let what = format!("{command:?}");
        // Unless the caller wants to type.
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        let (mut out, err) = child.stdout.take().zip(child.stderr.take()).expect("both are piped");
        let (line, lines) = channel();
        std::thread::spawn(move || {
            for text in BufReader::new(err).lines().map_while(Result::ok) {
                if line.send(text).is_err() {
                    break;
                }
            }
        });
        let (whole, stdout) = channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            // A pipe that breaks ends the text.
            let _ = out.read_to_end(&mut text);
            // The test may have given up.
            let _ = whole.send(String::from_utf8_lossy(&text).into_owned());
        });
        Self { child, what, lines, seen: Vec::new(), stdout }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line on standard error.
    pub(crate) fn await_line(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + BOUND;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if wanted(&line) {
                        return line;
                    }
                }
                Err(error) => {
                    panic!("{}: the line did not come ({error}); there were {:#?}", self.what, self.seen)
                }
            }
        }
    }

    pub(crate) fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a process id fits");
        #[expect(unsafe_code, reason = "kill has no safe wrapper in std, which knows SIGKILL only")]
        // SAFETY: it takes no pointers, and the child was not waited for, so the id is still its own.
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0, "{}: {}", self.what, std::io::Error::last_os_error());
    }

    /// Waits for the end.
    pub(crate) fn end(self) -> Ended {
        self.end_within(BOUND)
    }

    /// Waits for the end of something that may take longer than one command mostly does.
    pub(crate) fn end_within(mut self, bound: Duration) -> Ended {
        let what = self.what.clone();
        let status = eventually_within(bound, &format!("the end of {what}"), || {
            self.child.try_wait().expect("it is our child")
        });
        let deadline = Instant::now() + BOUND;
        let mut stderr = std::mem::take(&mut self.seen);
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => stderr.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("{what}: somebody still holds its standard error"),
            }
        }
        let stdout = self.stdout.recv_timeout(BOUND);
        let stdout = stdout.unwrap_or_else(|_| panic!("{what}: somebody still holds its standard output"));
        Ended { status, stdout, stderr: stderr.join("\n") }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It mostly has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks until there is something to see.
pub(crate) fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    eventually_within(BOUND, what, look)
}

fn eventually_within<T>(bound: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what} did not come within {bound:?}");
        #[expect(
            clippy::disallowed_methods,
            reason = "processes and files of others tell nobody of their change"
        )]
        std::thread::sleep(Duration::from_millis(5));
    }
}
