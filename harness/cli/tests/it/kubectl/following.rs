//! Commands of kubectl that go on: watches and logs.

use std::fs::File;
use std::path::PathBuf;
use std::process::Child;

use super::{Up, needs_kubectl};
use crate::Impossible;
use crate::program::{Running, eventually};

/// A kubectl that goes on. It is killed when this is dropped.
struct Following {
    child: Child,
    /// What it has printed so far.
    printed: PathBuf,
    what: String,
}

impl Following {
    fn start(up: &Up, name: &str, arguments: &[&str]) -> Self {
        let printed = up.folder.path().join(name);
        let file = File::create(&printed).expect("the folder can be written to");
        let mut command = up.command(arguments);
        command.stdout(file.try_clone().expect("a file can be shared")).stderr(file);
        let what = format!("kubectl {}", arguments.join(" "));
        let child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        Self { child, printed, what }
    }

    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.printed).expect("what it printed is text");
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    /// Waits for a line that begins so, blanks aside.
    fn shows(&self, beginning: &str) {
        let what = format!("a line `{beginning}` of {}", self.what);
        eventually(&what, || self.lines().iter().any(|line| line.starts_with(beginning)).then_some(()));
    }

    /// Waits for its end by itself.
    fn ends(mut self) -> Vec<String> {
        let what = format!("the end of {}", self.what);
        let status = eventually(&what, || self.child.try_wait().expect("it is our child"));
        assert!(status.success(), "{}: {status}: {:#?}", self.what, self.lines());
        self.lines()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn changes_are_followed() -> Result<(), Impossible> {
    needs_kubectl()?;
    let up = Up::start(&[]);
    let follow = |name: &str, line: &str| Following::start(&up, name, &line.split(' ').collect::<Vec<_>>());
    up.kubectl(&["create", "service", "clusterip", "s", "--tcp=80"]);
    let pods = follow("pods", "get pods -w");
    let wide = follow("wide", "get pods -o wide -w --show-labels");
    let one = follow("one", "get pods -w --field-selector=metadata.name=b -o name");
    let events = follow("events", "events -w");
    let services = follow("services", "get svc -w --output-watch-events");
    let only = follow("only", "get svc --watch-only -o name");
    let json = follow("json", "get svc s -w -o jsonpath={.spec.sessionAffinity}{'\\n'}");
    services.shows("ADDED s ClusterIP");
    json.shows("None");
    up.kubectl(&["run", "a", "--image=goweb", "--labels=run=x"]);
    pods.shows("a 0/1 Pending 0");
    pods.shows("a 0/1 ContainerCreating 0");
    pods.shows("a 1/1 Running 0");
    events.shows("0s Normal Started Pod/a");
    up.kubectl(&["run", "b", "--image=goweb", "--labels=run=x"]);
    one.shows("pod/b");
    up.kubectl(&["patch", "svc", "s", "-p", "{\"spec\":{\"sessionAffinity\":\"ClientIP\"}}"]);
    json.shows("ClientIP");
    services.shows("MODIFIED s ClusterIP");
    only.shows("service/s");
    let waiting = Running::start(up.command(&["wait", "--for=delete", "pod/a", "--timeout=60s"]));
    let ready = up.command(&["wait", "--for=condition=Ready", "pod/b", "--timeout=60s"]);
    assert_eq!(Running::start(ready).end().stdout, "pod/b condition met\n");
    up.kubectl(&["delete", "pod", "a", "--grace-period=1"]);
    let waited = waiting.end();
    assert_eq!((waited.code(), waited.stdout.as_str()), (Some(0), "pod/a condition met\n"), "{waited:#?}");
    pods.shows("a 1/1 Terminating 0");
    up.kubectl(&["delete", "svc", "s"]);
    services.shows("DELETED s ClusterIP");

    // The heading comes once, and no row is shorter than it.
    let lines = pods.lines();
    assert_eq!(lines[0], "NAME READY STATUS RESTARTS AGE", "{lines:#?}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("NAME")).count(), 1, "{lines:#?}");
    assert!(lines.iter().all(|line| line.split(' ').count() == 5), "{lines:#?}");
    let lines = wide.lines();
    assert_eq!(lines[0], "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES LABELS");
    assert!(lines[1..].iter().all(|line| line.ends_with(" run=x")), "{lines:#?}");
    let lines = one.lines();
    assert!(lines.iter().all(|line| line == "pod/b"), "{lines:#?}");
    up.stop();
    Ok(())
}

pub(super) fn logs_are_followed() -> Result<(), Impossible> {
    needs_kubectl()?;
    let up = Up::start(&[]);
    let sh = |name: &str, restart: &str, script: &str| {
        let image = ["run", name, "--image=busybox", restart, "--command", "--", "sh", "-c", script];
        up.kubectl(&image);
    };
    sh("ticks", "--restart=Never", "while true; do echo tick; sleep 0.1; done");
    sh("crashes", "--restart=Always", "echo once; exit 3");
    up.says(&[("wait --for=condition=Ready pod/ticks --timeout=30s", "condition met")]);
    let all = Following::start(&up, "all", &["logs", "-f", "ticks"]);
    let some = Following::start(&up, "some", &["logs", "-f", "ticks", "--tail=1", "--timestamps"]);
    eventually("some ticks", || (all.lines().len() > 5 && some.lines().len() > 5).then_some(()));
    assert!(all.lines().iter().all(|line| line == "tick"));
    let year = |line: &String| line.ends_with(" tick") && line.starts_with("20");
    assert!(some.lines().iter().all(year), "{:#?}", some.lines());

    // The log of the container that was there before.
    let restarts = ["get", "pod", "crashes", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"];
    eventually("a restart", || up.kubectl(&restarts).parse().is_ok_and(|count: u32| count > 0).then_some(()));
    assert_eq!(up.kubectl(&["logs", "crashes", "--previous"]), "once\n");
    assert_eq!(up.kubectl(&["logs", "-p", "crashes", "--tail=1"]), "once\n");
    up.says(&[
        ("describe pod crashes", "Exit Code:    3"),
        ("describe pod crashes", "Last State:     Terminated"),
        ("events --for=pod/crashes --types=Warning", "BackOff"),
    ]);
    let shown = up.kubectl(&["get", "pod", "crashes", "--no-headers"]);
    assert!(shown.contains("s ago)"), "{shown}");

    // Whoever follows is told of the end.
    up.kubectl(&["delete", "pod", "ticks", "--grace-period=1"]);
    assert!(all.ends().iter().all(|line| line == "tick"));
    some.ends();
    up.stop();
    Ok(())
}
