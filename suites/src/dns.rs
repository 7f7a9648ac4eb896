//! DNS: services by their names.

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use stickler::{Check, Class, Held, Scene, Vantage, docs, fixture, notes, resolve_as_promised, that};
use stickler_model::{ObjectKey, RecordType};

use crate::service::name_of;

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "dns/kube-dns-service",
        title: "the cluster runs `kube-dns` with 53/UDP, 53/TCP and 9153/TCP",
        class: Class::Observation,
        promised_by: &[notes("通过DNS发现服务")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(kube_dns_service(scene)),
    },
    Check {
        id: "dns/resolv-conf",
        title: "pods search their namespace, svc and the cluster's domain, with ndots:5",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/dns-pod-service/#namespaces-of-services")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(resolv_conf(scene)),
    },
    Check {
        id: "dns/fqdn",
        title: "<service>.<namespace>.svc.cluster.local is the cluster IP, over UDP and over TCP",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/dns-pod-service/#a-aaaa-records")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(fqdn(scene)),
    },
    Check {
        id: "dns/short-names",
        title: "<service> works in its namespace, <service>.<namespace> everywhere, <service> elsewhere not",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/dns-pod-service/#namespaces-of-services")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(short_names(scene)),
    },
    Check {
        id: "dns/srv",
        title: "a named port has an SRV record",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/dns-pod-service/#srv-records")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(srv(scene)),
    },
];

async fn kube_dns_service(scene: &mut Scene) -> Held {
    scene
        .exactly(that("`kube-dns` in kube-system has 53/UDP, 53/TCP and 9153/TCP", |scene| {
            Box::pin(async move {
                let api: Api<Service> = Api::namespaced(scene.client(), "kube-system");
                let Some(service) = api.get_opt("kube-dns").await? else {
                    return Ok(Err("there is no service `kube-dns` in kube-system".to_owned()));
                };
                let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
                let ports: Vec<String> = ports
                    .iter()
                    .map(|port| format!("{}/{}", port.port, port.protocol.as_deref().unwrap_or("TCP")))
                    .collect();
                let wanted = ["53/UDP", "53/TCP", "9153/TCP"];
                Ok(if ports == wanted { Ok(()) } else { Err(format!("it has {}", ports.join(", "))) })
            })
        }))
        .await
}

async fn resolv_conf(scene: &mut Scene) -> Held {
    scene.given(fixture!("env/pod.yaml")).await?;
    let output = scene.exec("reader", &["cat", "/etc/resolv.conf"]).await?;
    let words = |key: &str| -> Vec<String> {
        let lines = output.stdout.lines().filter_map(|line| line.strip_prefix(key));
        lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
    };
    let namespace = scene.namespace();
    let searched: Vec<String> = words("search ").into_iter().take(3).collect();
    let wanted =
        [format!("{namespace}.svc.cluster.local"), "svc.cluster.local".into(), "cluster.local".into()];
    scene.same("the search path begins with", &wanted.to_vec(), &searched)?;
    scene.same("the options hold ndots:5", &true, &words("options ").contains(&"ndots:5".to_owned()))
}

/// "\"Normal\" (not headless) Services are assigned DNS A and/or AAAA records ... This resolves to
/// the cluster IP of the Service."
async fn fqdn(scene: &mut Scene) -> Held {
    scene.given(fixture!("ports/several.yaml")).await?;
    let name = format!("several.{}.svc.cluster.local", scene.namespace());
    let from = scene.vantages().pods();
    let names = vec![name.clone(), name.to_uppercase()];
    scene.eventually(resolve_as_promised(from.clone(), RecordType::A, names.clone())).await?;
    scene.exactly(resolve_as_promised(from.clone(), RecordType::A, names).over_tcp()).await?;
    scene.exactly(resolve_as_promised(from.clone(), RecordType::Aaaa, vec![name])).await?;
    let nobody = format!("nobody.{}.svc.cluster.local", scene.namespace());
    scene.exactly(resolve_as_promised(from, RecordType::A, vec![nobody])).await
}

/// "DNS queries that don't specify a namespace are limited to the Pod's namespace."
async fn short_names(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/hairpin.yaml")).await?;
    let name = name_of(scene.pods("app=mirror").await?.first())?;
    let inside = Vantage::Backend(ObjectKey { namespace: scene.namespace().to_owned(), name });
    let with_namespace = format!("mirror.{}", scene.namespace());
    let both = vec!["mirror".to_owned(), with_namespace.clone()];
    scene.eventually(resolve_as_promised(vec![inside], RecordType::A, both).searching()).await?;
    let elsewhere = scene.vantages().pods();
    let names = vec![with_namespace, "mirror".to_owned()];
    scene.exactly(resolve_as_promised(elsewhere, RecordType::A, names).searching()).await
}

/// "SRV Records are created for named ports that are part of normal or headless services."
async fn srv(scene: &mut Scene) -> Held {
    scene.given(fixture!("ports/several.yaml")).await?;
    let name = |port: &str| format!("_{port}._tcp.several.{}.svc.cluster.local", scene.namespace());
    let names = vec![name("http"), name("https"), name("gopher")];
    let from = scene.vantages().pods();
    scene.eventually(resolve_as_promised(from, RecordType::Srv, names)).await
}
