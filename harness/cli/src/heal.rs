//! `stickler heal`: remove what a killed run left behind: on a cluster that exists, or with the
//! container engine of this machine.

use clap::Args;
use stickler::engine;
use stickler::providers::KindProvider;

use crate::Ended;
use crate::cluster::{ProviderName, ReachArgs, runtime};

/// Arguments of `stickler heal`.
#[derive(Args)]
pub(crate) struct Heal {
    /// Which cluster to look at. A testbed leaves nothing behind; of a container engine everything of ours
    /// is removed, so no run may be under way.
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
        match self.provider {
            ProviderName::Kubeconfig => self.cluster(),
            ProviderName::Testbed | ProviderName::Binaries => {
                crate::print(
                    "nothing to heal: a testbed ends with its process, and leaves nothing behind\n",
                )?;
                Ok(Ended::Held)
            }
            ProviderName::Container | ProviderName::K3s => tell(&runtime()?.block_on(engine::heal())?),
            ProviderName::Kind => tell(&runtime()?.block_on(KindProvider::heal())?),
        }
    }

    fn cluster(&self) -> anyhow::Result<Ended> {
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

/// Says what was removed.
fn tell(removed: &[String]) -> anyhow::Result<Ended> {
    let text: String = removed.iter().map(|what| format!("removed {what}\n")).collect();
    crate::print(if text.is_empty() { "nothing was left behind\n" } else { &text })?;
    Ok(Ended::Held)
}
