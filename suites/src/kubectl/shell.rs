//! The shell: kubectl on this machine, and the programs of pods on the machines of a testbed.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use stickler_testbed::{Machine, Testbed};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Command;
use tokio::time::timeout;

use crate::editor;
use crate::play::Seen;
use crate::text::{Place, Step};

/// The most one command may take, on a machine that is busy with something else.
const COMMAND: Duration = Duration::from_secs(30);

/// A shell on one testbed.
pub(crate) struct Shell<'a> {
    testbed: &'a Testbed,
    /// Where kubectl keeps what it keeps; gone at the end.
    home: TempDir,
}

impl<'a> Shell<'a> {
    pub(crate) fn open(testbed: &'a Testbed) -> anyhow::Result<Self> {
        let home = TempDir::new().context("a folder for kubectl cannot be made")?;
        std::fs::write(home.path().join("kubeconfig"), testbed.kubeconfig_inside())?;
        std::os::unix::fs::symlink(std::env::current_exe()?, home.path().join(editor::NAME))?;
        Ok(Self { testbed, home })
    }

    /// Gives a command and waits for its end.
    pub(crate) async fn give(&self, step: &Step, words: &[String]) -> anyhow::Result<Seen> {
        let Some((program, arguments)) = words.split_first() else { bail!("there is no command") };
        let command = match &step.place {
            Place::Desk if program == "kubectl" => self.kubectl(step, arguments)?,
            Place::Desk => bail!("`{program}` is not known here; `kubectl` is"),
            Place::Node(node) => self.testbed.command(Machine::Node(node), program, arguments)?,
            Place::Outside => self.testbed.command(Machine::Outside, program, arguments)?,
        };
        ended(command).await
    }

    fn kubectl(&self, step: &Step, arguments: &[String]) -> anyhow::Result<std::process::Command> {
        let home = self.home.path();
        let mut command = kubectl();
        command.args(arguments).current_dir(fixtures());
        command.env("HOME", home).env("TMPDIR", home).env("KUBECONFIG", home.join("kubeconfig"));
        if let Some(edit) = &step.edit {
            let change = home.join("change");
            std::fs::write(&change, edit)?;
            command.env("KUBE_EDITOR", home.join(editor::NAME)).env(editor::CHANGE, change);
        }
        Ok(command)
    }
}

/// The notes' manifests.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/notes")
}

/// The minor version of the kubectl on this machine, or why there is none.
pub(crate) fn kubectl_minor() -> Result<u32, String> {
    let mut command = kubectl();
    let output = command.args(["version", "--client", "-o", "json"]).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("there is no kubectl here: {error}"))?;
    if !output.status.success() {
        return Err(format!("kubectl does not run here: {}", output.status));
    }
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let minor = version["clientVersion"]["minor"].as_str().unwrap_or_default();
    // Some add a plus.
    let digits = minor.trim_end_matches(|c: char| !c.is_ascii_digit());
    digits.parse().map_err(|_| format!("kubectl says that its minor version is `{minor}`"))
}

/// With nothing of this process' environment but where programs are.
fn kubectl() -> std::process::Command {
    let mut command = std::process::Command::new("kubectl");
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| OsStr::new("/usr/bin").into()));
    command
}

async fn ended(mut command: std::process::Command) -> anyhow::Result<Seen> {
    let (reader, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut reader = Receiver::from_owned_fd(OwnedFd::from(reader))?;
    let running = async {
        let mut command = Command::from(command);
        let mut child = command.kill_on_drop(true).spawn()?;
        // It holds the other end of the pipe as well.
        drop(command);
        let mut text = Vec::new();
        reader.read_to_end(&mut text).await?;
        let code = child.wait().await?.code();
        anyhow::Ok(Seen { text: String::from_utf8_lossy(&text).into_owned(), code })
    };
    let ended = timeout(COMMAND, running).await;
    ended.with_context(|| format!("it did not end within {COMMAND:?}"))?
}
