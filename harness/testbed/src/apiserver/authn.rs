//! Who is asking: a client certificate of the cluster's authority, or a service account's token
//! ([Authenticating](https://kubernetes.io/docs/reference/access-authn-authz/authentication/)).

use http::HeaderMap;
use http::header::AUTHORIZATION;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

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

/// May the user do this? Every user who is known may do everything, so far.
pub(crate) fn authorize(_user: &User, _action: &Action<'_>) -> Result<()> {
    Ok(())
}

/// What somebody wants to do.
#[derive(Clone, Copy, Debug)]
#[expect(dead_code, reason = "rules that look at it are evaluated once roles and bindings exist")]
pub(crate) struct Action<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) subresource: &'a str,
}
