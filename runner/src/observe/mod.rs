//! Counters and their Prometheus text (runner contract 12.1), with what operators of the original asked for: work under way by kind.

pub(crate) mod process;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pinfold_proto::id::VolumeId;

const BUCKETS: [f64; 15] =
    [0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0];

#[derive(Debug, Default, Clone)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

#[derive(Debug, Default)]
struct State {
    durations: BTreeMap<&'static str, Histogram>,
    totals: BTreeMap<(&'static str, &'static str), u64>,
    under_way: BTreeMap<&'static str, u64>,
    out_of_memory: u64,
    /// Mounts of volumes that were replaced under running sandboxes, and attempts that failed.
    healed: u64,
    heals_failed: u64,
}

/// All counters of a node.
#[derive(Debug, Default)]
pub struct Counters(Mutex<State>);

/// Counts an operation as under way until it is dropped.
#[derive(Debug)]
pub struct UnderWay<'a> {
    counters: &'a Counters,
    operation: &'static str,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.counters.state().under_way.get_mut(self.operation) {
            *count = count.saturating_sub(1);
        }
    }
}

impl Counters {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation as under way.
    pub fn begin(&self, operation: &'static str) -> UnderWay<'_> {
        *self.state().under_way.entry(operation).or_default() += 1;
        UnderWay { counters: self, operation }
    }

    /// Writes an operation's end to the log and the counters together.
    pub fn finished<T, E: std::fmt::Display>(
        &self,
        operation: &'static str,
        object: &str,
        since: Instant,
        result: &Result<T, E>,
    ) {
        let took = since.elapsed();
        match result {
            Ok(_) => tracing::info!(operation, object, ms = took.as_millis(), "done"),
            Err(error) => tracing::warn!(operation, object, ms = took.as_millis(), %error, "failed"),
        }
        self.record(operation, took, result.is_ok());
    }

    fn record(&self, operation: &'static str, took: Duration, success: bool) {
        let mut state = self.state();
        *state.totals.entry((operation, if success { "success" } else { "failure" })).or_default() += 1;
        let histogram = state.durations.entry(operation).or_default();
        let seconds = took.as_secs_f64();
        histogram.count += 1;
        histogram.sum += seconds;
        for (bucket, bound) in histogram.buckets.iter_mut().zip(BUCKETS) {
            if seconds <= bound {
                *bucket += 1;
            }
        }
    }

    /// Counts a process that the kernel killed in a sandbox for want of memory.
    pub fn count_oom(&self) {
        self.state().out_of_memory += 1;
    }

    /// Writes what became of a look at a volume's mounts to the log and the counters together; that nothing was dead is no news.
    pub(crate) fn healed<E: std::fmt::Display>(
        &self,
        volume: &VolumeId,
        since: Instant,
        result: &Result<usize, E>,
    ) {
        let ms = since.elapsed().as_millis();
        match result {
            Ok(0) => {}
            Ok(mounts) => {
                tracing::warn!(%volume, mounts, ms, "a volume's mount had died; its running sandboxes have a new one");
                self.state().healed += *mounts as u64;
            }
            Err(error) => {
                tracing::warn!(%volume, ms, %error, "a volume's dead mount could not be replaced; trying again");
                self.state().heals_failed += 1;
            }
        }
    }

    /// How many operations of a kind are under way.
    pub fn under_way(&self, operation: &str) -> u64 {
        self.state().under_way.get(operation).copied().unwrap_or(0)
    }

    /// The Prometheus text format.
    pub fn prometheus(&self) -> String {
        let state = self.state();
        let mut text = String::new();
        let name = "container_operation_duration_seconds";
        describe(&mut text, name, "histogram", "Duration of sandbox operations, failed ones included.");
        for (operation, h) in &state.durations {
            for (bound, count) in BUCKETS.iter().zip(h.buckets) {
                let _ = writeln!(text, "{name}_bucket{{operation=\"{operation}\",le=\"{bound}\"}} {count}");
            }
            let _ = writeln!(text, "{name}_bucket{{operation=\"{operation}\",le=\"+Inf\"}} {}", h.count);
            let _ = writeln!(
                text,
                "{name}_sum{{operation=\"{operation}\"}} {}\n{name}_count{{operation=\"{operation}\"}} {}",
                h.sum, h.count
            );
        }
        let name = "container_operation_total";
        describe(&mut text, name, "counter", "Sandbox operations by outcome.");
        for ((operation, status), count) in &state.totals {
            let _ = writeln!(text, "{name}{{operation=\"{operation}\",status=\"{status}\"}} {count}");
        }
        let name = "pinfold_operations_under_way";
        describe(&mut text, name, "gauge", "Operations under way.");
        for (operation, count) in &state.under_way {
            let _ = writeln!(text, "{name}{{operation=\"{operation}\"}} {count}");
        }
        let plain = [
            ("pinfold_out_of_memory_total", "Times that a sandbox ran out of memory.", state.out_of_memory),
            (
                "pinfold_volume_mounts_healed_total",
                "Dead mounts of volumes that were replaced under running sandboxes.",
                state.healed,
            ),
            ("pinfold_volume_heal_failures_total", "Attempts at that which failed.", state.heals_failed),
        ];
        for (name, help, count) in plain {
            describe(&mut text, name, "counter", help);
            let _ = writeln!(text, "{name} {count}");
        }
        text
    }
}

/// Says what the samples are that follow.
pub(crate) fn describe(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pain_37_buckets_are_cumulative_and_work_under_way_is_seen() {
        let counters = Counters::default();
        counters.record("create", Duration::from_millis(200), true);
        counters.record("create", Duration::from_secs(4), false);
        let guard = counters.begin("pull");
        let text = counters.prometheus();
        for line in [
            "container_operation_duration_seconds_bucket{operation=\"create\",le=\"0.1\"} 0",
            "container_operation_duration_seconds_bucket{operation=\"create\",le=\"0.25\"} 1",
            "container_operation_duration_seconds_bucket{operation=\"create\",le=\"5\"} 2",
            "container_operation_total{operation=\"create\",status=\"failure\"} 1",
            "pinfold_operations_under_way{operation=\"pull\"} 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        drop(guard);
        assert_eq!(counters.under_way("pull"), 0);
    }
}
