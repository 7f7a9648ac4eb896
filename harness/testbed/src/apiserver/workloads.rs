//! Workloads: defaults and validation
//! ([DaemonSet](https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/#writing-a-daemonset-spec),
//! [ReplicationController](https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller/),
//! [ReplicaSet](https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#writing-a-replicaset-manifest),
//! [Deployments](https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#writing-a-deployment-spec)).

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, RollingUpdateDaemonSet, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{PodTemplateSpec, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use super::admission::Admit;
use super::pod;
use super::status::FieldError;
use super::warnings;

impl Admit for ReplicaSet {
    fn fill(&mut self) {
        let spec = &mut self.spec;
        spec.replicas.get_or_insert(1);
        if let Some(pod) = spec.template.as_mut().and_then(|template| template.spec.as_mut()) {
            pod::fill_spec(pod);
        }
        self.status.get_or_insert_default();
    }

    fn check(&self, old: Option<&Self>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = &self.spec;
        let old = old.map(|old| &old.spec.selector);
        check(spec.replicas, &spec.selector, spec.template.as_ref(), old, &mut errors);
        errors
    }

    fn warn(&self, old: Option<&Self>) -> Vec<String> {
        warn(self.spec.template.as_ref(), old.and_then(|old| old.spec.template.as_ref()))
    }
}

impl Admit for Deployment {
    fn fill(&mut self) {
        let spec = &mut self.spec;
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(10);
        spec.progress_deadline_seconds.get_or_insert(600);
        let strategy = spec.strategy.get_or_insert_default();
        if strategy.type_.get_or_insert_with(|| "RollingUpdate".to_owned()) == "RollingUpdate" {
            let rolling = strategy.rolling_update.get_or_insert_with(RollingUpdateDeployment::default);
            let quarter = || IntOrString::String("25%".to_owned());
            rolling.max_surge.get_or_insert_with(quarter);
            rolling.max_unavailable.get_or_insert_with(quarter);
        }
        if let Some(pod) = &mut spec.template.spec {
            pod::fill_spec(pod);
        }
        self.status.get_or_insert_default();
    }

    fn check(&self, old: Option<&Self>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = &self.spec;
        let old = old.map(|old| &old.spec.selector);
        check(spec.replicas, &spec.selector, Some(&spec.template), old, &mut errors);
        if let Some(strategy) = &spec.strategy {
            match strategy.type_.as_deref().unwrap_or_default() {
                "RollingUpdate" => {}
                "Recreate" => {
                    if strategy.rolling_update.is_some() {
                        errors.push(FieldError::forbidden(
                            "spec.strategy.rollingUpdate",
                            "may not be specified when strategy `type` is 'Recreate'",
                        ));
                    }
                }
                other => errors.push(FieldError::not_supported(
                    "spec.strategy.type",
                    other,
                    &["Recreate", "RollingUpdate"],
                )),
            }
        }
        errors
    }

    fn warn(&self, old: Option<&Self>) -> Vec<String> {
        warn(Some(&self.spec.template), old.map(|old| &old.spec.template))
    }
}

impl Admit for DaemonSet {
    fn fill(&mut self) {
        let spec = &mut self.spec;
        spec.revision_history_limit.get_or_insert(10);
        let strategy = spec.update_strategy.get_or_insert_default();
        if strategy.type_.get_or_insert_with(|| "RollingUpdate".to_owned()) == "RollingUpdate" {
            let rolling = strategy.rolling_update.get_or_insert_with(RollingUpdateDaemonSet::default);
            rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
            rolling.max_surge.get_or_insert(IntOrString::Int(0));
        }
        if let Some(pod) = &mut spec.template.spec {
            pod::fill_spec(pod);
        }
        self.status.get_or_insert_default();
    }

    fn check(&self, old: Option<&Self>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = &self.spec;
        let old = old.map(|old| &old.spec.selector);
        check(None, &spec.selector, Some(&spec.template), old, &mut errors);
        let Some(strategy) = &spec.update_strategy else { return errors };
        let path = "spec.updateStrategy";
        match strategy.type_.as_deref().unwrap_or_default() {
            "OnDelete" => {}
            "RollingUpdate" => {
                let rolling = strategy.rolling_update.clone().unwrap_or_default();
                match (is_zero(rolling.max_unavailable.as_ref()), is_zero(rolling.max_surge.as_ref())) {
                    (true, true) => errors.push(FieldError::required(
                        format!("{path}.rollingUpdate.maxUnavailable"),
                        "cannot be 0 when maxSurge is 0",
                    )),
                    (false, false) => errors.push(FieldError::invalid(
                        format!("{path}.rollingUpdate.maxSurge"),
                        json!(rolling.max_surge),
                        "may not be set when maxUnavailable is non-zero",
                    )),
                    _ => {}
                }
            }
            other => {
                let supported = &["OnDelete", "RollingUpdate"];
                errors.push(FieldError::not_supported(format!("{path}.type"), other, supported));
            }
        }
        errors
    }

    fn warn(&self, old: Option<&Self>) -> Vec<String> {
        warn(Some(&self.spec.template), old.map(|old| &old.spec.template))
    }
}

fn is_zero(value: Option<&IntOrString>) -> bool {
    match value {
        None => true,
        Some(IntOrString::Int(number)) => *number == 0,
        Some(IntOrString::String(share)) => share.trim_end_matches('%').parse() == Ok(0),
    }
}

impl Admit for ControllerRevision {}

impl Admit for ReplicationController {
    fn fill(&mut self) {
        let spec = self.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        if let Some(template) = &mut spec.template {
            // What is not said is taken from the pods.
            let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone());
            if let Some(labels) = labels.filter(|labels| !labels.is_empty()) {
                if spec.selector.as_ref().is_none_or(BTreeMap::is_empty) {
                    spec.selector = Some(labels.clone());
                }
                if self.metadata.labels.as_ref().is_none_or(BTreeMap::is_empty) {
                    self.metadata.labels = Some(labels);
                }
            }
            if let Some(pod) = &mut template.spec {
                pod::fill_spec(pod);
            }
        }
        self.status.get_or_insert_default();
    }

    fn check(&self, _old: Option<&Self>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = self.spec.clone().unwrap_or_default();
        let selector = LabelSelector { match_labels: spec.selector, match_expressions: None };
        check(spec.replicas, &selector, spec.template.as_ref(), None, &mut errors);
        errors
    }

    fn warn(&self, old: Option<&Self>) -> Vec<String> {
        let template = |it: &'_ Self| it.spec.as_ref().and_then(|spec| spec.template.clone());
        warn(template(self).as_ref(), old.and_then(template).as_ref())
    }
}

/// A template is worth a word when it comes or changes.
fn warn(template: Option<&PodTemplateSpec>, old: Option<&PodTemplateSpec>) -> Vec<String> {
    let spec = template.filter(|template| Some(*template) != old).and_then(|template| template.spec.as_ref());
    spec.map(|spec| warnings::of_pod_spec("spec.template.spec", spec)).unwrap_or_default()
}

fn check(
    replicas: Option<i32>,
    selector: &LabelSelector,
    template: Option<&PodTemplateSpec>,
    old_selector: Option<&LabelSelector>,
    errors: &mut Vec<FieldError>,
) {
    let at_least_zero = "must be greater than or equal to 0";
    if let Some(replicas) = replicas.filter(|replicas| *replicas < 0) {
        errors.push(FieldError::invalid("spec.replicas", replicas, at_least_zero));
    }
    let empty = selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty);
    if empty {
        if *selector == LabelSelector::default() {
            errors.push(FieldError::required("spec.selector", ""));
        } else {
            let why = "empty selector is invalid for deployment";
            errors.push(FieldError::invalid("spec.selector", json!(selector), why));
        }
    }
    let Some(template) = template else {
        errors.push(FieldError::required("spec.template", ""));
        return;
    };
    let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    if !empty && !matches(selector, &labels) {
        let why = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", json!(labels), why));
    }
    let spec = template.spec.clone().unwrap_or_default();
    errors.extend(pod::check_spec("spec.template.spec", &spec));
    let restart = spec.restart_policy.as_deref().unwrap_or("Always");
    if restart != "Always" && pod::RESTART_POLICIES.contains(&restart) {
        errors.push(FieldError::not_supported("spec.template.spec.restartPolicy", restart, &["Always"]));
    }
    if old_selector.is_some_and(|old| old != selector) {
        errors.push(FieldError::invalid("spec.selector", json!(selector), "field is immutable"));
    }
}

fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let by_label = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let by_expression = selector.match_expressions.iter().flatten().all(|requirement| {
        let value = labels.get(&requirement.key);
        let listed =
            value.is_some_and(|value| requirement.values.iter().flatten().any(|other| other == value));
        match requirement.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    });
    by_label && by_expression
}
