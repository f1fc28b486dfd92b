//! The process's metrics, in Prometheus' text form.

use std::{sync::OnceLock, time::Duration};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

/// How often histograms are folded so that they do not grow between two scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// The upper bounds of durations: 50 µs to 5 s.
const SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0,
    2.0, 5.0,
];
/// The upper bounds of how long records wait: 1 ms to a day.
const WAITS: &[f64] =
    &[0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0, 21_600.0, 86_400.0];
/// The upper bounds of sizes: 1 KiB to 64 MiB, by fours.
const BYTES: &[f64] = &[
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// One recorder serves a process, also when tests start several servers in it.
static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Starts recording, if nothing records yet.
pub fn start() {
    RECORDER.get_or_init(|| {
        let builder = [("_seconds", SECONDS), ("_bytes", BYTES)].into_iter().try_fold(
            PrometheusBuilder::new(),
            |builder, (ending, bounds)| {
                builder.set_buckets_for_metric(Matcher::Suffix(ending.to_owned()), bounds)
            },
        );
        let waits = Matcher::Full("mainstem_wait_seconds".to_owned());
        let builder = builder.and_then(|builder| builder.set_buckets_for_metric(waits, WAITS));
        let handle = builder.ok()?.install_recorder().ok()?;
        metrics::describe_gauge!("mainstem_build_info", "1, with the version as a label");
        metrics::gauge!("mainstem_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Some(handle)
    });
}

/// What was recorded so far.
#[must_use]
pub fn render() -> String {
    handle().map(PrometheusHandle::render).unwrap_or_default()
}

/// Folds histograms until the shutdown.
pub async fn keep_up(shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(UPKEEP);
    // Cancel-safe: a tick that is lost is made up by the next one.
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Some(handle) = handle() {
            handle.run_upkeep();
        }
    }
}

fn handle() -> Option<&'static PrometheusHandle> {
    RECORDER.get().and_then(Option::as_ref)
}
