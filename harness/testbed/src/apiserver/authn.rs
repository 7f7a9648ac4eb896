//! Who is asking: a client certificate of the cluster's authority, or a service account's token
//! ([Authenticating](https://kubernetes.io/docs/reference/access-authn-authz/authentication/)).

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::rbac::{Action, Attributes};
use super::registry::Registry;
use super::request::header;
use super::status::{Result, Status};
use super::token::Tokens;

/// Somebody who proved who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
}

/// Reads the user out of a certificate that was verified already.
pub(crate) fn of_certificate(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect();
    groups.push("system:authenticated".to_owned());
    Some(User { name, groups })
}

/// The user of one request; a bearer token counts only where there is no certificate.
pub(crate) fn authenticate(
    certified: Option<&User>,
    headers: &HeaderMap,
    tokens: &Tokens,
    registry: &Registry,
) -> Result<User> {
    if let Some(user) = certified {
        return Ok(user.clone());
    }
    let value = header(headers, &AUTHORIZATION);
    let token = match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => return Err(Status::unauthorized()),
    };
    tokens.verify(token, registry).ok_or_else(Status::unauthorized)
}

/// The user somebody acts as, in place of themselves, if they ask for it and may
/// ([User impersonation](https://kubernetes.io/docs/reference/access-authn-authz/user-impersonation/)).
pub(crate) fn impersonate(
    user: User,
    headers: &HeaderMap,
    may: impl Fn(&User, &Attributes<'_>) -> Result<()>,
) -> Result<User> {
    let name = header(headers, &HeaderName::from_static("impersonate-user"));
    let asked = headers.get_all("impersonate-group").iter().filter_map(|group| group.to_str().ok());
    let mut groups: Vec<String> = asked.map(str::to_owned).collect();
    if name.is_empty() {
        return match groups.first() {
            None => Ok(user),
            Some(_) => Err(Status::bad_request("groups cannot be impersonated without a user")),
        };
    }
    let verb = "impersonate";
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let action = match account {
        Some((namespace, name)) => {
            Action { verb, resource: "serviceaccounts", namespace, name, ..Action::default() }
        }
        None => Action { verb, resource: "users", name, ..Action::default() },
    };
    may(&user, &Attributes::Resource(action))?;
    for name in &groups {
        may(&user, &Attributes::Resource(Action { verb, resource: "groups", name, ..Action::default() }))?;
    }
    if let Some((namespace, _)) = account.filter(|_| groups.is_empty()) {
        groups.push("system:serviceaccounts".to_owned());
        groups.push(format!("system:serviceaccounts:{namespace}"));
    }
    if !groups.iter().any(|group| group == "system:authenticated") {
        groups.push("system:authenticated".to_owned());
    }
    Ok(User { name: name.to_owned(), groups })
}
