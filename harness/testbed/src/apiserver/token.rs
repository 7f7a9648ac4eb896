//! Service account tokens: signed, bound to the account and often to a pod
//! ([Managing Service Accounts, "Bound service account tokens"](https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#bound-service-account-tokens)).

use anyhow::anyhow;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use serde_json::{Value, json};

use super::authn::User;
use super::json::{number, object_mut, text, texts};
use super::names;
use super::registry::Registry;
use super::resources::{PODS, Resource, SERVICE_ACCOUNTS};
use super::status::{FieldError, Result, Status};
use super::store::Key;

/// Who issues the tokens, and who they are for unless asked otherwise.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The key that signs all tokens of one cluster.
pub(crate) struct Tokens {
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl Tokens {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random)
            .map_err(|_| anyhow!("cannot make the key that signs service account tokens"))?;
        let key = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random)
            .map_err(|error| anyhow!("cannot read the key that signs service account tokens: {error}"))?;
        Ok(Self { key, random })
    }

    /// Answers a `TokenRequest` for a service account.
    pub(crate) fn issue(&self, registry: &Registry, account: &Key, request: &Value) -> Result<Value> {
        let found = registry.get(&SERVICE_ACCOUNTS, account)?;
        let seconds = number(request, "/spec/expirationSeconds").unwrap_or(3600);
        if !(600..=1 << 32).contains(&seconds) {
            let why = if seconds < 600 {
                "may not specify a duration less than 10 minutes"
            } else {
                "may not specify a duration larger than 2^32 seconds"
            };
            let error = FieldError::invalid("spec.expirationSeconds", seconds, why);
            return Err(Status::invalid(&TOKEN_REQUEST, "", &[error]));
        }
        let mut audiences = texts(request, "/spec/audiences");
        if audiences.is_empty() {
            audiences.push(ISSUER);
        }
        let mut bound = json!({
            "namespace": account.namespace,
            "serviceaccount": {"name": account.name, "uid": text(&found.value, "/metadata/uid")},
        });
        let object = &request["spec"]["boundObjectRef"];
        if !object.is_null() {
            bound["pod"] = bind(registry, account, object)?;
        }
        let now = jiff::Timestamp::now().as_second();
        let claims = json!({
            "iss": ISSUER,
            "sub": user_name(account),
            "aud": audiences,
            "iat": now,
            "nbf": now,
            "exp": now + seconds,
            "jti": names::uid(),
            "kubernetes.io": bound,
        });
        let expires = jiff::Timestamp::from_second(now + seconds).map_err(Status::internal)?;
        let mut answer = request.clone();
        answer["kind"] = json!("TokenRequest");
        answer["apiVersion"] = json!("authentication.k8s.io/v1");
        answer["metadata"] = json!({"name": account.name, "namespace": account.namespace});
        let spec = object_mut(&mut answer, "spec");
        spec.insert("audiences".to_owned(), json!(audiences));
        spec.insert("expirationSeconds".to_owned(), json!(seconds));
        answer["status"] = json!({
            "token": self.sign(&claims)?,
            "expirationTimestamp": expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        });
        Ok(answer)
    }

    /// The account a token speaks for, if it is good for this server now.
    pub(crate) fn verify(&self, token: &str, registry: &Registry) -> Option<User> {
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        let (_, claims) = signed.split_once('.')?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let now = jiff::Timestamp::now().as_second();
        let valid = number(&claims, "/nbf")? <= now && now < number(&claims, "/exp")?;
        if !valid || text(&claims, "/iss") != ISSUER || !texts(&claims, "/aud").contains(&ISSUER) {
            return None;
        }
        let bound = claims.get("kubernetes.io")?;
        let account = Key::new(text(bound, "/namespace"), text(bound, "/serviceaccount/name"));
        still_there(registry, &SERVICE_ACCOUNTS, &account, text(bound, "/serviceaccount/uid"))?;
        if bound.get("pod").is_some() {
            let pod = Key::new(&account.namespace, text(bound, "/pod/name"));
            still_there(registry, &PODS, &pod, text(bound, "/pod/uid"))?;
        }
        Some(User {
            name: user_name(&account),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{}", account.namespace),
                "system:authenticated".to_owned(),
            ],
        })
    }

    fn sign(&self, claims: &Value) -> Result<String> {
        let head = json!({"alg": "ES256", "typ": "JWT", "kid": "stickler"});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&head), encode(claims));
        let signature = self
            .key
            .sign(&self.random, signed.as_bytes())
            .map_err(|_| Status::internal("the token could not be signed"))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

static TOKEN_REQUEST: Resource = Resource {
    group: "authentication.k8s.io",
    plural: "tokenrequests",
    kind: "TokenRequest",
    ..super::resources::CORE
};

fn user_name(account: &Key) -> String {
    format!("system:serviceaccount:{}:{}", account.namespace, account.name)
}

/// A token bound to a pod dies with it.
fn bind(registry: &Registry, account: &Key, object: &Value) -> Result<Value> {
    if text(object, "/kind") != "Pod" {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {:?} to object of kind {:?}: only \"Pod\" is known here",
            account.name,
            text(object, "/kind")
        )));
    }
    let name = text(object, "/name");
    let pod = registry.get(&PODS, &Key::new(&account.namespace, name))?;
    let uid = text(&pod.value, "/metadata/uid");
    let wanted = text(object, "/uid");
    if !wanted.is_empty() && wanted != uid {
        let why =
            format!("the UID in the bound object reference ({wanted}) does not match the UID in record");
        return Err(Status::conflict(&PODS, name, &why));
    }
    let runs_as = text(&pod.value, "/spec/serviceAccountName");
    if runs_as != account.name {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
            account.name
        )));
    }
    Ok(json!({"name": name, "uid": uid}))
}

fn still_there(registry: &Registry, resource: &Resource, key: &Key, uid: &str) -> Option<()> {
    let object = registry.get(resource, key).ok()?;
    (text(&object.value, "/metadata/uid") == uid).then_some(())
}
