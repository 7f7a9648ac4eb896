//! What [`resolve`] and [`resolve_from`] say, as tables: a world, and the answer to each question.

use std::collections::BTreeSet;

use proptest::prelude::*;
use stickler_model::{
    Code, ObjectKey, Promises, Record, RecordType, Reply, Resolution, World, resolve, resolve_from,
};

const SHOP: &str = "
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: shop, labels: {app: db}}
spec: {nodeName: kube1.vm, hostname: db-0, subdomain: db, containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}
status: {phase: Running, podIP: 10.244.1.2, conditions: [{type: Ready, status: \"True\"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db-1, namespace: shop, labels: {app: db}}
spec: {nodeName: kube2.vm, containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}
status: {phase: Running, podIP: 10.244.2.2, conditions: [{type: Ready, status: \"True\"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db-2, namespace: shop, labels: {app: db}}
spec: {nodeName: kube2.vm, hostname: db-2, subdomain: db, containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}
status: {phase: Running, podIP: 10.244.2.3, conditions: [{type: Ready, status: \"False\"}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: sql, port: 5432, targetPort: sql}]}
---
apiVersion: v1
kind: Service
metadata: {name: db-all, namespace: shop}
spec: {clusterIP: None, publishNotReadyAddresses: true, selector: {app: db}, ports: [{name: sql, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: none, namespace: shop}
spec: {clusterIP: None, selector: {app: nothing}, ports: [{name: sql, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.20, selector: {app: web}, ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: dual, namespace: shop}
spec: {clusterIP: 10.96.0.21, clusterIPs: [10.96.0.21, \"fd00::21\"], selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: away, namespace: shop}
spec: {type: ExternalName, externalName: www.Example.com.}
";

/// Who reads names off the endpoints answers with the ports those have.
#[test]
fn a_port_that_only_the_endpoints_of_a_headless_service_have_is_not_promised() {
    let world = World::from_yaml(
        "
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: admin, port: 8000}]
endpoints: [{addresses: [10.244.1.2]}]
",
    )
    .unwrap();
    let srv = |name: &str| {
        let name = format!("{name}.db.shop.svc.cluster.local");
        resolve(&world, &promises(), &name, RecordType::Srv)
    };
    assert!(matches!(srv("_admin._tcp"), Resolution::NotPromised { .. }));
    assert!(matches!(srv("_other._tcp"), Resolution::Nothing { .. }));
    assert!(matches!(srv("_sql._tcp"), Resolution::Nothing { .. }));
}

fn world() -> World {
    World::from_yaml(&format!("{}\n---\n{SHOP}", include_str!("lab.yaml"))).unwrap()
}

fn promises() -> Promises {
    Promises::of_minor(37).with_service_cidr("10.96.0.0/12".parse().unwrap())
}

fn kind(cell: &str) -> RecordType {
    match cell {
        "A" => RecordType::A,
        "AAAA" => RecordType::Aaaa,
        "CNAME" => RecordType::Cname,
        "PTR" => RecordType::Ptr,
        "SRV" => RecordType::Srv,
        "TXT" => RecordType::Txt,
        _ => panic!("`{cell}` is no type"),
    }
}

/// The set without its reason.
fn in_words(resolution: &Resolution) -> String {
    let list = |records: &[stickler_model::Promised]| {
        records.iter().map(|record| record.to_string().replace('`', "")).collect::<Vec<_>>().join(", ")
    };
    match resolution {
        Resolution::Records { exactly, .. } => list(exactly),
        Resolution::AtMost { perhaps, .. } => format!("at most {}", list(perhaps)),
        Resolution::Alias { target, .. } => format!("CNAME {target}"),
        Resolution::SchemaVersion { .. } => "a version".to_owned(),
        Resolution::NoData { .. } => "no data".to_owned(),
        Resolution::Nothing { .. } => "nothing".to_owned(),
        Resolution::NotPromised { .. } => "not promised".to_owned(),
    }
}

fn rows(table: &str) -> Vec<Vec<&str>> {
    let lines = table.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect()
}

#[test]
fn full_names() {
    let mut wrong = String::new();
    for row in rows(
        "
        db.shop.svc.cluster.local         A      10.244.1.2, 10.244.2.2
        DB.Shop.svc.cluster.local.        A      10.244.1.2, 10.244.2.2
        db.shop.svc.cluster.local         AAAA   no data
        db-all.shop.svc.cluster.local     A      10.244.1.2, 10.244.2.2, 10.244.2.3
        none.shop.svc.cluster.local       A      nothing
        none.shop.svc.cluster.local       AAAA   nothing
        web.shop.svc.cluster.local        A      10.96.0.20
        web.shop.svc.cluster.local        AAAA   no data
        web.shop.svc.cluster.local        TXT    no data
        dual.shop.svc.cluster.local       AAAA   fd00::21
        dual.shop.svc.cluster.local       A      10.96.0.21
        web.default.svc.cluster.local     A      nothing
        away.shop.svc.cluster.local       A      CNAME www.example.com
        away.shop.svc.cluster.local       CNAME  CNAME www.example.com
        # Host names: of a ready endpoint, of one that is not, and one that the system may make up.
        db-0.db.shop.svc.cluster.local    A      10.244.1.2
        db-0.db.shop.svc.cluster.local    AAAA   no data
        db-2.db.shop.svc.cluster.local    A      nothing
        x.db.shop.svc.cluster.local       A      at most 10.244.1.2, 10.244.2.2
        # The subdomain names one service only.
        db-0.db-all.shop.svc.cluster.local  A    at most 10.244.1.2, 10.244.2.2, 10.244.2.3
        x.web.shop.svc.cluster.local      A      not promised
        _http._tcp.web.shop.svc.cluster.local  SRV  port 80 of web.shop.svc.cluster.local
        _dns._udp.web.shop.svc.cluster.local   SRV  port 53 of web.shop.svc.cluster.local
        _dns._tcp.web.shop.svc.cluster.local   SRV  nothing
        _sql._tcp.db.shop.svc.cluster.local    SRV  port 5432 of db-0.db.shop.svc.cluster.local, port 5432 of *.db.shop.svc.cluster.local
        _sql._tcp.none.shop.svc.cluster.local  SRV  nothing
        20.0.96.10.in-addr.arpa           PTR    web.shop.svc.cluster.local
        99.0.96.10.in-addr.arpa           PTR    nothing
        9.2.244.10.in-addr.arpa           PTR    not promised
        2.1.244.10.in-addr.arpa           PTR    db-0.db.shop.svc.cluster.local, *.db-all.shop.svc.cluster.local
        1.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa  PTR  dual.shop.svc.cluster.local
        dns-version.cluster.local         TXT    a version
        10-244-1-2.shop.pod.cluster.local  A     at most 10.244.1.2
        shop.svc.cluster.local            A      nothing
        cluster.local                     A      not promised
        www.example.com                   A      not promised
        notcluster.local                  A      not promised
        ",
    ) {
        let [name, of, answer] = row[..] else { panic!("a row has three cells: {row:?}") };
        let said = resolve(&world(), &promises(), name, kind(of));
        if in_words(&said) != answer {
            wrong += &format!("\n{row:?}\n  the model says: {said}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn short_names() {
    for row in rows(
        "
        shop/db-0       db                          db.shop.svc.cluster.local      10.244.1.2, 10.244.2.2
        shop/db-0       web.shop                    web.shop.svc.cluster.local     10.96.0.20
        shop/db-0       web.shop.svc                web.shop.svc.cluster.local     10.96.0.20
        shop/db-0       web.shop.svc.cluster.local  web.shop.svc.cluster.local     10.96.0.20
        default/client  web.shop                    web.shop.svc.cluster.local     10.96.0.20
        default/client  web                         web                            not promised
        default/client  web.                        web                            not promised
        default/host-agent  web.shop                web.shop                       not promised
        default/nobody  web.shop                    web.shop                       not promised
        ",
    ) {
        let [pod, name, full, answer] = row[..] else { panic!("a row has four cells: {row:?}") };
        let pod: ObjectKey = pod.parse().unwrap();
        let lookup = resolve_from(&world(), &promises(), &pod, name, RecordType::A);
        assert_eq!((lookup.name.as_str(), in_words(&lookup.resolution).as_str()), (full, answer), "{row:?}");
    }
    let passed =
        resolve_from(&world(), &promises(), &ObjectKey::new("default", "client"), "web", RecordType::A);
    assert!(passed.passed.iter().all(|(_, resolution)| matches!(resolution, Resolution::Nothing { .. })));
    assert_eq!(passed.passed.len(), 3);
}

fn reply(code: Code, records: impl IntoIterator<Item = Record>) -> Reply {
    Reply::Answered { code, records: records.into_iter().collect() }
}

fn address(text: &str) -> Record {
    Record::Address(text.parse().unwrap())
}

#[test]
fn tells_in_words_what_is_wrong() {
    let ask = |name: &str, of| resolve(&world(), &promises(), &format!("{name}.shop.svc.cluster.local"), of);
    let db = ask("db", RecordType::A);
    let both = [address("10.244.1.2"), address("10.244.2.2")];
    assert_eq!(db.allows(&reply(Code::NoError, both.clone())), Ok(()));
    assert_eq!(
        db.allows(&reply(Code::NoError, [address("10.244.1.2"), address("10.244.2.3")])).unwrap_err(),
        "was answered `10.244.1.2`, `10.244.2.3`; missing: `10.244.2.2`; not promised: `10.244.2.3`: \
         the ready endpoints of `db`"
    );
    assert_eq!(
        db.allows(&Reply::Silent).unwrap_err(),
        "got no answer; promised are `10.244.1.2`, `10.244.2.2`: the ready endpoints of `db`"
    );
    let none = ask("none", RecordType::A);
    assert_eq!(none.allows(&reply(Code::NxDomain, [])), Ok(()));
    assert_eq!(none.allows(&reply(Code::NoError, [])), Ok(()));
    assert!(none.allows(&reply(Code::ServFail, [])).is_err());
    assert_eq!(
        none.allows(&reply(Code::NoError, both)).unwrap_err(),
        "was answered `10.244.1.2`, `10.244.2.2`; there must be no records: no endpoint of `none` is ready"
    );
    // A name error would say that the name has no IPv4 address either.
    let web = ask("web", RecordType::Aaaa);
    assert_eq!(web.allows(&reply(Code::NoError, [])), Ok(()));
    assert!(web.allows(&reply(Code::NxDomain, [])).is_err());

    let away = ask("away", RecordType::A);
    let alias = Record::Alias("WWW.example.com.".to_owned());
    assert_eq!(away.allows(&reply(Code::NoError, [alias.clone(), address("11.11.11.11")])), Ok(()));
    assert_eq!(away.allows(&reply(Code::NxDomain, [alias])), Ok(()));
    assert!(away.allows(&reply(Code::NoError, [address("11.11.11.11")])).is_err());

    // An alias of a service of the cluster leads there, whoever is asked for it.
    let near = World::from_yaml(&format!(
        "{}\n---\n{SHOP}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: near, namespace: shop}}\n\
         spec: {{type: ExternalName, externalName: Web.shop.svc.cluster.local}}\n",
        include_str!("lab.yaml")
    ))
    .unwrap();
    let near = |kind| resolve(&near, &promises(), "near.shop.svc.cluster.local", kind);
    let web = ask("web", RecordType::A).addresses();
    let alias = Record::Alias("web.shop.svc.cluster.local.".to_owned());
    let whole = web.iter().copied().map(Record::Address).chain([alias.clone()]);
    assert_eq!(near(RecordType::A).allows(&reply(Code::NoError, whole)), Ok(()));
    assert!(near(RecordType::A).allows(&reply(Code::NoError, [alias.clone()])).is_err());
    assert_eq!(near(RecordType::Cname).allows(&reply(Code::NoError, [alias.clone()])), Ok(()));
    assert_eq!(near(RecordType::Aaaa).allows(&reply(Code::NoError, [alias])), Ok(()));

    let version = resolve(&world(), &promises(), "dns-version.cluster.local", RecordType::Txt);
    assert_eq!(version.allows(&reply(Code::NoError, [Record::Text("1.1.0".to_owned())])), Ok(()));
    assert!(version.allows(&reply(Code::NoError, [Record::Text("new".to_owned())])).is_err());
}

#[test]
fn made_up_names_are_counted() {
    let sql = resolve(&world(), &promises(), "_sql._tcp.db.shop.svc.cluster.local", RecordType::Srv);
    let srv = |host: &str| Record::Srv { port: 5432, target: format!("{host}.db.shop.svc.cluster.local.") };
    assert_eq!(sql.allows(&reply(Code::NoError, [srv("db-0"), srv("10-244-2-2")])), Ok(()));
    assert!(sql.allows(&reply(Code::NoError, [srv("db-0")])).is_err());
    assert!(sql.allows(&reply(Code::NoError, [srv("a"), srv("b")])).is_err());
    assert!(sql.allows(&reply(Code::NoError, [srv("db-0"), srv("a"), srv("b")])).is_err());
}

/// The control plane marks what it publishes as ready. What is written by hand it does not mark, and
/// whether others do as `publishNotReadyAddresses` says is theirs.
#[test]
fn whether_unready_addresses_made_by_hand_are_published_is_not_promised() {
    let world = |publish: bool| {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: h}}\n\
             spec: {{clusterIP: None, publishNotReadyAddresses: {publish}, ports: [{{name: web, port: 80}}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: h-a, labels: {{kubernetes.io/service-name: h, \
             endpointslice.kubernetes.io/managed-by: somebody}}}}\naddressType: IPv4\n\
             endpoints: [{{addresses: [10.244.0.2], conditions: {{ready: false}}}}]\n\
             ports: [{{name: web, port: 80, protocol: TCP}}]\n"
        );
        World::from_yaml(&text).unwrap()
    };
    let allowed = |publish, records: Vec<Record>| {
        let said = resolve(&world(publish), &promises(), "h.default.svc.cluster.local", RecordType::A);
        said.allows(&reply(Code::NoError, records)).is_ok()
    };
    let its_address = || vec![Record::Address("10.244.0.2".parse().unwrap())];
    assert!(allowed(true, its_address()), "who publishes it may");
    assert!(allowed(true, Vec::new()), "who does not may");
    assert!(!allowed(false, its_address()), "nobody asked for it");
}

/// The world of the tables, read once for many cases.
fn one_world() -> &'static World {
    static WORLD: std::sync::LazyLock<World> = std::sync::LazyLock::new(world);
    &WORLD
}

/// A headless service over pods that are ready or not, deleted or not.
fn headless(pods: &[(bool, bool)], publish: bool) -> World {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: h}}\n\
         spec: {{clusterIP: None, publishNotReadyAddresses: {publish}, selector: {{app: h}}, ports: [{{port: 80}}]}}\n"
    );
    for (index, (ready, terminating)) in pods.iter().enumerate() {
        let deletion = if *terminating { ", deletionTimestamp: \"2026-01-01T00:00:00Z\"" } else { "" };
        let ready = if *ready { "True" } else { "False" };
        text += &format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{index}, labels: {{app: h}}{deletion}}}\n\
             spec: {{containers: [{{name: c}}]}}\n\
             status: {{podIP: 10.244.0.{}, conditions: [{{type: Ready, status: \"{ready}\"}}]}}\n",
            index + 2
        );
    }
    World::from_yaml(&text).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A headless name has exactly its ready pods' addresses, or with `publishNotReadyAddresses`
    /// all; the same set is allowed, and none that differs by one.
    #[test]
    fn a_headless_name_is_its_ready_pods(
        pods in prop::collection::vec((any::<bool>(), any::<bool>()), 0..6),
        publish in any::<bool>(),
    ) {
        let said = resolve(&headless(&pods, publish), &promises(), "h.default.svc.cluster.local", RecordType::A);
        let all: Vec<std::net::IpAddr> =
            (0..pods.len()).map(|index| format!("10.244.0.{}", index + 2).parse().unwrap()).collect();
        let promised: BTreeSet<std::net::IpAddr> = (all.iter().zip(&pods))
            .filter(|(_, (ready, terminating))| publish || (*ready && !*terminating))
            .map(|(address, _)| *address)
            .collect();
        prop_assert_eq!(said.addresses(), promised.clone());
        let answer = |set: &BTreeSet<std::net::IpAddr>| {
            said.allows(&reply(Code::NoError, set.iter().copied().map(Record::Address)))
        };
        prop_assert_eq!(answer(&promised), Ok(()));
        for address in &all {
            let mut other = promised.clone();
            if !other.remove(address) {
                other.insert(*address);
            }
            // An empty answer for the last one that goes is wrong too.
            prop_assert!(answer(&other).is_err());
        }
    }

    /// What a full name means does not depend on case or on the dot at its end.
    #[test]
    fn names_have_no_case(upper in prop::collection::vec(any::<bool>(), 40)) {
        let name = "db.shop.svc.cluster.local";
        let odd: String = name.chars().zip(&upper).map(|(c, upper)| if *upper { c.to_ascii_uppercase() } else { c }).collect();
        let world = one_world();
        let ask = |name: &str| resolve(world, &promises(), name, RecordType::A);
        prop_assert_eq!(ask(&odd), ask(name));
        prop_assert_eq!(ask(&format!("{odd}.")), ask(name));
    }
}
