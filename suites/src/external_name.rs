//! External names: services that are nothing but another name.

use serde_json::json;
use stickler::action::{Resource, create, edit};
use stickler::{
    Check, Class, Held, Scene, dns_specification, docs, fixture, notes, resolve_as_promised, rfc,
};
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
    Check {
        id: "external-name/followed",
        title: "an external name that is a service of the cluster leads to that service, and to another when it changes",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#externalname"),
            dns_specification("25---records-for-external-name-services"),
            rfc("rfc1034#section-3.6.2"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(followed(scene)),
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

/// "redirection happens at the DNS level": the name server "includes the CNAME record in the response and
/// restarts the query at the domain name specified in the data field of the CNAME record".
async fn followed(scene: &mut Scene) -> Held {
    scene.when(create(fixture!("external-name/near.yaml"))).await?;
    let of = |service: &str| format!("{service}.{}.svc.cluster.local", scene.namespace());
    let (pods, name) = (scene.vantages().pods(), vec![of("near")]);
    for service in ["first", "second"] {
        let spec = json!({ "spec": { "externalName": of(service) } });
        scene.when(edit(Resource::Service, "near", spec)).await?;
        scene.eventually(resolve_as_promised(pods.clone(), RecordType::A, name.clone())).await?;
        scene.exactly(resolve_as_promised(pods.clone(), RecordType::Cname, name.clone())).await?;
    }
    Ok(())
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
