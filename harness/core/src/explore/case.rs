//! Cases: a sequence of operations that broke a promise, as a file that can be replayed.

use serde::{Deserialize, Serialize};
use stickler_reports::Finding;

use super::operation::{Operation, create, functions, workload};
use super::reference::{Ground, Plan};

/// The version of the file's shape.
pub const CASE_SCHEMA: &str = "stickler.case/v2";

/// Earlier ones that are read too: what is in such a file means the same today.
const EARLIER: &[&str] = &["stickler.case/v1"];

/// A case as it is saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub schema: String,
    /// How many nodes the cluster had.
    pub nodes: u8,
    /// The seed it was found with, and which of its cases it was.
    pub seed: u64,
    pub case: usize,
    pub operations: Vec<Operation>,
    /// What was promised, and what was seen instead.
    pub promised: String,
    pub observed: String,
}

/// Why a text is no case.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    #[error("it is no case file: {0}")]
    Unreadable(String),
    #[error("field `schema` is `{0}`; this version reads `{CASE_SCHEMA}` and earlier {earlier}", earlier = EARLIER.join(", "))]
    Schema(String),
    #[error("field `operations` is empty, so there is nothing to replay")]
    Empty,
    #[error("line {line}, field `operations[{index}]`: {why}")]
    Impossible { line: usize, index: usize, why: String },
}

impl Case {
    pub(crate) fn new(
        nodes: u8,
        seed: u64,
        case: usize,
        operations: Vec<Operation>,
        finding: &Finding,
    ) -> Self {
        let (promised, observed) = (finding.promised.clone(), finding.observed.clone());
        Self { schema: CASE_SCHEMA.to_owned(), nodes, seed, case, operations, promised, observed }
    }

    /// Reads a case back.
    ///
    /// # Errors
    /// Which line and field is wrong, and why.
    pub fn parse(text: &str) -> Result<Self, CaseError> {
        let unreadable = |error: serde_saphyr::Error| {
            // It draws a picture below its first line, which says it all.
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            CaseError::Unreadable(first.trim_start_matches("error: ").to_owned())
        };
        let schema: Schema = serde_saphyr::from_str(text).map_err(unreadable)?;
        if schema.schema != CASE_SCHEMA && !EARLIER.contains(&schema.schema.as_str()) {
            return Err(CaseError::Schema(schema.schema));
        }
        let case: Self = serde_saphyr::from_str(text).map_err(unreadable)?;
        if case.operations.is_empty() {
            return Err(CaseError::Empty);
        }
        // Whether kubelets can be stopped, the cluster knows; here it only matters that nodes exist.
        let mut plan = case.beginning();
        for (index, operation) in case.operations.iter().enumerate() {
            if let Err(why) = plan.permits(operation) {
                return Err(CaseError::Impossible { line: line_of(text, index), index, why });
            }
            plan = plan.after(operation);
        }
        Ok(case)
    }

    /// The file's text: the case, and as comments what a person would type.
    pub fn to_yaml(&self) -> String {
        let mut text = serde_saphyr::to_string(self).unwrap_or_default();
        text.push_str(
            "\n# The same by hand, in a namespace of its own; where it says `image: stickler`, put the\n",
        );
        text.push_str("# image of the agent:\n#\n");
        for line in self.script().lines() {
            text.push_str(format!("#   {line}").trim_end());
            text.push('\n');
        }
        text
    }

    /// What a person would type, one command after the other.
    pub fn script(&self) -> String {
        let mut text = String::new();
        for (name, plan) in &self.beginning().workloads {
            let replicas = u8::try_from(plan.pods.len()).unwrap_or(u8::MAX);
            text.push_str(&create(&workload(*name, plan.maker, plan.gated, replicas)));
            text.push('\n');
        }
        for operation in &self.operations {
            text.push_str(&operation.to_string());
            text.push('\n');
        }
        format!("{}{text}", functions(&text))
    }

    /// The world before the first operation. What the cluster's version and kubelets allow, the cluster
    /// that it is performed on knows.
    fn beginning(&self) -> Plan {
        Plan::initial(Ground { nodes: self.nodes, kubelets: self.nodes, minor: u32::MAX })
    }
}

/// All that every version of the file has.
#[derive(Deserialize)]
struct Schema {
    schema: String,
}

/// The line an operation begins on.
fn line_of(text: &str, index: usize) -> usize {
    let list = text.lines().position(|line| line.starts_with("operations:")).unwrap_or_default();
    let rest = text.lines().enumerate().skip(list + 1);
    // Items of the list stand less deep than what is in them.
    let mut items: Vec<(usize, usize)> = Vec::new();
    for (number, line) in rest {
        let depth = line.len() - line.trim_start().len();
        if line.trim_start().starts_with("- ") && items.first().is_none_or(|(first, _)| depth <= *first) {
            items.push((depth, number + 1));
        }
    }
    items.get(index).map_or(list + 1, |(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explore::form::{Form, Policy, Ports, Reach, Selection, SliceName};
    use crate::explore::operation::{Maker, ServiceName, WorkloadName};

    fn case() -> Case {
        let (service, workload) = (ServiceName::Two, WorkloadName::Web);
        let plain = Form::plain(service, Selection::Web, Reach::NodePort);
        let operations = vec![
            Operation::CreateService(Form {
                sticky: true,
                ports: Ports::Both,
                external: Policy::Local,
                ..plain
            }),
            Operation::CreateWorkload {
                workload: WorkloadName::Api,
                maker: Maker::Deployment,
                gated: true,
                replicas: 2,
            },
            Operation::Gate { workload: WorkloadName::Api, pod: 2, ready: true },
            Operation::SetPort { service, port: 8080, ports: Ports::Http },
            Operation::SetIps { service, ips: 2 },
            Operation::SetTarget { service, of: Selection::Nobody },
            Operation::MakeEndpoints { service, of: workload, pods: 1, ports: Ports::Http },
            Operation::MakeSlice {
                service,
                slice: SliceName::B,
                of: workload,
                pods: 2,
                ports: Ports::Http,
                ready: false,
            },
            Operation::Kill { workload, pod: 1 },
            Operation::StopKubelet { node: 3 },
            Operation::DeletePod { workload, pod: 2 },
            Operation::StartKubelet { node: 3 },
            Operation::DeleteService { service },
        ];
        let finding =
            Finding { promised: "`two` answers".to_owned(), observed: "it: \"was\" silent".to_owned() };
        Case::new(3, u64::MAX, 7, operations, &finding)
    }

    #[test]
    fn a_case_survives_its_file() {
        let text = case().to_yaml();
        assert_eq!(Case::parse(&text).expect(&text), case(), "{text}");
        for command in [
            "kubectl create -f -",
            "kubectl delete service two",
            "$(pod web 1)",
            "$(address web 2)",
            "address() {",
            "$(node 2)",
            "node() {",
        ] {
            assert!(text.contains(command), "`{command}` is missing: {text}");
        }
    }

    /// What the program before this one wrote.
    #[test]
    fn a_file_of_the_first_version_is_still_read() {
        let text = "
schema: stickler.case/v1
nodes: 3
seed: 1
case: 4
operations:
- create-service:
    service: one
    of: web
    reach: NodePort
    sticky: false
    publish: false
- set-port:
    service: one
    port: 8080
- set-target:
    service: one
    of: web
- set-reach:
    service: one
    reach: ClusterIP
- delete-pod:
    workload: web
    pod: 1
promised: a
observed: b
";
        let case = Case::parse(text).expect("it is read");
        let service = ServiceName::One;
        let plain = Form::plain(service, Selection::Web, Reach::NodePort);
        assert_eq!(case.operations[0], Operation::CreateService(plain));
        assert_eq!(case.operations[1], Operation::SetPort { service, port: 8080, ports: Ports::Http });
        assert_eq!(case.operations.len(), 5);
        let error =
            Case::parse(&text.replace("case/v1", "case/v3")).expect_err("nobody knows it").to_string();
        assert!(error.contains("`stickler.case/v3`") && error.contains("stickler.case/v1"), "{error}");
    }

    #[test]
    fn mistakes_are_told_with_line_and_field() {
        let text = case().to_yaml();
        let line = |words: &str| text.lines().position(|line| line.contains(words)).expect(words) + 1;
        for (from, to, told) in [
            ("stickler.case/v2", "stickler.case/v9", vec!["field `schema` is `stickler.case/v9`".to_owned()]),
            ("seed:", "sead:", vec!["sead".to_owned(), format!("line {}", line("seed:"))]),
            ("nodes: 3", "nodes: three", vec![format!("line {}", line("nodes: 3"))]),
            ("NodePort", "NodePart", vec!["NodePart".to_owned(), format!("line {}", line("NodePort"))]),
            ("start-kubelet", "heal-kubelet", vec!["heal-kubelet".to_owned()]),
            (
                "service: two",
                "service: one",
                vec![
                    "there is no service `two`".to_owned(),
                    "field `operations[3]`".to_owned(),
                    format!("line {}", line("set-port")),
                ],
            ),
        ] {
            let wrong = text.replacen(from, to, 1);
            assert_ne!(wrong, text, "`{from}` is missing: {text}");
            let error = Case::parse(&wrong).expect_err(to).to_string();
            for word in told {
                assert!(error.contains(&word), "`{word}` is missing in: {error}");
            }
        }
        assert!(matches!(Case::parse(""), Err(CaseError::Unreadable(_))));
    }
}
