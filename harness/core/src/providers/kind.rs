//! Kind: a real Kubernetes whose nodes are containers, made by the program of that name. Its image comes
//! from a registry.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use super::own::Own;
use crate::cluster::{Cluster, Provider};

/// The most kind may take to make a cluster, its image fetched.
const CREATED: Duration = Duration::from_secs(600);
/// How long kind itself waits for the nodes to be ready.
const READY: &str = "120s";
/// The most a cluster may take to be deleted.
const DELETED: Duration = Duration::from_secs(60);
/// What the names of our clusters begin with.
const PREFIX: &str = "stickler-";

/// Starts a cluster with kind.
#[derive(Clone, Debug)]
pub struct KindProvider {
    program: PathBuf,
    nodes: usize,
    node_image: Option<String>,
    image: String,
    archive: Option<PathBuf>,
    port: u16,
}

impl KindProvider {
    /// With so many nodes, the first of which is the control plane's, their image or kind's own, the
    /// image of the agent, and the port of 127.0.0.1 for the API server; 0 takes a free one.
    ///
    /// # Errors
    /// If there is no program `kind`, and where to get it.
    pub fn new(nodes: usize, node_image: Option<&str>, image: &str, port: u16) -> anyhow::Result<Self> {
        let (node_image, image) = (node_image.map(str::to_owned), image.to_owned());
        Ok(Self { program: program()?, nodes, node_image, image, archive: None, port })
    }

    /// With an archive that has the image of the agent, to be loaded into every node.
    #[must_use]
    pub fn with_archive(self, archive: Option<PathBuf>) -> Self {
        Self { archive, ..self }
    }

    /// Deletes the clusters of every run that kind knows of, and says which there were.
    ///
    /// # Errors
    /// If there is no kind, or it fails.
    pub async fn heal() -> anyhow::Result<Vec<String>> {
        let program = program()?;
        let mut command = Command::new(&program);
        command.args(["get", "clusters"]);
        let listed = said(command, "", DELETED).await?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let mut deleted = Vec::new();
        for name in listed.lines().map(str::trim).filter(|name| name.starts_with(PREFIX)) {
            drop(Machines::of(&program, name.to_owned()));
            deleted.push(format!("cluster {name}"));
        }
        Ok(deleted)
    }

    async fn start_now(&self) -> anyhow::Result<Box<dyn Cluster>> {
        let name = format!("{PREFIX}{:06x}", rand::random::<u32>() & 0x00ff_ffff);
        let machines = Machines::of(&self.program, name);
        let mut command = machines.kind("create", "cluster");
        command.args(["--wait", READY, "--config", "-"]);
        if let Some(image) = &self.node_image {
            command.args(["--image", image]);
        }
        said(Command::from(command), &self.config(), CREATED).await?;
        if let Some(archive) = &self.archive {
            let mut command = machines.kind("load", "image-archive");
            command.arg(archive);
            said(Command::from(command), "", CREATED).await?;
        }
        let command = machines.kind("get", "kubeconfig");
        let kubeconfig = said(Command::from(command), "", DELETED).await?;
        let kubeconfig = String::from_utf8(kubeconfig.stdout).context("kind's kubeconfig is no text")?;
        Own::of(self.name(), kubeconfig, &self.image, machines).await
    }

    fn config(&self) -> String {
        let mut config = format!(
            "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnetworking:\n  apiServerAddress: 127.0.0.1\n  \
             apiServerPort: {}\nnodes:\n- role: control-plane\n",
            self.port
        );
        config.extend(std::iter::repeat_n("- role: worker\n", self.nodes.saturating_sub(1)));
        config
    }
}

impl Provider for KindProvider {
    fn name(&self) -> &'static str {
        "kind"
    }

    fn start(&self) -> BoxFuture<'_, anyhow::Result<Box<dyn Cluster>>> {
        self.start_now().boxed()
    }
}

fn program() -> anyhow::Result<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join("kind")).find(|path| path.is_file());
    found.context(
        "the program `kind` is in no folder of $PATH; \
         https://kind.sigs.k8s.io/docs/user/quick-start/#installation says how to install it",
    )
}

/// Runs kind to its end, which must be a good one.
async fn said(mut command: Command, input: &str, bound: Duration) -> anyhow::Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("kind cannot be started")?;
    let running = async {
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read has ended, and says why.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = timeout(bound, running).await;
    let output = output.map_err(|_| anyhow!("kind was not done within {bound:?}"))??;
    if !output.status.success() {
        bail!("kind: {}", in_one_line(&String::from_utf8_lossy(&output.stderr)));
    }
    Ok(output)
}

/// What kind complains of: the line that says `ERROR`, or else the last one.
fn in_one_line(complaints: &str) -> String {
    let mut lines = complaints.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines.clone().find(|line| line.starts_with("ERROR"));
    error.or_else(|| lines.next_back()).unwrap_or("it failed without a word").to_owned()
}

/// The containers of one cluster; deleted when this is dropped.
struct Machines {
    program: PathBuf,
    name: String,
    kubeconfig: PathBuf,
}

impl Machines {
    fn of(program: &Path, name: String) -> Self {
        // Kind would else add the cluster to the kubeconfig of whoever runs this.
        let kubeconfig = std::env::temp_dir().join(format!("{name}.kubeconfig"));
        Self { program: program.to_owned(), name, kubeconfig }
    }

    /// `kind VERB NOUN` for this cluster.
    fn kind(&self, verb: &str, noun: &str) -> std::process::Command {
        let mut command = std::process::Command::new(&self.program);
        command.env("KUBECONFIG", &self.kubeconfig).args([verb, noun, "--name", &self.name]);
        command
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        let mut command = self.kind("delete", "cluster");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let deleting = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async move {
                let mut command = Command::from(command);
                timeout(DELETED, command.kill_on_drop(true).status()).await?
            })
        });
        let deleted = deleting.join().unwrap_or_else(|_| Err(std::io::Error::other("the thread panicked")));
        match deleted {
            Ok(status) if status.success() => {}
            other => tracing::warn!("kind did not delete cluster `{}`: {other:?}", self.name),
        }
        // Kind removes what it wrote into it, not the file, and may never have come so far.
        let _ = std::fs::remove_file(&self.kubeconfig);
    }
}

#[cfg(test)]
mod tests {
    use super::in_one_line;

    #[test]
    fn the_error_is_picked_from_what_kind_prints() {
        let printed = "Creating cluster \"x\" ...\n ✗ Ensuring node image\nERROR: failed to create cluster: no\n\
                       Command Output: more\n";
        assert_eq!(in_one_line(printed), "ERROR: failed to create cluster: no");
        assert_eq!(in_one_line("a\nb\n"), "b");
        assert_eq!(in_one_line(""), "it failed without a word");
    }
}
