//! `stickler heal`: remove what a run that was killed left behind.

use clap::Args;
use stickler::engine;
use stickler::providers::KindProvider;

use crate::Ended;
use crate::cluster::{ProviderName, runtime};

/// Arguments of `stickler heal`.
#[derive(Args)]
pub(crate) struct Heal {
    /// What kind of cluster the run used. Everything of ours there is removed, so no other run may be
    /// under way.
    #[arg(long = "cluster", value_enum, help_heading = "Cluster")]
    provider: ProviderName,
}

impl Heal {
    pub(crate) fn execute(&self) -> anyhow::Result<Ended> {
        let removed = match self.provider {
            // Nothing of it has a name: there is nothing that could be left.
            ProviderName::Testbed => Vec::new(),
            ProviderName::Container | ProviderName::K3s => runtime()?.block_on(engine::heal())?,
            ProviderName::Kind => runtime()?.block_on(KindProvider::heal())?,
            ProviderName::Kubeconfig => anyhow::bail!(
                "what is left on a cluster that exists are namespaces: kubectl delete namespaces -l \
                 app.kubernetes.io/managed-by=stickler"
            ),
        };
        let text: String = removed.iter().map(|what| format!("removed {what}\n")).collect();
        crate::print(if text.is_empty() { "nothing was left\n" } else { &text })?;
        Ok(Ended::Held)
    }
}
