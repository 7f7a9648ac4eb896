//! Every verb of kubectl, each on objects of a cluster of its own.

use super::{Up, fixture, needs_kubectl, table};
use crate::Impossible;
use crate::program::eventually;

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: goweb, image: goweb, ports: [{containerPort: 8000}]}]
";

const OTHERS: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec: {containers: [{name: goweb, image: goweb}]}
---
apiVersion: v1
kind: ReplicationController
metadata: {name: old}
spec:
  replicas: 0
  template:
    metadata: {labels: {app: old}}
    spec: {containers: [{name: goweb, image: goweb}]}
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: usual, annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}}
spec: {controller: example.com/ingress}
";

impl Up {
    /// Writes a file beside the kubeconfig and returns its name.
    fn file(&self, name: &'static str, content: &str) -> &'static str {
        std::fs::write(self.folder.path().join(name), content).expect("the folder can be written to");
        name
    }

    /// Each command line ends well and says what it is to say.
    pub(super) fn says(&self, commands: &[(&str, &str)]) {
        for (line, expected) in commands {
            let arguments: Vec<&str> = line.split(' ').collect();
            let said = self.kubectl(&arguments);
            assert!(said.contains(expected), "kubectl {line}: {said}");
        }
    }

    /// Each command line fails and says why.
    fn refuses(&self, commands: &[(&str, &str)]) {
        for (line, expected) in commands {
            let arguments: Vec<&str> = line.split(' ').collect();
            let ended = self.ended(&arguments);
            assert_eq!(ended.code(), Some(1), "kubectl {line}: {ended:#?}");
            assert!(ended.stderr.contains(expected), "kubectl {line}: {ended:#?}");
        }
    }

    fn available(&self) {
        self.says(&[("wait --for=condition=Available deploy/web --timeout=30s", "condition met")]);
    }
}

pub(super) fn objects_are_made_and_shown() -> Result<(), Impossible> {
    needs_kubectl()?;
    let up = Up::start(&[]);
    up.says(&[
        ("create deployment d --image=goweb --replicas=0 --port=8000", "deployment.apps/d created"),
        ("create service clusterip a --tcp=80:8000", "service/a created"),
        ("create service clusterip b --clusterip=None", "service/b created"),
        ("create service nodeport c --tcp=80:8000 --node-port=31234", "service/c created"),
        ("create service loadbalancer d --tcp=80:8000", "service/d created"),
        ("create service externalname e --external-name=www.baidu.com", "service/e created"),
        ("create configmap m --from-literal=a=b", "configmap/m created"),
        ("create secret generic s --from-literal=a=b", "secret/s created"),
        ("create serviceaccount s", "serviceaccount/s created"),
        ("create namespace n", "namespace/n created"),
        ("create role r --verb=get --resource=pods", "role.rbac.authorization.k8s.io/r created"),
        (
            "create rolebinding r --role=r --serviceaccount=default:s",
            "rolebinding.rbac.authorization.k8s.io/r created",
        ),
        (
            "create clusterrole c --verb=get --resource=pods",
            "clusterrole.rbac.authorization.k8s.io/c created",
        ),
        (
            "create clusterrolebinding c --clusterrole=c --user=u",
            "clusterrolebinding.rbac.authorization.k8s.io/c created",
        ),
        ("create ingress i --rule=foo.com/bar=a:80,tls=t --class=x", "ingress.networking.k8s.io/i created"),
        ("create token s", "."),
        ("run p --image=goweb --port=8000 --labels=app=p", "pod/p created"),
        ("expose pod p --port=80 --target-port=8000 --name=q", "service/q exposed"),
        ("get deploy d", "0/0"),
        ("get secret s -o jsonpath={.data.a}", "Yg=="),
        ("get ingress i -o jsonpath={.spec.rules[0].http.paths[0].backend.service.port.number}", "80"),
    ]);
    up.says(&[("wait --for=condition=Ready pod/p --timeout=30s", "condition met")]);

    let services = up.kubectl(&["get", "svc", "--sort-by=.metadata.name"]);
    let services = table(&services);
    assert_eq!(services[0], ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]);
    for (name, kind, address, external, ports) in [
        ("a", "ClusterIP", "10.", "<none>", "80/TCP"),
        ("b", "ClusterIP", "None", "<none>", "<none>"),
        ("c", "NodePort", "10.", "<none>", "80:31234/TCP"),
        ("d", "LoadBalancer", "10.", "<pending>", "80:"),
        ("e", "ExternalName", "<none>", "www.baidu.com", "<none>"),
    ] {
        let row = services.iter().find(|row| row[0] == name).expect("the service is listed");
        assert!(row[2].starts_with(address) && row[4].starts_with(ports), "{row:?}");
        assert_eq!((row[1], row[3]), (kind, external));
    }
    let manifest = fixture("goweb-ingress.yaml");
    let others = up.file("others.yaml", OTHERS);
    let applied = up.kubectl(&["apply", "-f", &manifest.to_string_lossy(), "-f", others]);
    let expected = "ingress.extensions/goweb-ingress created\ndaemonset.apps/everywhere created\n\
                    replicationcontroller/old created\ningressclass.networking.k8s.io/usual created\n";
    assert_eq!(applied, expected);
    // The same object in three versions, and no warning of two kinds with one short name.
    let shown = up.ended(&["get", "ing", "goweb-ingress"]);
    assert_eq!((shown.code(), shown.stderr.as_str()), (Some(0), ""), "{shown:#?}");
    assert_eq!(table(&shown.stdout)[0], ["NAME", "CLASS", "HOSTS", "ADDRESS", "PORTS", "AGE"]);
    up.says(&[
        ("get ingresses.v1.networking.k8s.io goweb-ingress -o jsonpath={.spec.rules[0].http.paths[0].backend.service.name}", "goweb-svc"),
        ("get ingresses.v1beta1.networking.k8s.io goweb-ingress -o jsonpath={.apiVersion}", "networking.k8s.io/v1beta1"),
        ("get ingresses.v1beta1.extensions goweb-ingress -o jsonpath={.spec.rules[0].http.paths[0].backend.servicePort}", "80"),
        ("describe ing goweb-ingress", "www.goweb.com"),
        ("describe ing i", "foo.com"),
        ("describe ds everywhere", "Node-Selector:  <none>"),
        ("describe rc old", "Replicas:     0 current / 0 desired"),
        ("describe ingressclass usual", "Controller:   example.com/ingress"),
        ("describe svc c", "NodePort:"),
        ("describe ep q", "Subsets:"),
        ("describe endpointslice", "AddressType:"),
        ("describe cm m", "a:"),
        ("describe secret s", "1 bytes"),
        ("describe sa s", "Name:"),
        ("describe node kube1.vm", "InternalIP:"),
        ("describe ns n", "Active"),
        ("describe role r", "pods"),
        ("describe rolebinding r", "ServiceAccount"),
        ("describe deploy d", "StrategyType:"),
        ("describe pod p", "Container ID:"),
        ("get servicecidr", "10.96.0.0/12"),
        ("get ingressclass", "example.com/ingress"),
        ("get servicecidr kubernetes -o jsonpath={.status.conditions[0].status}", "True"),
        ("get pods p -o name", "pod/p"),
        ("get pods p -o json", "\"kind\": \"Pod\""),
        ("get pods p -o yaml", "kind: Pod"),
        ("get pods -o wide", "READINESS GATES"),
        ("get pods -A --sort-by=.metadata.name", "NAMESPACE"),
        ("get pods --show-labels", "app=p"),
        ("get pods -L app", "APP"),
        ("get pods p -o custom-columns=N:.metadata.name", "N\np\n"),
        ("get pods --field-selector=status.phase=Running -o name", "pod/p"),
        ("get pods --field-selector=status.phase!=Running", ""),
        ("get pods --chunk-size=1 -o name", "pod/p"),
        ("get events --field-selector=reason=Scheduled", "Successfully assigned default/p"),
        ("get events.v1.events.k8s.io --field-selector=regarding.name=p -o name", "event.events.k8s.io/p"),
        ("events --for=pod/p", "Scheduled"),
    ]);
    let all = up.kubectl(&["get", "all", "-o", "name"]);
    for name in
        ["pod/p", "replicationcontroller/old", "service/a", "daemonset.apps/everywhere", "deployment.apps/d"]
    {
        assert!(all.lines().any(|line| line == name), "{name}: {all}");
    }
    up.stop();
    Ok(())
}

pub(super) fn objects_are_changed() -> Result<(), Impossible> {
    needs_kubectl()?;
    let up = Up::start(&[]);
    let web = up.file("web.yaml", WEB);
    let three = up.file("three.yaml", &WEB.replace("replicas: 2", "replicas: 3"));
    assert_eq!(up.kubectl(&["apply", "-f", web]), "deployment.apps/web created\n");
    up.says(&[
        ("apply -f web.yaml", "deployment.apps/web unchanged"),
        ("annotate deploy/web kept=yes", "annotated"),
        ("apply -f three.yaml --dry-run=server", "deployment.apps/web configured (server dry run)"),
        ("get deploy web -o jsonpath={.spec.replicas}", "2"),
    ]);
    let differs = up.ended(&["diff", "-f", three]);
    assert!(differs.code() == Some(1) && differs.stdout.contains("+  replicas: 3"), "{differs:#?}");
    up.says(&[
        ("apply -f three.yaml", "deployment.apps/web configured"),
        // What others have set stays: the merge has three sides.
        ("get deploy web -o jsonpath={.spec.replicas}{.metadata.annotations.kept}", "3yes"),
        ("replace -f web.yaml", "deployment.apps/web replaced"),
        ("expose deploy/web --port=80 --target-port=8000 --name=s --type=NodePort", "service/s exposed"),
        ("label svc/s a=b", "labeled"),
        ("label svc/s a-", "unlabeled"),
        ("set selector svc/s app=web,x=y", "selector updated"),
        ("patch svc s -p {\"spec\":{\"selector\":{\"x\":null}}}", "patched"),
        ("get svc s -o jsonpath={.spec.selector}", "{\"app\":\"web\"}"),
        ("patch svc s --type=merge -p {\"metadata\":{\"labels\":{\"m\":\"1\"}}}", "patched"),
        (
            "patch svc s --type=json -p [{\"op\":\"add\",\"path\":\"/metadata/labels/j\",\"value\":\"2\"}]",
            "patched",
        ),
        ("get svc -l m=1,j=2 -o name", "service/s"),
        ("patch svc s -p {\"spec\":{\"ports\":[{\"port\":80,\"targetPort\":8001}]}}", "patched"),
        ("get svc s -o jsonpath={.spec.ports[0].targetPort}", "8001"),
        ("scale deploy/web --replicas=1", "deployment.apps/web scaled"),
        ("scale deploy/web --replicas=0 --current-replicas=1", "deployment.apps/web scaled"),
        ("set image deploy/web goweb=other", "image updated"),
        ("set env deploy/web A=B", "env updated"),
        ("set env deploy/web --list", "A=B"),
        ("set env deploy/web A-", "env updated"),
        ("set serviceaccount deploy/web other", "serviceaccount updated"),
        ("set resources deploy/web --limits=cpu=100m", "resource requirements updated"),
        ("get deploy web -o jsonpath={.spec.template.spec.containers[0].image}", "other"),
        ("taint node kube2.vm a=b:NoSchedule", "tainted"),
        ("cordon kube1.vm", "cordoned"),
        ("uncordon kube1.vm", "uncordoned"),
    ]);
    let mut edit = up.command(&["edit", "svc", "s"]);
    edit.env("EDITOR", "sed -i s/8001/8002/");
    let edited = crate::program::output(edit);
    assert_eq!(edited.stdout, "service/s edited\n", "{edited:#?}");
    up.says(&[("get svc s -o jsonpath={.spec.ports[0].targetPort}", "8002")]);
    let mut edit = up.command(&["edit", "svc", "s"]);
    edit.env("EDITOR", "sed -i s/nodePort:.*/nodePort:\\ 80/");
    let refused = crate::program::output(edit);
    assert!(refused.code() == Some(1) && refused.stderr.contains("is invalid"), "{refused:#?}");
    up.stop();
    Ok(())
}

pub(super) fn workloads_roll_out_and_are_looked_into() -> Result<(), Impossible> {
    needs_kubectl()?;
    let up = Up::start(&[]);
    let web = up.file("web.yaml", WEB);
    up.kubectl(&["apply", "-f", web]);
    up.says(&[
        ("rollout status deploy/web --timeout=30s", "successfully rolled out"),
        ("set env deploy/web A=1", "env updated"),
        ("rollout status deploy/web --timeout=30s", "successfully rolled out"),
        ("rollout history deploy/web", "2         <none>"),
        ("rollout history deploy/web --revision=2", "A:\t1"),
        ("rollout undo deploy/web --to-revision=1", "rolled back"),
        ("rollout status deploy/web --timeout=30s", "successfully rolled out"),
        ("rollout restart deploy/web", "restarted"),
        ("rollout pause deploy/web", "paused"),
        ("rollout resume deploy/web", "resumed"),
        ("rollout status deploy/web --timeout=30s", "successfully rolled out"),
    ]);
    up.available();
    let pod = eventually("the old pods are gone", || {
        let pods = up.kubectl(&["get", "pods", "-l", "app=web", "-o", "name"]);
        (pods.lines().count() == 2).then(|| pods.lines().next().unwrap_or_default().to_owned())
    });
    let name = pod.strip_prefix("pod/").expect("a pod's name");
    assert_eq!(up.kubectl(&["exec", name, "--", "hostname"]), format!("{name}\n"));
    for arguments in [
        &["exec", "deploy/web", "--", "hostname"][..],
        &["logs", name],
        &["logs", name, "--tail=1", "--timestamps"],
        &["logs", "-l", "app=web", "--prefix"],
        &["logs", "deploy/web"],
    ] {
        assert!(!up.kubectl(arguments).is_empty(), "{arguments:?}");
    }
    up.says(&[
        (&format!("wait --for=jsonpath={{.status.phase}}=Running {pod} --timeout=10s"), "condition met"),
        (&format!("wait --for=create {pod} --timeout=10s"), "condition met"),
    ]);
    up.refuses(&[
        (&format!("logs {name} --previous"), "previous terminated container"),
        (&format!("attach {name}"), "not supported by this server"),
        (&format!("port-forward {name} :8000"), "not"),
        ("top pods", "Metrics API not available"),
    ]);
    let failed = up.ended(&["exec", name, "--", "no-such-program"]);
    assert!(
        failed.code().is_some_and(|code| code != 0) && failed.stderr.contains("no-such-program"),
        "{failed:#?}"
    );
    up.stop();
    Ok(())
}

pub(super) fn objects_are_deleted() -> Result<(), Impossible> {
    needs_kubectl()?;
    let up = Up::start(&[]);
    let web = up.file("web.yaml", WEB);
    up.kubectl(&["apply", "-f", web]);
    up.available();
    let address = up.kubectl(&["get", "svc", "kubernetes", "-o", "jsonpath={.spec.clusterIP}"]);
    up.says(&[
        ("run a --image=goweb --labels=run=x", "created"),
        ("run b --image=goweb --labels=run=x", "created"),
        ("wait --for=condition=Ready pod -l run=x --timeout=30s", "condition met"),
        ("delete pod a --grace-period=0 --force", "force deleted"),
        ("delete pod -l run=x --grace-period=1", "pod \"b\" deleted"),
        ("delete deploy web --cascade=orphan", "deleted"),
        ("get rs -l app=web -o name", "replicaset.apps/web-"),
        ("apply -f web.yaml", "created"),
        ("delete deploy web --cascade=foreground", "deleted"),
        ("wait --for=delete pod -l app=web --timeout=30s", ""),
        ("get rs -l app=web", ""),
        ("create service clusterip s --tcp=80", "created"),
        ("delete svc --all", "service \"s\" deleted"),
        ("create namespace n", "created"),
        ("create configmap m -n n", "created"),
        ("delete ns n", "deleted"),
    ]);
    // The API server's own service comes back.
    let back = eventually("the service `kubernetes`", || {
        let shown = up.ended(&["get", "svc", "kubernetes", "-o", "jsonpath={.spec.clusterIP}"]);
        (shown.code() == Some(0)).then_some(shown.stdout)
    });
    assert_eq!(back, address);
    up.refuses(&[("get cm m -n n", "not found"), ("delete ns default", "forbidden")]);
    up.stop();
    Ok(())
}

pub(super) fn the_api_describes_itself() -> Result<(), Impossible> {
    needs_kubectl()?;
    let up = Up::start(&[]);
    up.says(&[
        ("explain service.spec", "sessionAffinity"),
        ("explain service.spec.ports.targetPort", "IntOrString"),
        ("explain ingress.spec.rules --recursive", "pathType"),
        ("explain deployment.spec.strategy", "rollingUpdate"),
        ("explain pod.spec.containers.readinessProbe", "httpGet"),
        ("explain events --api-version=events.k8s.io/v1", "regarding"),
        ("api-versions", "extensions/v1beta1"),
        ("api-resources --api-group=networking.k8s.io", "ingressclasses"),
        ("api-resources -o wide --namespaced=true", "create,delete,deletecollection"),
        ("cluster-info", "Kubernetes control plane"),
        ("version", "Server Version: v"),
        ("auth can-i create pods", "yes"),
        ("auth can-i --list", "*.*"),
        ("auth whoami", "kubernetes-admin"),
        ("get --raw /healthz", "ok"),
        ("get --raw /openapi/v3/api/v1", "io.k8s.api.core.v1.ServiceSpec"),
    ]);
    let denied = up.ended(&["auth", "can-i", "create", "pods", "--as=system:serviceaccount:default:default"]);
    assert_eq!((denied.code(), denied.stdout.trim()), (Some(1), "no"), "{denied:#?}");
    up.stop();
    Ok(())
}

pub(super) fn mistakes_are_named() -> Result<(), Impossible> {
    needs_kubectl()?;
    let up = Up::start(&[]);
    up.file("web.yaml", WEB);
    up.file("unknown.yaml", &WEB.replace("replicas:", "replicass:"));
    up.file(
        "ports.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 1}, {port: 2}]}\n",
    );
    up.file("path.yaml", "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: i}\nspec: {rules: [{http: {paths: [{path: x}]}}]}\n");
    up.refuses(&[
        ("apply -f unknown.yaml", "unknown field \"spec.replicass\""),
        ("create -f unknown.yaml --validate=strict", "unknown field \"spec.replicass\""),
        ("create -f ports.yaml", "spec.ports[0].name: Required value"),
        (
            "create -f path.yaml",
            "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
        ),
        ("apply --server-side -f web.yaml", "Server-side apply not available on the server"),
        ("get nonsense", "the server doesn't have a resource type \"nonsense\""),
        ("get pod nobody", "pods \"nobody\" not found"),
        ("get pods --field-selector=spec.nonsense=1", "field label not supported: spec.nonsense"),
        ("get pods -l =x", "unable to parse requirement"),
        ("create service nodeport s --tcp=80 --node-port=80", "provided port is not in the valid range"),
    ]);
    let warned = up.ended(&["create", "-f", "unknown.yaml", "--validate=warn", "--dry-run=server"]);
    assert!(
        warned.code() == Some(0) && warned.stderr.contains("unknown field \"spec.replicass\""),
        "{warned:#?}"
    );
    up.stop();
    Ok(())
}

pub(super) fn objects_are_chosen_by_their_fields() -> Result<(), Impossible> {
    needs_kubectl()?;
    let up = Up::start(&[]);
    for (name, node) in [("a", "kube1.vm"), ("b", "kube2.vm")] {
        let overrides = format!("--overrides={{\"spec\":{{\"nodeName\":\"{node}\"}}}}");
        up.kubectl(&["run", name, "--image=goweb", "--labels=run=it", &overrides]);
    }
    let done =
        ["run", "done", "--image=busybox", "--labels=run=it", "--restart=Never", "--command", "--", "true"];
    up.kubectl(&done);
    up.says(&[
        ("wait --for=condition=Ready pod/a pod/b --timeout=30s", "condition met"),
        ("wait --for=jsonpath={.status.phase}=Succeeded pod/done --timeout=30s", "condition met"),
        ("wait --for=jsonpath={.status.podIP} pod/a --timeout=30s", "condition met"),
        ("create service clusterip headless --clusterip=None", "created"),
    ]);
    for (line, names) in [
        ("get pods --field-selector=metadata.name=a", vec!["pod/a"]),
        ("get pods --field-selector=metadata.name!=a", vec!["pod/b", "pod/done"]),
        (
            "get pods --field-selector=spec.nodeName=kube2.vm -l run=it --field-selector=metadata.name=b",
            vec!["pod/b"],
        ),
        ("get pods --field-selector=spec.nodeName=kube1.vm,status.phase=Running", vec!["pod/a"]),
        ("get pods --field-selector=status.phase=Succeeded", vec!["pod/done"]),
        ("get pods --field-selector=status.phase!=Running,status.phase!=Succeeded", vec![]),
        ("get pods --field-selector=spec.restartPolicy=Never", vec!["pod/done"]),
        (
            "get pods -A -l run=it --field-selector=metadata.namespace=default,spec.nodeName=kube1.vm",
            vec!["pod/a"],
        ),
        ("get pods -A -l run=it --field-selector=metadata.namespace=kube-system", vec![]),
        ("get svc --field-selector=metadata.name=headless", vec!["service/headless"]),
        ("get svc --field-selector=spec.clusterIP=None", vec!["service/headless"]),
        ("get svc --field-selector=spec.type=NodePort", vec![]),
        ("get nodes --field-selector=metadata.name=kube0.vm", vec!["node/kube0.vm"]),
        ("get ns --field-selector=status.phase=Active,metadata.name=default", vec!["namespace/default"]),
    ] {
        let arguments: Vec<&str> = line.split(' ').chain(["-o", "name"]).collect();
        assert_eq!(up.lines(&arguments), names, "{line}");
    }
    let about = ["get", "events", "-o", "jsonpath={range .items[*]}{.involvedObject.name}{'\\n'}{end}"];
    let selected = |fields: &str| up.lines(&[&about[..], &["--field-selector", fields]].concat());
    let events = selected("involvedObject.name=a,involvedObject.kind=Pod,type=Normal");
    assert!(events.len() >= 3 && events.iter().all(|name| name == "a"), "{events:?}");
    assert_eq!(selected("involvedObject.name=a,involvedObject.kind=Service"), [""; 0]);
    assert_eq!(selected("involvedObject.name=a,reason=Started"), ["a"]);
    assert_eq!(selected("involvedObject.namespace=kube-system"), [""; 0]);
    up.says(&[
        ("events --for=pod/a --types=Normal", "Started"),
        ("events -A --no-headers", "kube-system"),
        ("get events --sort-by=.lastTimestamp -o wide", "SUBOBJECT"),
    ]);
    up.stop();
    Ok(())
}

pub(super) fn workloads_are_run_and_exposed() -> Result<(), Impossible> {
    needs_kubectl()?;
    let up = Up::start(&[]);
    let web = up.file("web.yaml", WEB);
    up.kubectl(&["apply", "-f", web]);
    let exposed = "service/%s exposed";
    let expose = |name: &str, line: &str| {
        let line = format!("expose {line} --name={name}");
        up.says(&[(&line, &exposed.replace("%s", name))]);
    };
    let shows = |line: &str, expected: &str| {
        let arguments: Vec<&str> = line.split(' ').collect();
        assert_eq!(up.kubectl(&arguments), expected, "{line}");
    };
    expose(
        "a",
        "deploy/web --port=80 --target-port=8000 --type=NodePort --labels=x=y --session-affinity=ClientIP",
    );
    shows(
        "get svc a -o jsonpath={.spec.type}/{.spec.sessionAffinity}/{.metadata.labels}",
        "NodePort/ClientIP/{\"x\":\"y\"}",
    );
    shows("get svc a -o jsonpath={.spec.selector}", "{\"app\":\"web\"}");
    expose("b", "deploy web --port=80 --protocol=UDP --selector=app=other,tier=x --cluster-ip=10.96.7.7");
    shows(
        "get svc b -o jsonpath={.spec.ports[0].protocol}/{.spec.clusterIP}/{.spec.selector.tier}",
        "UDP/10.96.7.7/x",
    );
    expose("c", "svc/a --port=81 --target-port=8000 --external-ip=192.168.199.60");
    shows("get svc c -o jsonpath={.spec.externalIPs[0]}/{.spec.ports[0].port}", "192.168.199.60/81");
    expose("d", "deploy/web --port=80 --type=LoadBalancer --load-balancer-ip=192.168.199.245");
    shows("get svc d -o jsonpath={.spec.loadBalancerIP}", "192.168.199.245");
    expose("e", "deploy/web --port=80 --cluster-ip=None");
    shows("get svc e -o jsonpath={.spec.clusterIP}", "None");
    // The ports are those of the containers, if none are said.
    expose("f", "-f web.yaml");
    shows("get svc f -o jsonpath={.spec.ports[0].port}", "8000");
    let set = up.kubectl(&["get", "rs", "-l", "app=web", "-o", "name"]);
    expose("g", &format!("{} --port=80", set.trim()));
    up.says(&[
        ("expose deploy/web --port=80 --name=h --dry-run=client -o yaml", "kind: Service"),
        ("expose deploy/web --port=80 --name=h --dry-run=server", "service/h exposed (server dry run)"),
    ]);
    up.refuses(&[
        ("get svc h", "not found"),
        ("expose deploy/web --port=80 --name=a", "already exists"),
        (
            "expose svc/e --name=i --port=80 --cluster-ip=10.1.1.1",
            "provided IP (10.1.1.1) is not in the valid range",
        ),
        ("expose node/kube0.vm --port=80", "cannot expose"),
    ]);

    let run = "run one --image=goweb --env=A=B --labels=x=z --annotations=n=m --port=8000 --expose";
    up.says(&[(run, "service/one created\npod/one created")]);
    shows("get svc one -o jsonpath={.spec.selector}/{.spec.ports[0].port}", "{\"x\":\"z\"}/8000");
    shows(
        "get pod one -o jsonpath={.spec.containers[0].env[0].value}/{.metadata.annotations.n}/{.spec.restartPolicy}",
        "B/m/Always",
    );
    up.kubectl(&[
        "run",
        "two",
        "--image=busybox",
        "--restart=Never",
        "--command",
        "--",
        "sh",
        "-c",
        "echo said; exit 4",
    ]);
    up.says(&[
        ("wait --for=jsonpath={.status.phase}=Failed pod/two --timeout=30s", "condition met"),
        ("logs two", "said"),
        ("describe pod two", "Exit Code:    4"),
        ("get pod two", "Error"),
        ("run three --image=goweb --dry-run=server -o name", "pod/three"),
        ("run three --image=goweb --dry-run=client -o yaml", "image: goweb"),
        ("wait --for=condition=Ready pod/one --timeout=30s", "condition met"),
    ]);
    // Attaching is refused in words, and kubectl shows the log instead.
    let run = [
        "run",
        "four",
        "--image=busybox",
        "-i",
        "--rm",
        "--restart=Never",
        "--command",
        "--",
        "echo",
        "said",
    ];
    let attached = up.ended(&run);
    assert_eq!(
        (attached.code(), attached.stdout.as_str()),
        (Some(0), "said\npod \"four\" deleted\n"),
        "{attached:#?}"
    );
    assert!(attached.stderr.contains("attaching is not supported by this server"), "{attached:#?}");
    up.stop();
    Ok(())
}

pub(super) fn warnings_are_printed() -> Result<(), Impossible> {
    needs_kubectl()?;
    let up = Up::start(&[]);
    let endpoints = "Warning: v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";
    let shown = up.ended(&["get", "ep"]);
    assert_eq!((shown.code(), shown.stderr.as_str()), (Some(0), endpoints), "{shown:#?}");
    assert!(shown.stdout.contains("192.168.199.117:6443"), "{shown:#?}");
    let manifest = fixture("goweb-ingress.yaml");
    let created = up.ended(&["create", "-f", &manifest.to_string_lossy()]);
    let ingress = "Warning: extensions/v1beta1 Ingress is deprecated in v1.14+, unavailable in v1.22+; use \
                   networking.k8s.io/v1 Ingress";
    assert_eq!((created.code(), created.stderr.as_str()), (Some(0), ingress), "{created:#?}");
    let service = up.file(
        "service.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: None, sessionAffinity: ClientIP}\n",
    );
    let ignored = "Warning: spec.SessionAffinity is ignored for headless services";
    for command in [["create", "-f", service], ["apply", "-f", service]] {
        let made = up.ended(&command);
        assert!(made.code() == Some(0) && made.stderr.lines().any(|line| line == ignored), "{made:#?}");
    }
    let failed = up.ended(&["get", "ep", "nobody", "--warnings-as-errors"]);
    assert!(failed.code() == Some(1) && failed.stderr.starts_with(endpoints), "{failed:#?}");
    up.stop();
    Ok(())
}
