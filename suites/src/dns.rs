//! DNS: services by their names.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use stickler::{
    Capability, Check, Class, Held, Scene, Vantage, dns_specification, docs, fixture, notes,
    resolve_as_promised, that,
};
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
    Check {
        id: "dns/ptr",
        title: "the name of a cluster IP is that of its service",
        class: Class::Promise,
        promised_by: &[dns_specification("233---ptr-record")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(ptr(scene)),
    },
    Check {
        id: "dns/host-network",
        title: "dnsPolicy ClusterFirstWithHostNet: pods in their node's network search the cluster's names, too",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/dns-pod-service/#pod-s-dns-policy")],
        needs: &[Capability::HostNetwork],
        exclusive: false,
        run: |scene| Box::pin(host_network(scene)),
    },
    Check {
        id: "dns/policy-none",
        title: "dnsPolicy None: a pod resolves as its dnsConfig says, and in no other way",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/dns-pod-service/#pod-s-dns-policy"),
            docs("concepts/services-networking/dns-pod-service/#pod-dns-config"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(policy_none(scene)),
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
    searches_the_cluster(scene).await
}

/// "For Pods running with hostNetwork, you should explicitly set its DNS policy to
/// \"ClusterFirstWithHostNet\". Otherwise [..] will fallback".
async fn host_network(scene: &mut Scene) -> Held {
    scene.given(fixture!("dns/host-network.yaml")).await?;
    searches_the_cluster(scene).await
}

/// "All DNS settings are supposed to be provided using the `dnsConfig` field in the Pod Spec."
async fn policy_none(scene: &mut Scene) -> Held {
    scene.given(fixture!("dns/policy-none.yaml")).await?;
    let told = resolver_of_reader(scene).await?;
    scene.same("the name servers are", &vec!["192.0.2.53".to_owned()], &told.of("nameserver "))?;
    let searched = ["first.example", "second.example"].map(str::to_owned).to_vec();
    scene.same("the search path is", &searched, &told.of("search "))?;
    let mut options = told.of("options ");
    options.sort();
    scene.same("the options are", &["edns0", "ndots:2"].map(str::to_owned).to_vec(), &options)
}

/// What a pod's `/etc/resolv.conf` says.
struct Resolver(String);

impl Resolver {
    /// All words after this one at the beginning of a line.
    fn of(&self, key: &str) -> Vec<String> {
        let lines = self.0.lines().filter_map(|line| line.strip_prefix(key));
        lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
    }
}

async fn resolver_of_reader(scene: &Scene) -> anyhow::Result<Resolver> {
    Ok(Resolver(scene.exec("reader", &["cat", "/etc/resolv.conf"]).await?.stdout))
}

async fn searches_the_cluster(scene: &Scene) -> Held {
    let told = resolver_of_reader(scene).await?;
    let words = |key: &str| told.of(key);
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

/// "Given Service ClusterIP `<a>.<b>.<c>.<d>`, a `PTR` record [..] must exist."
async fn ptr(scene: &mut Scene) -> Held {
    scene.given(fixture!("ports/several.yaml")).await?;
    let name = reverse_name(scene.cluster_ip("several").await?);
    let from = scene.vantages().pods();
    scene.eventually(resolve_as_promised(from.clone(), RecordType::Ptr, vec![name.clone()])).await?;
    scene.exactly(resolve_as_promised(from, RecordType::Ptr, vec![name]).over_tcp()).await
}

/// Under which name an address has its pointers
/// ([RFC 1035, section 3.5](https://www.rfc-editor.org/rfc/rfc1035#section-3.5),
/// [RFC 3596, section 2.5](https://www.rfc-editor.org/rfc/rfc3596#section-2.5)).
pub(crate) fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let nibbles: String =
                ip.octets().iter().rev().map(|byte| format!("{:x}.{:x}.", byte & 15, byte >> 4)).collect();
            format!("{nibbles}ip6.arpa")
        }
    }
}
