//! Ingress: HTTP routed by host and path, to pods, through a controller.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::Context as _;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams};
use serde_json::{Value, json};
use stickler::action::{
    Resource, create, create_certificate, delete, edit, make, replace_certificate, scale,
};
use stickler::manifest::Fixture;
use stickler::protocol::{Answer, Probe, Seen, Workload};
use stickler::{
    Broken, Capability, Check, Class, Held, Scene, Vantage, docs, endpoints_mirror_pods, fixture, in_words,
    notes, rfc, routed_as_promised, that,
};
use stickler_model::IngressRequest;

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "ingress/controller-needed",
        title: "an Ingress does something only while a controller serves its class",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/ingress/#prerequisites")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(controller_needed(scene)),
    },
    Check {
        id: "ingress/address-published",
        title: "an Ingress shows its hosts and the addresses it is served at",
        class: Class::Observation,
        promised_by: &[
            notes("Ingress"),
            docs("concepts/services-networking/ingress/#single-service-ingress"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(address_published(scene)),
    },
    Check {
        id: "ingress/routes-host",
        title: "a host of a rule reaches the pods of its service, another host does not",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/ingress/#ingress-rules")],
        needs: &[],
        // The notes' host, and a controller has each host once.
        exclusive: true,
        run: |scene| Box::pin(routes_host(scene)),
    },
    Check {
        id: "ingress/several-paths",
        title: "several paths under one host reach several services: the longest, Exact before Prefix, by element",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/ingress/#examples"),
            docs("concepts/services-networking/ingress/#multiple-matches"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(several_paths(scene)),
    },
    Check {
        id: "ingress/several-hosts",
        title: "several hosts reach several services",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/ingress/#name-based-virtual-hosting")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(several_hosts(scene)),
    },
    Check {
        id: "ingress/wildcard-host",
        title: "a wildcard host stands for one label",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/ingress/#hostname-wildcards")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(wildcard_host(scene)),
    },
    Check {
        id: "ingress/default-backend",
        title: "what no rule takes goes to the default backend",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/ingress/#default-backend")],
        needs: &[],
        // Every host that has no rule is its own.
        exclusive: true,
        run: |scene| Box::pin(default_backend(scene)),
    },
    Check {
        id: "ingress/straight-to-pods",
        title: "the controller forwards to pods, not to the service's address",
        class: Class::Observation,
        promised_by: &[
            notes("Ingress"),
            docs("reference/labels-annotations-taints/#servicekubernetesioservice-proxy-name"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(straight_to_pods(scene)),
    },
    Check {
        id: "ingress/old-api-version",
        title: "the notes' Ingress of extensions/v1beta1 means the same as one of networking.k8s.io/v1",
        class: Class::Observation,
        promised_by: &[notes("Ingress"), docs("reference/using-api/deprecation-guide/#ingress-v122")],
        needs: &[],
        exclusive: true,
        run: |scene| Box::pin(old_api_version(scene)),
    },
    Check {
        id: "ingress/tls",
        title: "each host shows the certificate of its Secret, also once that is replaced",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/ingress/#tls")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(tls(scene)),
    },
    Check {
        id: "ingress/follows-readiness",
        title: "a pod that is not ready gets no request",
        class: Class::Promise,
        promised_by: &[docs("concepts/workloads/pods/probes/#readiness-probe")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(follows_readiness(scene)),
    },
    Check {
        id: "ingress/pods-come-and-go",
        title: "no request is lost while pods are replaced one after the other",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/ingress/#ingress-rules"),
            docs("concepts/workloads/pods/pod-lifecycle/#pod-termination"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(pods_come_and_go(scene)),
    },
    Check {
        id: "ingress/nobody-without-endpoints",
        title: "where a service has no endpoints, no pod answers, and those that come later do",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/ingress/#ingress-rules")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(nobody_without_endpoints(scene)),
    },
    Check {
        id: "ingress/deleted-is-gone",
        title: "a deleted Ingress routes nothing any more",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/ingress/#what-is-ingress")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(deleted_is_gone(scene)),
    },
    Check {
        id: "ingress/changes-drop-nothing",
        title: "no request is lost while Ingresses come, change and go, and their back ends with them",
        class: Class::Observation,
        promised_by: &[
            docs("concepts/services-networking/ingress/#updating-an-ingress"),
            docs("concepts/workloads/pods/pod-lifecycle/#pod-termination"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(changes_drop_nothing(scene)),
    },
    Check {
        id: "ingress/keep-alive",
        title: "one connection to the controller carries several requests",
        class: Class::Observation,
        promised_by: &[rfc("rfc9112#section-9.3"), rfc("rfc9112#section-9.5")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(keep_alive(scene)),
    },
    Check {
        id: "ingress/streaming",
        title: "an answer that never ends arrives piece by piece",
        class: Class::Observation,
        promised_by: &[rfc("rfc9112#section-7.1")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(streaming(scene)),
    },
    Check {
        id: "ingress/websocket",
        title: "a WebSocket is opened through the controller, and messages pass both ways",
        class: Class::Observation,
        promised_by: &[rfc("rfc9110#section-7.8"), rfc("rfc6455#section-4")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(websocket(scene)),
    },
    Check {
        id: "ingress/default-class",
        title: "an Ingress that names no class is given the default one, while there is one",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/ingress/#default-ingress-class")],
        // A default class is for everybody's Ingresses.
        needs: &[Capability::Disruption],
        exclusive: true,
        run: |scene| Box::pin(default_class(scene)),
    },
];

/// "You must have an Ingress controller to satisfy an Ingress. Only creating an Ingress resource has
/// no effect."
async fn controller_needed(scene: &mut Scene) -> Held {
    scene.given_controller().await?;
    scene.given(fixture!("service/web.yaml")).await?;
    scene.given(fixture!("ingress/unserved.yaml")).await?;
    // Its twin is there already when this one is asked for.
    routed(scene, &["served.controller-needed.example/"]).await?;
    let unserved = requests(&["unserved.controller-needed.example/"]);
    scene.always(routed_as_promised(scene.inside(), unserved)).await?;
    let addresses = published(scene, "unserved").await?;
    scene.same("an Ingress that nobody serves has the addresses", &Vec::<String>::new(), &addresses)
}

async fn address_published(scene: &mut Scene) -> Held {
    let name = scene.given_controller().await?.class.clone();
    scene.given(fixture!("ingress/address.yaml")).await?;
    let shown = that("the status of the Ingress has an address", |scene| {
        Box::pin(async move {
            let addresses = published(scene, "web").await?;
            Ok(if addresses.is_empty() { Err("it has none".to_owned()) } else { Ok(()) })
        })
    });
    scene.eventually(shown).await?;
    let addresses = published(scene, "web").await?;
    let hosts = "one.address-published.example,two.address-published.example";
    let expected = ["web", &name, hosts, &addresses.join(","), "80"].map(str::to_owned).to_vec();
    let row = scene.table_row("ingresses", "web", &["Name", "Class", "Hosts", "Address", "Ports"]).await?;
    scene.same("the table shows the Ingress as `kubectl get ingress` prints it", &expected, &row)?;
    // The addresses are those of nodes, where the controller has a port.
    let hosts = requests(&["one.address-published.example/", "two.address-published.example/"]);
    let from = scene.vantages().everywhere();
    scene.eventually(routed_as_promised(from, hosts).at_nodes()).await
}

/// "If no host is specified, the rule applies to all inbound HTTP traffic ... If a host is provided,
/// the rules apply to that host."
async fn routes_host(scene: &mut Scene) -> Held {
    notes_ingress(scene).await?;
    routed(scene, &["www.goweb.com/", "www.goweb.org/", "goweb.com/", "goweb-svc/"]).await
}

async fn several_paths(scene: &mut Scene) -> Held {
    scene.given_controller().await?;
    scene.given(fixture!("ingress/paths.yaml")).await?;
    let paths = [
        "/",
        "/foo",
        "/foo/",
        "/foo/ba",
        "/foo/bar",
        "/foo/bar/",
        "/foo/bar/baz",
        "/foo/barbaz",
        "/foobar",
        "/FOO",
        "/fo",
        "/bar/foo",
        "/foobar/foo/bar",
    ];
    let requests: Vec<String> = paths.map(|path| format!("several-paths.example{path}")).to_vec();
    routed(scene, &requests.iter().map(String::as_str).collect::<Vec<_>>()).await
}

async fn several_hosts(scene: &mut Scene) -> Held {
    scene.given_controller().await?;
    scene.given(fixture!("ingress/hosts.yaml")).await?;
    // Hosts are compared without regard to case.
    let hosts = ["first", "second", "third", "SECOND"];
    let requests: Vec<String> = hosts.map(|host| format!("{host}.several-hosts.example/any/path")).to_vec();
    routed(scene, &requests.iter().map(String::as_str).collect::<Vec<_>>()).await
}

/// "Wildcard matches require the HTTP host header is equal to the suffix of the wildcard rule", and
/// the wildcard "only covers a single DNS label".
async fn wildcard_host(scene: &mut Scene) -> Held {
    scene.given_controller().await?;
    scene.given(fixture!("ingress/wildcard.yaml")).await?;
    let requests = [
        "a.wildcard-host.example/",
        "b.wildcard-host.example/any",
        "a.b.wildcard-host.example/",
        "wildcard-host.example/",
    ];
    routed(scene, &requests).await
}

/// "If none of the hosts or paths match the HTTP request in the Ingress objects, the traffic is
/// routed to your default backend."
async fn default_backend(scene: &mut Scene) -> Held {
    scene.given_controller().await?;
    scene.given(fixture!("ingress/default-backend.yaml")).await?;
    let requests = [
        "known.default-backend.example/known",
        "known.default-backend.example/other",
        "unknown.default-backend.example/known",
    ];
    routed(scene, &requests).await
}

async fn straight_to_pods(scene: &mut Scene) -> Held {
    scene.given_controller().await?;
    scene.given(fixture!("ingress/foreign.yaml")).await?;
    scene.eventually(endpoints_mirror_pods("theirs")).await?;
    routed(scene, &["straight-to-pods.example/"]).await?;
    // It proves nothing where somebody serves the service's own address all the same.
    let address = SocketAddr::new(scene.cluster_ip("theirs").await?, 80);
    for from in scene.vantages().pods() {
        if scene.connects(&from, address).await?.is_ok() {
            let why = format!("{from} reaches the cluster IP of a service that no proxy is to serve");
            return Err(Broken::CouldNotTell(why));
        }
    }
    Ok(())
}

/// "The `serviceName` and `servicePort` fields" became `service.name` and `service.port`; "pathType
/// is now required", and without it meant what the implementation made of it.
async fn old_api_version(scene: &mut Scene) -> Held {
    notes_ingress(scene).await?;
    let ingress = ingress(scene, "goweb-ingress").await?;
    let rules = ingress.spec.as_ref().and_then(|spec| spec.rules.as_ref());
    let path = rules.and_then(|rules| rules.first()?.http.as_ref()?.paths.first());
    let path = serde_json::to_value(path)?;
    let expected = json!({
        "path": "/",
        "pathType": "ImplementationSpecific",
        "backend": { "service": { "name": "goweb-svc", "port": { "number": 80 } } },
    });
    scene.same("in networking.k8s.io/v1 the path is", &expected, &path)?;
    let kind = GroupVersionKind::gvk("extensions", "v1beta1", "Ingress");
    let old: Api<DynamicObject> =
        Api::namespaced_with(scene.client(), scene.namespace(), &ApiResource::from_gvk(&kind));
    match old.get("goweb-ingress").await {
        Ok(old) => {
            let shown = &old.data["spec"]["rules"][0]["http"]["paths"][0]["backend"];
            let expected = json!({ "serviceName": "goweb-svc", "servicePort": 80 });
            scene.same::<Value, Value>("in extensions/v1beta1 the backend is", &expected, shown)?;
        }
        // It is not served any more: the Ingress was made as one of the new version.
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(error.into()),
    }
    routed(scene, &["www.goweb.com/"]).await
}

/// "If the TLS configuration section in an Ingress specifies different hosts, they are multiplexed
/// on the same port according to the hostname specified through the SNI TLS extension".
async fn tls(scene: &mut Scene) -> Held {
    scene.given_controller().await?;
    for name in ["one", "two"] {
        let (certificate, key) = certificate(name)?;
        scene.when(create_certificate(name, &certificate, &key)).await?;
    }
    scene.given(fixture!("ingress/tls.yaml")).await?;
    let requests =
        vec![IngressRequest::https("one.tls.example", "/"), IngressRequest::https("two.tls.example", "/")];
    let from = scene.inside();
    scene.eventually(routed_as_promised(from.clone(), requests.clone())).await?;
    scene.always(routed_as_promised(from.clone(), requests.clone())).await?;
    for name in ["two", "one"] {
        let (certificate, key) = certificate(name)?;
        scene.when(replace_certificate(name, &certificate, &key)).await?;
        scene.eventually(routed_as_promised(from.clone(), requests.clone())).await?;
        scene.always(routed_as_promised(from.clone(), requests.clone())).await?;
    }
    Ok(())
}

async fn follows_readiness(scene: &mut Scene) -> Held {
    const REQUEST: &[&str] = &["follows-readiness.example/"];
    scene.given_controller().await?;
    scene.given_running(fixture!("service/readiness-gates.yaml")).await?;
    scene.when(create(fixture!("ingress/gated.yaml"))).await?;
    routed(scene, REQUEST).await?;
    let changes =
        [("gated-0", true), ("gated-1", true), ("gated-0", false), ("gated-0", true), ("gated-1", false)];
    for (pod, ready) in changes {
        scene.set_gate(pod, ready).await?;
        // Before, what was promised until then may still be so.
        scene.becomes(pod, ready).await?;
        routed(scene, REQUEST).await?;
    }
    Ok(())
}

async fn pods_come_and_go(scene: &mut Scene) -> Held {
    scene.given_controller().await?;
    scene.given(fixture!("ingress/back-ends.yaml")).await?;
    scene.when(create(fixture!("ingress/rolling.yaml"))).await?;
    routed(scene, &["pods-come-and-go.example/"]).await?;
    let request = IngressRequest::http("pods-come-and-go.example", "/");
    let from = scene.vantages().pods();
    scene
        .routed_throughout(from, &request, "rolling", async |scene: &Scene| {
            let restart =
                json!({ "spec": { "template": { "metadata": { "annotations": { "restarted": "once" } } } } });
            scene.when(edit(Resource::Deployment, "rolling", restart)).await?;
            scene.rolled_out("rolling").await
        })
        .await?;
    routed(scene, &["pods-come-and-go.example/"]).await
}

async fn nobody_without_endpoints(scene: &mut Scene) -> Held {
    const REQUEST: &[&str] = &["nobody-without-endpoints.example/"];
    scene.given_controller().await?;
    scene.given(fixture!("service/web.yaml")).await?;
    scene.when(create(fixture!("ingress/emptied.yaml"))).await?;
    routed(scene, REQUEST).await?;
    for replicas in [0, 1] {
        scene.when(scale(Resource::ReplicaSet, "web", replicas)).await?;
        scene.pods_become("app=web", replicas as usize).await?;
        routed(scene, REQUEST).await?;
    }
    Ok(())
}

async fn deleted_is_gone(scene: &mut Scene) -> Held {
    const REQUEST: &[&str] = &["deleted-is-gone.example/"];
    scene.given_controller().await?;
    scene.given(fixture!("service/web.yaml")).await?;
    scene.when(create(fixture!("ingress/deleted.yaml"))).await?;
    routed(scene, REQUEST).await?;
    scene.when(delete(Resource::Ingress, "web")).await?;
    routed(scene, REQUEST).await
}

/// "After you save your changes, kubectl updates the resource in the API server, which tells the Ingress
/// controller to reconfigure the load balancer."
async fn changes_drop_nothing(scene: &mut Scene) -> Held {
    scene.given_controller().await?;
    scene.given(fixture!("ingress/back-ends.yaml")).await?;
    scene.when(create(fixture!("ingress/changing.yaml"))).await?;
    routed(scene, &["changes-drop-nothing.example/"]).await?;
    let request = IngressRequest::http("changes-drop-nothing.example", "/");
    let from = scene.vantages().pods();
    scene
        .routed_throughout(from, &request, "rolling", async |scene: &Scene| {
            for (round, replicas) in [(1, 5), (2, 2), (3, 3)] {
                scene.when(create(fixture!("ingress/another.yaml"))).await?;
                scene.when(scale(Resource::Deployment, "rolling", replicas)).await?;
                let path = |path: String, kind: &str| {
                    let service = json!({ "name": "rolling", "port": { "number": 80 } });
                    json!({ "path": path, "pathType": kind, "backend": { "service": service } })
                };
                let paths = [path("/".to_owned(), "Prefix"), path(format!("/round/{round}"), "Exact")];
                let rule = json!({ "host": request.host, "http": { "paths": paths } });
                let spec = json!({ "spec": { "rules": [rule] } });
                scene.when(edit(Resource::Ingress, "rolling", spec)).await?;
                let requests = requests(&["another.changes-drop-nothing.example/"]);
                scene.eventually(routed_as_promised(scene.inside(), requests)).await?;
                scene.rolled_out("rolling").await?;
                scene.when(delete(Resource::Ingress, "another")).await?;
            }
            Ok(())
        })
        .await?;
    routed(scene, &["changes-drop-nothing.example/"]).await
}

/// "A client that supports persistent connections MAY [..] A server that does not support persistent
/// connections MUST send the `close` connection option": this one need not. But "a client, server, or proxy MAY
/// close the transport connection at any time", as one does that starts anew with what was changed, so it may
/// take a while until one carries all.
async fn keep_alive(scene: &mut Scene) -> Held {
    let at = through_controller(scene, fixture!("ingress/keep-alive.yaml"), "keep-alive.example/").await?;
    let carried = that("six requests from anywhere take one connection", move |scene: &Scene| {
        Box::pin(async move {
            for from in scene.inside() {
                let taken = connections(scene, &from, at).await?;
                if taken != Ok(1) {
                    let taken = taken.map(|taken| format!("took {taken} connections"));
                    return Ok(Err(format!("those from {from} {}", taken.unwrap_or_else(|why| why))));
                }
            }
            Ok(Ok(()))
        })
    });
    scene.eventually(carried).await
}

/// How many connections six requests take, or why that is not known: the end of a sentence.
async fn connections(scene: &Scene, from: &Vantage, at: SocketAddr) -> anyhow::Result<Result<usize, String>> {
    let probe = Probe::Http {
        address: at,
        host: Some("keep-alive.example".to_owned()),
        path: "/".to_owned(),
        method: None,
        source_port: None,
        reuse_connection: true,
        server_name: None,
        lines: None,
    };
    let workload = Workload { concurrency: 1, ..scene.workload(probe, 6) };
    let mut ports = BTreeSet::new();
    for outcome in scene.call(from, "keep-alive.example", workload).await? {
        match &outcome.seen {
            Seen::Answered(answer) if answer.status == Some(200) => ports.extend(outcome.from),
            Seen::CouldNotLook { error } => anyhow::bail!("{from} could not look: {error}"),
            other => return Ok(Err(format!("were not all answered: one {}", in_words(other)))),
        }
    }
    Ok(Ok(ports.len()))
}

/// "The chunked coding [..] enables content streams of unknown size to be transferred": whoever waits for
/// the end of one that has none gives nothing on.
async fn streaming(scene: &mut Scene) -> Held {
    const LINES: u32 = 3;
    let at = through_controller(scene, fixture!("ingress/streaming.yaml"), "streaming.example/").await?;
    let probe = Probe::Http {
        address: at,
        host: Some("streaming.example".to_owned()),
        path: "/stream".to_owned(),
        method: None,
        source_port: None,
        reuse_connection: false,
        server_name: None,
        lines: Some(LINES),
    };
    answered_with(scene, probe, "the first lines of an answer that never ends", |answer| {
        answer.status == Some(200) && answer.body.lines().count() >= LINES as usize
    })
    .await
}

/// "The `Upgrade` header field is intended to provide a simple mechanism for transitioning from HTTP/1.1
/// to some other protocol on the same connection."
async fn websocket(scene: &mut Scene) -> Held {
    let at = through_controller(scene, fixture!("ingress/websocket.yaml"), "websocket.example/").await?;
    let probe = Probe::WebSocket {
        address: at,
        host: Some("websocket.example".to_owned()),
        path: "/".to_owned(),
        message: "hello".to_owned(),
    };
    answered_with(scene, probe, "a message that was sent over a WebSocket", |answer| {
        answer.status == Some(101) && answer.body == "hello"
    })
    .await
}

/// The pods `web` with an Ingress in front that routes this URL to them; returns where it takes HTTP.
async fn through_controller(scene: &Scene, ingress: Fixture, url: &str) -> Result<SocketAddr, Broken> {
    let at = scene.given_controller().await?.http.at_cluster_ip;
    scene.given(fixture!("service/web.yaml")).await?;
    scene.when(create(ingress)).await?;
    routed(scene, &[url]).await?;
    Ok(at)
}

/// From everywhere inside, this comes back each time, from pods of the check.
async fn answered_with(scene: &Scene, probe: Probe, what: &str, is_right: fn(&Answer) -> bool) -> Held {
    let pods = scene.pods("app=web").await?;
    let is_ours = |answer: &Answer| pods.iter().any(|pod| pod.metadata.name == answer.hostname);
    for from in scene.inside() {
        for outcome in scene.call(&from, what, scene.workload(probe.clone(), 2)).await? {
            let observed = match &outcome.seen {
                Seen::Answered(answer) if is_right(answer) && is_ours(answer) => continue,
                Seen::Answered(answer) => format!("{:?} with status {:?}", answer.body, answer.status),
                Seen::CouldNotLook { error } => {
                    return Err(Broken::CouldNotTell(format!("{from} could not look: {error}")));
                }
                other => in_words(other),
            };
            return Err(Broken::promise(format!("{what} comes back to {from}"), observed));
        }
    }
    Ok(())
}

/// "Setting the `ingressclass.kubernetes.io/is-default-class` annotation to `true` on an IngressClass
/// resource will ensure that new Ingresses without an `ingressClassName` field specified will be assigned
/// this default IngressClass."
async fn default_class(scene: &mut Scene) -> Held {
    const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
    let all = Api::<IngressClass>::all(scene.client()).list(&ListParams::default()).await?;
    let is_default = |class: &IngressClass| {
        let annotations = class.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(DEFAULT)).is_some_and(|value| value == "true")
    };
    if let Some(class) = all.items.iter().find(|class| is_default(class)) {
        let name = class.metadata.name.clone().unwrap_or_default();
        return Err(Broken::CouldNotTell(format!("the cluster has a default class already, `{name}`")));
    }
    let name = scene.namespace().to_owned();
    let class = json!({
        "metadata": { "name": name, "annotations": { DEFAULT: "true" } },
        "spec": { "controller": "suites.stickler.dev/nobody" },
    });
    scene.when(make(Resource::IngressClass, class)).await?;
    let during = scene.eventually(class_of_who_names_none(Some(name.clone()))).await;
    // Whatever came of it, it is nobody's default any longer.
    scene.when(delete(Resource::IngressClass, &name)).await?;
    during?;
    scene.eventually(class_of_who_names_none(None)).await
}

/// Which class an Ingress is given that names none. The API server judges by a copy of the classes, which may
/// be older than the last change, so it is asked again, about an Ingress that is never made.
fn class_of_who_names_none(wanted: Option<String>) -> impl stickler::Invariant {
    let promise = match &wanted {
        Some(class) => format!("an Ingress that names no class is given the default one, `{class}`"),
        None => "without a default class, an Ingress that names none has none".to_owned(),
    };
    that(promise, move |scene| {
        let wanted = wanted.clone();
        Box::pin(async move {
            let ingress = json!({
                "metadata": { "name": "without-class" },
                "spec": { "defaultBackend": { "service": { "name": "web", "port": { "number": 80 } } } },
            });
            let asked = PostParams { dry_run: true, ..PostParams::default() };
            let made = scene.api::<Ingress>().create(&asked, &serde_json::from_value(ingress)?).await;
            let class = made.context("an Ingress was refused")?.spec.and_then(|spec| spec.ingress_class_name);
            Ok(match class {
                class if class == wanted => Ok(()),
                Some(class) => Err(format!("it is of class `{class}`")),
                None => Err("it has no class".to_owned()),
            })
        })
    })
}

/// The notes' pods and service, and their Ingress, of whichever version is served.
async fn notes_ingress(scene: &Scene) -> Held {
    scene.given_controller().await?;
    scene.given(fixture!("notes/goweb-rs.yaml")).await?;
    scene.when(create(fixture!("notes/goweb-svc.yaml"))).await?;
    scene.when(create(fixture!("notes/goweb-ingress.yaml"))).await
}

/// These requests are routed as promised from everywhere inside, soon, and from then on.
async fn routed(scene: &Scene, urls: &[&str]) -> Held {
    let from = scene.inside();
    scene.eventually(routed_as_promised(from.clone(), requests(urls))).await?;
    scene.always(routed_as_promised(from, requests(urls))).await
}

/// Plain HTTP, each given as its host and path.
fn requests(urls: &[&str]) -> Vec<IngressRequest> {
    let request = |url: &&str| {
        let (host, path) = url.split_at(url.find('/').unwrap_or(url.len()));
        IngressRequest::http(host, path)
    };
    urls.iter().map(request).collect()
}

async fn ingress(scene: &Scene, name: &str) -> anyhow::Result<Ingress> {
    scene.api::<Ingress>().get(name).await.with_context(|| format!("could not get ingress `{name}`"))
}

/// The addresses in the status of an Ingress.
async fn published(scene: &Scene, name: &str) -> anyhow::Result<Vec<String>> {
    let status = ingress(scene, name).await?.status.and_then(|status| status.load_balancer);
    let points = status.and_then(|balancer| balancer.ingress).unwrap_or_default();
    Ok(points.into_iter().filter_map(|point| point.ip.or(point.hostname)).collect())
}

/// A certificate that nobody else has, and its key, both PEM.
fn certificate(name: &str) -> anyhow::Result<(String, String)> {
    let made = rcgen::generate_simple_self_signed([format!("{name}.tls.example")])
        .context("could not make a certificate")?;
    Ok((made.cert.pem(), made.signing_key.serialize_pem()))
}
