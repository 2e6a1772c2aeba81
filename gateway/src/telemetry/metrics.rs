//! Counters and histograms, and their text for Prometheus. Names of the generation histograms follow
//! OpenTelemetry's conventions for generative AI. Plain atomics: recording takes no lock.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::{Band, BandStats, EngineStats, StoreStats};

use crate::caller;

/// Statuses counted one by one.
const STATUSES: std::ops::Range<usize> = 100..600;

const REQUEST_BOUNDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
const TOKEN_BOUNDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5];

const FIRST_TOKEN: &str = "gen_ai_server_time_to_first_token_seconds";
const OUTPUT_TOKEN: &str = "gen_ai_server_time_per_output_token_seconds";
const DURATION: &str = "gen_ai_server_request_duration_seconds";
const REQUESTS: &str = "janus_requests_total";

/// What is counted under no route of the table.
const OTHER: &str = "other";

/// Everything this server counts itself; the engine's own numbers are added when the text is written.
pub struct Metrics {
    routes: Vec<RouteMetrics>,
    pub time_to_first_token: Histogram,
    pub time_per_output_token: Histogram,
    pub connections: Gauge,
}

struct RouteMetrics {
    /// Path as the route table has it.
    path: &'static str,
    by_status: Vec<AtomicU64>,
    duration: Histogram,
}

impl Metrics {
    pub fn new(paths: impl IntoIterator<Item = &'static str>) -> Metrics {
        let route = |path| RouteMetrics {
            path,
            by_status: STATUSES.map(|_| AtomicU64::new(0)).collect(),
            duration: Histogram::new(REQUEST_BOUNDS),
        };
        Metrics {
            routes: paths.into_iter().chain([OTHER]).map(route).collect(),
            time_to_first_token: Histogram::new(REQUEST_BOUNDS),
            time_per_output_token: Histogram::new(TOKEN_BOUNDS),
            connections: Gauge::default(),
        }
    }

    /// Counts an answered request; `path` is the matched route, `None` for an unknown address.
    pub fn record_request(&self, path: Option<&str>, status: u16, duration: Duration) {
        let known = |path: &str| self.routes.iter().find(|route| route.path == path);
        let Some(route) = path.and_then(known).or(self.routes.last()) else { return };
        let place = usize::from(status).checked_sub(STATUSES.start);
        if let Some(count) = place.and_then(|place| route.by_status.get(place)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        route.duration.record(duration);
    }

    /// The text of `GET /metrics`.
    pub fn render(&self, requests_in_flight: usize, engine: &EngineStats) -> String {
        let mut text = String::with_capacity(16 << 10);
        self.render_requests(&mut text);
        heading(&mut text, FIRST_TOKEN, "histogram", "From a request's arrival to its first token.");
        self.time_to_first_token.render(&mut text, FIRST_TOKEN, "");
        heading(&mut text, OUTPUT_TOKEN, "histogram", "Between two tokens of one choice.");
        self.time_per_output_token.render(&mut text, OUTPUT_TOKEN, "");
        for (name, kind, help, value) in numbers(self.connections.get(), requests_in_flight, engine) {
            heading(&mut text, name, kind, help);
            push(&mut text, format_args!("{name} {value}\n"));
        }
        render_bands(&mut text, &engine.bands);
        text
    }

    fn render_requests(&self, text: &mut String) {
        heading(text, REQUESTS, "counter", "Requests answered, by route and status.");
        for route in &self.routes {
            for (status, count) in STATUSES.zip(&route.by_status) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    push(
                        text,
                        format_args!("{REQUESTS}{{route=\"{}\",status=\"{status}\"}} {count}\n", route.path),
                    );
                }
            }
        }
        heading(
            text,
            DURATION,
            "histogram",
            "From a request's arrival to the end of its response, by route.",
        );
        for route in self.routes.iter().filter(|route| route.duration.count() > 0) {
            route.duration.render(text, DURATION, &format!("route=\"{}\"", route.path));
        }
    }
}

/// Name, type, help, value.
type Number = (&'static str, &'static str, &'static str, u64);

fn numbers(connections: u64, requests_in_flight: usize, engine: &EngineStats) -> Vec<Number> {
    let (gauge, counter) = ("gauge", "counter");
    let gauges = [
        ("janus_connections", "Open connections.", connections as usize),
        ("janus_requests_in_flight", "Requests in work, streams included.", requests_in_flight),
        ("janus_engine_running_sequences", "Sequences that generate now.", engine.running_sequences),
        ("janus_engine_waiting_requests", "Requests that wait for a place.", engine.waiting_requests),
        ("janus_engine_waiting_tokens", "Prompt tokens of the waiting requests.", engine.waiting_tokens),
        ("janus_engine_kv_pages", "Pages for keys and values.", engine.kv_pages_total),
        ("janus_engine_kv_pages_used", "Pages that sequences hold.", engine.kv_pages_used),
        ("janus_engine_models", "Models that take requests.", engine.models),
        ("janus_engine_memory_bytes", "The memory budget of all models.", engine.memory_bytes_total),
        ("janus_engine_memory_used_bytes", "Weights and caches of all models.", engine.memory_bytes_used),
        (
            "janus_engine_kv_pages_cached",
            "Pages kept for prompts that begin with the same tokens.",
            engine.kv_pages_cached,
        ),
        ("janus_engine_kv_pages_retained", "Those kept for a day.", engine.kv_pages_retained),
        (
            "janus_engine_embed_inputs_waiting",
            "Inputs that wait to be embedded.",
            engine.embed_inputs_waiting,
        ),
    ];
    let counters = [
        ("janus_engine_prompt_tokens_total", "Prompt tokens processed.", engine.prompt_tokens),
        (
            "janus_engine_reused_prompt_tokens_total",
            "Prompt tokens found in the prefix cache.",
            engine.reused_prompt_tokens,
        ),
        ("janus_engine_kv_evictions_total", "Cached pages given up for new ones.", engine.kv_evictions),
        ("janus_engine_kv_restored_total", "Pages read back from disk.", engine.kv_pages_restored),
        ("janus_engine_generated_tokens_total", "Tokens generated.", engine.generated_tokens),
        ("janus_engine_embedded_tokens_total", "Tokens embedded.", engine.embedded_tokens),
        (
            "janus_engine_finished_requests_total",
            "Sequences that ended by themselves.",
            engine.finished_requests,
        ),
        (
            "janus_engine_cancelled_requests_total",
            "Sequences that were cancelled.",
            engine.cancelled_requests,
        ),
        ("janus_engine_failed_requests_total", "Sequences that the model failed.", engine.failed_requests),
        ("janus_engine_preemptions_total", "Sequences put back to wait.", engine.preemptions),
        ("janus_engine_guessed_tokens_total", "Tokens computed ahead on a guess.", engine.guessed_tokens),
        ("janus_engine_accepted_guesses_total", "Guesses that came true.", engine.accepted_guesses),
        ("janus_engine_drafted_guesses_total", "Guesses that a draft model made.", engine.drafted_guesses),
        ("janus_engine_accepted_drafts_total", "Those of them that came true.", engine.accepted_drafts),
        ("janus_engine_steps_total", "Forward steps.", engine.steps),
        (
            "janus_engine_prefix_hits_total",
            "Requests that found part of their prompt in the prefix cache.",
            engine.prefix_hits,
        ),
    ];
    let store = engine.store.iter().flat_map(store_numbers);
    let gauges = gauges.map(|(name, help, value)| (name, gauge, help, value as u64));
    let counters = counters.map(|(name, help, value)| (name, counter, help, value));
    gauges.into_iter().chain(counters).chain(store).collect()
}

/// Of the pages on disk.
fn store_numbers(store: &StoreStats) -> [Number; 7] {
    [
        ("janus_store_pages", "gauge", "Pages on disk.", store.pages as u64),
        ("janus_store_bytes", "gauge", "What they take.", store.bytes),
        ("janus_store_written_total", "counter", "Pages written.", store.written_pages),
        ("janus_store_hits_total", "counter", "Pages read back.", store.read_pages),
        ("janus_store_misses_total", "counter", "Pages asked for and gone.", store.missed_pages),
        ("janus_store_refused_total", "counter", "Pages found damaged or foreign.", store.refused_pages),
        ("janus_store_errors_total", "counter", "Reads and writes that failed.", store.errors),
    ]
}

type OfBand = fn(&BandStats) -> u64;

/// One row for each band of urgency.
fn render_bands(text: &mut String, bands: &[BandStats; Band::ALL.len()]) {
    let rows: [(&str, &str, &str, OfBand); 4] = [
        ("janus_band_running_sequences", "gauge", "Sequences that generate now.", |band| {
            band.running_sequences as u64
        }),
        ("janus_band_waiting_sequences", "gauge", "Sequences that wait for a place.", |band| {
            band.waiting_sequences as u64
        }),
        ("janus_band_prompt_tokens_total", "counter", "Prompt tokens served.", |band| band.prompt_tokens),
        ("janus_band_generated_tokens_total", "counter", "Tokens generated.", |band| band.generated_tokens),
    ];
    for (name, kind, help, value) in rows {
        heading(text, name, kind, help);
        for (band, stats) in Band::ALL.into_iter().zip(bands) {
            let (band, value) = (caller::band_name(band), value(stats));
            push(text, format_args!("{name}{{band=\"{band}\"}} {value}\n"));
        }
    }
}

fn heading(text: &mut String, name: &str, kind: &str, help: &str) {
    push(text, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.write_fmt(line).expect("writing to a string never fails");
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn subtract(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Durations counted into buckets.
pub struct Histogram {
    /// Upper bounds in seconds, ascending; one more bucket takes the rest.
    bounds: &'static [f64],
    buckets: Vec<AtomicU64>,
    sum_us: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, buckets, sum_us: AtomicU64::new(0) }
    }

    pub fn record(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(duration.as_micros() as u64, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// `labels` is empty or as in `route="/x"`.
    fn render(&self, text: &mut String, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        let bounds = self.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (bound, bucket) in bounds.zip(&self.buckets) {
            total += bucket.load(Ordering::Relaxed);
            push(text, format_args!("{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}\n"));
        }
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let sum = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        push(text, format_args!("{name}_sum{braces} {sum}\n{name}_count{braces} {total}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_was_recorded() {
        let metrics = Metrics::new(["/a", "/b"]);
        metrics.record_request(Some("/a"), 200, Duration::from_millis(1));
        metrics.record_request(Some("/a"), 200, Duration::from_secs(1000));
        metrics.record_request(Some("/a"), 429, Duration::ZERO);
        metrics.record_request(Some("/nowhere"), 404, Duration::ZERO);
        metrics.record_request(None, 999, Duration::ZERO);
        metrics.time_to_first_token.record(Duration::from_millis(30));
        let mut engine = EngineStats { running_sequences: 2, prefix_hits: 4, ..EngineStats::default() };
        engine.bands[Band::Batch as usize].generated_tokens = 7;
        assert!(!metrics.render(3, &engine).contains("janus_store"), "without a store");
        engine.store = Some(StoreStats { pages: 5, missed_pages: 6, ..StoreStats::default() });
        let text = metrics.render(3, &engine);
        for line in [
            "janus_requests_total{route=\"/a\",status=\"200\"} 2",
            "janus_requests_total{route=\"/a\",status=\"429\"} 1",
            "janus_requests_total{route=\"other\",status=\"404\"} 1",
            "gen_ai_server_request_duration_seconds_bucket{route=\"/a\",le=\"0.001\"} 2",
            "gen_ai_server_request_duration_seconds_bucket{route=\"/a\",le=\"300\"} 2",
            "gen_ai_server_request_duration_seconds_bucket{route=\"/a\",le=\"+Inf\"} 3",
            "gen_ai_server_request_duration_seconds_sum{route=\"/a\"} 1000.001",
            "gen_ai_server_time_to_first_token_seconds_bucket{le=\"0.025\"} 0",
            "gen_ai_server_time_to_first_token_seconds_bucket{le=\"0.05\"} 1",
            "gen_ai_server_time_to_first_token_seconds_count 1",
            "janus_requests_in_flight 3",
            "janus_engine_running_sequences 2",
            "janus_engine_prefix_hits_total 4",
            "janus_band_generated_tokens_total{band=\"batch\"} 7",
            "janus_band_generated_tokens_total{band=\"interactive\"} 0",
            "janus_store_pages 5",
            "janus_store_misses_total 6",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("route=\"/b\""), "routes without requests are left out");
    }
}
