//! The truth table: what it shows of a cluster that keeps its promises, of one that does not, and of somebody's
//! own manifests.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use stickler_reports::{CellReport, CellVerdict, ColumnReport, Report, RowReport, TableReport, read_journal};
use tempfile::tempdir;

use crate::program::{Ended, output, stickler};
use crate::{Impossible, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("everybody_sees_what_is_promised", everybody_sees_what_is_promised),
    ("of_a_planted_bug_exactly_its_cells_are_marked", of_a_planted_bug_exactly_its_cells_are_marked),
    ("a_back_end_that_is_led_to_itself_is_marked", a_back_end_that_is_led_to_itself_is_marked),
    ("manifests_of_ones_own_are_looked_at", manifests_of_ones_own_are_looked_at),
    ("manifests_that_are_refused_are_named", manifests_that_are_refused_are_named),
];

/// The table that a command printed as JSON.
fn table(ended: &Ended) -> TableReport {
    let report: Report =
        serde_json::from_str(&ended.stdout).unwrap_or_else(|why| panic!("{why}: {ended:#?}"));
    report.table.unwrap_or_else(|| panic!("there is no table: {ended:#?}"))
}

/// Every cell with its row and column.
fn cells(table: &TableReport) -> impl Iterator<Item = (&RowReport, &ColumnReport, &CellReport)> {
    let of_row = |row: &'_ RowReport| row.cells.len();
    assert!(table.rows.iter().all(|row| of_row(row) == table.columns.len()), "a row has not all its cells");
    table
        .rows
        .iter()
        .flat_map(|row| table.columns.iter().zip(&row.cells).map(move |(column, cell)| (row, column, cell)))
}

fn differing(table: &TableReport) -> Vec<(&RowReport, &ColumnReport, &CellReport)> {
    cells(table).filter(|(_, _, cell)| cell.verdict >= CellVerdict::CouldNotTell).collect()
}

fn everybody_sees_what_is_promised() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let ended = output(stickler(folder.path(), &["table", "--load-balancer", "--format", "json"]));
    assert_eq!(ended.code(), Some(0), "{ended:#?}");
    let table = table(&ended);
    assert_eq!(differing(&table), [], "{ended:#?}");
    assert!(table.columns.len() >= 10 && table.rows.len() >= 40, "{}", table.in_words());
    // From a pod on every node, every node, outside, and back ends.
    let letters = |letter: &str| table.columns.iter().filter(|column| column.id.starts_with(letter)).count();
    assert_eq!((letters("p"), letters("n"), letters("out")), (3, 3, 1));
    assert!(letters("b") >= 3, "{:?}", table.columns);
    // Every place has a control that answers and one that does not.
    for (destination, answered) in
        [("a server without any service", true), ("a port where nobody listens", false)]
    {
        let row = table.rows.iter().find(|row| row.destination == destination).expect("a control");
        for cell in &row.cells {
            assert_eq!((cell.verdict, cell.answered), (CellVerdict::AsPromised, answered), "{row:#?}");
        }
    }
    // Something of everything, and somebody was promised an answer or its absence there.
    for (subject, begins) in [
        ("web", "cluster IP, port 80/TCP"),
        ("web", "cluster IP, port 80/UDP"),
        ("nodes", "node port"),
        ("nodes-local", "node port"),
        ("balanced", "load balancer 192.168.199."),
        ("balanced-local", "health check port at"),
        ("external", "external IP 203.0.113.40"),
        ("members", "member member-0"),
        ("members", "A zero.members.NS.svc."),
        ("by-hand", "cluster IP"),
        ("sliced", "cluster IP"),
        ("early", "cluster IP"),
        ("late", "cluster IP"),
        ("quiet", "node port"),
        ("alias", "CNAME"),
        ("web", "SRV _http._tcp.web.NS.svc."),
        ("web", "SRV _udp._udp.web.NS.svc."),
        ("web", "A web.NS.svc.cluster.local"),
        // The shorter forms are those of the first service of each shape.
        ("balanced", "PTR "),
        ("balanced", "unused port"),
        ("shrunk", "removed: cluster IP, port 81/TCP"),
        ("shrunk", "removed: node port"),
        ("Ingress", "http://one.truth-table.example/mirror"),
        ("nobody", "unused node port"),
        ("nobody", "a cluster IP of no service"),
        ("nobody", "A nobody."),
    ] {
        let mut of_kind =
            table.rows.iter().filter(|row| row.subject == subject && row.destination.starts_with(begins));
        let looked_at = of_kind.any(|row| {
            row.cells.iter().any(|cell| cell.verdict == CellVerdict::AsPromised && !cell.seen.is_empty())
        });
        assert!(looked_at, "nobody looked at `{subject}`, {begins}: {:#?}", rows(&table));
    }
    for short in ["balanced", "balanced.NS", "balanced.NS.svc", "members.NS", "alias.NS"] {
        let row = table.rows.iter().find(|row| row.destination == format!("A {short}"));
        let row = row.unwrap_or_else(|| panic!("`{short}` was not asked for: {:#?}", rows(&table)));
        assert!(row.cells.iter().any(|cell| cell.answered), "{row:#?}");
    }
    // The page and the journal show the same.
    let files = folder.path().join("report");
    let page = fs::read_to_string(files.join("index.html")).expect("a page");
    assert_eq!(
        page.matches("answered as promised\"").count(),
        cells(&table)
            .filter(|(_, _, cell)| { cell.verdict == CellVerdict::AsPromised && cell.answered })
            .count()
    );
    let records = read_journal(&files.join("journal.jsonl")).expect("a journal");
    assert_eq!(Report::of(&records).table, Some(table));
    Ok(())
}

fn rows(table: &TableReport) -> Vec<String> {
    table.rows.iter().map(|row| format!("{}: {}", row.subject, row.destination)).collect()
}

/// The port is gone, and the cluster IP serves it all the same: to whoever may call cluster IPs.
fn of_a_planted_bug_exactly_its_cells_are_marked() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let bug = ["--bug", "removed-port-served"];
    let arguments = [["table", "--format", "json"].as_slice(), &bug].concat();
    let ended = output(stickler(folder.path(), &arguments));
    assert_eq!(ended.code(), Some(1), "{ended:#?}");
    let table = table(&ended);
    let marked: BTreeSet<(&str, &str, &str)> = differing(&table)
        .into_iter()
        .map(|(row, column, _)| (row.subject.as_str(), row.destination.as_str(), column.id.as_str()))
        .collect();
    let inside = table.columns.iter().map(|column| column.id.as_str()).filter(|id| *id != "out");
    let expected: BTreeSet<(&str, &str, &str)> =
        inside.map(|id| ("shrunk", "removed: cluster IP, port 81/TCP", id)).collect();
    assert_eq!(marked, expected);
    // For people, the mark, and who promised what; as many words as are needed, once.
    let again = output(stickler(folder.path(), &["report", "report"]));
    assert_eq!(again.code(), Some(1), "{again:#?}");
    let line = again.stdout.lines().find(|line| line.contains("removed: cluster IP")).expect("the row");
    assert_eq!(line.matches('✗').count(), expected.len(), "{line}");
    assert_eq!(again.stdout.matches("FAILED shrunk, removed: cluster IP, port 81/TCP").count(), 1);
    for words in ["promised  answered by nobody: `shrunk` has no port 81/TCP", "seen  was answered by `web-"]
    {
        assert!(again.stdout.contains(words), "`{words}` is missing: {}", again.stdout);
    }
    Ok(())
}

fn a_back_end_that_is_led_to_itself_is_marked() -> Result<(), Impossible> {
    crate::on_request()?;
    let folder = tempdir().expect("a folder can be made");
    let ended = output(stickler(folder.path(), &["table", "--bug", "hairpin-broken", "--format", "json"]));
    assert_eq!(ended.code(), Some(1), "{ended:#?}");
    let table = table(&ended);
    let marked = differing(&table);
    for (row, column, cell) in &marked {
        let back_end = column.vantage.strip_prefix("the back end ").unwrap_or_else(|| {
            panic!("{} is no back end, but {row:#?} differs", column.vantage);
        });
        assert!(cell.promised.contains(back_end), "{back_end} is none of {}", cell.promised);
    }
    // Where nobody else can answer, chance has no part in it.
    let mirrored = marked.iter().any(|(row, column, _)| {
        (row.subject.as_str(), row.destination.as_str()) == ("mirror", "cluster IP, port 80/TCP")
            && column.vantage == "the back end `mirror`"
    });
    assert!(mirrored, "{marked:#?}");
    Ok(())
}

const OWN: &str = "
apiVersion: v1
kind: Pod
metadata: {name: shop, labels: {app: shop}}
spec:
  containers: [{name: web, image: stickler, command: [goweb], ports: [{containerPort: 8000}]}]
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{port: 80, targetPort: 8000}]}
";

fn manifests_of_ones_own_are_looked_at() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    fs::create_dir(folder.path().join("own")).expect("a folder can be made");
    fs::write(folder.path().join("own/shop.yaml"), OWN).expect("it can be written");
    fs::write(folder.path().join("own/notes.txt"), "no manifest").expect("it can be written");
    let ended = output(stickler(folder.path(), &["table", "--manifest", "own", "--format", "json"]));
    assert_eq!(ended.code(), Some(0), "{ended:#?}");
    let table = table(&ended);
    let subjects: BTreeSet<&str> = table.rows.iter().map(|row| row.subject.as_str()).collect();
    assert_eq!(subjects, BTreeSet::from(["control", "nobody", "shop"]));
    assert_eq!(table.columns.len(), 7, "{:?}", table.columns);
    let no_back_ends =
        table.remarks.iter().any(|remark| remark.starts_with("back ends have no columns: no pod"));
    assert!(no_back_ends, "{:?}", table.remarks);
    let text = output(stickler(folder.path(), &["report", "report"])).stdout;
    assert!(text.contains("back ends have no columns") && text.contains("cluster IP, port 80/TCP"), "{text}");
    Ok(())
}

fn manifests_that_are_refused_are_named() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n";
    for (yaml, words) in [
        (
            format!("{service}  prots: [{{port: 80}}]\n"),
            ["Service `web` of `own.yaml`", "spec.prots"].as_slice(),
        ),
        (
            format!("{service}  ports: [{{port: 0}}]\n"),
            &["Service `web` of `own.yaml` was refused", "spec.ports"],
        ),
        (
            service.replace("name: web", "name: web, namespace: shop"),
            &["Service `web` of `own.yaml` names the namespace `shop`", "leave it out"],
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n".to_owned(),
            &["Namespace `shop` of `own.yaml` belongs to no namespace"],
        ),
        (
            "apiVersion: v1\nkind: Sevrice\nmetadata: {name: web}\n".to_owned(),
            &["Sevrice `web` of `own.yaml`", "knows no kind Sevrice"],
        ),
    ] {
        is_refused(folder.path(), &yaml, words);
    }
    Ok(())
}

fn is_refused(folder: &Path, yaml: &str, words: &[&str]) {
    fs::write(folder.join("own.yaml"), yaml).expect("it can be written");
    let ended = output(stickler(folder, &["table", "--manifest", "own.yaml", "--quiet"]));
    assert_eq!(ended.code(), Some(2), "{yaml}: {ended:#?}");
    let last = ended.stderr.lines().last().unwrap_or_default();
    for word in words {
        assert!(
            last.starts_with("error: ") && last.contains(word),
            "{yaml}: `{word}` is missing: {ended:#?}"
        );
    }
}
