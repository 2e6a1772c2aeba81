//! What types cannot say of the values.

use super::address::is_host_name;
use super::{Client, Config, ConfigError};

impl Config {
    /// Checks values that types cannot. Whether the address may be listened on is checked by
    /// [`listen_address`], once the keys are read.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] naming the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (key, value, least) in self.lower_bounds() {
            if value < least {
                return Err(ConfigError::Invalid { key, reason: format!("must be at least {least}") });
            }
        }
        if let Some(host) = self.server.allowed_hosts.iter().find(|host| !is_host_name(host)) {
            return Err(ConfigError::Invalid {
                key: "server.allowed_hosts",
                reason: format!("holds `{host}`: write host names only, without scheme or port"),
            });
        }
        if self.engine.kv_share_percent > 100 {
            return Err(ConfigError::Invalid {
                key: "engine.kv_share_percent",
                reason: "can be 100 at most".into(),
            });
        }
        Client::check_all(&self.auth.clients)?;
        self.prefix.public.iter().try_for_each(|public| public.check(&self.auth))?;
        if self.limits.logprobs_max > 20 {
            return Err(ConfigError::Invalid {
                key: "limits.logprobs_max",
                reason: "can be 20 at most".into(),
            });
        }
        Ok(())
    }

    /// Key, value, and the least it can be.
    fn lower_bounds(&self) -> Vec<(&'static str, u64, u64)> {
        let (server, engine, limits) = (&self.server, &self.engine, &self.limits);
        vec![
            ("server.connections_max", server.connections_max as u64, 1),
            ("server.requests_in_flight_max", server.requests_in_flight_max as u64, 1),
            ("server.header_deadline_ms", server.header_deadline_ms, 1),
            ("server.body_deadline_ms", server.body_deadline_ms, 1),
            ("server.idle_deadline_ms", server.idle_deadline_ms, 1),
            ("server.write_deadline_ms", server.write_deadline_ms, 1),
            ("server.request_deadline_ms", server.request_deadline_ms, 1),
            ("server.body_bytes_max", server.body_bytes_max as u64, 1),
            // The smallest buffer hyper allows.
            ("server.header_bytes_max", server.header_bytes_max as u64, 8192),
            ("server.h2_streams_max", server.h2_streams_max.into(), 1),
            ("server.keep_alive_ms", server.keep_alive_ms, 1),
            ("engine.waiting_requests_max", engine.waiting_requests_max as u64, 1),
            ("engine.waiting_tokens_max", engine.waiting_tokens_max as u64, 1),
            ("engine.running_sequences_max", engine.running_sequences_max as u64, 1),
            ("engine.step_tokens_max", engine.step_tokens_max as u64, 1),
            ("engine.mixed_prefill_tokens_max", engine.mixed_prefill_tokens_max as u64, 1),
            ("engine.embed_share_percent", engine.embed_share_percent as u64, 1),
            ("engine.embed_waiting_tokens_max", engine.embed_waiting_tokens_max as u64, 1),
            ("engine.kv_mib", engine.kv_mib as u64, 1),
            ("engine.stream_backlog", engine.stream_backlog as u64, 1),
            ("engine.stalled_client_ms", engine.stalled_client_ms, 1),
            ("models.on_demand_wait_ms", self.models.on_demand_wait_ms, 1),
            ("models.packed_mib", self.models.packed_mib as u64, 1),
            ("prefix.store_mib", self.prefix.store_mib as u64, 1),
            ("limits.choices_max", limits.choices_max as u64, 1),
            ("limits.logprobs_mib", limits.logprobs_mib as u64, 1),
            ("limits.messages_max", limits.messages_max as u64, 1),
            ("limits.embedding_inputs_max", limits.embedding_inputs_max as u64, 1),
        ]
    }
}
