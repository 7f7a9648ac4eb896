//! Replica sets and deployments: defaults and validation
//! ([ReplicaSet](https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#writing-a-replicaset-manifest),
//! [Deployments](https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#writing-a-deployment-spec)).

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use super::admission::Admit;
use super::pod;
use super::status::FieldError;

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
