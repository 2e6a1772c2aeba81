//! The `object` constants of replies, one type each so that a document says exactly what comes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! object {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub enum $name {
            #[default]
            #[serde(rename = $text)]
            Value,
        }
    )*};
}

object! {
    ChatCompletionObject = "chat.completion";
    ChatChunkObject = "chat.completion.chunk";
    CompletionObject = "text_completion";
    EmbeddingObject = "embedding";
    ListObject = "list";
    ModelObject = "model";
}
