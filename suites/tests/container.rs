//! Every check as a test, on a testbed in a privileged container: ignored, with the reason, where no
//! container engine runs. The image is this very program.

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use stickler::engine::Engine;
use stickler::providers::ContainerProvider;
use stickler::{Capability, Check, Cluster, Provider as _, Session, Sink, Verdict};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    // In the container, and in its pods, this program is something else.
    if let Some(code) = stickler::reexec() {
        return code;
    }
    let arguments = Arguments::from_args();
    match trials() {
        Ok(trials) => libtest_mimic::run(&arguments, trials).exit_code(),
        Err(error) => {
            use std::io::Write as _;
            // Nothing else can be done about an error that cannot be written.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// One testbed for all checks, started by the first that needs it.
struct Bed {
    // Ended before the runtime its tasks run on.
    session: OnceCell<Session>,
    runtime: Runtime,
    /// Why there can be none.
    impossible: Option<String>,
}

/// What a testbed in a container lacks.
const ABSENT: [Capability; 3] = [Capability::NotesLab, Capability::Kubectl, Capability::LoadBalancer];

fn trials() -> anyhow::Result<Vec<Trial>> {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        anyhow::bail!("another cryptography provider is installed already");
    }
    let runtime = Runtime::new()?;
    let engine = runtime.block_on(Engine::find());
    let usable = engine.and_then(|engine| engine.runs_this_program());
    let impossible = usable.err().map(|error| format!("{error:#}"));
    let bed = Arc::new(Bed { session: OnceCell::new(), runtime, impossible });
    let trial = |check: &'static Check| {
        let bed = Arc::clone(&bed);
        Trial::ignorable_test(check.id, move || bed.perform(check))
    };
    Ok(stickler_suites::all().map(trial).collect())
}

impl Bed {
    fn perform(&self, check: &'static Check) -> Result<Completion, Failed> {
        if let Some(reason) = &self.impossible {
            return Ok(Completion::ignored_with(reason));
        }
        let ending = self.runtime.block_on(async {
            let session = self.session.get_or_try_init(open).await.map_err(|error| format!("{error:#}"))?;
            Ok::<_, String>(session.perform(check).await)
        })?;
        match (ending.verdict, ending.finding) {
            (Verdict::Passed, _) => Ok(Completion::Completed),
            // Nobody can sit in front of machines in a container, and a kubectl or a load balancer is not
            // always there. All else that a testbed can do, this one can do too.
            (Verdict::Skipped, _) if check.needs.iter().any(|need| ABSENT.contains(need)) => {
                Ok(Completion::ignored_with(ending.reason.unwrap_or_default()))
            }
            (Verdict::Skipped, _) => Err(format!("skipped: {}", ending.reason.unwrap_or_default()).into()),
            (_, Some(finding)) => {
                Err(format!("promised: {}\nobserved: {}", finding.promised, finding.observed).into())
            }
            (verdict, None) => Err(format!("{verdict:?}: {}", ending.reason.unwrap_or_default()).into()),
        }
    }
}

async fn open() -> anyhow::Result<Session> {
    let provider = ContainerProvider::new(3, Vec::new(), false);
    let cluster: Arc<dyn Cluster> = Arc::from(provider.start().await?);
    Session::open(cluster, Sink::new(Vec::new()), CancellationToken::new()).await
}
