//! `stickler chaos`: faults strike while clients call, and every answer is judged.

use std::time::Duration;

use clap::Args;
use stickler::chaos::{Chaos, Fault};
use stickler::{Bounds, Provider, Sink};
use tokio_util::sync::CancellationToken;

use crate::Ended;
use crate::cluster::{ClusterArgs, ProviderName, ReachArgs};
use crate::record::{Beginning, Format, RecordArgs};

/// Arguments of `stickler chaos`.
#[derive(Args)]
pub(crate) struct ChaosArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    reach: ReachArgs,
    /// How long faults strike, such as `90s` or `10m`; each of them strikes once however short it is.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    duration: Duration,
    /// Decides which faults strike when, and on what; drawn if it is not given.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Which faults may strike: pod-deleted, container-killed, readiness-flapping, rolling-update,
    /// scale-storm; all of them if it is not said.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    faults: Vec<Fault>,
    /// How many calls each client begins per second.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Print what would strike when, and do nothing.
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    record: RecordArgs,
}

impl ChaosArgs {
    pub(crate) fn execute(&self) -> anyhow::Result<Ended> {
        let seed = self.seed.unwrap_or_else(rand::random);
        if self.plan {
            return self.print_plan(seed);
        }
        let provider = self.cluster.provider(0, Some(&self.reach), Some(self.record.folder()))?;
        self.record.record(async |sink| self.perform(provider.as_ref(), seed, sink).await)
    }

    fn chaos(&self, seed: u64, cancel: CancellationToken) -> Chaos {
        let faults = if self.faults.is_empty() { Fault::ALL.to_vec() } else { self.faults.clone() };
        Chaos { seed, duration: self.duration, faults, rate: self.rate, cancel }
    }

    async fn perform(&self, provider: &dyn Provider, seed: u64, sink: &Sink) -> anyhow::Result<()> {
        let cancel = stickler::interrupt::watch()?;
        let beginning = Beginning::of("chaos", seed);
        let Some(cluster) = beginning.start(provider, &cancel, sink).await? else { return Ok(()) };
        self.chaos(seed, cancel).on(&cluster, sink).await;
        Ok(())
    }

    fn print_plan(&self, seed: u64) -> anyhow::Result<Ended> {
        let bounds = match self.cluster.provider {
            ProviderName::Testbed | ProviderName::Container => Bounds::TESTBED,
            ProviderName::Kubeconfig | ProviderName::Binaries | ProviderName::K3s | ProviderName::Kind => {
                Bounds::REAL
            }
        };
        let plan = self.chaos(seed, CancellationToken::new()).plan(&bounds).cards();
        match self.record.format {
            Format::Json => crate::print(&(serde_json::to_string_pretty(&plan)? + "\n"))?,
            Format::Pretty => {
                let line = |fault: &stickler_reports::PlannedFault| {
                    format!("{:>8} ms  {:18}  {}\n", fault.at_ms, fault.fault, fault.what)
                };
                let lines: String = plan.iter().map(line).collect();
                crate::print(&format!("seed {seed}\n{lines}"))?;
            }
        }
        Ok(Ended::Held)
    }
}

/// Reads `500ms`, `90s`, `10m`, `2h`, or seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let millis = match unit {
        "ms" => Some(1),
        "" | "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let number: Option<u64> = number.parse().ok();
    let total = number.zip(millis).and_then(|(number, millis)| number.checked_mul(millis));
    let week = 7 * 24 * 3_600_000;
    let total = total.filter(|total| *total > 0 && *total <= week);
    total
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`{text}` is no time up to a week; one looks like `90s` or `10m`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit() {
        let read = |text| duration(text).ok().map(|time| time.as_millis());
        assert_eq!(read("60s"), Some(60_000));
        assert_eq!(read("250ms"), Some(250));
        assert_eq!(read("10m"), Some(600_000));
        assert_eq!(read("7"), Some(7_000));
        for wrong in ["", "s", "1d", "-1s", "0s", "99999999999999999999s", "200h", "1.5s"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
