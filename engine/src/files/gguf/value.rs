//! Metadata values: scalars are parsed, texts and arrays stay in the file until asked for.

use std::ops::Range;

use super::cursor::{Cursor, Reason};

/// One metadata value. Ranges are bytes of the file, already checked.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(Range<usize>),
    Array(ArrayValue),
}

/// An array whose elements are decoded on demand: `count` of them in `bytes`.
#[derive(Clone, Debug, PartialEq)]
pub struct ArrayValue {
    pub element: ValueType,
    pub count: usize,
    pub bytes: Range<usize>,
}

/// Type numbers of GGUF metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    /// In the order of their numbers.
    const ALL: [ValueType; 13] = [
        ValueType::U8,
        ValueType::I8,
        ValueType::U16,
        ValueType::I16,
        ValueType::U32,
        ValueType::I32,
        ValueType::F32,
        ValueType::Bool,
        ValueType::Text,
        ValueType::Array,
        ValueType::U64,
        ValueType::I64,
        ValueType::F64,
    ];

    fn parse(cursor: &mut Cursor<'_>) -> Result<ValueType, Reason> {
        let number = cursor.u32()?;
        let found = usize::try_from(number).ok().and_then(|index| ValueType::ALL.get(index));
        found.copied().ok_or_else(|| format!("{number} is no metadata type"))
    }

    /// Bytes every element takes at least; exact but for texts.
    fn bytes_min(self) -> usize {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => 1,
            ValueType::U16 | ValueType::I16 => 2,
            ValueType::U32 | ValueType::I32 | ValueType::F32 => 4,
            ValueType::Text | ValueType::U64 | ValueType::I64 | ValueType::F64 => 8,
            ValueType::Array => 12,
        }
    }

    fn name(self) -> &'static str {
        match self {
            ValueType::U8 => "u8",
            ValueType::I8 => "i8",
            ValueType::U16 => "u16",
            ValueType::I16 => "i16",
            ValueType::U32 => "u32",
            ValueType::I32 => "i32",
            ValueType::F32 => "f32",
            ValueType::Bool => "bool",
            ValueType::Text => "text",
            ValueType::Array => "array",
            ValueType::U64 => "u64",
            ValueType::I64 => "i64",
            ValueType::F64 => "f64",
        }
    }
}

impl Value {
    /// Reads a type number and the value after it.
    pub fn parse(cursor: &mut Cursor<'_>) -> Result<Value, Reason> {
        match ValueType::parse(cursor)? {
            ValueType::Array => ArrayValue::parse(cursor).map(Value::Array),
            scalar => Value::parse_scalar(cursor, scalar),
        }
    }

    fn parse_scalar(cursor: &mut Cursor<'_>, kind: ValueType) -> Result<Value, Reason> {
        Ok(match kind {
            ValueType::U8 => Value::Unsigned(u8::from_le_bytes(cursor.array()?).into()),
            ValueType::I8 => Value::Signed(i8::from_le_bytes(cursor.array()?).into()),
            ValueType::U16 => Value::Unsigned(u16::from_le_bytes(cursor.array()?).into()),
            ValueType::I16 => Value::Signed(i16::from_le_bytes(cursor.array()?).into()),
            ValueType::U32 => Value::Unsigned(cursor.u32()?.into()),
            ValueType::I32 => Value::Signed(i32::from_le_bytes(cursor.array()?).into()),
            ValueType::F32 => Value::Float(f32::from_le_bytes(cursor.array()?).into()),
            ValueType::Bool => Value::Bool(parse_bool(cursor)?),
            ValueType::Text => Value::Text(cursor.text_range("a text", usize::MAX)?),
            ValueType::U64 => Value::Unsigned(cursor.u64()?),
            ValueType::I64 => Value::Signed(i64::from_le_bytes(cursor.array()?)),
            ValueType::F64 => Value::Float(f64::from_le_bytes(cursor.array()?)),
            ValueType::Array => return Err("arrays of arrays are not supported".into()),
        })
    }

    /// What the value is, for error messages: `the integer 7`, `an array of 3 text`.
    pub fn describe(&self) -> String {
        match self {
            Value::Unsigned(value) => format!("the integer {value}"),
            Value::Signed(value) => format!("the integer {value}"),
            Value::Float(value) => format!("the number {value}"),
            Value::Bool(value) => format!("the boolean {value}"),
            Value::Text(_) => "a text".into(),
            Value::Array(array) => format!("an array of {} {}", array.count, array.element.name()),
        }
    }
}

fn parse_bool(cursor: &mut Cursor<'_>) -> Result<bool, Reason> {
    match cursor.array()? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(format!("{other} is no boolean")),
    }
}

impl ArrayValue {
    fn parse(cursor: &mut Cursor<'_>) -> Result<ArrayValue, Reason> {
        let element = ValueType::parse(cursor)?;
        if element == ValueType::Array {
            return Err("arrays of arrays are not supported".into());
        }
        let count = cursor.count("array elements", element.bytes_min(), usize::MAX)?;
        let start = cursor.position();
        match element {
            // Their sizes or contents vary, so each is looked at.
            ValueType::Text | ValueType::Bool => {
                for _ in 0..count {
                    Value::parse_scalar(cursor, element)?;
                }
            }
            _ => {
                cursor.skip(count * element.bytes_min())?;
            }
        }
        Ok(ArrayValue { element, count, bytes: start..cursor.position() })
    }

    /// The elements, decoded as `T`; `None` when one of them is no `T`.
    fn decode<'a, T: FromValue<'a>>(&self, file: &'a [u8]) -> Option<Vec<T>> {
        // Texts refer to the file, so the cursor walks it from its start rather than a part of it.
        let mut cursor = Cursor::new(file.get(..self.bytes.end)?, "the array");
        cursor.skip(self.bytes.start).ok()?;
        let mut elements = Vec::with_capacity(self.count);
        for _ in 0..self.count {
            let value = Value::parse_scalar(&mut cursor, self.element).ok()?;
            elements.push(T::from_value(&value, file)?);
        }
        Some(elements)
    }
}

/// A type metadata can be asked for as.
pub trait FromValue<'a>: Sized {
    /// For messages: "... is a text where ... is expected".
    fn expected() -> String;

    /// `None` when the value is of another type or out of range. `file` holds texts and arrays.
    fn from_value(value: &Value, file: &'a [u8]) -> Option<Self>;
}

macro_rules! integer_from_value {
    ($($integer:ty)*) => {$(
        impl FromValue<'_> for $integer {
            fn expected() -> String {
                concat!("an integer within ", stringify!($integer)).into()
            }

            fn from_value(value: &Value, _: &[u8]) -> Option<Self> {
                match *value {
                    Value::Unsigned(value) => value.try_into().ok(),
                    Value::Signed(value) => value.try_into().ok(),
                    _ => None,
                }
            }
        }
    )*};
}

integer_from_value!(u32 i32 u64 usize);

impl FromValue<'_> for f32 {
    fn expected() -> String {
        "a number".into()
    }

    fn from_value(value: &Value, _: &[u8]) -> Option<f32> {
        match *value {
            Value::Float(value) => Some(value as f32),
            Value::Unsigned(value) => Some(value as f32),
            Value::Signed(value) => Some(value as f32),
            _ => None,
        }
    }
}

impl FromValue<'_> for bool {
    fn expected() -> String {
        "a boolean".into()
    }

    fn from_value(value: &Value, _: &[u8]) -> Option<bool> {
        match *value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a str {
    fn expected() -> String {
        "a text".into()
    }

    fn from_value(value: &Value, file: &'a [u8]) -> Option<&'a str> {
        match value {
            Value::Text(range) => std::str::from_utf8(file.get(range.clone())?).ok(),
            _ => None,
        }
    }
}

impl<'a, T: FromValue<'a>> FromValue<'a> for Vec<T> {
    fn expected() -> String {
        format!("an array, each {},", T::expected())
    }

    fn from_value(value: &Value, file: &'a [u8]) -> Option<Vec<T>> {
        match value {
            Value::Array(array) => array.decode(file),
            _ => None,
        }
    }
}
