//! Plots of the page, as SVG that is part of it. Nothing is scaled: places are percentages and text
//! keeps its size, so a plot can be read on a narrow screen as on a wide one.

use maud::{Markup, html};

use crate::chaos::{ChaosReport, DistributionReport};

/// A time in the unit that suits it, from microseconds.
pub(crate) fn span(us: i64) -> String {
    let scaled = |by: f64, unit: &str| {
        let value = us as f64 / by;
        let digits = usize::from(value.abs() < 100.0);
        let text = format!("{value:.digits$}");
        format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
    };
    match us.abs() {
        0 => "0 s".to_owned(),
        1..1_000 => format!("{us} µs"),
        1_000..1_000_000 => scaled(1e3, "ms"),
        _ => scaled(1e6, "s"),
    }
}

fn percent(value: f64) -> String {
    format!("{value:.2}%")
}

/// A strip in as many parts as there are counts that are not 0, each with the class it has elsewhere.
pub(crate) fn strip(counts: &[(usize, &str, &str)]) -> Markup {
    let total: usize = counts.iter().map(|(count, ..)| count).sum();
    let mut at = 0.0;
    let parts: Vec<_> = counts
        .iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(count, name, class)| {
            let (left, width) = (at, 100.0 * *count as f64 / total.max(1) as f64);
            at += width;
            (left, width, class, format!("{count} {name}"))
        })
        .collect();
    html! {
        svg.strip height="10" aria-hidden="true" {
            @for (left, width, class, words) in &parts {
                rect class=(class) x=(percent(*left)) width=(percent(*width)) y="0" height="10" {
                    title { (words) }
                }
            }
        }
    }
}

/// Names with a value, and a bar under each.
pub(crate) fn bars(rows: impl Iterator<Item = (String, f64, String)>) -> Markup {
    let rows: Vec<_> = rows.collect();
    let most = rows.iter().map(|(_, size, _)| *size).fold(f64::MIN_POSITIVE, f64::max);
    let row = 32;
    let words: Vec<String> = rows.iter().map(|(name, _, value)| format!("{name}: {value}")).collect();
    html! {
        svg.bars height=(row * rows.len()) role="img" aria-label=(words.join("; ")) {
            @for (at, (name, size, value)) in rows.iter().enumerate() {
                text x="0" y=(row * at + 14) { (name) }
                text x="100%" y=(row * at + 14) text-anchor="end" { (value) }
                rect.track x="0" y=(row * at + 20) width="100%" height="5" rx="2" {}
                rect.bar x="0" y=(row * at + 20) width=(percent(100.0 * size / most)) height="5" rx="2" {}
            }
        }
    }
}

/// The height of a histogram's columns, and where they begin.
const COLUMNS: f64 = 120.0;
const TOP: f64 = 32.0;

/// A distribution as columns, one for each bucket, with the bound if it is among them. What lies
/// beyond the bound is coloured.
pub(crate) fn histogram(of: &DistributionReport, bound_ms: u64) -> Markup {
    let buckets = &of.histogram;
    let most = buckets.iter().map(|bucket| bucket.count).max().unwrap_or_default().max(1) as f64;
    let width = 100.0 / buckets.len().max(1) as f64;
    let bound_us = i64::try_from(bound_ms).unwrap_or(i64::MAX).saturating_mul(1000);
    let above = |at: usize| at.checked_sub(1).map_or(0, |before| buckets[before].up_to_us);
    let base = TOP + COLUMNS;
    let words: Vec<String> =
        buckets.iter().map(|bucket| format!("up to {}: {}", span(bucket.up_to_us), bucket.count)).collect();
    // As many names as there is room for on a narrow screen: all of a few, else one in each decade.
    let is_named = |us: i64| buckets.len() <= 6 || us.to_string().trim_end_matches('0') == "1";
    html! {
        svg.histogram.dense[buckets.len() > 10] height=(base + 22.0) role="img" aria-label=(words.join("; ")) {
            @for (at, bucket) in buckets.iter().enumerate() {
                @let left = width * at as f64;
                @let height = if bucket.count == 0 { 0.0 } else { (COLUMNS * bucket.count as f64 / most).max(2.0) };
                g {
                    title { (words[at]) }
                    rect.column.beyond[bound_us > 0 && above(at) >= bound_us]
                        data-count=(bucket.count)
                        x=(percent(left + 0.1 * width)) width=(percent(0.8 * width))
                        y=(format!("{:.1}", base - height)) height=(format!("{height:.1}")) {}
                    @if bucket.count > 0 {
                        text.count x=(percent(left + 0.5 * width)) y=(format!("{:.1}", base - height - 4.0))
                            text-anchor="middle" { (bucket.count) }
                    }
                }
                @if is_named(bucket.up_to_us) {
                    @let right = left + width;
                    @let anchor = if right > 96.0 { "end" } else { "middle" };
                    line.tick x1=(percent(right)) x2=(percent(right)) y1=(base) y2=(base + 5.0) {}
                    text.axis x=(percent(right)) y=(base + 18.0) text-anchor=(anchor) { (span(bucket.up_to_us)) }
                }
            }
            line.axis x1="0" x2="100%" y1=(base) y2=(base) {}
            @if let Some(at) = (0..buckets.len()).find(|at| bound_us > above(*at) && bound_us <= buckets[*at].up_to_us) {
                // Buckets grow by factors, so within one a time has its place by its logarithm.
                @let (from, to) = (above(at).max(1) as f64, buckets[at].up_to_us as f64);
                @let share = if to > from { (bound_us as f64 / from).ln() / (to / from).ln() } else { 1.0 };
                @let x = width * (at as f64 + share.clamp(0.0, 1.0));
                line.bound x1=(percent(x)) x2=(percent(x)) y1="0" y2=(base) { title { "bound " (span(bound_us)) } }
                text.bound x=(percent(x)) y="11" dx=(if x > 50.0 { "-4" } else { "4" })
                    text-anchor=(if x > 50.0 { "end" } else { "start" }) { "bound " (span(bound_us)) }
            }
        }
    }
}

/// The height of a fault's lane.
const LANE: usize = 24;

/// Faults as shaded stretches, each in a lane of its own, and violations as lines across all of them.
pub(crate) fn timeline(found: &ChaosReport) -> Markup {
    let violations = || found.first_violations.iter();
    let begins = found.faults.iter().map(|fault| fault.injected_us);
    let Some(from) = begins.chain(violations().map(|violation| violation.started_us)).min() else {
        return html! {};
    };
    let ends = found.faults.iter().map(|fault| fault.healed_us.max(fault.injected_us));
    let to = ends.chain(violations().map(|violation| violation.ended_us)).max().unwrap_or(from);
    let over = (to - from).max(1);
    let x = |us: i64| 100.0 * (us - from) as f64 / over as f64;
    let base = LANE * found.faults.len().max(1) + 6;
    let told = found.first_violations.len();
    let marked = match found.violations {
        0 => String::new(),
        all if all > told => format!(", the first {told} of {all} violations marked"),
        _ => ", violations marked".to_owned(),
    };
    html! {
        figure #timeline {
            figcaption { "Faults over " (span(over)) (marked) }
            svg.timeline height=(base + 22) role="img" aria-label="Timeline of faults and violations" {
                @for (at, fault) in found.faults.iter().enumerate() {
                    // One that was never healed lasted until the end.
                    @let healed_us = if fault.healed_us < fault.injected_us { to } else { fault.healed_us };
                    @let (left, right) = (x(fault.injected_us), x(healed_us));
                    @let lane = LANE * at + 3;
                    g {
                        title { (fault.fault) " for " (span(healed_us - fault.injected_us)) ": " (fault.what) }
                        rect.shade x=(percent(left)) width=(percent(right - left)) y="0" height=(base) {}
                        rect.fault x=(percent(left)) width=(percent((right - left).max(0.4))) y=(lane)
                            height=(LANE - 4) rx="3" {}
                    }
                }
                @for violation in violations() {
                    @let x = percent(x(violation.started_us));
                    line.violation x1=(x) x2=(x) y1="0" y2=(base) {
                        title { (violation.vantage) ": " (violation.seen) }
                    }
                }
                // Names come last, so that nothing is drawn over them.
                @for (at, fault) in found.faults.iter().enumerate() {
                    @let left = x(fault.injected_us);
                    @let (anchor, dx) = if left > 50.0 { ("end", "-4") } else { ("start", "4") };
                    text.name x=(percent(left)) dx=(dx) y=(LANE * at + 17) text-anchor=(anchor) { (fault.fault) }
                }
                line.axis x1="0" x2="100%" y1=(base) y2=(base) {}
                @for us in ticks(over) {
                    @let x = percent(100.0 * us as f64 / over as f64);
                    line.tick x1=(x) x2=(x) y1=(base) y2=(base + 5) {}
                    @let anchor = if us == 0 { "start" } else if us * 100 > over * 96 { "end" } else { "middle" };
                    text.axis x=(x) y=(base + 18) text-anchor=(anchor) { (span(us)) }
                }
            }
        }
    }
}

/// Round times within a stretch that begins at 0, six steps at most.
fn ticks(over: i64) -> impl Iterator<Item = i64> {
    let steps = (0..16).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_i64.pow(power)));
    let step = steps.into_iter().find(|step| over / step <= 6).unwrap_or(over);
    (0..=6).map(move |tick| tick * step).take_while(move |tick| *tick <= over)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BucketReport;

    #[test]
    fn a_time_has_the_unit_that_suits_it() {
        for (us, words) in [
            (0, "0 s"),
            (7, "7 µs"),
            (999, "999 µs"),
            (1_500, "1.5 ms"),
            (20_000, "20 ms"),
            (123_456, "123 ms"),
            (5_000_000, "5 s"),
            (26_207_700, "26.2 s"),
        ] {
            assert_eq!(span(us), words);
        }
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(ticks(26_207_700).collect::<Vec<_>>(), [0, 5, 10, 15, 20, 25].map(|s| s * 1_000_000));
        assert_eq!(ticks(1).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn what_lies_beyond_the_bound_is_told_from_what_does_not() {
        let bucket = |up_to_us, count| BucketReport { up_to_us, count };
        let of = DistributionReport {
            count: 6,
            histogram: vec![bucket(1_000_000, 3), bucket(5_000_000, 1), bucket(10_000_000, 2)],
            ..DistributionReport::default()
        };
        let beyond = |bound_ms| histogram(&of, bound_ms).into_string().matches("beyond").count();
        assert_eq!([beyond(500), beyond(5_000), beyond(7_000), beyond(20_000)], [2, 1, 0, 0]);
        let drawn = histogram(&of, 5_000).into_string();
        assert!(drawn.contains("<text class=\"bound\" x=\"66.67%\""), "{drawn}");
    }
}
