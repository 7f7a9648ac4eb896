//! `stickler run`: check every promise, and report.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use stickler::{Check, Cluster, Kept, Provider, Sink};
use stickler_reports::{Deviation, Verdict};
use stickler_suites::Profile;
use tokio_util::sync::CancellationToken;

use crate::Ended;
use crate::cluster::{ClusterArgs, ReachArgs};
use crate::record::{Beginning, RecordArgs};
use crate::up::Kubeconfig;

/// Arguments of `stickler run`.
#[derive(Args)]
pub(crate) struct Run {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    reach: ReachArgs,
    /// Only checks whose id matches, such as `service/*`. May be given several times.
    #[arg(long = "filter", value_name = "GLOB")]
    filters: Vec<String>,
    /// Only the checks that concern one component, for those who build it.
    #[arg(long, value_name = "NAME", default_value = "full", value_parser = profile)]
    profile: Profile,
    /// A feature that the implementation does not claim to have, a chapter of checks such as `ingress`: its
    /// checks are skipped with that reason. May be given several times.
    #[arg(long = "without-feature", value_name = "NAME", value_parser = feature)]
    unclaimed: Vec<String>,
    /// Only the checks that failed, or could not be told, in an earlier run: the folder of its report. What
    /// failed as it is known to is not among them.
    #[arg(long, value_name = "DIR")]
    failed_from: Option<PathBuf>,
    /// Known deviations of the implementation, a TOML file: these checks must fail, and the run stays
    /// green if they do. `expected/` has some. May be given several times.
    #[arg(long = "expect", value_name = "FILE")]
    expect: Vec<PathBuf>,
    /// Leave the namespaces of checks that failed or could not be told, and a cluster that was made for the
    /// run until Ctrl-C, so that you may look; on a cluster that exists `stickler heal` removes them.
    #[arg(long)]
    keep: bool,
    /// Decides what is left to chance, such as the order of the checks; drawn if it is not given.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How many checks may run at once: 12 if it is not said and every component is ours, otherwise 6, for
    /// real ones have more to do.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    jobs: Option<u8>,
    #[command(flatten)]
    record: RecordArgs,
}

impl Run {
    /// The command that removes what this run kept.
    fn heal(&self) -> String {
        let mut command = "stickler heal --cluster kubeconfig".to_owned();
        if let Some(file) = &self.reach.kubeconfig {
            let _ = write!(command, " --kubeconfig {}", file.display());
        }
        if let Some(context) = &self.reach.context {
            let _ = write!(command, " --context {context}");
        }
        command
    }

    pub(crate) fn execute(&self) -> anyhow::Result<Ended> {
        let mut checks = self.profile.select(&self.filters).context("`--filter`")?;
        if let Some(folder) = &self.failed_from {
            let failed = failed_in(folder)?;
            if failed.is_empty() {
                let folder = folder.display();
                crate::print(&format!(
                    "every check of the report in `{folder}` passed or was skipped: nothing to do\n"
                ))?;
                return Ok(Ended::Held);
            }
            checks.retain(|check| failed.contains(check.id));
            ensure!(
                !checks.is_empty(),
                "none of the checks that failed in `{}` is among those of `--filter` and `--profile`: {}",
                folder.display(),
                failed.into_iter().collect::<Vec<_>>().join(", ")
            );
        }
        let deviations = stickler_suites::known_deviations(&self.expect)?;
        // Before the folder: who asked for the impossible is left nothing to clean up.
        let provider = self.cluster.provider(0, Some(&self.reach), Some(self.record.folder()))?;
        self.record.record_and(
            async |sink| self.perform(provider.as_ref(), checks, deviations, sink).await,
            async |kept| match kept {
                Some(kept) => kept.look(self).await,
                None => Ok(()),
            },
        )
    }

    async fn perform(
        &self,
        provider: &dyn Provider,
        checks: Vec<&'static Check>,
        deviations: Vec<Deviation>,
        sink: &Sink,
    ) -> anyhow::Result<Option<KeptCluster>> {
        let cancel = stickler::interrupt::watch()?;
        let seed = self.seed.unwrap_or_else(rand::random);
        let at_once = if self.cluster.is_all_ours() { 12 } else { 6 };
        let jobs = usize::from(self.jobs.unwrap_or(at_once));
        let beginning =
            Beginning { suite: "conformance", seed, jobs, checks: &checks, unclaimed: &self.unclaimed };
        let Some(cluster) = beginning.start(provider, &cancel, sink).await? else { return Ok(None) };
        let (keep, interrupted) = (self.keep, cancel.clone());
        let unclaimed = self.unclaimed.clone();
        let run = stickler::Run { checks, seed, jobs, deviations, unclaimed, keep, cancel };
        let kept = run.on(&cluster, sink).await;
        let is_kept = keep && !interrupted.is_cancelled();
        Ok(is_kept.then_some(KeptCluster { cluster, kept, interrupted }))
    }
}

/// A cluster after the run, with what was left on it for somebody to look at.
struct KeptCluster {
    cluster: Arc<dyn Cluster>,
    kept: Vec<Kept>,
    interrupted: CancellationToken,
}

impl KeptCluster {
    /// Says how to look at it; one that is ours is there until somebody has seen enough.
    async fn look(&self, run: &Run) -> anyhow::Result<()> {
        let width = self.kept.iter().map(|kept| kept.check.len()).max().unwrap_or_default();
        let line = |kept: &Kept| format!("  {:width$}  kubectl get all -n {}\n", kept.check, kept.namespace);
        let lines: String = self.kept.iter().map(line).collect();
        let Some(text) = self.cluster.kubeconfig() else {
            return run.record.say(&if lines.is_empty() {
                "nothing was kept: no check failed, and none could not be told\n".to_owned()
            } else {
                format!("\nkept on the cluster:\n{lines}{} removes it\n", run.heal())
            });
        };
        let path = run.record.folder().join("kubeconfig");
        // One that is there is of a run that was killed.
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("`{}` cannot be replaced", path.display()));
        }
        let mut kubeconfig = Kubeconfig::create(&path)?;
        kubeconfig.write(text)?;
        let path = std::path::absolute(&path).unwrap_or(path);
        let nothing = if lines.is_empty() { "  no check failed, and none could not be told\n" } else { "" };
        run.record.say(&format!(
            "\nthe cluster is kept\n  export KUBECONFIG={}\n{lines}{nothing}Ctrl-C ends it; nothing stays.\n",
            path.display()
        ))?;
        tokio::select! {
            () = self.interrupted.cancelled() => Ok(()),
            lost = self.cluster.lost() => bail!("the cluster that was kept is lost: {lost}"),
        }
    }
}

/// A profile by its name.
fn profile(name: &str) -> Result<Profile, String> {
    let known = || Profile::ALL.iter().map(|profile| profile.name()).collect::<Vec<_>>().join(", ");
    let named = Profile::ALL.iter().copied().find(|profile| profile.name() == name);
    named.ok_or_else(|| format!("the profiles are: {}", known()))
}

/// A feature by its name, which is that of a chapter.
fn feature(name: &str) -> Result<String, String> {
    let known: Vec<&str> = stickler_suites::CHAPTERS.iter().map(|(chapter, _)| *chapter).collect();
    if known.contains(&name) {
        Ok(name.to_owned())
    } else {
        Err(format!("the features are: {}", known.join(", ")))
    }
}

/// The checks that did not hold in the report of an earlier run, or of which it could not tell.
///
/// # Errors
/// If there is no such report, it has no checks, or one that this version does not know.
fn failed_in(folder: &Path) -> anyhow::Result<BTreeSet<String>> {
    let report = stickler_reports::read_report(folder)?;
    ensure!(
        !report.checks.is_empty(),
        "the report in `{}` is of a run without checks (`stickler {}`)",
        folder.display(),
        report.suite
    );
    let known: BTreeSet<&str> = stickler_suites::all().map(|check| check.id).collect();
    let failed =
        report.checks.iter().filter(|check| check.is_broken() || check.verdict == Verdict::Inconclusive);
    let failed: BTreeSet<String> = failed.map(|check| check.id.clone()).collect();
    let unknown: Vec<&str> = failed.iter().map(String::as_str).filter(|id| !known.contains(id)).collect();
    ensure!(
        unknown.is_empty(),
        "the report in `{}` has checks that this version does not know: {}; `stickler list` names them all",
        folder.display(),
        unknown.join(", ")
    );
    Ok(failed)
}
