//! What [`route`] says, as tables: a world, and who answers what from where.

use stickler_model::{
    Destination, Observed, Promises, Protocol, Route, Source, Vantage, World, judge, route,
};

/// Reads a table and holds the model to each row. Columns are separated by two or more spaces:
///
/// - *from*: `outside`, `node NAME` or `pod NAME`;
/// - *to*: `HOST:PORT[/PROTOCOL]`, the host an address, a node's name or a service's (its cluster IP);
/// - *answers*: the host names of all who may, or `-`; `at most` before them if it is not promised
///   that they do;
/// - *source*: `kept`, `kept unless itself`, `not promised`; or for `-` how it fails: `refused`,
///   `dropped`, `nobody`, `not promised`.
fn check_routes_of(promises: &Promises, world: &str, table: &str) {
    let world = World::from_yaml(&format!("{}\n---\n{world}", include_str!("lab.yaml"))).unwrap();
    let mut wrong = String::new();
    let mut rows = table.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    assert_eq!(cells(rows.next().unwrap()), ["from", "to", "answers", "source"], "the head of the table");
    for row in rows {
        let cells = cells(row);
        let [from, to, answers, source] = cells[..] else {
            panic!("a row has four cells: {row}");
        };
        let said = route(&world, promises, &vantage(from), &destination(&world, to));
        let (said_answers, said_source) = in_words(&said);
        if (said_answers.as_str(), said_source) != (answers, source) {
            wrong += &format!("\n{row}\n  the model says: {said_answers}  {said_source}\n  ({said})");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn check_routes(world: &str, table: &str) {
    check_routes_of(&promises(37), world, table);
}

fn promises(minor: u32) -> Promises {
    Promises::of_minor(minor)
        .with_service_cidr("10.96.0.0/12".parse().unwrap())
        .with_cluster_cidr("10.244.0.0/16".parse().unwrap())
}

fn cells(row: &str) -> Vec<&str> {
    row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

fn vantage(cell: &str) -> Vantage {
    match cell.split_once(' ') {
        None if cell == "outside" => Vantage::Outside,
        Some(("node", name)) => Vantage::Node(name.to_owned()),
        Some(("pod", name)) => Vantage::Pod(name.parse().unwrap()),
        _ => panic!("`{cell}` is no vantage"),
    }
}

fn destination(world: &World, cell: &str) -> Destination {
    if let Ok(destination) = cell.parse() {
        return destination;
    }
    let (host, port) = cell.rsplit_once(':').unwrap_or_else(|| panic!("`{cell}` is no destination"));
    let (port, protocol) = port.split_once('/').unwrap_or((port, "TCP"));
    let address = match world.nodes.get(host) {
        Some(node) => node.status.as_ref().unwrap().addresses.as_ref().unwrap()[0].address.clone(),
        None => {
            let service = world.services.get(&host.parse().unwrap());
            let service = service.unwrap_or_else(|| panic!("`{host}` is no node or service"));
            service.spec.as_ref().unwrap().cluster_ip.clone().unwrap()
        }
    };
    Destination::new(address.parse().unwrap(), port.parse().unwrap(), protocol.parse::<Protocol>().unwrap())
}

fn in_words(route: &Route) -> (String, &'static str) {
    let names = route.backends().map(|by| {
        let mut names: Vec<String> = by
            .iter()
            .map(|one| one.hostname.clone().unwrap_or_else(|| one.address.ip().to_string()))
            .collect();
        names.sort();
        names.join(" ")
    });
    let nobody = "-".to_owned();
    match route {
        Route::Answered { source, .. } => {
            let source = match source {
                Source::Kept => "kept",
                Source::KeptUnlessItself => "kept unless itself",
                Source::NotPromised => "not promised",
            };
            (names.unwrap(), source)
        }
        Route::AtMost { .. } => (format!("at most {}", names.unwrap()), "not promised"),
        Route::Refused { .. } => (nobody, "refused"),
        Route::Dropped { .. } => (nobody, "dropped"),
        Route::Nobody { .. } => (nobody, "nobody"),
        Route::NotPromised { .. } => (nobody, "not promised"),
    }
}

/// web-0 on kube1, ready; web-1 on kube2, ready; web-2 on kube2, not ready.
const PODS: &str = r#"
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: web-0, labels: {app: web}}
  spec: {nodeName: kube1.vm, containers: [{name: web, ports: [{name: http, containerPort: 8000}]}]}
  status: {phase: Running, podIP: 10.244.1.2, conditions: [{type: Ready, status: "True"}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: web-1, labels: {app: web}}
  spec: {nodeName: kube2.vm, containers: [{name: web, ports: [{name: http, containerPort: 8001}]}]}
  status: {phase: Running, podIP: 10.244.2.2, conditions: [{type: Ready, status: "True"}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: web-2, labels: {app: web}}
  spec: {nodeName: kube2.vm, containers: [{name: web, ports: [{name: http, containerPort: 8000}]}]}
  status: {phase: Running, podIP: 10.244.2.3, conditions: [{type: Ready, status: "False"}]}
---
"#;

fn with_pods(services: &str) -> String {
    format!("{PODS}{services}")
}

#[test]
fn a_cluster_ip_reaches_the_ready_pods() {
    check_routes(
        &with_pods(
            "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.20, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
",
        ),
        "
        from             to                   answers        source
        pod client       web:80               web-0 web-1    kept
        pod web-0        web:80               web-0 web-1    kept unless itself
        pod web-2        web:80               web-0 web-1    kept
        pod host-agent   web:80               web-0 web-1    not promised
        node kube0.vm    web:80               web-0 web-1    not promised
        outside          web:80               -              not promised
        # Another port, another protocol, and what only the pods have.
        pod client       web:8080             -              nobody
        pod client       web:80/UDP           -              nobody
        node kube1.vm    web:8000             -              nobody
        # Addresses of the ranges that nobody has (any more), and one of neither.
        pod client       10.96.0.21:80        -              nobody
        node kube1.vm    10.244.1.77:8000     -              nobody
        pod client       11.11.11.11:80       -              not promised
        outside          10.96.0.21:80        -              not promised
        # Who does not exist promises nothing.
        pod gone         web:80               -              not promised
        node gone        web:80               -              not promised
        ",
    );
}

#[test]
fn nobody_ready_is_refused() {
    check_routes(
        &with_pods(
            "
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {type: NodePort, clusterIP: 10.96.0.21, selector: {app: nothing}, ports: [{port: 80, nodePort: 30080}, {name: u, port: 80, protocol: UDP, nodePort: 30080}]}
---
apiVersion: v1
kind: Service
metadata: {name: bare}
spec: {clusterIP: 10.96.0.22, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: unnamed}
spec: {clusterIP: 10.96.0.23, selector: {app: web}, ports: [{port: 80, targetPort: no-such-name}]}
",
        ),
        "
        from            to                 answers   source
        pod client      empty:80           -         refused
        pod client      empty:80/UDP       -         refused
        node kube0.vm   empty:80           -         refused
        outside         kube0.vm:30080     -         refused
        pod client      kube1.vm:30080     -         refused
        pod client      bare:80            -         refused
        pod client      unnamed:80         -         refused
        ",
    );
}

#[test]
fn a_node_port_is_open_on_every_node() {
    check_routes(
        &with_pods(
            "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, clusterIP: 10.96.0.20, selector: {app: web}, ports: [{port: 80, targetPort: http, nodePort: 31234}]}
---
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec: {type: LoadBalancer, clusterIP: 10.96.0.30, selector: {app: web}, ports: [{port: 80, targetPort: http, nodePort: 31235}]}
status: {loadBalancer: {ingress: [{ip: 192.168.199.250}]}}
---
apiVersion: v1
kind: Service
metadata: {name: guarded}
spec: {type: LoadBalancer, loadBalancerSourceRanges: [10.0.0.0/8], clusterIP: 10.96.0.31, selector: {app: web}, ports: [{port: 80, targetPort: http, nodePort: 31236}]}
status: {loadBalancer: {ingress: [{ip: 192.168.199.251}]}}
",
        ),
        "
        from            to                    answers         source
        outside         kube0.vm:31234        web-0 web-1     not promised
        outside         kube1.vm:31234        web-0 web-1     not promised
        node kube0.vm   kube2.vm:31234        web-0 web-1     not promised
        node kube1.vm   kube1.vm:31234        web-0 web-1     not promised
        pod client      kube0.vm:31234        web-0 web-1     not promised
        pod web-0       web:80                web-0 web-1     kept unless itself
        outside         kube1.vm:31235        web-0 web-1     not promised
        outside         192.168.199.250:80    web-0 web-1     not promised
        pod client      192.168.199.250:80    web-0 web-1     not promised
        # Who is admitted depends on the address a client has when it arrives.
        outside         192.168.199.251:80    at most web-0 web-1    not promised
        outside         kube1.vm:31236        web-0 web-1     not promised
        # On the loopback address only one proxy mode serves it.
        node kube1.vm   127.0.0.1:31234       -               not promised
        # The service's port is not open on nodes, nor is a node port nobody has.
        outside         kube1.vm:31234/UDP    -               nobody
        outside         kube1.vm:32000        -               nobody
        outside         kube1.vm:22           -               not promised
        # A pod in the host network may answer there, under the node's name.
        outside         kube1.vm:7000         at most kube1.vm    not promised
        ",
    );
}

#[test]
fn external_traffic_policy_local() {
    check_routes(
        &with_pods(
            "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, externalTrafficPolicy: Local, clusterIP: 10.96.0.20, selector: {app: web}, ports: [{port: 80, targetPort: http, nodePort: 30080}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {type: NodePort, externalTrafficPolicy: Local, clusterIP: 10.96.0.21, selector: {app: nothing}, ports: [{port: 80, nodePort: 30081}]}
",
        ),
        "
        from            to                answers                source
        outside         kube1.vm:30080    web-0                  kept
        outside         kube2.vm:30080    web-1                  kept
        outside         kube0.vm:30080    -                      dropped
        outside         kube0.vm:30081    -                      nobody
        # Within the cluster the policy may or may not be applied.
        pod client      kube2.vm:30080    web-0 web-1            not promised
        node kube1.vm   kube2.vm:30080    web-0 web-1            not promised
        # Another node may send it to a third, which answers the pod directly.
        pod client      kube1.vm:30080    at most web-0 web-1    not promised
        pod client      kube0.vm:30080    at most web-0 web-1    not promised
        # It says nothing of the cluster IP.
        pod client      web:80            web-0 web-1            kept
        ",
    );
}

#[test]
fn internal_traffic_policy_local() {
    let world = with_pods(
        "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, internalTrafficPolicy: Local, clusterIP: 10.96.0.20, selector: {app: web}, ports: [{port: 80, targetPort: http, nodePort: 30080}]}
",
    );
    check_routes(
        &world,
        "
        from            to                answers        source
        pod client      web:80            web-1          kept
        pod web-0       web:80            web-0          kept unless itself
        node kube1.vm   web:80            web-0          not promised
        node kube0.vm   web:80            -              nobody
        # It says nothing of node ports.
        outside         kube0.vm:30080    web-0 web-1    not promised
        ",
    );
    // The field is younger than 1.20.
    check_routes_of(
        &promises(20),
        &world,
        "
        from            to        answers        source
        node kube0.vm   web:80    web-0 web-1    not promised
        ",
    );
}

#[test]
fn a_pod_is_reached_by_its_address() {
    check_routes(
        PODS,
        "
        from            to                   answers          source
        pod client      10.244.1.2:8000      web-0            kept
        pod web-0       10.244.1.2:8000      web-0            kept
        node kube1.vm   10.244.1.2:8000      web-0            not promised
        node kube0.vm   10.244.1.2:8000      at most web-0    not promised
        # It may not listen: not ready, or the port is not named.
        pod client      10.244.2.3:8000      at most web-2    not promised
        pod client      10.244.1.2:9999      at most web-0    not promised
        outside         10.244.1.2:8000      -                not promised
        ",
    );
}

#[test]
fn terminating_pods_serve_only_when_nobody_is_ready() {
    let terminating = r#"
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: web-0, labels: {app: web}, deletionTimestamp: "2026-01-01T00:00:00Z"}
  spec: {nodeName: kube1.vm, containers: [{name: web}]}
  status: {phase: Running, podIP: 10.244.1.2, conditions: [{type: Ready, status: "True"}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: web-1, labels: {app: web}, deletionTimestamp: "2026-01-01T00:00:00Z"}
  spec: {nodeName: kube2.vm, containers: [{name: web}]}
  status: {phase: Running, podIP: 10.244.2.2, conditions: [{type: Ready, status: "False"}]}
- apiVersion: v1
  kind: Service
  metadata: {name: web}
  spec: {type: NodePort, clusterIP: 10.96.0.20, selector: {app: web}, ports: [{port: 80, targetPort: 8000, nodePort: 30080}]}
- apiVersion: v1
  kind: Service
  metadata: {name: local}
  spec: {type: NodePort, externalTrafficPolicy: Local, clusterIP: 10.96.0.21, selector: {app: web}, ports: [{port: 80, targetPort: 8000, nodePort: 30081}]}
"#;
    let ready = r#"
---
apiVersion: v1
kind: Pod
metadata: {name: web-2, labels: {app: web}}
spec: {nodeName: kube2.vm, containers: [{name: web}]}
status: {phase: Running, podIP: 10.244.2.3, conditions: [{type: Ready, status: "True"}]}
"#;
    check_routes(
        terminating,
        "
        from         to                answers    source
        pod client   web:80            web-0      kept
        outside      kube1.vm:30080    web-0      not promised
        outside      kube1.vm:30081    web-0      kept
        outside      kube2.vm:30081    -          dropped
        ",
    );
    check_routes(
        &format!("{terminating}{ready}"),
        "
        from         to                answers    source
        pod client   web:80            web-2      kept
        outside      kube1.vm:30080    web-2      not promised
        # The fallback is within the policy's scope: kube1 has only the terminating one.
        outside      kube1.vm:30081    web-0      kept
        outside      kube2.vm:30081    web-2      kept
        ",
    );
    check_routes_of(
        &promises(25),
        terminating,
        "
        from         to                answers    source
        pod client   web:80            -          refused
        outside      kube1.vm:30080    -          refused
        ",
    );
}

#[test]
fn hand_made_endpoints_are_served_like_pods() {
    check_routes(
        &with_pods(
            "
apiVersion: v1
kind: Service
metadata: {name: external-svc}
spec: {clusterIP: 10.96.0.40, ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: external-svc}
subsets:
- addresses: [{ip: 11.11.11.11}, {ip: 22.22.22.22}]
  notReadyAddresses: [{ip: 33.33.33.33}]
  ports: [{port: 80}]
---
# A copy that has not caught up: the Endpoints decide, not their mirror.
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: external-svc-1, labels: {kubernetes.io/service-name: external-svc, endpointslice.kubernetes.io/managed-by: endpointslicemirroring-controller.k8s.io}}
addressType: IPv4
ports: [{name: '', port: 80}]
endpoints: [{addresses: [44.44.44.44]}]
---
apiVersion: v1
kind: Service
metadata: {name: sliced}
spec: {clusterIP: 10.96.0.41, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: sliced-1, labels: {kubernetes.io/service-name: sliced}}
addressType: IPv4
ports: [{name: http, port: 8000}]
endpoints:
- {addresses: [10.244.1.2]}
- {addresses: [10.244.2.2], conditions: {ready: false}}
---
apiVersion: v1
kind: Service
metadata: {name: kubernetes}
spec: {clusterIP: 10.96.0.1, ports: [{name: https, port: 443, targetPort: 6443}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: kubernetes}
subsets: [{addresses: [{ip: 192.168.199.117}], ports: [{name: https, port: 6443}]}]
---
apiVersion: v1
kind: Service
metadata: {name: misnamed}
spec: {clusterIP: 10.96.0.42, ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: another-name}
subsets: [{addresses: [{ip: 11.11.11.11}], ports: [{port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: www.baidu.com}
",
        ),
        "
        from         to                 answers                    source
        pod client   external-svc:80    11.11.11.11 22.22.22.22    not promised
        pod client   sliced:80          web-0                      kept
        pod client   kubernetes:443     kube0.vm                   not promised
        pod client   misnamed:80        -                          refused
        ",
    );
}

#[test]
fn who_is_at_an_address_made_by_hand_is_for_him_to_know_who_made_it() {
    check_routes(
        &with_pods(
            "
apiVersion: v1
kind: Service
metadata: {name: good}
spec: {clusterIP: 10.96.0.40, ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: good}
subsets: [{addresses: [{ip: 10.244.1.2}], ports: [{port: 8000}]}]
---
apiVersion: v1
kind: Service
metadata: {name: gone}
spec: {clusterIP: 10.96.0.41, ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: gone}
subsets: [{addresses: [{ip: 10.244.1.2}, {ip: 10.244.1.99}], ports: [{port: 8000}]}]
---
apiVersion: v1
kind: Service
metadata: {name: unready}
spec: {type: NodePort, clusterIP: 10.96.0.42, ports: [{port: 80, nodePort: 30042}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: unready}
subsets: [{addresses: [{ip: 10.244.2.3}], ports: [{port: 8000}]}]
---
apiVersion: v1
kind: Service
metadata: {name: deaf}
spec: {clusterIP: 10.96.0.43, ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: deaf}
subsets: [{addresses: [{ip: 10.244.1.2}], ports: [{port: 9999}]}]
---
# It names a pod that had the address once.
apiVersion: v1
kind: Service
metadata: {name: renamed}
spec: {clusterIP: 10.96.0.44, ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: renamed}
subsets: [{addresses: [{ip: 10.244.1.2, targetRef: {kind: Pod, name: before}}], ports: [{port: 8000}]}]
",
        ),
        "
        from         to                answers                      source
        pod client   good:80           web-0                        kept
        pod client   gone:80           at most 10.244.1.99 web-0    not promised
        pod client   unready:80        at most web-2                not promised
        outside      kube0.vm:30042    at most web-2                not promised
        pod client   deaf:80           at most web-0                not promised
        pod client   renamed:80        web-0                        kept
        ",
    );
}

#[test]
fn external_ips_with_policy_local_and_of_services_nobody_proxies() {
    check_routes(
        &with_pods(
            "
apiVersion: v1
kind: Service
metadata: {name: local}
spec: {externalTrafficPolicy: Local, clusterIP: 10.96.0.20, externalIPs: [192.168.199.117, 192.168.199.231, 203.0.113.7], selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, externalIPs: [192.168.199.117], selector: {app: web}, ports: [{port: 81, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: away}
spec: {type: ExternalName, externalName: elsewhere.invalid, externalIPs: [192.168.199.117], selector: {app: web}, ports: [{port: 82, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: theirs, labels: {service.kubernetes.io/service-proxy-name: other}}
spec: {clusterIP: 10.96.0.21, externalIPs: [192.168.199.117, 203.0.113.7], selector: {app: web}, ports: [{port: 83, targetPort: http}]}
",
        ),
        "
        from            to                answers                source
        # The node that gets it sends to its own, and keeps the source.
        outside         kube1.vm:80       web-0                  kept
        outside         kube0.vm:80       -                      dropped
        pod client      kube0.vm:80       at most web-0 web-1    not promised
        outside         203.0.113.7:80    at most web-0 web-1    not promised
        # Services without a cluster IP no proxy knows.
        outside         kube0.vm:81       -                      not promised
        outside         kube0.vm:82       -                      not promised
        # At a node's address the node itself may answer instead.
        pod client      theirs:83         -                      nobody
        outside         kube0.vm:83       -                      not promised
        pod client      203.0.113.7:83    at most web-0 web-1    not promised
        ",
    );
}

#[test]
fn endpoints_that_are_labelled_as_headless_are_no_proxys() {
    let slice = |name: &str, service: &str, label: &str, address: &str| {
        format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service}{label}}}}}
addressType: IPv4
ports: [{{name: '', port: 8000, protocol: TCP}}]
endpoints: [{{addresses: [{address}]}}]
"
        )
    };
    let label = ", service.kubernetes.io/headless: ''";
    check_routes(
        &with_pods(&format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: mixed}}
spec: {{clusterIP: 10.96.0.40, ports: [{{port: 80}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: none}}
spec: {{clusterIP: 10.96.0.41, ports: [{{port: 80}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: itself, labels: {{service.kubernetes.io/headless: ''}}}}
spec: {{clusterIP: 10.96.0.42, selector: {{app: web}}, ports: [{{port: 80, targetPort: http}}]}}
{}{}{}",
            slice("mixed-a", "mixed", label, "10.244.2.2"),
            slice("mixed-b", "mixed", "", "10.244.1.2"),
            slice("none-a", "none", label, "10.244.1.2"),
        )),
        "
        from          to           answers    source
        pod client    mixed:80     web-0      kept
        pod client    none:80      -          refused
        # Proxies up to 1.31 passed over it, later ones do not.
        pod client    itself:80    -          not promised
        ",
    );
}

#[test]
fn a_load_balancer_admits_whom_it_is_told_to_and_goes_first() {
    let deleting = "deletionTimestamp: \"2026-01-01T00:00:00Z\", finalizers: [a/b]";
    check_routes(
        &with_pods(&format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: all}}
spec: {{type: LoadBalancer, loadBalancerSourceRanges: [0.0.0.0/0], clusterIP: 10.96.0.30, selector: {{app: web}}, ports: [{{port: 80, targetPort: http, nodePort: 31235}}]}}
status: {{loadBalancer: {{ingress: [{{ip: 192.168.199.250}}]}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: none}}
spec: {{type: LoadBalancer, loadBalancerSourceRanges: [\"::/0\"], clusterIP: 10.96.0.31, selector: {{app: web}}, ports: [{{port: 80, targetPort: http, nodePort: 31236}}]}}
status: {{loadBalancer: {{ingress: [{{ip: 192.168.199.251}}]}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: leaving, {deleting}}}
spec: {{type: LoadBalancer, clusterIP: 10.96.0.32, selector: {{app: web}}, ports: [{{port: 80, targetPort: http, nodePort: 31237}}]}}
status: {{loadBalancer: {{ingress: [{{ip: 192.168.199.252}}]}}}}
"
        )),
        "
        from            to                    answers                source
        outside         192.168.199.250:80    web-0 web-1            not promised
        outside         192.168.199.251:80    at most web-0 web-1    not promised
        # Its provider takes the balancer away before the object goes; the nodes go on until then.
        outside         192.168.199.252:80    at most web-0 web-1    not promised
        outside         kube0.vm:31237        web-0 web-1            not promised
        pod client      leaving:80            web-0 web-1            kept
        ",
    );
}

#[test]
fn external_ips_and_other_proxies() {
    check_routes(
        &with_pods(
            "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.20, externalIPs: [192.168.199.117, 203.0.113.7], selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: theirs, labels: {service.kubernetes.io/service-proxy-name: other}}
spec: {clusterIP: 10.96.0.21, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
",
        ),
        "
        from            to                  answers                source
        outside         kube0.vm:80         web-0 web-1            not promised
        pod client      203.0.113.7:80      web-0 web-1            not promised
        outside         203.0.113.7:80      at most web-0 web-1    not promised
        outside         kube1.vm:80         -                      not promised
        pod client      theirs:80           -                      nobody
        ",
    );
}

fn small_world(policy: &str) -> World {
    World::from_yaml(&format!(
        "{}\n---\n{}",
        include_str!("lab.yaml"),
        with_pods(&format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{type: NodePort, externalTrafficPolicy: {policy}, sessionAffinity: ClientIP, clusterIP: 10.96.0.20, selector: {{app: web}}, ports: [{{port: 80, targetPort: http, nodePort: 30080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: empty}}
spec: {{clusterIP: 10.96.0.21, selector: {{app: nothing}}, ports: [{{port: 80}}, {{name: u, port: 80, protocol: UDP}}]}}
"
        ))
    ))
    .unwrap()
}

#[test]
fn a_judgement_says_what_was_seen_and_what_was_promised() {
    let world = small_world("Local");
    let judge = |from: &str, to: &str, seen: Observed| {
        judge(&world, &promises(37), &vantage(from), &destination(&world, to), &seen)
    };
    let answered = |by: &str| Observed::Answered { by: by.to_owned() };

    assert_eq!(judge("pod client", "web:80", answered("web-1")), Ok(()));
    assert_eq!(judge("pod client", "web:80", answered("10.244.1.2")), Ok(()));
    assert_eq!(
        judge("pod client", "web:80", answered("web-2")).unwrap_err(),
        "pod `client` connecting to `10.96.0.20:80/TCP` was answered by `web-2`; \
         ready endpoints of `web` are `web-0` and `web-1`"
    );
    assert_eq!(
        judge("outside", "kube1.vm:30080", Observed::Silent).unwrap_err(),
        "a host outside connecting to `192.168.199.231:30080/TCP` got no answer; \
         ready endpoints of `web` on node `kube1.vm` are `web-0`"
    );
    assert_eq!(judge("outside", "kube0.vm:30080", Observed::Silent), Ok(()));
    assert!(judge("outside", "kube0.vm:30080", Observed::Refused).is_err());

    assert_eq!(judge("pod client", "empty:80", Observed::Refused), Ok(()));
    assert_eq!(
        judge("pod client", "empty:80", Observed::Silent).unwrap_err(),
        "pod `client` connecting to `10.96.0.21:80/TCP` got no answer; \
         the connection must be refused: `empty` has no ready endpoints"
    );
    assert_eq!(judge("pod client", "empty:80/UDP", Observed::Silent), Ok(()));

    for failed in [Observed::Refused, Observed::Silent, Observed::Unreachable, Observed::Reset] {
        assert_eq!(judge("pod client", "web:8080", failed), Ok(()));
    }
    assert_eq!(
        judge("pod client", "web:8080", answered("kube2.vm")).unwrap_err(),
        "pod `client` connecting to `10.96.0.20:8080/TCP` was answered by `kube2.vm`; \
         nobody may answer: `web` has no port 8080/TCP"
    );
    assert_eq!(judge("pod client", "10.244.2.3:8000", Observed::Refused), Ok(()));
    assert!(judge("pod client", "10.244.2.3:8000", answered("web-0")).is_err());
}

#[test]
fn a_route_reads_well() {
    let world = small_world("Cluster");
    let show = |from: &str, to: &str| {
        route(&world, &promises(37), &vantage(from), &destination(&world, to)).to_string()
    };
    assert_eq!(
        show("pod client", "web:80"),
        "answered by `web-0` or `web-1` (ready endpoints of `web`); source kept; the same one for 10800 s"
    );
    assert_eq!(show("pod client", "empty:80"), "refused: `empty` has no ready endpoints");
    assert_eq!(show("pod client", "web:81"), "answered by nobody: `web` has no port 81/TCP");
}
