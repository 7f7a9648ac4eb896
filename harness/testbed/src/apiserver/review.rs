//! Reviews: who am I, may I, and whose token is this. They are answered and not kept.

use serde_json::{Value, json};

use super::authn::{Action, User, authorize};
use super::json::text;
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
    ("authorization.k8s.io", "subjectaccessreviews", "subjectaccessreview", "SubjectAccessReview"),
];

pub(crate) fn of_path(path: &str) -> Option<&'static str> {
    let rest = path.strip_prefix("/apis/")?;
    REVIEWS
        .iter()
        .find(|(group, plural, ..)| {
            rest.strip_prefix(group).and_then(|rest| rest.strip_prefix("/v1/")) == Some(plural)
        })
        .map(|(.., kind)| *kind)
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
        "SelfSubjectAccessReview" => ("authorization.k8s.io", access(user, &review)),
        _ => {
            let groups = super::json::texts(&review, "/spec/groups");
            let subject = User {
                name: text(&review, "/spec/user").to_owned(),
                groups: groups.into_iter().map(str::to_owned).collect(),
            };
            ("authorization.k8s.io", access(&subject, &review))
        }
    };
    review["kind"] = json!(kind);
    review["apiVersion"] = json!(format!("{group}/v1"));
    review["status"] = status;
    Ok(review)
}

fn access(user: &User, review: &Value) -> Value {
    let attribute = |name: &str| text(review, &format!("/spec/resourceAttributes/{name}"));
    let action = Action {
        verb: attribute("verb"),
        group: attribute("group"),
        resource: attribute("resource"),
        namespace: attribute("namespace"),
        name: attribute("name"),
        subresource: attribute("subresource"),
    };
    match authorize(user, &action) {
        Ok(()) => json!({"allowed": true}),
        Err(status) => json!({"allowed": false, "reason": status.message}),
    }
}

fn describe(user: &User) -> Value {
    json!({"username": user.name, "groups": user.groups})
}
