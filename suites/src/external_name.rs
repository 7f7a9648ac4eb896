//! External names: services that are nothing but another name.

use stickler::action::create;
use stickler::{Check, Class, Held, Scene, docs, fixture, notes, resolve_as_promised};
use stickler_model::RecordType;

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "external-name/cname",
        title: "the name of a service of type ExternalName is an alias of the external name",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#externalname")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(cname(scene)),
    },
    Check {
        id: "external-name/no-cluster-ip",
        title: "a service of type ExternalName has no cluster IP and shows its external name",
        class: Class::Promise,
        promised_by: &[
            docs("reference/kubernetes-api/service-resources/service-v1/#ServiceSpec"),
            notes("ExternalName"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(no_cluster_ip(scene)),
    },
];

/// "the cluster DNS Service returns a `CNAME` record with the value"; nobody follows it here, as what
/// is behind it is not the cluster's.
async fn cname(scene: &mut Scene) -> Held {
    scene.when(create(fixture!("notes/external-svc-externalname.yaml"))).await?;
    let name = format!("external-svc-externalname.{}.svc.cluster.local", scene.namespace());
    let pods = scene.vantages().pods();
    scene.eventually(resolve_as_promised(pods.clone(), RecordType::Cname, vec![name.clone()])).await?;
    scene.always(resolve_as_promised(pods, RecordType::Cname, vec![name])).await
}

async fn no_cluster_ip(scene: &mut Scene) -> Held {
    scene.when(create(fixture!("notes/external-svc-externalname.yaml"))).await?;
    let spec = scene.service("external-svc-externalname").await?.spec.unwrap_or_default();
    scene.same("the cluster IP is", "", spec.cluster_ip.as_deref().unwrap_or_default())?;
    let ips = spec.cluster_ips.unwrap_or_default();
    scene.same("the cluster IPs are", &Vec::<String>::new(), &ips)?;
    let columns = ["Type", "Cluster-IP", "External-IP"];
    let row = scene.table_row("services", "external-svc-externalname", &columns).await?;
    let promised = ["ExternalName", "<none>", "www.baidu.com"].map(str::to_owned);
    scene.same("kubectl get shows", promised.as_slice(), row.as_slice())
}
