//! Proofs that the transcript notices: outputs that are as expected must be taken, and every kind of
//! wrong one must not.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::editor::changed;
use super::output::Output;
use super::pattern::Bindings;
use super::play::{Give, Seen, Stumble, play};
use super::text::{Chapter, Place, Step, Text};
use super::{CORE, NAMESPACE, NOTES, only};

fn output(text: &str) -> Output {
    Output::parse(&text.lines().collect::<Vec<_>>(), false).expect("the expected output can be read")
}

fn compare(expected: &str, seen: &str) -> Option<Bindings> {
    output(expected).compare(seen, &Bindings::default())
}

const PODS: &str = "\
NAME                 READY   STATUS    AGE
goweb-rs-<pod:a>     1/1     Running   <age>
goweb-rs-<pod:b>     0/1     Running   <age>
";

#[test]
fn a_table_is_compared_by_its_columns() {
    let seen = "NAME             READY   STATUS    AGE\ngoweb-rs-bcdfg   1/1     Running   9s\n\
                goweb-rs-zzzzz   0/1     Running   3d15h\n";
    assert_eq!(compare(PODS, seen).expect("it fits").in_words(), "<pod:a> is bcdfg, <pod:b> is zzzzz");
    let services =
        "NAME         TYPE        EXTERNAL-IP   PORT(S)\nkubernetes   ClusterIP   <none>        443/TCP\n";
    assert!(compare(services, services).is_some());
    let two = format!("{PODS}\n{services}");
    assert!(compare(&two, &format!("{seen}\n{services}")).is_some());
    assert!(compare(&two, &format!("{services}\n{seen}")).is_none());
    assert!(compare(&two, seen).is_none());
    assert!(compare(PODS, &format!("{seen}\n{services}")).is_none());
    let empty = "NAME   ADDRESS   PORTS\nx                80\n";
    assert!(compare(empty, empty).is_some());
    assert!(compare(empty, "NAME   ADDRESS   PORTS\nx      80        80\n").is_none());
}

#[test]
fn a_wrong_table_is_noticed() {
    let header = "NAME             READY   STATUS    AGE\n";
    let (a, b) = ("goweb-rs-bcdfg   1/1     Running   9s\n", "goweb-rs-zzzzz   0/1     Running   9s\n");
    assert!(compare(PODS, &[header, a, b].concat()).is_some());
    for wrong in [
        [header, a, a],
        [header, a, ""],
        [header, a, "goweb-rs-zzzzz   1/1     Running   9s\n"],
        [header, a, "goweb-rs-zzzzz   0/1     Pending   9s\n"],
        [header, a, "goweb-rs-zzzzz   0/1     Running   \n"],
        [header, a, "goweb-rs-zzzzz   0/1     Running   soon\n"],
        [header, a, "other-rs-zzzzz   0/1     Running   9s\n"],
        ["NAME             READY   PHASE     AGE\n", a, b],
        ["NAME             READY   STATUS    RESTARTS   AGE\n", a, b],
        ["", a, b],
        [header, &format!("{a}{b}"), "goweb-rs-vvvvv   0/1     Running   9s\n"],
    ] {
        assert!(compare(PODS, &wrong.concat()).is_none(), "{}", wrong.concat());
    }
}

#[test]
fn rows_with_generated_names_come_in_any_order() {
    let (a, b) = ("goweb-rs-zzzzz   1/1     Running   9s\n", "goweb-rs-bcdfg   0/1     Running   9s\n");
    let seen = ["NAME             READY   STATUS    AGE\n", b, a].concat();
    assert_eq!(compare(PODS, &seen).expect("it fits").in_words(), "<pod:a> is zzzzz, <pod:b> is bcdfg");
    let fixed = "NAME   AGE\na      <age>\nb      <age>\n";
    assert!(compare(fixed, "NAME   AGE\na      9s\nb      9s\n").is_some());
    assert!(compare(fixed, "NAME   AGE\nb      9s\na      9s\n").is_none());
}

#[test]
fn a_variable_keeps_its_value() {
    let known = compare("this is <pod:a>", "this is zzzzz").expect("it fits");
    let (same, other, either) = (output("<pod:a> 1"), output("<pod:b> 1"), output("<pod:a|c> 1"));
    assert!(same.compare("zzzzz 1", &known).is_some());
    assert!(same.compare("bcdfg 1", &known).is_none());
    assert!(other.compare("zzzzz 1", &known).is_none());
    let both = other.compare("bcdfg 1", &known).expect("it fits");
    assert!(either.compare("zzzzz 1", &both).is_some());
    assert!(either.compare("bcdfg 1", &both).is_none());
    assert!(compare("<pod-ip:a> <pod-ip:a>", "10.244.1.2 10.244.1.2").is_some());
    assert!(compare("<pod-ip:a> <pod-ip:a>", "10.244.1.2 10.244.1.3").is_none());
    assert!(compare("<pod-ip:a> <pod-ip:b>", "10.244.1.2 10.244.1.2").is_none());
    assert!(compare("<age> <age>", "1s 1s").is_some());
}

#[test]
fn values_are_of_their_kind() {
    for (pattern, good, bad) in [
        ("<pod>", &["4k7xz"][..], &["4k7x", "4k7xzz", "hello", "4K7XZ", ""][..]),
        ("<pod-ip>", &["10.244.1.2"], &["10.245.1.2", "10.244.1", "10.244.1.2.3", "None"]),
        ("<service-ip>", &["10.96.0.1", "10.111.255.255"], &["10.112.0.1", "10.95.0.1", "None"]),
        ("<lan-ip>", &["192.168.199.50"], &["192.168.198.50", "10.244.1.2"]),
        ("<number>", &["0", "1001"], &["-1", "1s", "ten"]),
        ("<node-port>", &["30000", "32767"], &["29999", "32768", "+30000", "x"]),
        ("<node>", &["kube0.vm", "kube12.vm"], &["kube.vm", "kube0", "kubes.vm"]),
        ("<age>", &["0s", "2m5s", "3d15h", "40h"], &["s", "5", "5m3", "1h2m3s", "<unknown>", "5ms"]),
        ("<version>", &["v1.32.4-x"], &["1.32.4", "v1"]),
        ("80:<node-port:x>/TCP", &["80:31141/TCP"], &["80/TCP", "80:31141", "81:31141/TCP"]),
        ("<none>", &["<none>"], &["none", "<nine>"]),
    ] {
        for text in good {
            assert!(compare(pattern, text).is_some(), "{pattern} {text}");
        }
        for text in bad {
            assert!(compare(pattern, text).is_none(), "{pattern} {text}");
        }
    }
}

#[test]
fn lists_of_addresses_have_no_order() {
    let known = compare("<pod-ip:a> <pod-ip:b>", "10.244.1.2 10.244.2.2").expect("it fits");
    let line = output("Endpoints:   <pod-ip:a>:80,<pod-ip:b>:80");
    assert!(line.compare("Endpoints: 10.244.1.2:80,10.244.2.2:80", &known).is_some());
    assert!(line.compare("Endpoints: 10.244.2.2:80,10.244.1.2:80", &known).is_some());
    for wrong in ["10.244.2.2:80", "10.244.2.2:80,10.244.2.2:80", "10.244.1.2:80,10.244.2.2:81", ""] {
        assert!(line.compare(&format!("Endpoints: {wrong}"), &known).is_none(), "{wrong}");
    }
    assert!(compare("11.11.11.11:80,22.22.22.22:80", "22.22.22.22:80,11.11.11.11:80").is_some());
    assert!(compare("53/UDP,53/TCP", "53/TCP,53/UDP").is_none());
}

#[test]
fn lines_are_compared_word_by_word() {
    assert!(compare("Server:    10.96.0.10", "Server:\t\t10.96.0.10\n\n").is_some());
    for wrong in [
        "Server: 10.96.0.11",
        "Server:",
        "Server: 10.96.0.10 x",
        "  Server: 10.96.0.10",
        "",
        "x\nServer: 10.96.0.10",
    ] {
        assert!(compare("Server:    10.96.0.10", wrong).is_none(), "{wrong}");
    }
    assert!(compare("", "").is_some());
    assert!(compare("", "Warning: something").is_none());
    assert!(compare("a\n\nb", "a\nb").is_none());
}

#[test]
fn rest_and_any_order() {
    assert!(compare("a\n...\nc", "a\nb\nb\nc").is_some());
    assert!(compare("a\n...\nc", "a\nc").is_some());
    assert!(compare("a\n...\nc", "a\nb").is_none());
    assert!(compare("...", "").is_some());
    let any = |expected: &str, seen: &str| {
        let expected = Output::parse(&expected.lines().collect::<Vec<_>>(), true).expect("it can be read");
        expected.compare(seen, &Bindings::default()).is_some()
    };
    assert!(any("a\nb", "b\na"));
    assert!(any("a\n\nb", "b\n\na\n"));
    assert!(!any("a\nb", "b\nb"));
    assert!(!any("a\nb", "b\na\nc"));
    assert!(any("a\nb\n...", "b\nc\na"));
    assert!(!any("a\na\n...", "b\nc\na"));
}

const TEXT: &str = "\
## First
Words.
```yaml x.yaml
kind: X
```
```console
$ kubectl get po  # after a while
goweb-rs-<pod:a>
old                # kubectl 1.30 and older
new                # kubectl 1.31 and newer
on kube1.vm $ curl \"http://x y\"  # exits 7, in any order
outside $ curl goweb-rs-<pod:a>
$ kubectl gone  # kubectl 1.30 and older
```
## Second
```diff
 spec:
+  x: y
```
```console
$ kubectl edit svc x
edited
```
";

#[test]
fn versions_of_kubectl_choose_lines() {
    for (minor, commands, line) in [(30, 4, "old"), (31, 3, "new")] {
        let text = Text::parse(TEXT, minor, NAMESPACE).expect("it can be read");
        let steps = &text.chapters[0].steps;
        assert_eq!(steps.len(), commands, "{steps:#?}");
        assert_eq!(steps[0].printed, format!("goweb-rs-<pod:a>\n{line}"));
        assert!(
            steps[0].expected.compare(&format!("goweb-rs-bcdfg\n{line}"), &Bindings::default()).is_some()
        );
    }
}

#[test]
fn the_text_is_read_with_its_remarks() {
    let text = Text::parse(TEXT, 32, NAMESPACE).expect("it can be read");
    let titles: Vec<&str> = text.chapters.iter().map(|chapter| chapter.title.as_str()).collect();
    assert_eq!(titles, ["First", "Second"]);
    assert_eq!((text.manifests[0].file.as_str(), text.manifests[0].text.as_str()), ("x.yaml", "kind: X\n"));
    let [get, curl, outside] = text.chapters[0].steps.as_slice() else { panic!("{text:#?}") };
    assert_eq!((get.line, get.exit, get.repeated, &get.place), (7, 0, true, &Place::Desk));
    assert_eq!((curl.line, curl.exit, curl.repeated), (11, 7, false));
    assert_eq!((&curl.place, curl.command.len()), (&Place::Node("kube1.vm".to_owned()), 2));
    assert_eq!(outside.place, Place::Outside);
    assert_eq!(text.chapters[1].steps[0].edit.as_deref(), Some(" spec:\n+  x: y\n"));
}

#[test]
fn mistakes_in_the_text_are_named_with_their_line() {
    for (text, complaint) in [
        ("```console\n$ x\n```", "line 1"),
        ("## A\n```console\n$ x", "line 2: the block has no end"),
        ("## A\n```console\nx\n```", "line 3: a command begins with"),
        ("## A\n```console\n$ x  # soon\n```", "line 3: `soon` is no known remark"),
        ("## A\n```console\n$ x 'y\n```", "line 3: a quote is not closed"),
        ("## A\n```console\n$ x <pot:a>\n```", "line 3: `<pot:a>` is of no known kind"),
        (
            "## A\n```console\n$ x\nNAME   AGE\nmuch-longer 1s\n```",
            "line 5: the cells do not stand below the header's",
        ),
        ("## A\n```console\n$ kubectl edit x\n```", "line 3: no `diff` says what to edit"),
        ("## A\n```diff\n+x\n```", "no command opens"),
        ("## A\n```go\n```", "line 2: a block is"),
    ] {
        let error = Text::parse(text, 32, NAMESPACE).expect_err(text);
        assert!(format!("{error:#}").contains(complaint), "{error:#}");
    }
}

/// Prints one of these after the other, and the last for ever.
struct Said<'a> {
    outputs: &'a [(&'a str, i32)],
    given: AtomicUsize,
}

impl Give for Said<'_> {
    fn give<'a>(&'a self, _: &'a Step, _: &'a [String]) -> BoxFuture<'a, anyhow::Result<Seen>> {
        let given = self.given.fetch_add(1, Ordering::Relaxed);
        let (text, code) = self.outputs[given.min(self.outputs.len() - 1)];
        std::future::ready(Ok(Seen { text: text.to_owned(), code: Some(code) })).boxed()
    }
}

/// How often a command was given.
fn played(text: &str, outputs: &[(&str, i32)]) -> Result<usize, String> {
    let text = Text::parse(text, 32, NAMESPACE).expect("it can be read");
    let said = Said { outputs, given: AtomicUsize::new(0) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let played = runtime.block_on(play(&text.chapters[0], &said, Duration::from_millis(250)));
    played.map_err(|stumble| match stumble {
        Stumble::Otherwise { promised, observed } => format!("{promised}\n{observed}"),
        Stumble::Lost(error) => format!("{error:#}"),
    })?;
    Ok(said.given.into_inner())
}

#[test]
fn a_command_is_given_again_until_it_is_so() {
    let again = "## A\n```console\n$ x  # after a while\nyes\n```";
    assert_eq!(played(again, &[("no", 0), ("yes", 0)]), Ok(2));
    assert_eq!(played(again, &[("yes", 1), ("yes", 0)]), Ok(2));
    assert!(played(again, &[("no", 0)]).is_err());
    let once = "## A\n```console\n$ x\nyes\n```";
    assert_eq!(played(once, &[("yes", 0)]), Ok(1));
    assert!(played(once, &[("no", 0), ("yes", 0)]).is_err());
    assert!(played(once, &[("yes", 1)]).is_err());
    assert_eq!(played("## A\n```console\n$ x  # exits 7\n```", &[("", 7)]), Ok(1));
    // What did not fit must leave no trace.
    let pods = "## A\n```console\n$ x  # after a while\n<pod:a> yes\n$ x\n<pod:a>\n```";
    assert_eq!(played(pods, &[("bcdfg no", 0), ("zzzzz yes", 0), ("zzzzz", 0)]), Ok(3));
    assert!(played(pods, &[("bcdfg no", 0), ("zzzzz yes", 0), ("bcdfg", 0)]).is_err());
}

#[test]
fn a_failure_says_where_and_what() {
    let text = "## A\n```console\n$ get\n<pod:a>\n$ show <pod:a>\nyes\n```";
    let complaint = played(text, &[("bcdfg", 0), ("no", 3)]).expect_err("it does not fit");
    for part in [
        "line 5",
        "show bcdfg",
        "exit code 0 and prints:\n    yes",
        "exit code 3 and printed:\n    no",
        "<pod:a> is bcdfg",
    ] {
        assert!(complaint.contains(part), "{part}: {complaint}");
    }
    let unknown =
        played("## A\n```console\n$ show <pod:a>\n```", &[("", 0)]).expect_err("nothing is <pod:a>");
    assert!(unknown.contains("line 3") && unknown.contains("nothing was `<pod:a>` before"), "{unknown}");
}

#[test]
fn the_editor_changes_one_place() {
    let file = "a:\n  b: c\nspec:\n  x: y\n";
    let change = |diff| changed(file, diff).map_err(|error| error.to_string());
    assert_eq!(change(" spec:\n+  z: 1\n"), Ok("a:\n  b: c\nspec:\n  z: 1\n  x: y\n".to_owned()));
    assert_eq!(change("-  x: y\n+  x: z\n"), Ok("a:\n  b: c\nspec:\n  x: z\n".to_owned()));
    assert!(change(" status:\n+  z: 1\n").is_err_and(|error| error.contains("0 places")));
    assert!(change("+  z: 1\n").is_err());
    assert!(changed("a\na\n", " a\n+b\n").is_err());
}

#[test]
fn manifests_in_the_text_are_the_fixtures() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/notes");
    let text = Text::parse(NOTES, 32, NAMESPACE).expect("the transcript can be read");
    let read = |file: &str| {
        std::fs::read_to_string(fixtures.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    };
    for manifest in &text.manifests {
        assert_eq!(
            manifest.text,
            read(&manifest.file),
            "{} in the transcript and in fixtures/notes",
            manifest.file
        );
    }
    let steps = text.chapters.iter().flat_map(|chapter| &chapter.steps);
    let files: BTreeSet<&str> = steps
        .flat_map(|step| step.typed.split_whitespace())
        .filter(|word| word.ends_with(".yaml") && !word.contains('/'))
        .collect();
    let shown = |file: &str| text.manifests.iter().any(|manifest| manifest.file == file);
    for file in &files {
        assert!(shown(file), "the transcript does not show {file}");
    }
    for entry in std::fs::read_dir(&fixtures).expect("the notes' manifests") {
        let file = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        assert!(shown(&file) && files.contains(file.as_str()), "the transcript does not use {file}");
    }
}

#[test]
fn the_text_can_be_moved_to_another_namespace() {
    const OWN: &str = "NAME         AGE\na            1s\n";
    const ALL: &str = "NAME         AGE\na            1s\nkubernetes   2s\n";
    let text = "## A\n```console\n$ curl http://web.default.svc x-default\ndefaults from default namespace\n\
                $ get\nNAME         AGE\na            <age>\nkubernetes   <age>\n```";
    let steps =
        |namespace| Text::parse(text, 32, namespace).expect("it can be read").chapters.remove(0).steps;
    let here = steps(NAMESPACE);
    assert_eq!(here[0].typed, "curl http://web.default.svc x-default");
    assert!(here[1].expected.compare(ALL, &Bindings::default()).is_some());
    let there = steps("other-1");
    assert_eq!(there[0].typed, "curl http://web.other-1.svc x-default");
    assert_eq!(there[0].printed, "defaults from other-1 namespace");
    // The API server's own service is in one namespace only.
    assert!(there[1].expected.compare(OWN, &Bindings::default()).is_some());
    assert!(there[1].expected.compare(ALL, &Bindings::default()).is_none());
}

#[test]
fn the_check_plays_what_can_be_played_beside_others() {
    let text = Text::parse(NOTES, 32, NAMESPACE).expect("the transcript can be read");
    for title in CORE {
        let there = Text::parse(&only(title), 32, "somewhere-else-0").expect("it can be played elsewhere");
        let [chapter] = there.chapters.as_slice() else { panic!("not one chapter is called `{title}`") };
        let here = text.chapters.iter().find(|chapter| chapter.title == title).expect("it is a chapter");
        let lines = |chapter: &Chapter| chapter.steps.iter().map(|step| step.line).collect::<Vec<_>>();
        assert_eq!(lines(chapter), lines(here), "lines keep their numbers");
        for step in &chapter.steps {
            let of_the_cluster = ["-n", "node", "nodes", "goweb-nodeport.yaml"];
            let stays = !step.typed.split_whitespace().any(|word| of_the_cluster.contains(&word));
            assert!(stays && step.place != Place::Outside, "`{title}`: {}", step.typed);
        }
    }
    let all: Vec<&str> = CORE
        .iter()
        .flat_map(|title| text.chapters.iter().filter(move |chapter| chapter.title == *title))
        .flat_map(|chapter| &chapter.steps)
        .filter_map(|step| step.typed.strip_prefix("kubectl ")?.split_whitespace().next())
        .collect();
    for verb in ["create", "get", "describe", "exec", "edit", "delete"] {
        assert!(all.contains(&verb), "nobody types `kubectl {verb}`");
    }
}
