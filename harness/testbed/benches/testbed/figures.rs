//! What was measured: samples with their median and spread, and ratios.

use std::fmt;
use std::time::Duration;

/// One line of what is printed.
pub(crate) struct Figure {
    name: String,
    value: Value,
}

enum Value {
    Times { samples: Samples, most: Option<Duration> },
    Bytes(Samples),
    Ratio(f64),
}

impl Figure {
    pub(crate) fn times(name: impl Into<String>, samples: &[Duration]) -> Self {
        let samples = Samples::of(samples.iter().map(Duration::as_secs_f64));
        Self { name: name.into(), value: Value::Times { samples, most: None } }
    }

    /// The median is to be below `most`.
    pub(crate) fn at_most(mut self, limit: Duration) -> Self {
        if let Value::Times { most, .. } = &mut self.value {
            *most = Some(limit);
        }
        self
    }

    pub(crate) fn bytes(name: impl Into<String>, samples: &[u64]) -> Self {
        let samples = Samples::of(samples.iter().map(|bytes| *bytes as f64));
        Self { name: name.into(), value: Value::Bytes(samples) }
    }

    /// How many times as much the median of `this` is as that of `that`.
    pub(crate) fn ratio(name: impl Into<String>, this: &[Duration], that: &[Duration]) -> Self {
        let median = |times: &[Duration]| Samples::of(times.iter().map(Duration::as_secs_f64)).median();
        Self { name: name.into(), value: Value::Ratio(median(this) / median(that)) }
    }

    pub(crate) fn is_too_much(&self) -> bool {
        match &self.value {
            Value::Times { samples, most: Some(most) } => samples.median() > most.as_secs_f64(),
            _ => false,
        }
    }

    pub(crate) fn is_plausible(&self) -> bool {
        match &self.value {
            Value::Times { samples, .. } => {
                !samples.0.is_empty() && samples.0.iter().all(|sample| *sample > 0.0 && sample.is_finite())
            }
            // What was freed is used again, so that memory need not grow.
            Value::Bytes(samples) => !samples.0.is_empty(),
            Value::Ratio(ratio) => *ratio > 0.0 && ratio.is_finite(),
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:66} ", self.name)?;
        match &self.value {
            Value::Times { samples, most } => {
                samples.write(f, time)?;
                match most {
                    Some(most) if self.is_too_much() => write!(f, "; TOO MUCH: {most:?} is the most"),
                    Some(most) => write!(f, "; {most:?} is the most"),
                    None => Ok(()),
                }
            }
            Value::Bytes(samples) => samples.write(f, bytes),
            Value::Ratio(ratio) => write!(f, "{ratio:9.1}"),
        }
    }
}

/// Sorted.
struct Samples(Vec<f64>);

impl Samples {
    fn of(samples: impl Iterator<Item = f64>) -> Self {
        let mut samples: Vec<f64> = samples.collect();
        samples.sort_by(f64::total_cmp);
        Self(samples)
    }

    fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Between two samples it is as far as the quantile is between them.
    fn quantile(&self, quantile: f64) -> f64 {
        let Some(last) = self.0.len().checked_sub(1) else { return f64::NAN };
        let place = quantile * last as f64;
        let (low, high) = (self.0[place.floor() as usize], self.0[place.ceil() as usize]);
        low + (high - low) * place.fract()
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, unit: fn(f64) -> String) -> fmt::Result {
        let at = |quantile| unit(self.quantile(quantile));
        if let [only] = self.0[..] {
            return write!(f, "{:>9} (once)", unit(only));
        }
        write!(
            f,
            "{:>9} ({} to {}, {} to {}; {} times)",
            at(0.5),
            at(0.25),
            at(0.75),
            at(0.0),
            at(1.0),
            self.0.len()
        )
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        short if short < 0.001 => format!("{:.0} us", short * 1e6),
        middle if middle < 1.0 => format!("{:.1} ms", middle * 1e3),
        long => format!("{long:.2} s"),
    }
}

fn bytes(bytes: f64) -> String {
    format!("{:.2} MiB", bytes / f64::from(1 << 20))
}
