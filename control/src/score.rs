//! How fit a runner is for one more sandbox, from 0 to 100 (runner contract 2.5; checked there against recorded scores).

use pinfold_proto::runner::health::RunnerMetrics;

/// Weight, optimal and critical value of each criterion, in percent.
const CRITERIA: [(f64, f64, f64); 7] = [
    (0.25, 0.0, 100.0),
    (0.40, 0.0, 100.0),
    (0.40, 0.0, 100.0),
    (0.03, 100.0, 500.0),
    (0.03, 100.0, 500.0),
    (0.03, 100.0, 500.0),
    (0.10, 0.0, 100.0),
];

/// The score. Figures that make no sense score 0, never more.
pub(crate) fn score(m: &RunnerMetrics) -> u8 {
    let share = |part: f64, whole: f64| if whole > 0.0 { part / whole * 100.0 } else { f64::NAN };
    #[expect(clippy::cast_precision_loss, reason = "a count of sandboxes is far below 2^52")]
    let started = m.current_started_sandboxes as f64;
    let values = [
        m.current_cpu_usage_percentage,
        m.current_memory_usage_percentage,
        m.current_disk_usage_percentage,
        share(m.current_allocated_cpu, m.cpu),
        share(m.current_allocated_memory_gib, m.memory_gib),
        share(m.current_allocated_disk_gib, m.disk_gib),
        started,
    ];
    if values.iter().any(|v| !v.is_finite() || *v < 0.0) {
        return 0;
    }
    let distance = |target: fn(&(f64, f64, f64)) -> f64| -> f64 {
        let squares = values.iter().zip(&CRITERIA).map(|(x, c)| c.0 * ((x - target(c)) / 100.0).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let (optimal, critical) = (distance(|c| c.1), distance(|c| c.2));
    let penalties = [
        (m.current_cpu_usage_percentage, 90.0, 0.15),
        (m.current_cpu_load_average, 0.7, 0.1),
        (m.current_memory_usage_percentage, 75.0, 0.15),
        (m.current_disk_usage_percentage, 75.0, 0.15),
    ];
    let penalty: f64 = penalties.iter().filter(|p| p.0 >= p.1).map(|p| (-p.2 * (p.0 - p.1)).exp()).product();
    let score = (100.0 * critical / (optimal + critical) * penalty).round().clamp(0.0, 100.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=100 above")]
    let score = if score.is_finite() { score as u8 } else { 0 };
    score
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_a_recorded_score() {
        let metrics = RunnerMetrics {
            current_cpu_load_average: 0.05,
            current_cpu_usage_percentage: 3.5,
            current_memory_usage_percentage: 12.5,
            current_disk_usage_percentage: 20.25,
            current_snapshot_count: 1,
            cpu: 64.0,
            memory_gib: 251.5,
            disk_gib: 1800.25,
            ..RunnerMetrics::default()
        };
        assert_eq!(score(&metrics), 84);
        assert_eq!(score(&RunnerMetrics { current_memory_usage_percentage: -1.0, ..metrics }), 0);
        assert_eq!(score(&RunnerMetrics::default()), 0);
    }
}
