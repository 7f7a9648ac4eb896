//! Requests through an ingress controller: who answers them, and with which certificate.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use futures::FutureExt as _;
use futures::future::{BoxFuture, try_join_all};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams};
use stickler_model::{IngressRequest, ObjectKey, Observed, Route, World, certificates, ingress};
use stickler_pods::protocol::{Answer, Outcome, Probe, Seen};
use stickler_reports::Finding;

use crate::Scene;
use crate::calls::in_words;
use crate::check::{Broken, Held};
use crate::controller::{Controller, Door};
use crate::destination::nodes;
use crate::invariant::{Invariant, Judgement};
use crate::vantage::Vantage;
use crate::wait;

/// Requests that come from these vantages to the scene's ingress controller are answered as the
/// model promises for the objects as they are; [`Scene::given_controller`] comes first.
pub fn routed_as_promised(from: Vec<Vantage>, requests: Vec<IngressRequest>) -> RoutedAsPromised {
    RoutedAsPromised { from, requests, calls: 3, at_nodes: false }
}

/// See [`routed_as_promised`].
pub struct RoutedAsPromised {
    from: Vec<Vantage>,
    requests: Vec<IngressRequest>,
    calls: u64,
    at_nodes: bool,
}

impl RoutedAsPromised {
    /// How many times each request is made from each place; 3 if it is not said.
    #[must_use]
    pub fn calls(self, calls: u64) -> Self {
        Self { calls, ..self }
    }

    /// To the controller's port on every node, instead of its cluster IP.
    #[must_use]
    pub fn at_nodes(self) -> Self {
        Self { at_nodes: true, ..self }
    }

    /// Where the requests go, and how that is called.
    fn addresses(&self, world: &World, door: Door) -> anyhow::Result<Vec<(SocketAddr, String)>> {
        if !self.at_nodes {
            return Ok(vec![(door.at_cluster_ip, String::new())]);
        }
        let port = door.node_port.context("the ingress controller has no node port")?;
        Ok(nodes(world).map(|(node, ip)| (SocketAddr::new(ip, port), format!(" at {node}"))).collect())
    }
}

/// What is promised of one request.
pub(crate) struct Promised<'a> {
    request: &'a IngressRequest,
    pub(crate) route: Route,
    certificate: Certificate,
}

impl<'a> Promised<'a> {
    /// Of the scene's controller in this world; over TLS it must show what one of these Secrets holds.
    ///
    /// # Errors
    /// If nobody asked for a controller.
    pub(crate) fn of(
        scene: &Scene,
        world: &World,
        request: &'a IngressRequest,
        secrets: &[Secret],
    ) -> anyhow::Result<Self> {
        let controller = controller(scene)?;
        let route = ingress(world, scene.cluster.promises(), &controller.name, request);
        let certificate = if request.tls {
            expected(&certificates(world, &controller.name, &request.host), secrets)
        } else {
            Certificate::Any
        };
        Ok(Self { request, route, certificate })
    }

    /// How outcomes differ from it, if they do: the end of a sentence that begins with the client.
    ///
    /// # Errors
    /// If the agent could not look.
    pub(crate) fn unlike(&self, outcomes: &[Outcome]) -> anyhow::Result<Option<String>> {
        for outcome in outcomes {
            if let Err(why) = judge(&self.route, &self.certificate, &outcome.seen)? {
                return Ok(Some(why));
            }
        }
        Ok(None)
    }
}

impl fmt::Display for Promised<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, promised by {}", self.route, self.route.rule())
    }
}

/// Which certificate has to be shown.
enum Certificate {
    /// Nobody says.
    Any,
    /// One of these; the words say which Secrets hold them.
    OneOf { der: BTreeSet<String>, held_by: String },
}

impl Invariant for RoutedAsPromised {
    fn promise(&self) -> String {
        let requests: Vec<String> = self.requests.iter().map(ToString::to_string).collect();
        format!("{} are routed as promised from {} places", requests.join(", "), self.from.len())
    }

    fn look<'a>(&'a self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<Judgement>> {
        async move {
            if self.from.is_empty() || self.requests.is_empty() {
                bail!("there is nothing to request, or nobody to request it");
            }
            let controller = controller(scene)?;
            scene.control(&self.from).await?;
            let world = scene.world().await?;
            let secrets = match self.requests.iter().any(|request| request.tls) {
                true => secrets(scene).await?,
                false => Vec::new(),
            };
            let promised = self.requests.iter().map(|request| Promised::of(scene, &world, request, &secrets));
            let mut promised = promised.collect::<anyhow::Result<Vec<_>>>()?;
            promised.retain(|promised| !matches!(promised.route, Route::NotPromised { .. }));
            if promised.is_empty() {
                bail!("nothing is promised of any of these requests, so there is nothing to look at");
            }
            let mut looks = Vec::new();
            for from in &self.from {
                for promised in &promised {
                    let door = door(controller, promised.request);
                    for (address, place) in self.addresses(&world, door)? {
                        looks.push(async move {
                            let found = self.look_at(scene, from, promised, address, place).await?;
                            anyhow::Ok(found.map(|finding| (promised, finding)))
                        });
                    }
                }
            }
            let cells = looks.len();
            let differing = try_join_all(looks).await?.into_iter().flatten().collect::<Vec<_>>();
            if differing.is_empty() {
                return Ok(Judgement::Holds);
            }
            // Pods get ready when they like: whoever did between the list and the requests may have answered.
            let now = scene.world().await?;
            let mut stands = Vec::new();
            let mut overtaken = None;
            for (promised, finding) in differing {
                match Promised::of(scene, &now, promised.request, &secrets)?.route == promised.route {
                    true => stands.push(finding),
                    false => overtaken = overtaken.or(Some(finding)),
                }
            }
            let count = stands.len();
            let Some(mut first) = stands.into_iter().next() else {
                return Ok(overtaken.map_or(Judgement::Holds, Judgement::Overtaken));
            };
            if count > 1 {
                first.observed = format!("{}; {count} of {cells} such pairs differ", first.observed);
            }
            Ok(Judgement::Broken(first))
        }
        .boxed()
    }
}

impl RoutedAsPromised {
    async fn look_at(
        &self,
        scene: &Scene,
        from: &Vantage,
        promised: &Promised<'_>,
        address: SocketAddr,
        place: String,
    ) -> anyhow::Result<Option<Finding>> {
        let label = format!("{}{place}", promised.request);
        let workload = scene.workload(probe(address, promised.request), self.calls);
        let outcomes = scene.call(from, &label, workload).await?;
        Ok(promised.unlike(&outcomes)?.map(|why| Finding {
            promised: format!("from {from}, {label} is {promised}"),
            observed: format!("{from} requesting {label} {why}"),
        }))
    }
}

impl Scene {
    /// While something is done to the pods behind a service, every such request is answered, and by
    /// nobody but pods that were behind it meanwhile. The same conditions hold as for
    /// [`Scene::served_throughout`].
    ///
    /// # Errors
    /// Which request failed, and how many.
    pub async fn routed_throughout(
        &self,
        from: Vec<Vantage>,
        request: &IngressRequest,
        service: &'static str,
        meanwhile: impl AsyncFnOnce(&Self) -> Result<(), Broken>,
    ) -> Held {
        let address = door(controller(self)?, request).at_cluster_ip;
        let calls = vec![(probe(address, request), request.to_string())];
        self.answered_throughout(from, calls, service, meanwhile).await
    }
}

pub(crate) fn controller(scene: &Scene) -> anyhow::Result<&Controller> {
    scene.ingress.controller().context("no ingress controller was asked for")
}

pub(crate) fn door(controller: &Controller, request: &IngressRequest) -> Door {
    if request.tls { controller.https } else { controller.http }
}

pub(crate) fn probe(address: SocketAddr, request: &IngressRequest) -> Probe {
    Probe::Http {
        address,
        host: Some(request.host.clone()),
        path: request.path.clone(),
        method: None,
        source_port: None,
        reuse_connection: false,
        server_name: request.tls.then(|| request.host.clone()),
        lines: None,
    }
}

/// Whether an outcome is allowed; an error is the end of a sentence that begins with the client.
fn judge(route: &Route, certificate: &Certificate, seen: &Seen) -> anyhow::Result<Result<(), String>> {
    let answer = match seen {
        Seen::Answered(answer) => answer,
        Seen::CouldNotLook { error } => bail!("the agent could not look: {error}"),
        // Where no backend may answer, the controller does.
        other => return Ok(Err(format!("got no answer, not even the controller's: {}", in_words(other)))),
    };
    if let (Certificate::OneOf { der, held_by }, Some(shown)) = (certificate, &answer.certificate)
        && !der.contains(shown)
    {
        return Ok(Err(format!("was shown another certificate than that of {held_by}")));
    }
    Ok(match (&answer.hostname, route) {
        (Some(by), route) => route.allows(&Observed::Answered { by: by.clone() }),
        (None, Route::Answered { by, .. }) => {
            let by: Vec<String> = by.iter().map(ToString::to_string).collect();
            Err(format!("was answered {} by the controller, not by {}", status(answer), by.join(" or ")))
        }
        // The controller's own words, where no backend had to answer.
        (None, _) => Ok(()),
    })
}

fn status(answer: &Answer) -> String {
    answer.status.map_or_else(|| "nothing".to_owned(), |status| status.to_string())
}

fn expected(named: &BTreeSet<ObjectKey>, secrets: &[Secret]) -> Certificate {
    let held = secrets.iter().filter(|secret| named.contains(&ObjectKey::of(&secret.metadata)));
    let der: BTreeSet<String> = held.filter_map(leaf).collect();
    if der.is_empty() {
        return Certificate::Any;
    }
    let names: Vec<String> = named.iter().map(|key| format!("secret `{}`", key.name)).collect();
    Certificate::OneOf { der, held_by: names.join(" or ") }
}

/// The first certificate of a Secret: its DER in base64, as PEM has it between its frame.
fn leaf(secret: &Secret) -> Option<String> {
    let pem = std::str::from_utf8(&secret.data.as_ref()?.get("tls.crt")?.0).ok()?;
    let (_, rest) = pem.split_once("-----BEGIN CERTIFICATE-----")?;
    let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
    Some(body.split_whitespace().collect())
}

pub(crate) async fn secrets(scene: &Scene) -> anyhow::Result<Vec<Secret>> {
    let api: Api<Secret> = scene.api();
    let all = ListParams::default();
    Ok(wait::within(scene.bounds().request, "list the secrets of the check", api.list(&all)).await?.items)
}

#[cfg(test)]
mod tests {
    use stickler_model::{Promises, World};

    use super::*;

    fn answered(hostname: Option<&str>, certificate: Option<&str>) -> Seen {
        Seen::Answered(Answer {
            hostname: hostname.map(str::to_owned),
            certificate: certificate.map(str::to_owned),
            status: Some(404),
            ..Answer::default()
        })
    }

    fn nobody() -> Route {
        let request = IngressRequest::http("a.example", "/");
        ingress(&World::new(), &Promises::of_minor(37), "stickler.dev/ingress", &request)
    }

    #[test]
    fn where_no_backend_may_answer_the_controller_must() {
        let judge = |seen: &Seen| judge(&nobody(), &Certificate::Any, seen).expect("it could look");
        assert_eq!(judge(&answered(None, None)), Ok(()));
        assert!(judge(&answered(Some("web-0"), None)).is_err());
        for silent in [Seen::Refused, Seen::Closed, Seen::Reset] {
            assert!(judge(&silent).is_err_and(|why| why.contains("no answer")), "{silent:?}");
        }
        let could_not = Seen::CouldNotLook { error: "no port".to_owned() };
        assert!(super::judge(&nobody(), &Certificate::Any, &could_not).is_err());
    }

    #[test]
    fn the_certificate_is_that_of_the_secret() {
        let yaml = "apiVersion: v1\nkind: Secret\nmetadata: {name: a, namespace: n}\nstringData: {}\n";
        let mut secret: Secret = serde_saphyr::from_str(yaml).expect("a secret");
        let pem = "-----BEGIN CERTIFICATE-----\nQUJD\nREVG\n-----END CERTIFICATE-----\n";
        let bytes = k8s_openapi::ByteString(pem.as_bytes().to_vec());
        secret.data = Some([("tls.crt".to_owned(), bytes)].into());
        let expected = expected(&[ObjectKey::new("n", "a")].into(), &[secret]);
        let judge = |shown| judge(&nobody(), &expected, &answered(None, Some(shown))).expect("it could look");
        assert_eq!(judge("QUJDREVG"), Ok(()));
        assert!(judge("QUJD").is_err_and(|why| why.contains("secret `a`")));
    }
}
