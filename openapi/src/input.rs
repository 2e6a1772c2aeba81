//! Values that may be one thing or several. They are read in one pass, without a detour through a
//! generic JSON tree, because they carry nearly all bytes of a request.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};

use crate::Ignored;

/// `prompt` and `input`: a text, texts, token ids, or lists of token ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum TextsOrTokens {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

impl Default for TextsOrTokens {
    fn default() -> Self {
        TextsOrTokens::Texts(Vec::new())
    }
}

impl<'de> Deserialize<'de> for TextsOrTokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextsOrTokensVisitor)
    }
}

struct TextsOrTokensVisitor;

impl<'de> Visitor<'de> for TextsOrTokensVisitor {
    type Value = TextsOrTokens;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string, a list of strings, a list of token ids, or a list of such lists")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(TextsOrTokens::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Self::Value, E> {
        Ok(TextsOrTokens::Text(text))
    }

    /// The first item decides what the others must be.
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        Ok(match items.next_element::<Item>()? {
            None => TextsOrTokens::default(),
            Some(Item::Text(first)) => TextsOrTokens::Texts(rest(first, items)?),
            Some(Item::Token(first)) => TextsOrTokens::Tokens(rest(first, items)?),
            Some(Item::Tokens(first)) => TextsOrTokens::TokenLists(rest(first, items)?),
        })
    }
}

fn rest<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(first: T, mut items: A) -> Result<Vec<T>, A::Error> {
    let mut all = vec![first];
    while let Some(item) = items.next_element()? {
        all.push(item);
    }
    Ok(all)
}

enum Item {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string, a token id, or a list of token ids")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Item, E> {
        Ok(Item::Text(text.to_owned()))
    }

    fn visit_u64<E: Error>(self, token: u64) -> Result<Item, E> {
        u32::try_from(token).map(Item::Token).map_err(|_| E::custom(format!("token id {token} is too large")))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Item, A::Error> {
        let mut tokens = Vec::new();
        while let Some(token) = items.next_element()? {
            tokens.push(token);
        }
        Ok(Item::Tokens(tokens))
    }
}

impl JsonSchema for TextsOrTokens {
    fn schema_name() -> Cow<'static, str> {
        "TextsOrTokens".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let tokens = json_schema!({
            "type": "array", "minItems": 1, "items": { "type": "integer", "minimum": 0, "maximum": u32::MAX }
        });
        json_schema!({
            "description": "A text, several texts, token ids, or several lists of token ids.",
            "anyOf": [
                { "type": "string" },
                { "type": "array", "minItems": 1, "items": { "type": "string" } },
                tokens,
                { "type": "array", "minItems": 1, "items": tokens },
            ]
        })
    }
}

/// `stop`: one text or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Stop {
    One(String),
    Several(Vec<String>),
}

impl Stop {
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Stop::One(text) => vec![text],
            Stop::Several(texts) => texts,
        }
    }
}

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(
            match deserializer.deserialize_any(OneOrSeveral("a string or a list of strings", PhantomData))? {
                Either::One(text) => Stop::One(text),
                Either::Several(texts) => Stop::Several(texts),
            },
        )
    }
}

impl JsonSchema for Stop {
    fn schema_name() -> Cow<'static, str> {
        "Stop".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Text, or texts, at which generation ends; not part of the output.",
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }]
        })
    }
}

/// `content` of a message: a text, or parts.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

/// A part of a message. Only `type: "text"` is served; the other members are known so that the refusal
/// can name the part's type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, DeriveDeserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContentPart {
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["text"]))]
    pub kind: String,
    #[schemars(with = "String", required)]
    pub text: Option<String>,
    #[schemars(skip)]
    pub image_url: Option<Ignored>,
    #[schemars(skip)]
    pub input_audio: Option<Ignored>,
    #[schemars(skip)]
    pub file: Option<Ignored>,
    #[schemars(skip)]
    pub refusal: Option<Ignored>,
    pub cache_control: Option<Ignored>,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(
            match deserializer
                .deserialize_any(OneOrSeveral("a string or a list of content parts", PhantomData))?
            {
                Either::One(text) => Content::Text(text),
                Either::Several(parts) => Content::Parts(parts),
            },
        )
    }
}

impl JsonSchema for Content {
    fn schema_name() -> Cow<'static, str> {
        "Content".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let part = generator.subschema_for::<ContentPart>();
        json_schema!({
            "description": "A text, or a list of text parts.",
            "anyOf": [{ "type": "string" }, { "type": "array", "minItems": 1, "items": part }]
        })
    }
}

enum Either<T> {
    One(String),
    Several(Vec<T>),
}

/// Reads a string, or a list of `T`; holds the words for what was expected.
struct OneOrSeveral<T>(&'static str, PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrSeveral<T> {
    type Value = Either<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Either::One(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(Either::Several(all))
    }
}
