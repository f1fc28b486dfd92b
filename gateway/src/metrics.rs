//! The process's metrics, in Prometheus' text form.

use std::{sync::OnceLock, time::Duration};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

/// How often histograms are folded so that they do not grow between two scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// One recorder serves a process, also when tests start several servers in it.
static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Starts recording, if nothing records yet.
pub fn start() {
    RECORDER.get_or_init(|| {
        let handle = PrometheusBuilder::new().install_recorder().ok()?;
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
