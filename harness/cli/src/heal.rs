//! `stickler heal`: remove what a killed run left behind on a cluster that exists.

use clap::Args;

use crate::Ended;
use crate::cluster::{ProviderName, ReachArgs, runtime};

/// Arguments of `stickler heal`.
#[derive(Args)]
pub(crate) struct Heal {
    /// Which cluster to look at. A testbed leaves nothing behind.
    #[arg(long = "cluster", value_enum, default_value = "testbed", help_heading = "Cluster")]
    provider: ProviderName,
    #[command(flatten)]
    reach: ReachArgs,
    /// Remove what belongs to runs that seem to be alive, too.
    #[arg(long)]
    force: bool,
}

impl Heal {
    pub(crate) fn execute(&self) -> anyhow::Result<Ended> {
        if self.provider != ProviderName::Kubeconfig {
            crate::print("nothing to heal: a testbed ends with its process, and leaves nothing behind\n")?;
            return Ok(Ended::Held);
        }
        let provider = self.reach.provider()?;
        let healed = runtime()?.block_on(async {
            let (_, client) = provider.client().await?;
            // Whoever reads these lines may have gone; the work goes on.
            stickler::heal(&client, self.force, &mut |line| drop(crate::print(&format!("{line}\n")))).await
        })?;
        if !healed.alive.is_empty() {
            anyhow::bail!(
                "left alone, for they are alive: {}; stop them, or use `--force`",
                healed.alive.join(", ")
            );
        }
        crate::print(&match healed.healed.len() {
            0 => "nothing was left behind\n".to_owned(),
            count => format!("healed: nothing is left of {count} run(s)\n"),
        })?;
        Ok(Ended::Held)
    }
}
