//! What [`ingress`] says, as tables: an Ingress, and who answers which request.

use stickler_model::{IngressRequest, ObjectKey, Promises, Route, World, certificates, ingress};

const CONTROLLER: &str = "stickler.dev/ingress";

/// Three services, each with one pod named after it, one without any, and the controller's class.
fn world(ingresses: &str) -> World {
    let mut text = "
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: ours}, spec: {controller: stickler.dev/ingress}}
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: other}, spec: {controller: example.com/other}}
"
    .to_owned();
    for (number, name) in ["one", "two", "three", "four"].into_iter().enumerate() {
        text += &format!(
            "---
{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{clusterIP: 10.96.1.{number}, selector: {{app: {name}}}, ports: [{{name: web, port: 80, targetPort: 8000}}]}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}-pod, labels: {{app: {name}}}}}
spec: {{nodeName: kube1.vm, containers: [{{name: web}}]}}
status: {{phase: Running, podIP: 10.244.1.{number}, podIPs: [{{ip: 10.244.1.{number}}}], conditions: [{{type: Ready, status: \"{}\"}}]}}
",
            if name == "four" { "False" } else { "True" }
        );
    }
    World::from_yaml(&format!("{text}---\n{ingresses}")).unwrap()
}

/// The kind of a path, the path, and the service behind it.
type Path<'a> = (&'a str, &'a str, &'a str);

/// An Ingress of the controller's class with these rules and whatever else its specification has.
fn rules(name: &str, rules: &[(&str, &[Path<'_>])], more: &str) -> String {
    let mut text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}}}\nspec:\n  ingressClassName: ours\n"
    );
    if !rules.is_empty() {
        text += "  rules:\n";
    }
    for (host, paths) in rules {
        text += &format!("  - host: \"{host}\"\n    http:\n      paths:\n");
        for (kind, path, service) in *paths {
            text += &format!(
                "      - {{path: {path}, pathType: {kind}, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}\n"
            );
        }
    }
    text + more + "\n---\n"
}

/// `one`, `at most one or two`, `nobody`, `not promised`.
fn said(world: &World, request: &IngressRequest) -> String {
    let route = ingress(world, &Promises::of_minor(37), CONTROLLER, request);
    let names = || {
        let backends = route.backends().into_iter().flatten();
        let names: Vec<_> = backends
            .map(|backend| backend.hostname.as_deref().unwrap().trim_end_matches("-pod").to_owned())
            .collect();
        names.join(" or ")
    };
    match route {
        Route::Answered { .. } => names(),
        Route::AtMost { .. } => format!("at most {}", names()),
        Route::Nobody { .. } => "nobody".to_owned(),
        Route::NotPromised { .. } => "not promised".to_owned(),
        _ => format!("{route}"),
    }
}

fn check(world: &World, rows: &[(&str, &str, &str)]) {
    for (host, path, expected) in rows {
        assert_eq!(said(world, &IngressRequest::http(*host, *path)), *expected, "http://{host}{path}");
    }
}

/// Ingress, "Path types", "Examples": each row a path of a rule, and paths of requests that it
/// takes or not.
#[test]
fn paths_match_as_the_documentation_lists() {
    for (kind, path, request, taken) in [
        ("Prefix", "/", "/any/path", true),
        ("Exact", "/foo", "/foo", true),
        ("Exact", "/foo", "/bar", false),
        ("Exact", "/foo", "/foo/", false),
        ("Exact", "/foo/", "/foo", false),
        ("Prefix", "/foo", "/foo", true),
        ("Prefix", "/foo", "/foo/", true),
        ("Prefix", "/foo/", "/foo", true),
        ("Prefix", "/foo/", "/foo/", true),
        ("Prefix", "/aaa/bb", "/aaa/bbb", false),
        ("Prefix", "/aaa/bbb", "/aaa/bbb", true),
        ("Prefix", "/aaa/bbb/", "/aaa/bbb", true),
        ("Prefix", "/aaa/bbb", "/aaa/bbb/", true),
        ("Prefix", "/aaa/bbb", "/aaa/bbb/ccc", true),
        ("Prefix", "/aaa/bbb", "/aaa/bbbxyz", false),
        ("Prefix", "/foo", "/FOO", false),
        ("Exact", "/foo", "/FOO", false),
    ] {
        let world = world(&rules("web", &[("a.example", &[(kind, path, "one")])], ""));
        let expected = if taken { "one" } else { "nobody" };
        assert_eq!(
            said(&world, &IngressRequest::http("a.example", request)),
            expected,
            "{kind} {path}, {request}"
        );
    }
}

#[test]
fn the_longest_path_wins_then_the_exact_one() {
    let paths: &[_] = &[("Prefix", "/", "one"), ("Prefix", "/aaa", "two"), ("Exact", "/aaa", "three")];
    let world = world(&rules("web", &[("a.example", paths)], ""));
    check(
        &world,
        &[
            ("a.example", "/", "one"),
            ("a.example", "/ccc", "one"),
            ("a.example", "/aaa", "three"),
            ("a.example", "/aaa/ccc", "two"),
            ("A.Example", "/aaa/ccc", "two"),
            ("b.example", "/", "nobody"),
        ],
    );
}

#[test]
fn wildcards_cover_one_label_and_have_no_promised_rank() {
    let world = world(&rules(
        "web",
        &[("*.foo.com", &[("Prefix", "/", "one")]), ("bar.foo.com", &[("Prefix", "/x", "two")])],
        "",
    ));
    check(
        &world,
        &[
            ("baz.foo.com", "/", "one"),
            ("foo.com", "/", "nobody"),
            ("baz.bar.foo.com", "/", "nobody"),
            ("bar.foo.com", "/", "one"),
            ("bar.foo.com", "/x", "one or two"),
        ],
    );
}

#[test]
fn what_no_rule_takes_goes_to_a_default_backend() {
    let default = "  defaultBackend: {service: {name: two, port: {name: web}}}";
    let with_rules = rules("web", &[("a.example", &[("Prefix", "/a", "one")])], default);
    let world = world(&with_rules);
    check(&world, &[("a.example", "/a", "one"), ("a.example", "/b", "two"), ("b.example", "/", "two")]);

    let other = rules("other", &[("b.example", &[("Prefix", "/", "three")])], "");
    let world = self::world(&format!("{with_rules}{other}"));
    check(&world, &[("b.example", "/", "three"), ("a.example", "/b", "two")]);
}

#[test]
fn only_the_controllers_own_classes_count() {
    let mine = rules("web", &[("a.example", &[("Prefix", "/", "one")])], "");
    check(&world(&mine.replace("ours", "other")), &[("a.example", "/", "nobody")]);
    check(&world(&mine.replace("ours", "missing")), &[("a.example", "/", "nobody")]);
    let without = mine.replace("  ingressClassName: ours\n", "");
    check(&world(&without), &[("a.example", "/", "at most one")]);
    let annotated =
        without.replace("{name: web}", "{name: web, annotations: {kubernetes.io/ingress.class: ours}}");
    check(&world(&annotated), &[("a.example", "/", "one")]);
}

#[test]
fn backends_are_ready_endpoints_of_the_port() {
    let one = rules("web", &[("a.example", &[("Prefix", "/", "one")])], "");
    let four = one.replace("name: one", "name: four");
    check(&world(&four), &[("a.example", "/", "nobody")]);
    check(&world(&one.replace("name: one", "name: missing")), &[("a.example", "/", "nobody")]);
    check(&world(&one.replace("number: 80", "number: 81")), &[("a.example", "/", "nobody")]);
    check(&world(&one.replace("number: 80", "name: web")), &[("a.example", "/", "one")]);
    let external = "{apiVersion: v1, kind: Service, metadata: {name: one}, spec: {type: ExternalName, externalName: a.b}}";
    check(&world(&format!("{one}{external}")), &[("a.example", "/", "not promised")]);
}

#[test]
fn a_class_may_read_its_own_paths_as_it_likes() {
    let world = world(&rules("web", &[("a.example", &[("ImplementationSpecific", "/", "one")])], ""));
    check(
        &world,
        &[("a.example", "/", "one"), ("a.example", "/deeper", "at most one"), ("b.example", "/", "nobody")],
    );
}

#[test]
fn several_ingresses_for_one_host_are_all_possible() {
    let one = rules("one", &[("a.example", &[("Prefix", "/", "one")])], "");
    let two = rules("two", &[("a.example", &[("Prefix", "/", "two")])], "");
    check(&world(&format!("{one}{two}")), &[("a.example", "/", "one or two")]);
}

#[test]
fn a_tls_section_names_the_certificate_and_http_may_be_redirected() {
    let tls = "  tls: [{hosts: [a.example, '*.b.example'], secretName: cert}]";
    let world = world(&rules("web", &[("a.example", &[("Prefix", "/", "one")])], tls));
    let of = |host| certificates(&world, CONTROLLER, host);
    assert_eq!(of("a.example"), [ObjectKey::new("default", "cert")].into());
    assert_eq!(of("x.b.example"), [ObjectKey::new("default", "cert")].into());
    assert!(of("b.example").is_empty() && of("c.example").is_empty());
    assert!(certificates(&world, "example.com/other", "a.example").is_empty());
    assert_eq!(said(&world, &IngressRequest::https("a.example", "/")), "one");
    assert_eq!(said(&world, &IngressRequest::http("a.example", "/")), "at most one");
}
