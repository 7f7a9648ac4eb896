//! `stickler table`: what every place sees at every destination, beside what is promised there.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use stickler::manifest::{Manifest, parse};
use stickler::truth::{Taking, given_manifests};
use stickler::{Provider, Sink};

use crate::Ended;
use crate::cluster::{ClusterArgs, ReachArgs};
use crate::record::{Beginning, RecordArgs};
use stickler::interrupt;

/// Arguments of `stickler table`.
#[derive(Args)]
pub(crate) struct Table {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    reach: ReachArgs,
    /// Manifests to apply instead of a world that has something of everything: files, or folders whose files
    /// `*.yaml` and `*.yml` are meant. Their objects go into a namespace that is made for the table.
    #[arg(long = "manifest", value_name = "FILE", num_args = 1..)]
    manifests: Vec<PathBuf>,
    #[command(flatten)]
    record: RecordArgs,
}

impl Table {
    pub(crate) fn execute(&self) -> anyhow::Result<Ended> {
        let mut files = Vec::new();
        for given in &self.manifests {
            for file in files_of(given)? {
                files.push((file.display().to_string(), read(&file)?));
            }
        }
        // Before the folder: who asked for the impossible is left nothing to clean up.
        let provider = self.cluster.provider(0, Some(&self.reach), Some(self.record.folder()))?;
        self.record.record(async |sink| self.perform(provider.as_ref(), files, sink).await)
    }

    async fn perform(
        &self,
        provider: &dyn Provider,
        files: Vec<(String, Vec<Manifest>)>,
        sink: &Sink,
    ) -> anyhow::Result<()> {
        let cancel = interrupt::watch()?;
        // Nothing is left to chance but what the cluster leaves to it.
        let beginning = Beginning::of("table", 0);
        let Some(cluster) = beginning.start(provider, &cancel, sink).await? else { return Ok(()) };
        let taking = Taking { cancel };
        let world = async |scene: &stickler::Scene, truth: &mut stickler::truth::Truth| match files.is_empty()
        {
            true => Ok(stickler_suites::table_world(scene, truth).await),
            false => given_manifests(scene, truth, files).await,
        };
        taking.on(&cluster, sink, world).await
    }
}

/// A file, or the manifests of a folder, by name.
fn files_of(given: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !given.is_dir() {
        return Ok(vec![given.to_owned()]);
    }
    let unreadable = || format!("the folder `{}` cannot be read", given.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(given).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        bail!("the folder `{}` holds no file `*.yaml` or `*.yml`", given.display());
    }
    Ok(files)
}

/// Reads the objects of a manifest.
pub(crate) fn read(file: &Path) -> anyhow::Result<Vec<Manifest>> {
    let name = file.display().to_string();
    let text =
        std::fs::read_to_string(file).with_context(|| format!("the manifest `{name}` cannot be read"))?;
    parse(&name, &text)
}
