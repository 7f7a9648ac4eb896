//! An unmodified kubectl.

use std::process::Output;

use super::*;

const MANIFESTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 31234}]
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: goweb}]}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unmodified_kubectl_works() {
    let scene = Scene::new();
    let Some(created) = kubectl(&scene, Some(MANIFESTS), "create -f -").await else {
        // Nothing of kubectl's is tested then, and whoever reads the output shall know.
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "skipped: there is no kubectl on this machine");
        return;
    };
    assert_eq!(words(&created), [["service/web", "created"], ["replicaset.apps/web", "created"]]);
    let run = async |arguments: &str| {
        let output = kubectl(&scene, None, arguments).await.unwrap();
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments}: {why}");
        words(&output)
    };
    let services = run("get svc -o wide").await;
    assert_eq!(services[0].join(" "), "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR");
    assert_eq!(services[1][0], "kubernetes");
    assert_eq!(services[2][4], "80:31234/TCP");
    let sets = run("get rs -o wide").await;
    assert_eq!(sets[0].join(" "), "NAME DESIRED CURRENT READY AGE CONTAINERS IMAGES SELECTOR");
    assert_eq!(sets[1][..4], ["web", "2", "0", "0"]);
    assert_eq!(run("scale rs web --replicas=5").await[0].join(" "), "replicaset.apps/web scaled");
    assert_eq!(run("get rs web -o jsonpath={.spec.replicas}").await, [["5"]]);
    let patched = run(r#"patch svc web -p {"spec":{"type":"ClusterIP"}}"#).await;
    assert_eq!(patched[0].join(" "), "service/web patched");
    let applied = words(&kubectl(&scene, Some(MANIFESTS), "apply -f -").await.unwrap());
    assert_eq!(applied, [["service/web", "configured"], ["replicaset.apps/web", "configured"]]);
    let again = words(&kubectl(&scene, Some(MANIFESTS), "apply -f -").await.unwrap());
    assert_eq!(again, [["service/web", "unchanged"], ["replicaset.apps/web", "unchanged"]]);
    let typo =
        MANIFESTS.replace("selector: {app: web}", "selectr: {app: web}").replace("name: web}", "name: typo}");
    let refused = kubectl(&scene, Some(&typo), "create -f -").await.unwrap();
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(why.contains("strict decoding error: unknown field \"spec.selectr\""), "{why}");
    let unknown = "apiVersion: v1\nkind: Servce\nmetadata: {name: a}\n";
    let refused = kubectl(&scene, Some(unknown), "create -f -").await.unwrap();
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(why.contains("no matches for kind \"Servce\" in version \"v1\""), "{why}");
    assert_eq!(run("create ns made").await[0].join(" "), "namespace/made created");
    scene.account().await;
    assert!(run("create token default").await[0][0].starts_with("ey"));
    assert_eq!(run("get ep").await[1][..2], ["kubernetes", "192.168.199.117:6443"]);
    assert_eq!(run("get ns").await[1][..2], ["default", "Active"]);
    assert_eq!(run("auth whoami").await[1].join(" "), "Username kubernetes-admin");
    assert_eq!(run("auth can-i create pods").await, [["yes"]]);
    assert!(run("describe svc web").await.len() > 10);
    assert!(!run("get all").await.is_empty());
    let deleted = run("delete svc/web rs/web rs/typo").await;
    assert_eq!(deleted[0].join(" "), "service \"web\" deleted");
    assert_eq!(run("get rs --no-headers --ignore-not-found").await, Vec::<Vec<String>>::new());
}

/// Runs the real kubectl against the server; nothing if this machine has none.
pub(super) async fn kubectl(scene: &Scene, input: Option<&str>, arguments: &str) -> Option<Output> {
    use base64::Engine as _;
    use tokio::io::AsyncWriteExt as _;
    let encode = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("config");
    std::fs::write(
        &config,
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "t",
            "clusters": [{"name": "t", "cluster": {"server": format!("https://{}", scene.endpoint.address),
                "certificate-authority-data": encode(&scene.endpoint.ca_pem)}}],
            "users": [{"name": "t", "user": {"client-certificate-data": encode(&scene.admin.certificate_pem),
                "client-key-data": encode(&scene.admin.key_pem)}}],
            "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
        })
        .to_string(),
    )
    .unwrap();
    let spawned = tokio::process::Command::new("kubectl")
        .args(arguments.split_whitespace())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("KUBECONFIG", &config)
        .env("HOME", home.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => panic!("kubectl cannot be started: {error}"),
    };
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.unwrap_or_default().as_bytes()).await.unwrap();
    drop(stdin);
    let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await;
    Some(output.expect("kubectl comes to an end").unwrap())
}

/// The words kubectl printed, line by line.
pub(super) fn words(output: &Output) -> Vec<Vec<String>> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}
