//! Reviews: who am I, may I, and whose token is this. They are answered and not kept.

use serde_json::{Value, json};

use super::authn::User;
use super::json::text;
use super::rbac::{Action, Attributes, Decision};
use super::serve::Shared;
use super::status::Result;

/// Group, plural, singular and kind of each review.
pub(crate) const REVIEWS: &[(&str, &str, &str, &str)] = &[
    ("authentication.k8s.io", "selfsubjectreviews", "selfsubjectreview", "SelfSubjectReview"),
    ("authentication.k8s.io", "tokenreviews", "tokenreview", "TokenReview"),
    (
        "authorization.k8s.io",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
        "SelfSubjectAccessReview",
    ),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "selfsubjectrulesreview", "SelfSubjectRulesReview"),
    ("authorization.k8s.io", "subjectaccessreviews", "subjectaccessreview", "SubjectAccessReview"),
];

/// Group, plural and kind of the review that is made at a path.
pub(crate) fn of_path(path: &str) -> Option<(&'static str, &'static str, &'static str)> {
    let rest = path.strip_prefix("/apis/")?;
    REVIEWS
        .iter()
        .find(|(group, plural, ..)| {
            rest.strip_prefix(group).and_then(|rest| rest.strip_prefix("/v1/")) == Some(plural)
        })
        .map(|(group, plural, _, kind)| (*group, *plural, *kind))
}

pub(crate) fn answer(kind: &str, user: &User, shared: &Shared, mut review: Value) -> Result<Value> {
    let (group, status) = match kind {
        "SelfSubjectReview" => ("authentication.k8s.io", json!({"userInfo": describe(user)})),
        "TokenReview" => {
            let found = shared.tokens.verify(text(&review, "/spec/token"), &shared.registry);
            let status = match found {
                Some(user) => json!({"authenticated": true, "user": describe(&user)}),
                None => json!({"authenticated": false, "error": "invalid bearer token"}),
            };
            ("authentication.k8s.io", status)
        }
        "SelfSubjectAccessReview" => ("authorization.k8s.io", access(shared, user, &review)),
        "SelfSubjectRulesReview" => {
            let namespace = text(&review, "/spec/namespace");
            let rules = shared.authorizer.rules(&shared.registry.store, user, namespace);
            ("authorization.k8s.io", rules)
        }
        _ => {
            let groups = super::json::texts(&review, "/spec/groups");
            let subject = User {
                name: text(&review, "/spec/user").to_owned(),
                groups: groups.into_iter().map(str::to_owned).collect(),
            };
            ("authorization.k8s.io", access(shared, &subject, &review))
        }
    };
    review["kind"] = json!(kind);
    review["apiVersion"] = json!(format!("{group}/v1"));
    review["status"] = status;
    Ok(review)
}

fn access(shared: &Shared, user: &User, review: &Value) -> Value {
    let attribute = |name: &str| text(review, &format!("/spec/resourceAttributes/{name}"));
    let attributes = if review.pointer("/spec/nonResourceAttributes").is_some_and(Value::is_object) {
        Attributes::Path {
            verb: text(review, "/spec/nonResourceAttributes/verb"),
            path: text(review, "/spec/nonResourceAttributes/path"),
        }
    } else {
        Attributes::Resource(Action {
            verb: attribute("verb"),
            group: attribute("group"),
            resource: attribute("resource"),
            namespace: attribute("namespace"),
            name: attribute("name"),
            subresource: attribute("subresource"),
        })
    };
    let (allowed, reason) = match shared.authorizer.authorize(&shared.registry.store, user, &attributes) {
        Decision::Allowed(reason) => (true, reason),
        Decision::Denied(reason) => (false, reason),
    };
    if reason.is_empty() {
        json!({"allowed": allowed})
    } else {
        json!({"allowed": allowed, "reason": reason})
    }
}

fn describe(user: &User) -> Value {
    json!({"username": user.name, "groups": user.groups})
}
