//! Services.

use super::*;

#[tokio::test]
async fn services_are_refused_in_upstreams_words() {
    let scene = Scene::new();
    let port = || json!([{"port": 80}]);
    for (spec, expected) in [
        (json!({}), "spec.ports: Required value"),
        (json!({"ports": [{"port": 80}, {"port": 81, "name": "b"}]}), "spec.ports[0].name: Required value"),
        (
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]}),
            "spec.ports[1].name: Duplicate value: \"a\"",
        ),
        (
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}),
            "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
        ),
        (
            json!({"ports": [{"port": 70000, "targetPort": 1}]}),
            "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"ports": [{"port": 80, "protocol": "tcp"}]}),
            "spec.ports[0].protocol: Unsupported value: \"tcp\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            json!({"ports": [{"port": 80, "targetPort": "this-name-is-too-long"}]}),
            "spec.ports[0].targetPort: Invalid value: \"this-name-is-too-long\": must be no more than 15 characters",
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 30080}]}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}),
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid \
             ports is 30000-32767",
        ),
        (
            json!({"type": "Odd", "ports": port()}),
            "spec.type: Unsupported value: \"Odd\": supported values: \"ClusterIP\", \"ExternalName\", \
             \"LoadBalancer\", \"NodePort\"",
        ),
        (
            json!({"clusterIP": "10.96.0.1", "ports": port()}),
            "spec.clusterIPs: Invalid value: [\"10.96.0.1\"]: failed to allocate IP 10.96.0.1: provided IP is \
             already allocated",
        ),
        (
            json!({"clusterIP": "10.97.0.1", "ports": port()}),
            "spec.clusterIPs: Invalid value: [\"10.97.0.1\"]: failed to allocate IP 10.97.0.1: the provided IP \
             (10.97.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/24",
        ),
        (
            json!({"clusterIP": "nonsense", "ports": port()}),
            "spec.clusterIPs[0]: Invalid value: \"nonsense\": must be a valid IP address, (e.g. 10.9.8.7 or \
             2001:db8::ffff)",
        ),
        (
            json!({"type": "NodePort", "clusterIP": "None", "ports": port()}),
            "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
        ),
        (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
        (
            json!({"sessionAffinity": "Sticky", "ports": port()}),
            "spec.sessionAffinity: Unsupported value: \"Sticky\": supported values: \"ClientIP\", \"None\"",
        ),
        (
            json!({"sessionAffinity": "ClientIP", "ports": port(),
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and \
             less than 86400",
        ),
        (
            json!({"externalTrafficPolicy": "Local", "ports": port()}),
            "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
        ),
        (
            json!({"ipFamilyPolicy": "RequireDualStack", "ports": port()}),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack \
             services",
        ),
        (
            json!({"externalIPs": ["127.0.0.1"], "ports": port()}),
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, \
             ::1/128)",
        ),
        (
            json!({"loadBalancerClass": "a/b", "ports": port()}),
            "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
        (
            json!({"trafficDistribution": "Near", "ports": port()}),
            "spec.trafficDistribution: Unsupported value: \"Near\": supported values: \"PreferClose\", \
             \"PreferSameNode\", \"PreferSameZone\"",
        ),
    ] {
        let refusal = scene.service(spec.clone()).await.unwrap_err();
        let (head, seen) = refusal.split_once(" is invalid: ").unwrap_or_else(|| panic!("{spec}: {refusal}"));
        assert!(head.starts_with("Service \"s-"), "{refusal}");
        assert_eq!(seen, expected, "{spec}");
    }
    let body = json!({"metadata": {"name": "1a"}, "spec": {"ports": port()}});
    let (code, answer) = scene.post("/api/v1/namespaces/default/services", body).await;
    assert_eq!((code, answer["reason"].as_str()), (422, Some("Invalid")));
    assert_eq!(answer["details"]["causes"][0]["field"], "metadata.name");
    assert_eq!(answer["details"]["kind"], "Service");
}

#[tokio::test]
async fn services_get_upstreams_defaults() {
    let scene = Scene::new();
    let spec = |service: &Value, field: &str| service["spec"][field].clone();
    let plain = scene.service(json!({"ports": [{"port": 80}]})).await.unwrap();
    for (field, expected) in [
        ("type", json!("ClusterIP")),
        ("sessionAffinity", json!("None")),
        ("internalTrafficPolicy", json!("Cluster")),
        ("externalTrafficPolicy", Value::Null),
        ("ipFamilies", json!(["IPv4"])),
        ("ipFamilyPolicy", json!("SingleStack")),
        ("ports", json!([{"port": 80, "protocol": "TCP", "targetPort": 80}])),
    ] {
        assert_eq!(spec(&plain, field), expected, "{field}");
    }
    assert_eq!(plain["spec"]["clusterIPs"][0], plain["spec"]["clusterIP"]);
    assert_eq!(plain["status"], json!({"loadBalancer": {}}));
    let headless = scene.service(json!({"clusterIP": "None"})).await.unwrap();
    assert_eq!(spec(&headless, "clusterIPs"), json!(["None"]));
    let sticky =
        scene.service(json!({"sessionAffinity": "ClientIP", "ports": [{"port": 80}]})).await.unwrap();
    assert_eq!(spec(&sticky, "sessionAffinityConfig"), json!({"clientIP": {"timeoutSeconds": 10800}}));
    let balanced = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    let balanced = scene.service(balanced).await.unwrap();
    assert_eq!(spec(&balanced, "allocateLoadBalancerNodePorts"), json!(true));
    assert!(spec(&balanced, "healthCheckNodePort").as_i64().is_some_and(|port| port >= 30000));
    let external = scene.service(json!({"type": "ExternalName", "externalName": "a.b."})).await.unwrap();
    assert_eq!(spec(&external, "clusterIP"), Value::Null);
    let both = json!({"type": "NodePort", "ports": [
        {"name": "u", "port": 53, "protocol": "UDP"}, {"name": "t", "port": 53}]});
    let both = scene.service(both).await.unwrap();
    assert_eq!(both["spec"]["ports"][0]["nodePort"], both["spec"]["ports"][1]["nodePort"]);
}

#[tokio::test]
async fn addresses_and_ports_come_back() {
    let scene = Scene::new();
    let services: Api<Service> = scene.default();
    let make = |name: &str, ip: &str| {
        let spec = json!({"type": "NodePort", "clusterIP": ip, "ports": [{"port": 80, "nodePort": 30080}]});
        object::<Service>(json!({"metadata": {"name": name}, "spec": spec}))
    };
    services.create(&PostParams::default(), &make("a", "10.96.0.50")).await.unwrap();
    let (code, message) = refused(services.create(&PostParams::default(), &make("b", "10.96.0.51")).await);
    assert_eq!(code, 422);
    assert!(
        message.ends_with("spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated")
    );
    services.delete("a", &DeleteParams::default()).await.unwrap();
    services.create(&PostParams::default(), &make("b", "10.96.0.50")).await.unwrap();

    // A type that needs no node port gives it back, and keeps its address.
    let patch = |body: Value| {
        let services = services.clone();
        async move { services.patch("b", &PatchParams::default(), &Patch::Strategic(body)).await }
    };
    let changed = patch(json!({"spec": {"type": "ClusterIP"}})).await.unwrap().spec.unwrap();
    assert_eq!(changed.ports.unwrap()[0].node_port, None);
    assert_eq!(changed.cluster_ip.as_deref(), Some("10.96.0.50"));
    let (code, message) = refused(patch(json!({"spec": {"clusterIP": "10.96.0.52"}})).await);
    assert_eq!(code, 422);
    assert!(message.contains("first value must match `clusterIP`"), "{message}");
    let both = json!({"spec": {"clusterIP": "10.96.0.52", "clusterIPs": ["10.96.0.52"]}});
    let (_, message) = refused(patch(both).await);
    assert!(
        message.ends_with("spec.clusterIPs[0]: Invalid value: [\"10.96.0.52\"]: may not change once set")
    );
    services.create(&PostParams::default(), &make("c", "10.96.0.53")).await.unwrap();
    let external = json!({"spec": {"type": "ExternalName", "externalName": "a.b"}});
    assert_eq!(patch(external).await.unwrap().spec.unwrap().cluster_ip, None);
    services
        .create(
            &PostParams::default(),
            &object(json!({"metadata": {"name": "d"},
        "spec": {"clusterIP": "10.96.0.50", "ports": [{"port": 1}]}})),
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn a_load_balancer_is_reported_and_keeps_its_health_check() {
    let scene = Scene::new();
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    let made = scene.service(spec).await.unwrap();
    let check = made["spec"]["healthCheckNodePort"].as_i64().unwrap();
    let path = format!("/api/v1/namespaces/default/services/{}", made["metadata"]["name"].as_str().unwrap());
    let patch = |body: Value| {
        let path = path.clone();
        let scene = &scene;
        async move { scene.raw("PATCH", &path, "application/merge-patch+json", &body).await }
    };
    let (code, answer) = patch(json!({"spec": {"healthCheckNodePort": check + 1}})).await;
    assert!(
        code == 422 && message(&answer).ends_with("spec.healthCheckNodePort: Forbidden: field is immutable"),
        "{answer}"
    );
    let status = format!("{path}/status");
    let report = |body: Value| {
        let status = status.clone();
        let scene = &scene;
        async move {
            let body = json!({"status": {"loadBalancer": {"ingress": [body]}}});
            scene.raw("PATCH", &status, "application/merge-patch+json", &body).await
        }
    };
    let (code, answer) = report(json!({"ip": "1.2.3.4"})).await;
    assert_eq!(code, 200);
    assert_eq!(answer["status"]["loadBalancer"]["ingress"][0]["ipMode"], "VIP");
    for (bad, expected) in [
        (json!({"ip": "x"}), "status.loadBalancer.ingress[0].ip: Invalid value: \"x\""),
        (
            json!({"ip": "1.2.3.4", "ipMode": "x"}),
            "status.loadBalancer.ingress[0].ipMode: Unsupported value: \"x\"",
        ),
        (
            json!({"hostname": "1.2.3.4"}),
            "status.loadBalancer.ingress[0].hostname: Invalid value: \"1.2.3.4\"",
        ),
    ] {
        let (code, answer) = report(bad).await;
        assert!(code == 422 && message(&answer).contains(expected), "{answer}");
    }
    // What only a load balancer has goes with the type; its cluster address stays.
    let (code, changed) = patch(json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80}]}})).await;
    assert_eq!(code, 200, "{changed}");
    for gone in ["healthCheckNodePort", "allocateLoadBalancerNodePorts", "externalTrafficPolicy"] {
        assert!(changed["spec"].get(gone).is_none(), "{gone}: {changed}");
    }
    assert_eq!(changed["spec"]["clusterIP"], made["spec"]["clusterIP"]);
}
