//! Exec: a command in a pod.

use stickler::{Check, Class, Held, Scene, docs, fixture};

use crate::service::name_of;

pub(crate) const CHECKS: &[Check] = &[Check {
    id: "exec/runs-a-command",
    title: "exec runs a command in a pod, arguments intact, output and exit code back",
    class: Class::Promise,
    promised_by: &[docs("tasks/debug/debug-application/get-shell-running-container/")],
    needs: &[],
    exclusive: false,
    run: |scene| Box::pin(runs_a_command(scene)),
}];

async fn runs_a_command(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/web.yaml")).await?;
    let pods = scene.pods("app=web").await?;
    let pod = name_of(pods.first())?;
    let promised = format!("exec in pod `{pod}` runs the command there, with these arguments");

    let output = scene.exec(&pod, &["hostname"]).await?;
    scene.same(&promised, &format!("{pod}\n"), &output.stdout)?;
    let output = scene.exec(&pod, &["echo", "-n", "two  blanks", "", "*", "--"]).await?;
    scene.same(&promised, "two  blanks  * --", &output.stdout)?;
    scene.same(&promised, "", &output.stderr)?;

    let output = scene.exec(&pod, &["false"]).await?;
    scene.same("the exit code comes back", &1, &output.code)?;
    let output = scene.exec(&pod, &["ls", "/no/such/folder"]).await?;
    scene.same("standard error is kept apart from standard output", "", &output.stdout)?;
    scene.same("a command that fails says so on standard error", &false, &output.stderr.is_empty())
}
