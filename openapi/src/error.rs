//! The error shape of every failure, in a body or as an event of a stream.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorReply {
    pub error: ErrorBody,
}

/// All four members are always present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    /// What went wrong and what to do about it, for a person.
    pub message: String,
    /// Its family, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The request's parameter at fault.
    #[schemars(required, extend("type" = ["string", "null"]))]
    pub param: Option<String>,
    /// A constant for programs, such as `context_length_exceeded`.
    #[schemars(required, extend("type" = ["string", "null"]))]
    pub code: Option<String>,
}
