//! On whose behalf a request runs. That follows from its key alone; a header can only make it less
//! urgent.

use axum::extract::Request;
use engine::{Band, Caller};
use http::{HeaderMap, HeaderName};

use crate::error::{ApiError, ApiResult};

const BAND: HeaderName = HeaderName::from_static("x-janus-band");

/// What a band is called in headers, files and metrics.
pub const fn band_name(band: Band) -> &'static str {
    match band {
        Band::System => "system",
        Band::Interactive => "interactive",
        Band::Batch => "batch",
        Band::BestEffort => "best-effort",
    }
}

/// The caller that authentication found; anybody's, on a server without keys.
pub fn of(request: &Request) -> Caller {
    request.extensions().get::<Caller>().cloned().unwrap_or_default()
}

/// `caller` in the band that its request asks for, or its own if that is less urgent.
///
/// # Errors
/// 400 for a band that does not exist.
pub fn lowered(caller: Caller, headers: &HeaderMap) -> ApiResult<Caller> {
    let Some(asked) = headers.get(BAND) else { return Ok(caller) };
    let is_named = |band: &Band| asked.as_bytes().eq_ignore_ascii_case(band_name(*band).as_bytes());
    let Some(band) = Band::ALL.into_iter().find(is_named) else {
        let names = Band::ALL.map(band_name).join(", ");
        return Err(ApiError::bad_request(format!("The header `{BAND}` must be one of {names}")));
    };
    Ok(Caller { band: caller.band.max(band), ..caller })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_can_only_lower_the_band() {
        let band_of = |own: Band, header: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(BAND, header.parse().unwrap());
            lowered(Caller { band: own, ..Caller::default() }, &headers).map(|caller| caller.band).ok()
        };
        for (own, header, expected) in [
            (Band::Interactive, "batch", Some(Band::Batch)),
            (Band::Interactive, "Best-Effort", Some(Band::BestEffort)),
            (Band::Interactive, "system", Some(Band::Interactive)),
            (Band::BestEffort, "interactive", Some(Band::BestEffort)),
            (Band::System, "interactive", Some(Band::Interactive)),
            (Band::Interactive, "urgent", None),
            (Band::Interactive, "", None),
        ] {
            assert_eq!(band_of(own, header), expected, "{own:?}, {header}");
        }
        assert_eq!(lowered(Caller::default(), &HeaderMap::new()).unwrap(), Caller::default());
    }
}
