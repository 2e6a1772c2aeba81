//! What the server tells its operator: logs here, counters in `metrics.rs`.

pub mod metrics;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{ConfigError, Log, LogFormat};

/// Sends this process's logs to standard error. Later calls change nothing.
///
/// # Errors
/// [`ConfigError::Invalid`] for a filter that does not parse.
pub fn start_logs(log: &Log) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(&log.filter).map_err(|error| ConfigError::Invalid {
        key: "log.filter",
        reason: format!("`{}` is not a filter: {error}", log.filter),
    })?;
    let terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error means that a subscriber is installed already, as in tests.
    let _ = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Auto if !terminal => lines.json().flatten_event(true).try_init(),
        LogFormat::Auto | LogFormat::Text => lines.with_ansi(terminal).try_init(),
    };
    Ok(())
}
