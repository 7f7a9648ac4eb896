//! `stickler up`: a cluster to work with by hand.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use stickler::manifest::{self, Manifest};
use stickler::{Cluster, Provider};

use crate::Ended;
use crate::cluster::{ClusterArgs, runtime};

/// Arguments of `stickler up`.
#[derive(Args)]
pub(crate) struct Up {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Where to write the kubeconfig; it is removed again at the end.
    #[arg(long, value_name = "FILE", default_value = "stickler.kubeconfig")]
    kubeconfig: PathBuf,
    /// The port of the API server on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Create the objects of a manifest once the cluster is up. May be given several times.
    #[arg(long = "apply", value_name = "FILE")]
    manifests: Vec<PathBuf>,
}

impl Up {
    pub(crate) fn execute(&self) -> anyhow::Result<Ended> {
        let mut objects = Vec::new();
        for file in &self.manifests {
            objects.extend(crate::table::read(file)?.into_iter().map(|manifest| (file.clone(), manifest)));
        }
        // Before the cluster: who cannot write here had better know at once.
        let kubeconfig = Kubeconfig::create(&self.kubeconfig)?;
        let provider = self.cluster.provider(self.port, None, None)?;
        let runtime = runtime()?;
        runtime.block_on(self.perform(provider.as_ref(), objects, kubeconfig))
    }

    async fn perform(
        &self,
        provider: &dyn Provider,
        objects: Vec<(PathBuf, Manifest)>,
        mut kubeconfig: Kubeconfig,
    ) -> anyhow::Result<Ended> {
        let cancel = stickler::interrupt::watch()?;
        let started = tokio::select! {
            started = provider.start() => started,
            () = cancel.cancelled() => return Ok(Ended::Interrupted),
        };
        let cluster = started.with_context(|| format!("cluster `{}` did not start", provider.name()))?;
        let Some(text) = cluster.kubeconfig() else {
            bail!("cluster `{}` has no kubeconfig", provider.name())
        };
        kubeconfig.write(text)?;
        for (file, manifest) in objects {
            create(cluster.as_ref(), &file, manifest).await?;
        }
        self.greet(cluster.as_ref())?;
        cancel.cancelled().await;
        Ok(Ended::Held)
    }

    fn greet(&self, cluster: &dyn Cluster) -> anyhow::Result<()> {
        let card = cluster.card();
        let doors = cluster.terminal().map(|terminal| terminal.doors()).unwrap_or_default();
        let doors: String = doors.iter().map(|(name, door)| format!("  {name:10}{door} COMMAND\n")).collect();
        let doors = match doors.as_str() {
            "" => doors,
            doors => format!("On its machines, each a network of its own:\n{doors}\n"),
        };
        crate::print(&format!(
            "{} {} is up: {} in {} ms\n\n  export KUBECONFIG={}\n  kubectl get nodes -o wide\n  kubectl create \
             -f fixtures/notes/goweb-rs.yaml -f fixtures/notes/goweb-svc.yaml\n  kubectl get all\n\n{doors}Images here: \
             goweb (the notes' name for it too), stickler-pods, busybox.\nCtrl-C ends it; nothing stays.\n",
            card.provider,
            card.version,
            card.nodes.join(", "),
            card.ready_ms,
            // Wherever the next shell is.
            std::path::absolute(&self.kubeconfig).unwrap_or_else(|_| self.kubeconfig.clone()).display()
        ))
    }
}

async fn create(cluster: &dyn Cluster, file: &Path, manifest: Manifest) -> anyhow::Result<()> {
    let name = manifest.object.metadata.name.clone().unwrap_or_default();
    let kind = &manifest.resource.kind;
    let created = manifest::create(&cluster.client(), "default", &manifest).await;
    created.with_context(|| format!("{kind} `{name}` of `{}` was refused", file.display()))?;
    crate::print(&format!("{}/{name} created\n", kind.to_lowercase()))
}

/// The kubeconfig on disk: for its owner only, and gone at the end.
pub(crate) struct Kubeconfig {
    path: PathBuf,
    file: std::fs::File,
}

impl Kubeconfig {
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path).with_context(|| {
            format!(
                "the kubeconfig `{}` cannot be written; it must not exist yet (name another one with `--kubeconfig`)",
                path.display()
            )
        })?;
        Ok(Self { path: path.to_owned(), file })
    }

    pub(crate) fn write(&mut self, text: &str) -> anyhow::Result<()> {
        let written = self.file.write_all(text.as_bytes());
        written.with_context(|| format!("the kubeconfig `{}` cannot be written", self.path.display()))
    }
}

impl Drop for Kubeconfig {
    fn drop(&mut self) {
        // Nobody is left to be told that it was gone already.
        let _ = std::fs::remove_file(&self.path);
    }
}
