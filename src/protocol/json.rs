//! JSON as Python writes and reads it: separators, ASCII escapes, bare `NaN`, fields of any type.

use std::borrow::Cow;
use std::fmt;
use std::io;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::Serialize;
use serde_json::ser::Formatter;

use super::DecodeError;

/// First byte that is not blank.
pub(super) fn first_byte(text: &[u8]) -> Option<u8> {
    text.iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

/// Reads an object. Serde alone would take an array for a struct, field by field.
pub(super) fn object<'a, T: Deserialize<'a>>(text: &'a [u8], part: &'static str) -> Result<T, DecodeError> {
    if first_byte(text) != Some(b'{') {
        let parsed = serde_json::from_slice::<IgnoredAny>(text);
        return Err(match parsed {
            Ok(_) => DecodeError::NotObject { part },
            Err(error) => DecodeError::json(part, &error),
        });
    }
    // Checked as a whole, which is quicker than each text by itself.
    let parsed = match std::str::from_utf8(text) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => serde_json::from_slice(text),
    };
    parsed.map_err(|error| DecodeError::json(part, &error))
}

/// Python writes `NaN`, `Infinity` and `-Infinity`, which are not JSON. Gives a copy of the same length with
/// numbers in their place, so that what is found in the copy can be cut out of the original; none if the
/// text has no such words.
pub(crate) fn mask_nan(text: &[u8]) -> Option<Vec<u8>> {
    let mut masked: Option<Vec<u8>> = None;
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'"' => {
                at += 1;
                while at < text.len() && text[at] != b'"' {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'N' | b'I' => {
                let word: &[u8] = if text[at] == b'N' { b"NaN" } else { b"Infinity" };
                if text[at..].starts_with(word) {
                    let copy = masked.get_or_insert_with(|| text.to_vec());
                    copy[at..at + word.len()].fill(b'1');
                    at += word.len();
                } else {
                    at += 1;
                }
            }
            _ => at += 1,
        }
    }
    masked
}

/// The bytes of `original` at the place where `part` lies in `copy`, which has the same length.
pub(super) fn same_place<'a>(original: &'a [u8], copy: &[u8], part: &str) -> &'a [u8] {
    let start = part.as_ptr() as usize - copy.as_ptr() as usize;
    &original[start..start + part.len()]
}

/// A field of any type. What is not a scalar is skipped.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Loose<'a> {
    /// Not there.
    #[default]
    Absent,
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Cow<'a, str>),
    /// An array or an object.
    Other,
}

impl<'a> Loose<'a> {
    /// The text; none for everything else.
    pub(super) fn text(self) -> Option<Cow<'a, str>> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Not there, or null.
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::Absent | Self::Null)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Loose<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor)
    }
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Loose::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Loose::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Loose::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Loose::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Loose::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(value).map_or(Loose::Float(value as f64), Loose::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Loose::Float(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Loose::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Loose::Other)
    }
}

/// Appends a value as Python's `json.dumps` writes it.
pub(crate) fn write<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    let mut serializer = serde_json::Serializer::with_formatter(out, Python);
    value.serialize(&mut serializer).expect("a vector takes every byte and our types have text keys");
}

/// Python's `json.dumps`: a blank after `,` and `:`, everything outside printable ASCII escaped.
struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        // Nearly always; this is many bytes at a time.
        if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return out.write_all(text.as_bytes());
        }
        let mut rest = text;
        while let Some(at) = rest.find(|c: char| !(' '..='~').contains(&c)) {
            out.write_all(&rest.as_bytes()[..at])?;
            let c = rest[at..].chars().next().expect("`find` gave the place of a character");
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        out.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dumps(value: &serde_json::Value) -> String {
        let mut out = Vec::new();
        write(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let value =
            serde_json::json!({"a": [1, 2.5, null, true], "b": "caf\u{e9} \u{1f600}\u{7f}\n\"\\\u{1}"});
        assert_eq!(
            dumps(&value),
            r#"{"a": [1, 2.5, null, true], "b": "caf\u00e9 \ud83d\ude00\u007f\n\"\\\u0001"}"#
        );
        assert_eq!(dumps(&serde_json::json!({"a": {}, "b": []})), r#"{"a": {}, "b": []}"#);
    }

    #[test]
    fn nan_is_masked_outside_texts_only() {
        let text = br#"{"NaN \" NaN": NaN, "x": [-Infinity, Infinity, "NaN"]}"#;
        let masked = mask_nan(text).unwrap();
        assert_eq!(
            String::from_utf8(masked).unwrap(),
            r#"{"NaN \" NaN": 111, "x": [-11111111, 11111111, "NaN"]}"#
        );
        assert_eq!(mask_nan(br#"{"a": "NaN"}"#), None);
        assert_eq!(mask_nan(b"\"\\"), None);
    }

    #[test]
    fn an_array_is_not_an_object_even_if_its_elements_fit() {
        #[derive(Debug, serde::Deserialize)]
        struct One {
            #[expect(dead_code, reason = "only its type matters")]
            a: u8,
        }
        assert_eq!(object::<One>(b" [1]", "x").unwrap_err(), DecodeError::NotObject { part: "x" });
        assert!(object::<One>(b" {\"a\": 1}", "x").is_ok());
        assert!(matches!(object::<One>(b"", "x").unwrap_err(), DecodeError::Json { part: "x", .. }));
    }
}
