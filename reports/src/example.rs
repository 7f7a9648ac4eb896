//! A report with something of everything, for the tests of those that render it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::{
    BucketReport, ChaosReport, CheckReport, Class, ClusterCard, ComponentCard, Deviation, Difference,
    DistributionReport, Evidence, ExploreReport, FaultReport, Flow, KnownDifference, Place, Promised, Report,
    Saw, Slices, Timing, Transport, Verdict, ViolationReport,
};

fn check(id: &str, verdict: Verdict) -> CheckReport {
    CheckReport {
        id: id.to_owned(),
        title: format!("the title of {id}"),
        chapter: id.split('/').next().unwrap_or_default().to_owned(),
        class: Class::Promise,
        verdict,
        reason: None,
        duration_ms: 12,
        promised: None,
        observed: None,
        evidence: Vec::new(),
        expected: None,
    }
}

/// One that held, a known deviation, one broken and one untold check; chaos with one violation; an
/// interrupt.
pub(crate) fn report() -> Report {
    let known = Deviation {
        check: "affinity/known".to_owned(),
        reason: "it forgets".to_owned(),
        source: "https://example.org/7".to_owned(),
        sometimes: false,
    };
    let finding = |check: CheckReport| CheckReport {
        promised: Some("`web` answers".to_owned()),
        observed: Some("it was <silent> & slow".to_owned()),
        reason: Some("namespace n-1".to_owned()),
        evidence: vec![Evidence { name: "Service web".to_owned(), text: "spec: {}".to_owned() }],
        ..check
    };
    let staleness = DistributionReport {
        count: 3,
        p50_us: 1500,
        p90_us: 9000,
        p99_us: 9000,
        max_us: 9000,
        histogram: vec![
            BucketReport { up_to_us: 2000, count: 2 },
            BucketReport { up_to_us: 10_000, count: 1 },
        ],
    };
    let chaos = ChaosReport {
        verdict: Verdict::Failed,
        calls: 100,
        clients: 4,
        rate: 10,
        duration_ms: 2000,
        violations: 1,
        staleness: staleness.clone(),
        faults: vec![FaultReport {
            fault: "pod deleted".to_owned(),
            what: "web-1".to_owned(),
            injected_us: 1_000_000,
            healed_us: 2_000_000,
            trouble: None,
            staleness,
        }],
        first_violations: vec![ViolationReport {
            vantage: "a pod".to_owned(),
            destination: "`web`".to_owned(),
            call: 3,
            started_us: 1_500_000,
            ended_us: 1_600_000,
            within_us: 10,
            seen: "answered by web-gone".to_owned(),
            allowed_then: "web-2".to_owned(),
            needed_ms: Some(7),
            after: Some("pod deleted".to_owned()),
            around: vec!["0.9 s: web-1".to_owned()],
        }],
        ..ChaosReport::default()
    };
    let mut report = Report {
        tool: "stickler 0".to_owned(),
        suite: "conformance".to_owned(),
        seed: 42,
        started: Timestamp::UNIX_EPOCH,
        duration_ms: 1500,
        cluster: Some(ClusterCard {
            provider: "testbed".to_owned(),
            version: "v1.37.0".to_owned(),
            nodes: vec!["kube0.vm".to_owned()],
            capabilities: Vec::new(),
            ready_ms: 60,
            timings: vec![Timing { step: "start: topology".to_owned(), us: 10_000 }],
            components: vec![ComponentCard {
                component: "proxy".to_owned(),
                command: Some("kube-proxy --v=2".to_owned()),
                version: Some("Kubernetes v1.20.2".to_owned()),
            }],
        }),
        checks: vec![
            check("affinity/held", Verdict::Passed),
            CheckReport { expected: Some(known), ..finding(check("affinity/known", Verdict::Failed)) },
            finding(check("vip/broken", Verdict::Failed)),
            CheckReport {
                reason: Some("an agent was lost".to_owned()),
                ..check("vip/untold", Verdict::Inconclusive)
            },
        ],
        chaos: Some(chaos),
        ..Report::new()
    };
    report.count();
    report
}

/// Two cases: one held, and one showed one of two known differences.
pub(crate) fn explored() -> ExploreReport {
    let known = |seen, reason: &str, source: &str| {
        let (at, protocol, flow, promised) =
            (Place::NodePort, Transport::Udp, Flow::Known, Promised::Answered);
        let explore =
            vec![Difference { at, protocol, flow, slices: Slices::Plain, promised, seen, by: None }];
        KnownDifference { explore, reason: reason.to_owned(), source: source.to_owned() }
    };
    let mut explore = ExploreReport::knowing(&[
        known(Saw::Refused, "it is rude", "https://example.org/9"),
        known(Saw::Silent, "it forgets", "https://example.org/8"),
    ]);
    explore.planned = 2;
    explore.count(Verdict::Passed, None, &BTreeMap::new(), 10);
    let met = BTreeMap::from([(1, "a pod got <no> answer".to_owned())]);
    explore.count(Verdict::Passed, None, &met, 10);
    explore
}
