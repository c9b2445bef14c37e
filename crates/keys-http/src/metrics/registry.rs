//! The metrics: their counters, and their output.

use std::collections::HashMap;
use std::sync::{OnceLock, PoisonError, RwLock};

use actix_web::http::StatusCode;
use keys_core::Denial;
use keys_service::ports::LimiterState;
use keys_service::{KeyService, VerdictCode};
use metrics::{Counter, Key, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use crate::endpoint::Endpoint;
use crate::route_label::Route;

const VERDICTS: &str = "keys_verdicts_total";
const REQUESTS: &str = "keys_http_requests_total";
/// The codes of verdicts that answers show. [`Denial::KindNotAllowed`] is shown as not found.
fn codes() -> impl Iterator<Item = VerdictCode> {
    let denials = Denial::ALL.into_iter();
    let shown = denials.filter(|denial| *denial != Denial::KindNotAllowed);
    [VerdictCode::Valid, VerdictCode::RateLimited]
        .into_iter()
        .chain(shown.map(VerdictCode::Denied))
}

/// All metrics, and the recorder that writes them.
pub(crate) struct Metrics {
    recorder: PrometheusRecorder,
    /// Looked up once, so that counting a verdict is one addition.
    verdicts: Vec<(VerdictCode, Counter)>,
    /// The same for verifications that were answered 200.
    hot: [OnceLock<Counter>; Endpoint::ALL.len()],
    requests: RwLock<HashMap<String, HashMap<StatusCode, Counter>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for (name, description) in [
            (VERDICTS, "Verdicts on keys given over HTTP, by code."),
            (REQUESTS, "Requests answered, by route and status."),
        ] {
            recorder.describe_counter(name.into(), None, description.into());
        }
        let counted = |code: VerdictCode| {
            let label = Label::from_static_parts("code", code.as_str());
            let key = Key::from_parts(VERDICTS, vec![label]);
            (code, recorder.register_counter(&key, &METADATA))
        };
        let verdicts = codes().map(counted).collect();
        Self {
            recorder,
            verdicts,
            hot: Default::default(),
            requests: RwLock::default(),
        }
    }
}

/// A metric of the application.
pub(crate) struct Extra {
    pub(crate) name: &'static str,
    pub(crate) label: Option<(&'static str, &'static str)>,
    pub(crate) kind: ExtraKind,
    pub(crate) description: &'static str,
    pub(crate) value: Box<dyn Fn() -> u64 + Send + Sync>,
}

pub(crate) enum ExtraKind {
    Counter,
    Gauge,
}

const METADATA: Metadata<'static> = Metadata::new("keys_http", Level::INFO, None);

impl Metrics {
    /// Counts a verdict, with the code in the answer.
    pub(crate) fn count_verdict(&self, code: VerdictCode) {
        let counter = self.verdicts.iter().find(|(known, _)| *known == code);
        if let Some((_, counter)) = counter {
            counter.increment(1);
        }
    }

    /// Counts an answered request. The number of routes is bounded by those of the application.
    pub(crate) fn count_request(&self, route: &Route, status: StatusCode) {
        if let Route::Hot(endpoint) = route
            && status == StatusCode::OK
        {
            let counter = &self.hot[*endpoint as usize];
            let counter = counter.get_or_init(|| self.requests(endpoint.path(), status));
            return counter.increment(1);
        }
        let route = route.pattern();
        {
            let requests = self.requests.read().unwrap_or_else(PoisonError::into_inner);
            let known = requests.get(route).and_then(|route| route.get(&status));
            if let Some(counter) = known {
                counter.increment(1);
                return;
            }
        }
        let counter = self.requests(route, status);
        counter.increment(1);
        let mut requests = self
            .requests
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let statuses = requests.entry(route.to_owned()).or_default();
        // Another thread may have registered the same counter meanwhile.
        statuses.entry(status).or_insert(counter);
    }

    fn requests(&self, route: &str, status: StatusCode) -> Counter {
        let labels = vec![
            Label::new("route", route.to_owned()),
            Label::new("status", status.as_str().to_owned()),
        ];
        let key = Key::from_parts(REQUESTS, labels);
        self.recorder.register_counter(&key, &METADATA)
    }

    pub(super) fn render(&self, service: &KeyService, extra: &[Extra]) -> String {
        let (state, reads) = (service.cache_state(), service.read_state());
        let behind = state.behind.map(|behind| behind.as_secs_f64());
        let oldest = service.oldest_change().unwrap_or_default();
        #[expect(
            clippy::cast_precision_loss,
            reason = "a cache of more than 2^52 bytes is far off"
        )]
        let gauges = [
            (
                "keys_cache_entries",
                "Keys in the cache.",
                state.entries as f64,
            ),
            (
                "keys_cache_bytes",
                "Bytes that keys in the cache take beside their fixed part.",
                state.bytes as f64,
            ),
            (
                "keys_changes_behind_seconds",
                "How long ago this instance knew every change; infinite if it never did. Beyond 2 the cache is of no use.",
                behind.unwrap_or(f64::INFINITY),
            ),
            (
                "keys_changes_oldest_seconds",
                "Age of the oldest row in the log of changes after the last sweep; 0 if the log was empty.",
                oldest.as_secs_f64(),
            ),
            (
                "keys_changes_listener",
                "Whether the listener for changes is up: 1 if it is, 0 if not.",
                state.is_listening.into(),
            ),
            (
                "keys_revocations_remembered",
                "Acknowledged revocations of the last two minutes, which are applied again after a failover.",
                service.revocations_remembered() as f64,
            ),
            (
                "keys_replication_asynchronous",
                "Whether the database acknowledges changes before a replica has them: 1 if it does, 0 if not.",
                state.is_replicated_asynchronously.into(),
            ),
            (
                "keys_store_reads_under_way",
                "Reads of keys under way.",
                reads.under_way as f64,
            ),
            (
                "keys_store_reads_waited_for",
                "Requests that wait for the next read.",
                reads.waiting as f64,
            ),
        ];
        for (name, description, value) in gauges {
            self.set_gauge(Key::from_static_name(name), description, value);
        }
        let counters = [
            (
                "keys_store_reads_total",
                "Reads of keys that the cache did not know, each for as many as waited.",
                reads.reads,
            ),
            (
                "keys_store_keys_read_total",
                "Keys that these reads asked for.",
                reads.keys,
            ),
            (
                "keys_limiter_undecided_total",
                "Requests that the shared counter of limits has not decided.",
                service.limiter_undecided_total(),
            ),
            (
                "keys_uses_dropped_total",
                "Uses of keys that were given up, because those of a million keys waited to be written.",
                service.uses_dropped_total(),
            ),
        ];
        for (name, description, value) in counters {
            self.set_counter(Key::from_static_name(name), description, value);
        }
        for metric in extra {
            self.set_extra(metric);
        }
        let counted_by = service.limiter_state();
        for state in LimiterState::ALL {
            let label = Label::from_static_parts("state", state.as_str());
            self.set_gauge(
                Key::from_parts("keys_limiter", vec![label]),
                "Who counts limits at the moment: 1 for that state, 0 for the others.",
                (state == counted_by).into(),
            );
        }
        self.recorder.handle().render()
    }

    fn set_extra(&self, metric: &Extra) {
        let label = metric.label.iter();
        let labels: Vec<_> = label
            .map(|(name, value)| Label::from_static_parts(name, value))
            .collect();
        let key = Key::from_parts(metric.name, labels);
        let value = (metric.value)();
        match metric.kind {
            ExtraKind::Counter => self.set_counter(key, metric.description, value),
            #[expect(clippy::cast_precision_loss, reason = "2^52 of anything is far off")]
            ExtraKind::Gauge => self.set_gauge(key, metric.description, value as f64),
        }
    }

    fn set_counter(&self, key: Key, description: &'static str, value: u64) {
        let counter = self.recorder.register_counter(&key, &METADATA);
        counter.absolute(value);
        let (name, _) = key.into_parts();
        self.recorder
            .describe_counter(name, None, description.into());
    }

    fn set_gauge(&self, key: Key, description: &'static str, value: f64) {
        self.recorder.register_gauge(&key, &METADATA).set(value);
        let (name, _) = key.into_parts();
        self.recorder.describe_gauge(name, None, description.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_of_a_verdict_is_counted_and_documented() {
        let document = include_str!("../../../../docs/api/verification.md");
        let rows: Vec<_> = document
            .lines()
            .filter_map(|line| line.strip_prefix("| ")?.split(" |").next())
            .collect();
        for code in codes() {
            let code = format!("`{}`", code.as_str());
            assert!(rows.iter().any(|row| row.contains(&code)), "{code}");
        }
        let metrics = Metrics::default();
        for denial in Denial::ALL {
            let code = VerdictCode::Denied(denial);
            let is_counted = metrics.verdicts.iter().any(|(known, _)| *known == code);
            assert_eq!(is_counted, denial != Denial::KindNotAllowed, "{denial:?}");
        }
    }
}
