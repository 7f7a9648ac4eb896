//! Distributions: how long something took, over many cases.

use std::fmt;

/// How long something took: percentiles and a histogram. All zero and empty without any case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    pub count: usize,
    pub p50_us: i64,
    pub p90_us: i64,
    pub p99_us: i64,
    pub max_us: i64,
    /// From the smallest that has any case to the largest, empty ones between included.
    pub histogram: Vec<Bucket>,
}

/// The cases that took up to a time, and longer than the bucket before says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    pub up_to_us: i64,
    pub count: usize,
}

impl Distribution {
    /// Of times in microseconds, in any order.
    pub fn of(mut times: Vec<i64>) -> Self {
        times.sort_unstable();
        // The nearest rank: at least so many of a hundred took no longer.
        let percentile = |percent: usize| match (times.len() * percent).div_ceil(100) {
            0 => 0,
            rank => times[rank - 1],
        };
        Self {
            count: times.len(),
            p50_us: percentile(50),
            p90_us: percentile(90),
            p99_us: percentile(99),
            max_us: percentile(100),
            histogram: histogram(&times),
        }
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, p50_us, p90_us, p99_us, max_us, .. } = self;
        if *count == 0 {
            return f.write_str("none");
        }
        let [p50, p90, p99, max] = [p50_us, p90_us, p99_us, max_us].map(|time| in_words(*time));
        write!(f, "{count}: half within {p50}, p90 {p90}, p99 {p99}, at most {max}")
    }
}

fn in_words(time_us: i64) -> String {
    match time_us {
        ..1_000 => format!("{time_us} µs"),
        1_000..10_000_000 => format!("{} ms", time_us / 1_000),
        _ => format!("{} s", time_us / 1_000_000),
    }
}

/// Buckets up to 1, 2, 5, 10, 20, 50 ... microseconds.
fn histogram(sorted: &[i64]) -> Vec<Bucket> {
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else {
        return Vec::new();
    };
    let mut buckets = Vec::new();
    let mut before = 0;
    let mut decade = 1_i64;
    let mut factors = [1, 2, 5].into_iter().cycle();
    loop {
        let factor = factors.next().unwrap_or(1);
        let up_to_us = decade.saturating_mul(factor);
        if factor == 5 {
            decade = decade.saturating_mul(10);
        }
        let until = sorted.partition_point(|time| *time <= up_to_us);
        if *first <= up_to_us {
            buckets.push(Bucket { up_to_us, count: until - before });
        }
        before = until;
        if *last <= up_to_us {
            return buckets;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let distribution = Distribution::of((1..=200).rev().collect());
        let Distribution { count, p50_us, p90_us, p99_us, max_us, .. } = distribution;
        assert_eq!((count, p50_us, p90_us, p99_us, max_us), (200, 100, 180, 198, 200));
        assert_eq!(Distribution::of(vec![]), Distribution::default());
        assert_eq!(Distribution::of(vec![7]).p50_us, 7);
    }

    #[test]
    fn the_histogram_counts_each_case_once() {
        let bucket = |up_to_us, count| Bucket { up_to_us, count };
        assert_eq!(
            Distribution::of(vec![3, 4, 5, 6, 90, 100]).histogram,
            [bucket(5, 3), bucket(10, 1), bucket(20, 0), bucket(50, 0), bucket(100, 2)]
        );
        let far = Distribution::of(vec![1, i64::MAX]);
        assert_eq!(far.histogram.iter().map(|bucket| bucket.count).sum::<usize>(), 2);
    }

    #[test]
    fn is_told_in_words() {
        let text = Distribution::of(vec![500, 2_500, 12_000_000]).to_string();
        assert_eq!(text, "3: half within 2 ms, p90 12 s, p99 12 s, at most 12 s");
        assert_eq!(Distribution::default().to_string(), "none");
    }
}
