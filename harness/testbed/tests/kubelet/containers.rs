//! Containers and the processes that join them.

use std::io::{BufRead as _, BufReader};
use std::pin::Pin;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use stickler_testbed::kubelet::{
    Container, ContainerSpec, ExecSpec, Exit, Line, Runtime, Sandbox, Session, StartFailure,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::applets::APPLETS;
use crate::external::{
    a_program_is_the_user_it_is_to_be, a_program_that_is_stopped_is_not_lost_and_starts_again,
    an_enclosure_is_a_machine_of_its_own, an_enclosure_writes_nothing_outside,
    an_image_is_the_root_and_stays_as_it_is, nothing_survives_an_enclosure,
    the_end_of_a_program_is_told_with_its_last_words,
    what_a_program_started_ends_with_it_where_that_was_asked_for,
};

/// Set for the run inside a user namespace.
pub(crate) const IN_USER_NAMESPACE: &str = "STICKLER_TEST_IN_USER_NAMESPACE";
/// The argument of the process that is to be killed.
pub(crate) const ORPHAN: &str = "--start-a-pod-and-be-killed";

const BOUND: Duration = Duration::from_secs(20);

type Outcome = anyhow::Result<()>;
type Run = fn() -> Pin<Box<dyn Future<Output = Outcome>>>;

macro_rules! trials {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TRIALS: &[(&str, Run)] = &[$((stringify!($name), || Box::pin($name()))),*];
    };
}

trials!(
    it_is_alone_and_has_its_name,
    files_of_the_host_are_not_there,
    output_is_kept_line_by_line,
    exit_codes_and_signals_are_told_apart,
    terminating_is_graceful,
    a_bad_command_says_what_is_wrong,
    exec_passes_every_stream_and_the_code,
    exec_with_a_terminal,
    exec_of_a_bad_command_says_what_is_wrong,
    the_end_of_a_container_is_the_end_of_what_joined_it,
    nothing_survives_the_runtime,
    a_pod_ends_with_its_kubelet,
    starting_is_fast,
    an_enclosure_is_a_machine_of_its_own,
    an_enclosure_writes_nothing_outside,
    an_image_is_the_root_and_stays_as_it_is,
    a_program_is_the_user_it_is_to_be,
    what_a_program_started_ends_with_it_where_that_was_asked_for,
    the_end_of_a_program_is_told_with_its_last_words,
    a_program_that_is_stopped_is_not_lost_and_starts_again,
    nothing_survives_an_enclosure,
);

pub(crate) fn run(run: Run) -> Result<(), libtest_mimic::Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async { timeout(BOUND, run()).await })?.map_err(|error| format!("{error:#}").into())
}

/// The same tests, without any privilege outside.
pub(crate) fn user_namespace() -> Result<(), libtest_mimic::Failed> {
    let output = Command::new(std::env::current_exe()?).env(IN_USER_NAMESPACE, "1").output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stdout).into_owned().into()),
    }
}

fn spec(command: &[&str]) -> ContainerSpec {
    ContainerSpec {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        environment: vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())],
        directory: "/work".into(),
        files: vec![("/etc/hostname".into(), "web-0\n".into())],
        mounts: Vec::new(),
    }
}

fn exec(command: &[&str]) -> ExecSpec {
    ExecSpec {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        stdin: true,
        stdout: true,
        stderr: true,
        terminal: false,
    }
}

struct Pod {
    runtime: Runtime,
    sandbox: Sandbox,
}

impl Pod {
    async fn new() -> anyhow::Result<Self> {
        Ok(Self { runtime: Runtime::new(APPLETS), sandbox: Sandbox::new("web-0", None).await? })
    }

    async fn start(&self, command: &[&str]) -> Result<Container, StartFailure> {
        self.runtime.start(&self.sandbox, spec(command)).await
    }

    /// What the command prints until it ends, and how it ends.
    async fn output(&self, command: &[&str]) -> anyhow::Result<(String, Exit)> {
        let container = self.start(command).await?;
        let exit = container.wait().await;
        Ok((text(&container.log().since(0).0), exit))
    }
}

fn text(lines: &[Line]) -> String {
    lines.iter().map(|line| String::from_utf8_lossy(&line.text)).collect()
}

async fn first_line(container: &Container) -> anyhow::Result<String> {
    anyhow::ensure!(container.log().more(0).await, "the container ended without a word");
    Ok(text(&container.log().since(0).0[..1]))
}

async fn read(session: &mut Session) -> anyhow::Result<(String, String)> {
    let (mut out, mut err) = (String::new(), String::new());
    if let Some(stdout) = &mut session.stdout {
        stdout.read_to_string(&mut out).await?;
    }
    if let Some(stderr) = &mut session.stderr {
        stderr.read_to_string(&mut err).await?;
    }
    Ok((out, err))
}

async fn it_is_alone_and_has_its_name() -> Outcome {
    let pod = Pod::new().await?;
    assert_eq!(pod.output(&["pid"]).await?.0, "1\n");
    assert_eq!(pod.output(&["hostname"]).await?.0, "web-0\n");
    assert_eq!(pod.output(&["cat", "/etc/hostname"]).await?.0, "web-0\n");
    let (devices, _) = pod.output(&["cat", "/proc/net/dev"]).await?;
    assert!(devices.contains("lo:") && devices.lines().count() == 3, "only lo is there: {devices}");
    Ok(())
}

async fn files_of_the_host_are_not_there() -> Outcome {
    let pod = Pod::new().await?;
    let (root, _) = pod.output(&["ls", "/"]).await?;
    for folder in ["bin", "dev", "etc", "proc", "run", "tmp", "usr", "var", "work"] {
        assert!(root.split_whitespace().any(|name| name == folder), "/{folder} is missing in {root}");
    }
    for folder in ["home", "boot", "mnt", "srv"] {
        assert!(!root.split_whitespace().any(|name| name == folder), "/{folder} is the host's: {root}");
    }
    assert_eq!(pod.output(&["ls", "/tmp"]).await?.0, "\n");
    let (mounts, _) = pod.output(&["cat", "/proc/self/mountinfo"]).await?;
    let roots = mounts.lines().filter(|line| line.split(' ').nth(4) == Some("/")).count();
    assert_eq!(roots, 1, "the old root is still mounted: {mounts}");
    let writable = mounts.lines().filter(|line| line.contains(" /usr/lib") || line.contains("/lib64"));
    for line in writable {
        assert!(line.split(' ').nth(5).is_some_and(|options| options.starts_with("ro")), "{line}");
    }
    Ok(())
}

async fn output_is_kept_line_by_line() -> Outcome {
    let pod = Pod::new().await?;
    let (output, exit) = pod.output(&["noise"]).await?;
    assert_eq!(exit, Exit::Code(0));
    let mut lines: Vec<_> = output.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["err", "out"]);
    Ok(())
}

async fn exit_codes_and_signals_are_told_apart() -> Outcome {
    let pod = Pod::new().await?;
    assert_eq!(pod.output(&["exit", "3"]).await?.1, Exit::Code(3));
    let container = pod.start(&["sleep"]).await?;
    assert_eq!(first_line(&container).await?, "sleeping\n");
    container.process().signal(libc::SIGKILL)?;
    assert_eq!(container.wait().await.code(), 137);
    Ok(())
}

async fn terminating_is_graceful() -> Outcome {
    let pod = Pod::new().await?;
    let container = pod.start(&["graceful"]).await?;
    assert_eq!(first_line(&container).await?, "ready\n");
    container.process().signal(libc::SIGTERM)?;
    assert_eq!(container.wait().await, Exit::Code(7));
    assert_eq!(text(&container.log().since(1).0), "got 15\n");
    Ok(())
}

async fn a_bad_command_says_what_is_wrong() -> Outcome {
    let pod = Pod::new().await?;
    for (command, message) in [
        ("nosuch", "exec: \"nosuch\": executable file not found in $PATH"),
        ("/nosuch", "exec: \"/nosuch\": stat /nosuch: no such file or directory"),
        ("", "no command specified"),
    ] {
        let failure = pod.start(&[command]).await.err().map(|failure| failure.to_string());
        assert_eq!(failure.as_deref(), Some(message));
    }
    let mut no_folder = spec(&["pid"]);
    no_folder.directory = "/dev/null/x".into();
    let failure = pod.runtime.start(&pod.sandbox, no_folder).await.err().map(|failure| failure.to_string());
    let message = "cannot enter the working directory `/dev/null/x`: not a directory";
    assert_eq!(failure.as_deref(), Some(message));
    assert_eq!(pod.runtime.alive(), 0, "a failed start leaves no process");
    Ok(())
}

async fn exec_passes_every_stream_and_the_code() -> Outcome {
    let pod = Pod::new().await?;
    let container = pod.start(&["sleep"]).await?;
    let mut session = pod.runtime.exec(&container, exec(&["cat"])).await?;
    let mut stdin = session.stdin.take().expect("stdin was asked for");
    stdin.write_all(b"through the pod\n").await?;
    drop(stdin);
    assert_eq!(read(&mut session).await?.0, "through the pod\n");
    assert_eq!(session.process.wait().await, Exit::Code(0));

    let mut session = pod.runtime.exec(&container, exec(&["noise"])).await?;
    assert_eq!(read(&mut session).await?, ("out\n".to_owned(), "err\n".to_owned()));
    let session = pod.runtime.exec(&container, exec(&["exit", "42"])).await?;
    assert_eq!(session.process.wait().await, Exit::Code(42));
    for (command, expected) in [("hostname", "web-0\n"), ("pid", "")] {
        let mut session = pod.runtime.exec(&container, exec(&[command])).await?;
        let (output, _) = read(&mut session).await?;
        assert!(output.ends_with(expected) && output != "1\n", "{command}: {output}");
    }
    let mut session = pod.runtime.exec(&container, exec(&["ls", "/proc/1/root/work"])).await?;
    assert_eq!(read(&mut session).await?.0, "\n");
    Ok(())
}

async fn exec_with_a_terminal() -> Outcome {
    let pod = Pod::new().await?;
    let container = pod.start(&["sleep"]).await?;
    let mut session =
        pod.runtime.exec(&container, ExecSpec { terminal: true, ..exec(&["terminal"]) }).await?;
    session.terminal.as_ref().expect("a terminal was asked for").resize(132, 43)?;
    session.stdin.as_mut().expect("a terminal has input").write_all(b"hello\n").await?;
    let mut output = Vec::new();
    let mut stdout = session.stdout.take().expect("a terminal has output");
    // The end of a terminal is an error.
    while stdout.read_buf(&mut output).await.is_ok_and(|read| read > 0) {}
    let output = String::from_utf8_lossy(&output).into_owned();
    assert!(output.contains("132x43 true hello"), "{output:?}");
    assert_eq!(session.process.wait().await, Exit::Code(0));
    Ok(())
}

async fn exec_of_a_bad_command_says_what_is_wrong() -> Outcome {
    let pod = Pod::new().await?;
    let container = pod.start(&["sleep"]).await?;
    let failure = pod.runtime.exec(&container, exec(&["nosuch"])).await.err();
    let message = failure.map(|failure| failure.to_string());
    assert_eq!(message.as_deref(), Some("exec: \"nosuch\": executable file not found in $PATH"));
    container.process().signal(libc::SIGKILL)?;
    container.wait().await;
    let failure = pod.runtime.exec(&container, exec(&["pid"])).await.err();
    let message = failure.map(|failure| failure.to_string());
    assert_eq!(message.as_deref(), Some("the container is not running"));
    Ok(())
}

async fn the_end_of_a_container_is_the_end_of_what_joined_it() -> Outcome {
    let pod = Pod::new().await?;
    let container = pod.start(&["sleep"]).await?;
    let session = pod.runtime.exec(&container, exec(&["sleep"])).await?;
    container.process().signal(libc::SIGKILL)?;
    assert_eq!(session.process.wait().await, Exit::Signal(libc::SIGKILL));
    assert_eq!(container.wait().await, Exit::Signal(libc::SIGKILL));
    Ok(())
}

async fn nothing_survives_the_runtime() -> Outcome {
    let pod = Pod::new().await?;
    let (mut pids, mut sessions) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let container = pod.start(&["sleep"]).await?;
        let session = pod.runtime.exec(&container, exec(&["sleep"])).await?;
        pids.extend([container.process().pid(), session.process.pid()]);
        sessions.push(session);
    }
    assert_eq!(pod.runtime.alive(), 10);
    drop(pod);
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is left");
    }
    Ok(())
}

/// In another process: starts a pod, says which process it is, and waits for the end.
pub(crate) fn be_killed() -> ExitCode {
    let start = || async {
        let pod = Pod::new().await?;
        let container = pod.start(&["sleep"]).await?;
        let session = pod.runtime.exec(&container, exec(&["sleep"])).await?;
        let (_bench, _sleeper, external) = crate::external::start_sleeper().await?;
        println!("{} {} {external}", container.process().pid(), session.process.pid());
        container.wait().await;
        Ok(())
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    match runtime.map(|runtime| runtime.block_on(async { start().await as Outcome })) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("the process that is to be killed: {error:#}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("the process that is to be killed has no runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn a_pod_ends_with_its_kubelet() -> Outcome {
    // What it leaves behind is ours to remove: nothing of it runs any more.
    let directory = TempDir::with_prefix("stickler-orphan-")?;
    let mut command = Command::new(std::env::current_exe()?);
    let mut kubelet = command.arg(ORPHAN).env("TMPDIR", directory.path()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(kubelet.stdout.take().expect("it is piped")).read_line(&mut line)?;
    kubelet.kill()?;
    kubelet.wait()?;
    let pids: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(pids.len(), 3, "three processes were started: {line:?}");
    let gone = |pid: &&str| {
        // A process nobody has reaped yet is gone for our purpose: its parent may not be ours.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ") || stat.contains(") X ")
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    while !pids.iter().all(gone) {
        assert!(Instant::now() < deadline, "processes {pids:?} survived their kubelet");
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn starting_is_fast() -> Outcome {
    let pod = Pod::new().await?;
    let (mut starts, mut joins) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let began = Instant::now();
        let container = pod.start(&["sleep"]).await?;
        first_line(&container).await?;
        starts.push(began.elapsed());
        let began = Instant::now();
        let mut session = pod.runtime.exec(&container, exec(&["pid"])).await?;
        read(&mut session).await?;
        session.process.wait().await;
        joins.push(began.elapsed());
    }
    starts.sort_unstable();
    joins.sort_unstable();
    println!("start to first output: {:?}, exec: {:?} (medians of 20)", starts[10], joins[10]);
    // A hundred times what it takes on an idle machine: it fails for a wait, not for a busy machine.
    assert!(starts[10] < Duration::from_millis(300) && joins[10] < Duration::from_millis(150));
    Ok(())
}
