//! How long a cluster takes to start, until it is ready and until its names resolve.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use stickler_testbed::namespace::NetNamespace;
use stickler_testbed::{Testbed, TestbedSpec};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::Effort;
use crate::figures::Figure;

/// The most a start may take, without cluster DNS and with it.
const READY: Duration = Duration::from_millis(300);
const NAMED: Duration = Duration::from_millis(500);

/// Where cluster DNS is.
const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 96, 0, 10), 53);
/// How long one question may go unanswered, and all of them together.
const ONCE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn measure(effort: &'static Effort) -> anyhow::Result<Vec<Figure>> {
    let (mut ready, mut named) = (Vec::new(), Vec::new());
    let mut steps: Vec<(&str, Vec<Duration>)> = Vec::new();
    for _ in 0..effort.starts {
        let begun = Instant::now();
        let testbed = Testbed::start(TestbedSpec::default()).await?;
        ready.push(begun.elapsed());
        for (index, step) in testbed.steps().iter().enumerate() {
            if steps.len() == index {
                steps.push((step.name, Vec::new()));
            }
            steps[index].1.push(step.took);
        }
        // Wherever a pod may be.
        for node in testbed.topology().nodes() {
            first_name(&node.namespace).await.with_context(|| format!("a name on {}", node.name))?;
        }
        named.push(begun.elapsed());
    }
    let mut figures = vec![Figure::times("3 nodes, ready", &ready).at_most(READY)];
    figures.extend(steps.iter().map(|(name, took)| Figure::times(format!("  of that: {name}"), took)));
    figures.push(Figure::times("3 nodes, cluster DNS answers on each", &named).at_most(NAMED));
    Ok(figures)
}

/// Asks until there is an answer.
async fn first_name(from: &NetNamespace) -> anyhow::Result<()> {
    let mut last = anyhow::anyhow!("nothing was asked");
    let asking = timeout(PATIENCE, async {
        let mut often = tokio::time::interval(Duration::from_millis(1));
        loop {
            often.tick().await;
            match ask(from).await {
                Ok(()) => return,
                Err(error) => last = error,
            }
        }
    });
    let answered = asking.await;
    answered.map_err(|_| last.context(format!("cluster DNS did not answer within {PATIENCE:?}")))
}

/// One question, from a socket of its own: no connection is tracked from before there was an answer.
async fn ask(from: &NetNamespace) -> anyhow::Result<()> {
    let socket = from.run(|| std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(socket)?;
    socket.connect(SERVER).await?;
    let mut question = Message::new(1, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii("kubernetes.default.svc.cluster.local.")?;
    question.add_query(Query::query(name, RecordType::A));
    socket.send(&question.to_vec()?).await?;
    let mut buffer = [0; 512];
    let length = timeout(ONCE, socket.recv(&mut buffer)).await.context("no answer")??;
    let answer = Message::from_vec(&buffer[..length])?;
    let code = answer.metadata.response_code;
    ensure!(code == ResponseCode::NoError && !answer.answers.is_empty(), "the answer is {code:?}");
    Ok(())
}
