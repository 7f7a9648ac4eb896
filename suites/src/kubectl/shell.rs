//! The shell: kubectl on this machine, and the programs of pods on the cluster's machines.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use stickler::{Machine, Terminal};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Command;
use tokio::time::timeout;

use super::editor;
use super::play::{Give, Seen};
use super::text::{Manifest, Place, Step};

/// The most one command may take, on a machine that is busy with something else.
const COMMAND: Duration = Duration::from_secs(30);

/// What the text names and does not show.
const INGRESS: [(&str, &str); 2] = [
    ("rbac.yaml", include_str!("../../../fixtures/ingress/rbac.yaml")),
    ("controller.yaml", include_str!("../../../fixtures/ingress/controller.yaml")),
];

/// A shell on one cluster, in one namespace.
pub(crate) struct Shell<'a> {
    terminal: &'a dyn Terminal,
    /// Where kubectl keeps what it keeps, and where the manifests are; gone at the end.
    home: TempDir,
}

impl<'a> Shell<'a> {
    pub(crate) async fn open(
        terminal: &'a dyn Terminal,
        namespace: &str,
        manifests: &[Manifest],
    ) -> anyhow::Result<Self> {
        let home = TempDir::new_in(terminal.folder()?).context("a folder for kubectl cannot be made")?;
        let shell = Self { terminal, home };
        let home = shell.home.path();
        std::fs::write(home.join("kubeconfig"), terminal.kubeconfig())?;
        std::os::unix::fs::symlink(std::env::current_exe()?, home.join(editor::NAME))?;
        std::fs::create_dir(shell.folder())?;
        for manifest in manifests {
            std::fs::write(shell.folder().join(&manifest.file), &manifest.text)?;
        }
        std::fs::create_dir(home.join("ingress"))?;
        for (file, text) in INGRESS {
            std::fs::write(home.join("ingress").join(file), text)?;
        }
        let mut choose = shell.kubectl();
        choose.args(["config", "set-context", "--current", "--namespace", namespace]);
        let chosen = ended(choose).await?;
        ensure!(chosen.code == Some(0), "kubectl does not take the namespace `{namespace}`: {}", chosen.text);
        Ok(shell)
    }

    /// Where the notes' manifests are, and where commands are given.
    fn folder(&self) -> PathBuf {
        self.home.path().join("notes")
    }

    fn kubectl_as_typed(&self, step: &Step, arguments: &[String]) -> anyhow::Result<std::process::Command> {
        let mut command = self.kubectl();
        command.args(arguments);
        if let Some(edit) = &step.edit {
            let home = self.home.path();
            let change = home.join("change");
            std::fs::write(&change, edit)?;
            command.env("KUBE_EDITOR", home.join(editor::NAME)).env(editor::CHANGE, change);
        }
        Ok(command)
    }

    fn kubectl(&self) -> std::process::Command {
        let home = self.home.path();
        let mut command = kubectl();
        command.current_dir(self.folder());
        command.env("HOME", home).env("TMPDIR", home).env("KUBECONFIG", home.join("kubeconfig"));
        command
    }
}

impl Give for Shell<'_> {
    fn give<'a>(&'a self, step: &'a Step, words: &'a [String]) -> BoxFuture<'a, anyhow::Result<Seen>> {
        async move {
            let Some((program, arguments)) = words.split_first() else { bail!("there is no command") };
            let command = match &step.place {
                Place::Desk if program == "kubectl" => self.kubectl_as_typed(step, arguments)?,
                Place::Desk => bail!("`{program}` is not known here; `kubectl` is"),
                Place::Node(node) => self.terminal.command(Machine::Node(node), program, arguments)?,
                Place::Outside => self.terminal.command(Machine::Outside, program, arguments)?,
            };
            ended(command).await
        }
        .boxed()
    }
}

/// The minor version of the kubectl on this machine.
///
/// # Errors
/// Why there is none.
pub fn kubectl_minor() -> Result<u32, String> {
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
