//! The type of parameters that are refused unless they ask for nothing: of a value of any size it keeps
//! what that decision needs.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::json;

/// What a JSON value is, without what is in it.
#[derive(Clone, Debug, PartialEq)]
pub enum Outline {
    Null,
    Bool(bool),
    /// `None` for a negative number or a fraction.
    Number(Option<u64>),
    Text(String),
    List(Listed),
    /// `kind` is the member `type`, where that is a string.
    Object {
        is_empty: bool,
        kind: Option<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    Nothing,
    /// This text, once or many times.
    Only(String),
    Mixed,
}

impl<'de> Deserialize<'de> for Outline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OutlineVisitor)
    }
}

struct OutlineVisitor;

impl<'de> Visitor<'de> for OutlineVisitor {
    type Value = Outline;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<Outline, E> {
        Ok(Outline::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Outline, E> {
        Ok(Outline::Bool(value))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Outline, E> {
        Ok(Outline::Number(Some(number)))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Outline, E> {
        Ok(Outline::Number(u64::try_from(number).ok()))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Outline, E> {
        Ok(Outline::Number(None))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Outline, E> {
        Ok(Outline::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Outline, A::Error> {
        let Some(first) = items.next_element::<TextOnly>()? else {
            return Ok(Outline::List(Listed::Nothing));
        };
        let mut listed = first.0.map_or(Listed::Mixed, Listed::Only);
        while let Some(TextOnly(item)) = items.next_element()? {
            if !matches!((&listed, item), (Listed::Only(text), Some(item)) if *text == item) {
                listed = Listed::Mixed;
            }
        }
        Ok(Outline::List(listed))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Outline, A::Error> {
        let (mut is_empty, mut kind) = (true, None);
        while let Some(name) = members.next_key::<String>()? {
            is_empty = false;
            if name == "type" {
                TextOnly(kind) = members.next_value()?;
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Outline::Object { is_empty, kind })
    }
}

/// A string, or `None` for anything else, which is not kept.
struct TextOnly(Option<String>);

impl<'de> Deserialize<'de> for TextOnly {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOnlyVisitor)
    }
}

struct TextOnlyVisitor;

impl<'de> Visitor<'de> for TextOnlyVisitor {
    type Value = TextOnly;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<TextOnly, E> {
        Ok(TextOnly(Some(text.to_owned())))
    }

    fn visit_unit<E: Error>(self) -> Result<TextOnly, E> {
        Ok(TextOnly(None))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<TextOnly, E> {
        Ok(TextOnly(None))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<TextOnly, E> {
        Ok(TextOnly(None))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<TextOnly, E> {
        Ok(TextOnly(None))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<TextOnly, E> {
        Ok(TextOnly(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<TextOnly, A::Error> {
        IgnoredAny.visit_seq(items).map(|_| TextOnly(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<TextOnly, A::Error> {
        IgnoredAny.visit_map(members).map(|_| TextOnly(None))
    }
}

/// A small value with this outline.
impl Serialize for Outline {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = match self {
            Outline::Null => json!(null),
            Outline::Bool(value) => json!(value),
            Outline::Number(Some(number)) => json!(number),
            Outline::Number(None) => json!(-1),
            Outline::Text(text) => json!(text),
            Outline::List(Listed::Nothing) => json!([]),
            Outline::List(Listed::Only(text)) => json!([text]),
            Outline::List(Listed::Mixed) => json!([null]),
            Outline::Object { is_empty: true, .. } => json!({}),
            Outline::Object { kind, .. } => json!({ "type": kind }),
        };
        value.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outlines_keep_what_decides() {
        let object = |kind: Option<&str>| Outline::Object { is_empty: false, kind: kind.map(str::to_owned) };
        for (text, expected) in [
            ("null", Outline::Null),
            ("false", Outline::Bool(false)),
            ("2", Outline::Number(Some(2))),
            ("-2", Outline::Number(None)),
            ("2.5", Outline::Number(None)),
            (r#""a""#, Outline::Text("a".into())),
            (r#""\u0061""#, Outline::Text("a".into())),
            ("[]", Outline::List(Listed::Nothing)),
            (r#"["a","a"]"#, Outline::List(Listed::Only("a".into()))),
            (r#"["a","b"]"#, Outline::List(Listed::Mixed)),
            (r#"["a",{"b":[1]},"a"]"#, Outline::List(Listed::Mixed)),
            (r#"[[["a"]],null,true,1,-1,1.5,{}]"#, Outline::List(Listed::Mixed)),
            ("{}", Outline::Object { is_empty: true, kind: None }),
            (r#"{"a":{"type":"b"},"c":[1]}"#, object(None)),
            (r#"{"a":1,"type":"b"}"#, object(Some("b"))),
            (r#"{"type":["b"]}"#, object(None)),
        ] {
            let outline: Outline = serde_json::from_str(text).unwrap();
            assert_eq!(outline, expected, "{text}");
            let again: Outline = serde_json::from_value(serde_json::to_value(&outline).unwrap()).unwrap();
            assert_eq!(again, expected, "{text}, written and read");
        }
    }
}
