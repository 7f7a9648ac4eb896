//! `index.html` in a real browser: it says what `report.json` says, and can be read on every screen,
//! by keyboard, by day and by night.

use std::path::Path;

use serde_json::{Value, json};
use stickler_reports::{CheckReport, Class, DistributionReport, Report, Verdict};
use tempfile::tempdir;

use crate::browser::Browser;
use crate::program::{output, stickler};
use crate::{Impossible, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("it_says_what_the_report_says", it_says_what_the_report_says),
    ("runs_that_found_something_have_pages_that_say_it", runs_that_found_something),
    ("it_can_be_read_on_every_screen", it_can_be_read_on_every_screen),
    ("it_can_be_used_by_keyboard", it_can_be_used_by_keyboard),
];

fn it_says_what_the_report_says() -> Result<(), Impossible> {
    let mut browser = Browser::start()?;
    let folder = tempdir().expect("a folder can be made");
    written(folder.path());
    says(&mut browser, folder.path());
    Ok(())
}

fn runs_that_found_something() -> Result<(), Impossible> {
    let mut browser = Browser::start()?;
    let folder = tempdir().expect("a folder can be made");
    let run =
        ["run", "--filter", "node-port/from-outside", "--filter", "goweb/*", "--filter", "load-balancer/*"];
    let run =
        output(stickler(folder.path(), &[&run[..], &["--bug", "node-port-only-where-pod-runs"]].concat()));
    assert_eq!(run.code(), Some(1), "{run:#?}");
    let report = says(&mut browser, &folder.path().join("report"));
    assert!(report.summary.failed > 0 && report.summary.passed > 0 && report.summary.skipped > 0);
    assert!(report.checks.iter().any(|check| check.is_broken() && check.evidence.len() > 3));

    let chaos = ["chaos", "--duration", "1s", "--seed", "1", "--faults", "scale-storm", "--report", "chaos"];
    let bug = ["--bug", "deleted-endpoint-stays"];
    let ran = output(stickler(folder.path(), &[&chaos[..], &bug].concat()));
    assert_eq!(ran.code(), Some(1), "{ran:#?}");
    let report = says(&mut browser, &folder.path().join("chaos"));
    let chaos = report.chaos.expect("it was a chaos run");
    assert!(!chaos.first_violations.is_empty() && chaos.staleness.count > 0, "{chaos:#?}");
    Ok(())
}

/// The page of a folder says what its `report.json` says, and nobody complains.
fn says(browser: &mut Browser, folder: &Path) -> Report {
    let text = std::fs::read_to_string(folder.join("report.json")).expect("report.json is there");
    let report: Report = serde_json::from_str(&text).expect("report.json is a report");
    let page = folder.join("index.html");
    browser.open(&page, 1280, "light");

    let verdict = browser.evaluate("document.querySelector('#verdict').innerText");
    let expected = match report.verdict() {
        Verdict::Passed | Verdict::Skipped => "every promise held",
        Verdict::Failed => "a promise was broken",
        Verdict::Inconclusive if report.interrupted => "interrupted",
        Verdict::Inconclusive => "could not tell",
    };
    assert!(verdict.as_str().is_some_and(|verdict| verdict.starts_with(expected)), "{verdict}");

    let summary = report.summary;
    let counts = browser.evaluate(
        "Object.fromEntries([...document.querySelectorAll('.counts strong')].map(e => [e.dataset.count, \
         Number(e.innerText)]))",
    );
    let expected = json!({
        "passed": summary.passed, "failed": summary.failed, "known": summary.expected,
        "inconclusive": summary.inconclusive, "skipped": summary.skipped,
    });
    assert_eq!(counts, if report.checks.is_empty() { json!({}) } else { expected });

    features(browser, &report);
    let broken = |check: &&CheckReport| check.is_broken();
    let untold = |check: &&CheckReport| check.verdict == Verdict::Inconclusive;
    let known = |check: &&CheckReport| check.expected.is_some();
    let again = |check: &CheckReport| format!("stickler run --filter {} --seed {}", check.id, report.seed);
    let expected = |of: &dyn Fn(&&CheckReport) -> bool,
                    says: &dyn Fn(&CheckReport) -> Vec<(&'static str, String)>| {
        let card = |check: &CheckReport| {
            let said: Vec<Value> =
                says(check).into_iter().map(|(name, text)| json!([name, plain(&text)])).collect();
            let shown = if check.expected.is_some() { [].as_slice() } else { &check.evidence };
            let evidence: Vec<Value> = shown.iter().map(|saved| json!([saved.name, saved.text])).collect();
            json!({"id": check.id, "title": format!("{} {}", check.id, check.title), "said": said, "evidence": evidence})
        };
        report.checks.iter().filter(of).map(card).collect::<Vec<_>>()
    };
    let given = |name, text: &Option<String>| text.clone().map(|text| (name, text));
    let cards = [
        (
            "broken",
            expected(&broken, &|check| {
                let said =
                    [("promised", &check.promised), ("observed", &check.observed), ("see", &check.reason)];
                let said = said.into_iter().filter_map(|(name, text)| given(name, text));
                said.chain([("again", again(check))]).collect()
            }),
        ),
        (
            "untold",
            expected(&untold, &|check| {
                vec![("because", check.reason.clone().unwrap_or_default()), ("again", again(check))]
            }),
        ),
        (
            "deviations",
            expected(&known, &|check| {
                let known = check.expected.as_ref().map(|known| format!("{} {}", known.reason, known.source));
                given("known", &known).into_iter().chain(given("observed", &check.observed)).collect()
            }),
        ),
    ];
    for (section, expected) in cards {
        assert_eq!(browser.evaluate(&CARDS.replace("SECTION", section)), json!(expected), "{section}");
    }
    let troubles = browser.evaluate("[...document.querySelectorAll('.trouble p')].map(e => e.innerText)");
    assert_eq!(troubles, json!(report.troubles.iter().map(|trouble| plain(trouble)).collect::<Vec<_>>()));

    // It is folded away, so it has text and no place.
    let skipped = browser.evaluate("[...document.querySelectorAll('#skipped li')].map(e => e.textContent)");
    let expected = report.checks.iter().filter(|check| check.verdict == Verdict::Skipped);
    let reason = |check: &CheckReport| plain(check.reason.as_deref().unwrap_or_default());
    assert_eq!(
        skipped,
        json!(expected.map(|check| format!("{}: {}", check.id, reason(check))).collect::<Vec<_>>())
    );

    chaos(browser, &report);
    assert!(browser.complaints().is_empty(), "{:#?}", browser.complaints());
    let asked: Vec<&str> = browser.requests().into_iter().filter(|url| !url.starts_with("data:")).collect();
    assert_eq!(asked, [format!("file://{}", page.display())], "the page is one file");
    report
}

/// Every card of a section: what it is about, what it says, and what was saved.
const CARDS: &str = "[...document.querySelectorAll('#SECTION > article[id]')].map(card => ({
    id: card.id,
    title: card.querySelector('h3').innerText,
    said: [...card.querySelectorAll('dl > dt')].map(dt => [dt.innerText, dt.nextElementSibling.innerText]),
    evidence: [...card.querySelectorAll('details')].map(details =>
        [details.querySelector('summary').innerText, details.querySelector('pre').textContent]),
}))";

/// A sentence without what makes it code or a link.
fn plain(text: &str) -> String {
    let parts = text.replace('`', "");
    let mut plain = String::new();
    let mut rest = parts.as_str();
    while let Some((before, link)) = rest.split_once("<https://") {
        let (link, after) = link.split_once('>').expect("a link ends");
        plain += &format!("{before}https://{link}");
        rest = after;
    }
    plain + rest
}

fn features(browser: &mut Browser, report: &Report) {
    let rows = browser.evaluate(
        "[...document.querySelectorAll('#features tbody tr')].map(row => [...row.cells].map(cell => \
         cell.innerText.trim()))",
    );
    let mut names: Vec<&str> = report.checks.iter().map(|check| check.chapter.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    // Counted here once more: the report's own count may be wrong.
    let row = |name: &&str| {
        let checks: Vec<_> = report.checks.iter().filter(|check| check.chapter == **name).collect();
        let passed = checks.iter().filter(|check| check.verdict == Verdict::Passed).count();
        let marks: String = checks.iter().map(|check| mark(check)).collect();
        let percent = match report.is_claimed(name) {
            true => format!("{} %", passed * 100 / checks.len()),
            false => "not claimed".to_owned(),
        };
        json!([name, marks, format!("{passed}/{}", checks.len()), percent])
    };
    assert_eq!(rows, json!(names.iter().map(row).collect::<Vec<_>>()));
}

fn mark(check: &CheckReport) -> char {
    match (check.verdict, check.class) {
        (Verdict::Passed, Class::Promise) => '●',
        (Verdict::Passed, Class::Observation) => '○',
        (Verdict::Failed, _) if check.expected.is_some() => '≠',
        (Verdict::Failed, _) => '✗',
        (Verdict::Skipped, _) => '–',
        (Verdict::Inconclusive, _) => '?',
    }
}

fn chaos(browser: &mut Browser, report: &Report) {
    let Some(chaos) = &report.chaos else {
        return assert!(browser.evaluate("document.querySelector('#chaos')").is_null());
    };
    let violations = browser.evaluate("document.querySelector('#violations').innerText");
    assert_eq!(violations, chaos.violations.to_string());
    let cards = browser.evaluate(
        "[...document.querySelectorAll('.violated dl')].map(dl => [...dl.querySelectorAll('dd')].slice(0, \
         2).map(dd => dd.textContent))",
    );
    let said = chaos.first_violations.iter().map(|told| [plain(&told.allowed_then), plain(&told.seen)]);
    assert_eq!(cards, json!(said.collect::<Vec<_>>()));

    // Shades and marks stand where and as long as the report says, in parts of the whole.
    let drawn = browser.evaluate(
        "(() => {
            const svg = document.querySelector('#timeline svg'), whole = svg.getBoundingClientRect();
            const place = e => { const r = e.getBoundingClientRect();
                return [(r.left - whole.left) / whole.width, (r.right - whole.left) / whole.width] };
            return {shades: [...svg.querySelectorAll('.shade')].map(place),
                faults: [...svg.querySelectorAll('.name')].map(e => e.textContent),
                violations: [...svg.querySelectorAll('.violation')].map(e => place(e)[0])};
        })()",
    );
    let names: Vec<&str> = chaos.faults.iter().map(|fault| fault.fault.as_str()).collect();
    assert_eq!(drawn["faults"], json!(names));
    let begins = chaos.faults.iter().map(|fault| fault.injected_us);
    let from =
        begins.chain(chaos.first_violations.iter().map(|told| told.started_us)).min().expect("a fault");
    let ends = chaos.faults.iter().map(|fault| fault.healed_us);
    let to = ends.chain(chaos.first_violations.iter().map(|told| told.ended_us)).max().expect("a fault");
    let place = |us: i64| (us - from) as f64 / (to - from) as f64;
    let is_at = |drawn: &Value, us: i64| {
        assert!(drawn.as_f64().is_some_and(|at| (at - place(us)).abs() < 0.01), "{drawn} for {}", place(us));
    };
    for (at, fault) in chaos.faults.iter().enumerate() {
        is_at(&drawn["shades"][at][0], fault.injected_us);
        is_at(&drawn["shades"][at][1], fault.healed_us);
    }
    assert_eq!(drawn["violations"].as_array().map(Vec::len), Some(chaos.first_violations.len()));
    for (at, violation) in chaos.first_violations.iter().enumerate() {
        is_at(&drawn["violations"][at], violation.started_us);
    }

    let plots = browser.evaluate(
        "[...document.querySelectorAll('#chaos svg.histogram')].map(svg => \
         [...svg.querySelectorAll('.column')].map(e => [Number(e.dataset.count), \
         e.getBoundingClientRect().height, e.classList.contains('beyond')]))",
    );
    let distributions: Vec<&DistributionReport> = [
        &chaos.staleness,
        &chaos.name_staleness,
        &chaos.ready_to_served_everywhere,
        &chaos.removed_to_last_served,
    ]
    .into_iter()
    .filter(|of| of.count > 0)
    .collect();
    assert_eq!(plots.as_array().map(Vec::len), Some(distributions.len()), "{plots}");
    for (plot, of) in plots.as_array().into_iter().flatten().zip(distributions) {
        let columns = plot.as_array().expect("columns");
        let counts: Vec<_> = columns.iter().map(|column| column[0].as_u64()).collect();
        assert_eq!(counts, of.histogram.iter().map(|bucket| Some(bucket.count as u64)).collect::<Vec<_>>());
        let tallest = columns.iter().filter_map(|column| column[1].as_f64()).fold(0.0, f64::max);
        let most = of.histogram.iter().map(|bucket| bucket.count).max().unwrap_or_default() as f64;
        for column in columns {
            let (count, height) = column[0].as_f64().zip(column[1].as_f64()).expect("numbers");
            let expected = tallest * count / most;
            assert!((height - expected).abs() < 2.1 && (count > 0.0) == (height > 0.0), "{column} of {plot}");
        }
    }
}

fn it_can_be_read_on_every_screen() -> Result<(), Impossible> {
    let mut browser = Browser::start()?;
    let folder = tempdir().expect("a folder can be made");
    written(folder.path());
    let page = folder.path().join("index.html");
    for (width, scheme) in [(1280, "light"), (1280, "dark"), (760, "light"), (380, "light"), (380, "dark")] {
        browser.open(&page, width, scheme);
        browser.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)");
        let seen = browser.evaluate(LEGIBLE);
        let at = format!("{width} pixels, {scheme}: {seen:#}");
        assert_eq!(seen["width"], width, "{at}");
        assert_eq!(seen["wide"], json!([]), "something is wider than the screen: {at}");
        assert_eq!(seen["faint"], json!([]), "something can hardly be read: {at}");
        assert_eq!(seen["small"], json!([]), "something is written too small: {at}");
        assert_eq!(seen["over"], json!([]), "texts of a plot lie over each other: {at}");
        assert!(seen["texts"].as_u64() > Some(100), "{at}");
        assert_eq!(seen["ground"].as_f64().map(|ground| ground > 0.5), Some(scheme == "light"), "{at}");
    }
    Ok(())
}

/// What a person would stumble over: contrast is that of WCAG 2.1, which asks for 4.5 to 1.
const LEGIBLE: &str = r"(() => {
    const numbers = colour => (colour.match(/[\d.]+/g) || []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
        .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
    const ground = e => {
        for (; e; e = e.parentElement) {
            const [r, g, b, a] = numbers(getComputedStyle(e).backgroundColor);
            if (a === undefined || a > 0) return [r, g, b];
        }
        return [255, 255, 255];
    };
    const found = {width: innerWidth, wide: [], faint: [], small: [], over: [], texts: 0};
    found.ground = light(ground(document.body));
    const room = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth > room) {
        for (const e of document.querySelectorAll('body *')) {
            const inScroller = e.closest('.wide, pre');
            if (!inScroller && e.getBoundingClientRect().right > room + 1) found.wide.push(e.outerHTML.slice(0, 200));
        }
        found.wide.push('the page');
    }
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const text = walker.currentNode, e = text.parentElement;
        if (!text.data.trim() || e.closest('title, .skip')) continue;
        const range = document.createRange();
        range.selectNodeContents(text);
        const box = range.getBoundingClientRect();
        if (box.width === 0) continue;
        found.texts += 1;
        const style = getComputedStyle(e);
        const ink = light(numbers(e.closest('svg') ? style.fill : style.color)), under = light(ground(e));
        const contrast = (Math.max(ink, under) + 0.05) / (Math.min(ink, under) + 0.05);
        if (contrast < 4.5) found.faint.push([contrast, text.data.slice(0, 80)]);
        if (parseFloat(style.fontSize) < 11) found.small.push([style.fontSize, text.data.slice(0, 80)]);
    }
    for (const svg of document.querySelectorAll('svg')) {
        const texts = [...svg.querySelectorAll('text')].map(e => [e.textContent, e.getBoundingClientRect()])
            .filter(([, box]) => box.width > 0);
        const whole = svg.getBoundingClientRect();
        texts.forEach(([text, box], at) => {
            if (box.left < whole.left - 2 || box.right > whole.right + 2) found.over.push([text, 'stands out']);
            for (const [other, its] of texts.slice(at + 1)) {
                const across = Math.min(box.right, its.right) - Math.max(box.left, its.left);
                const down = Math.min(box.bottom, its.bottom) - Math.max(box.top, its.top);
                if (across > 1 && down > 3) found.over.push([text, other]);
            }
        });
    }
    return found;
})()";

fn it_can_be_used_by_keyboard() -> Result<(), Impossible> {
    let mut browser = Browser::start()?;
    let folder = tempdir().expect("a folder can be made");
    written(folder.path());
    browser.open(&folder.path().join("index.html"), 1280, "light");
    browser.press("Tab");
    let focused = |browser: &mut Browser| browser.evaluate(FOCUSED);
    let first = focused(&mut browser);
    assert_eq!((&first["text"], &first["seen"]), (&json!("To the content"), &json!(true)));
    browser.press("Enter");
    assert_eq!(browser.evaluate("location.hash"), "#content");

    // Everything that is folded opens, and whoever is at a place sees it.
    let folded = browser.evaluate("document.querySelectorAll('details').length");
    let mut opened = 0;
    let mut linked = 0;
    for _ in 0..500 {
        browser.press("Tab");
        let at = focused(&mut browser);
        match at["tag"].as_str() {
            None | Some("BODY") => break,
            Some("SUMMARY") => {
                assert_eq!(at["open"], false, "{at}");
                browser.press("Enter");
                assert_eq!(focused(&mut browser)["open"], true, "{at}");
                opened += 1;
            }
            Some("A") => linked += 1,
            Some(_) => {}
        }
        assert!(at["seen"] == true && at["outlined"] == true, "{at}");
    }
    assert_eq!(folded, opened);
    assert!(linked > 2, "{linked} links");
    let skipped = browser.evaluate("document.querySelector('#skipped li').innerText");
    assert!(skipped.as_str().is_some_and(|text| text.contains("nobody gives addresses")), "{skipped}");
    // A link leads to what it names.
    let led = browser.evaluate(
        "(() => { const link = document.querySelector('#jumps a'); link.click(); \
         return [link.innerText, document.querySelector(':target').id] })()",
    );
    assert_eq!(led[0], led[1]);
    Ok(())
}

/// Where the keyboard is, and whether that can be seen.
const FOCUSED: &str = "(() => {
    const e = document.activeElement, box = e.getBoundingClientRect(), style = getComputedStyle(e);
    return {tag: e.tagName, text: e.innerText.slice(0, 80), open: e.parentElement?.open ?? null,
        seen: box.right > 0 && box.bottom > 0 && box.top < innerHeight && box.left < innerWidth,
        outlined: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2};
})()";

/// Writes the report of a run that had something of everything, long and odd texts among them.
fn written(folder: &Path) {
    let at = "2026-01-02T03:04:05.678901234Z";
    let evidence = |name: &str| json!({"name": name, "text": format!("{name}:\n  <b>not bold</b> & {}", "wide ".repeat(60))});
    let saved = json!([evidence("steps"), evidence("services"), evidence("pods"), evidence("events")]);
    let promised = "from a pod on kube0.vm, `web` at kube1.vm (192.168.199.231:32052/TCP) is answered by \
                    `web-fpbz7` or `web-vc4wb` (ready endpoints of `web`), promised by Service \
                    <https://kubernetes.io/docs/concepts/services-networking/service/#type-nodeport>";
    let observed = format!("it said `<script>alert(1)</script>` & \"{}\" <i>not italic</i>", "x".repeat(300));
    let known = json!({"check": "udp/known", "reason": "it `forgets`", "source": "https://example.org/7"});
    let finding = json!({"promised": promised, "observed": observed});
    let mut events = Vec::new();
    let mut cards = Vec::new();
    let mut ends = |id: &str, class: &str, verdict: &str, more: Value| {
        cards.push(json!({"id": id, "title": format!("what {id} <em>promises</em>"), "class": class}));
        let mut end = json!({
            "kind": "check-finished", "check": id, "verdict": verdict, "reason": null, "finding": null,
            "duration_ms": 17 * cards.len(), "evidence": [],
        });
        end.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        events.push(end);
    };
    for number in 0..40 {
        let class = if number % 5 == 0 { "observation" } else { "promise" };
        ends(&format!("service/held-{number}"), class, "passed", json!({}));
    }
    let broken =
        json!({"finding": finding, "evidence": saved, "reason": "namespace stickler-3e1f0a-service-25"});
    ends("service/broken-with-a-name-that-is-longer-than-most", "promise", "failed", broken.clone());
    ends("node-port/broken", "promise", "failed", broken);
    ends(
        "node-port/untold",
        "promise",
        "inconclusive",
        json!({"reason": "an agent was `lost`", "evidence": saved}),
    );
    let expected =
        json!({"finding": finding, "reason": "namespace n-1", "evidence": saved, "expected": known});
    ends("udp/known", "promise", "failed", expected);
    for number in 0..8 {
        let reason = json!({"reason": "nobody gives addresses here"});
        ends(&format!("load-balancer/skipped-{number}"), "promise", "skipped", reason);
    }
    ends("load-balancer/held", "promise", "passed", json!({}));
    let unclaimed = json!({"reason": "the feature `ingress` is not claimed"});
    ends("ingress/unclaimed", "promise", "skipped", unclaimed);
    let steps = |count: u64| {
        let step = |number| json!({"step": format!("start: step {number} of several"), "us": 2_345 * number});
        (1..=count).map(step).collect::<Vec<_>>()
    };
    let cluster = json!({
        "provider": "testbed", "version": "v1.37.0", "nodes": ["kube0.vm", "kube1.vm", "kube2.vm"],
        "capabilities": [], "ready_ms": 298, "timings": steps(12),
        "components": [{"component": "proxy", "command": "kube-proxy --v=2", "version": "Kubernetes v1.20.2"}],
    });
    let start = json!({
        "kind": "run-started", "tool": "stickler 0.1.0", "suite": "conformance", "seed": 42, "jobs": 6,
        "checks": cards, "unclaimed": ["ingress"],
    });
    let bounds = json!([{
        "bound": "convergence", "ms": 5_000, "measured_ms": 120,
        "rule": "ten times the slowest of what was measured, at least 5 s and at most 30 s",
    }]);
    let mut all = vec![
        start,
        json!({"kind": "cluster-ready", "cluster": cluster}),
        json!({"kind": "bounds-measured", "bounds": bounds, "trouble": null}),
    ];
    all.extend(events);
    let explore = json!({
        "seed": 42, "planned": 20, "held": 7, "failed": 1, "inconclusive": 0, "steps": 60, "looks": 9_000,
        "operations": {"create-service": 12, "delete-pod": 3, "edit-traffic-policy": 20},
        "case_ms_mean": 800, "case_ms_max": 2_000, "duration_ms": 20_000, "reasons": [],
        "failure": {
            "case": 8, "drawn": 8, "operations": 2, "script": "kubectl create -f - <<EOF\nkind: Service\nEOF",
            "finding": finding, "file": "report/case-8.yaml", "shrink_runs": 12, "shrink_ms": 4_000,
            "evidence": [evidence("table")],
        },
    });
    let mut chaos = serde_json::to_value(stickler_reports::ChaosReport::default()).expect("JSON");
    chaos.as_object_mut().expect("an object").extend(wild().as_object().expect("an object").clone());
    all.push(json!({"kind": "explored", "explore": explore}));
    all.push(json!({"kind": "chaos-finished", "chaos": chaos}));
    all.push(json!({"kind": "trouble", "message": "the namespace `stickler-1` is still there"}));
    all.push(
        json!({"kind": "run-finished", "duration_ms": 80_000, "interrupted": false, "timings": steps(4)}),
    );
    let records: Vec<stickler_reports::Record> = all
        .into_iter()
        .map(|event| serde_json::from_value(json!({"at": at, "event": event})).expect("an event"))
        .collect();
    stickler_reports::write_report(folder, &Report::of(&records)).expect("it can be written");
}

/// What a chaos run may find: six faults in half a minute, and answers of every age.
fn wild() -> Value {
    let distribution = |counts: &[u64]| {
        let bounds = (0..9).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_i64.pow(power)));
        let buckets =
            counts.iter().zip(bounds).map(|(count, up_to)| json!({"up_to_us": up_to, "count": count}));
        json!({
            "count": counts.iter().sum::<u64>(), "p50_us": 1_500, "p90_us": 90_000, "p99_us": 5_500_000,
            "max_us": 19_000_000, "histogram": buckets.collect::<Vec<_>>(),
        })
    };
    let staleness = distribution(&[
        38, 0, 0, 0, 0, 1, 3, 12, 30, 41, 77, 160, 230, 412, 777, 640, 512, 300, 212, 99, 40, 1327, 2,
    ]);
    let fault = |number: i64, name: &str, begin_ms: i64, end_ms: i64| {
        json!({
            "fault": name, "what": format!("pod `web-{number}` was struck, and so was `gated-{number}`"),
            "injected_us": 1_767_323_045_000_000 + 1000 * begin_ms,
            "healed_us": 1_767_323_045_000_000 + 1000 * end_ms,
            "trouble": if number == 3 { json!("it did not heal by itself") } else { Value::Null },
            "staleness": staleness,
        })
    };
    let violation = |number: i64| {
        json!({
            "vantage": "a pod on kube2.vm", "destination": "`web` (10.96.8.140:80/TCP)", "call": number,
            "started_us": 1_767_323_045_000_000 + 200_000 * number + 5_000_000,
            "ended_us": 1_767_323_045_000_000 + 200_000 * number + 5_010_000, "within_us": 10,
            "seen": format!("answered by `web-gone-{number}`"),
            "allowed_then": "an answer by `web-1` or `web-2`",
            "needed_ms": if number % 2 == 0 { json!(5_100 + number) } else { Value::Null },
            "after": "rolling-update", "around": ["call 3 at 5.407 s: web-1", "call 4 at 5.608 s: web-gone"],
        })
    };
    json!({
        "verdict": "failed", "reason": "31 of 6875 answers were not allowed", "seed": 42, "rate": 5,
        "duration_ms": 33_900, "staleness_bound_ms": 5_000, "name_staleness_bound_ms": 5_000, "clients": 45,
        "calls": 5_885, "names_asked": 990, "violations": 31,
        "first_violations": (0..20).map(violation).collect::<Vec<_>>(),
        "faults": [
            fault(1, "pod-deleted", 0, 1_700), fault(2, "rolling-update", 2_000, 5_300),
            fault(3, "readiness-flapping", 5_500, 14_100), fault(4, "container-killed", 14_700, 16_300),
            fault(5, "scale-storm", 16_600, 26_200), fault(6, "pod-deleted", 29_000, 30_000),
        ],
        "staleness": staleness, "name_staleness": distribution(&[0, 0, 0, 4, 7, 1]),
        "ready_to_served_everywhere": distribution(&[1]), "removed_to_last_served": staleness,
        "converged_ms": 812, "convergence_bound_ms": 5_000,
    })
}
