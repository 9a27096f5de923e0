//! JSON bytes to Python objects.

use parking_lot::{Mutex, MutexGuard};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString};
use pyo3::{intern, types::PyNone};

use super::MAX_DEPTH;
use crate::errors::Class;

/// Decodes one document. Every failure, of user code too, is a `DecodeError`.
pub(crate) fn from_json<'py>(
    py: Python<'py>,
    data: &[u8],
    decoders: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let text = std::str::from_utf8(data).map_err(|error| Class::Decode.error(py, error.to_string()))?;
    Decoder::new(py, text, decoders).document().map_err(|error| Class::Decode.wrap(py, error))
}

/// Decodes an object into a dict; false when it is no object. After an error the dict holds a part of it.
pub(crate) fn object_into(data: &[u8], dict: &Bound<'_, PyDict>) -> PyResult<bool> {
    let py = dict.py();
    let text = std::str::from_utf8(data).map_err(|error| Class::Decode.error(py, error.to_string()))?;
    let mut decoder = Decoder::new(py, text, None);
    if decoder.peek() != Some(b'{') {
        return Ok(false);
    }
    decoder.at += 1;
    decoder.members(dict)?;
    Ok(decoder.peek().is_none())
}

/// Decodes what a text has in front of its known end: `[first, second`; none when it is anything else.
pub(crate) fn open_pair<'py>(
    py: Python<'py>,
    data: &[u8],
    decoders: Option<&Bound<'py, PyDict>>,
) -> Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let mut decoder = Decoder::new(py, std::str::from_utf8(data).ok()?, decoders);
    decoder.peek().filter(|byte| *byte == b'[')?;
    (decoder.at, decoder.depth) = (decoder.at + 1, 1);
    let first = decoder.value().ok()?;
    decoder.peek().filter(|byte| *byte == b',')?;
    decoder.at += 1;
    let second = decoder.value().ok()?;
    decoder.peek().is_none().then_some((first, second))
}

/// The text that code has for a name; keys of that name are the same object as long as it is remembered, and a dict
/// finds those without comparing texts. For names of ours alone: such texts may live for ever.
pub(crate) fn known_key<'py>(py: Python<'py>, name: &'static str) -> Bound<'py, PyString> {
    let object = PyString::intern(py, name);
    if let Some(mut keys) = KEYS.try_lock() {
        keys.slots[place(name.as_bytes())] = Some((name.into(), object.clone().unbind()));
    }
    object
}

struct Decoder<'a, 'py> {
    py: Python<'py>,
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    decoders: Option<&'a Bound<'py, PyDict>>,
    /// None when a decoder, called by another document's decoding, decodes again.
    keys: Option<MutexGuard<'static, KeyCache>>,
    /// Items of the lists that are being read, innermost last.
    values: Vec<Bound<'py, PyAny>>,
    /// Text with its escapes undone; may hold lone surrogates.
    scratch: Vec<u8>,
}

impl<'a, 'py> Decoder<'a, 'py> {
    fn new(py: Python<'py>, text: &'a str, decoders: Option<&'a Bound<'py, PyDict>>) -> Self {
        Self {
            py,
            text,
            bytes: text.as_bytes(),
            at: 0,
            depth: 0,
            decoders,
            keys: KEYS.try_lock(),
            values: Vec::new(),
            scratch: Vec::new(),
        }
    }

    fn document(&mut self) -> PyResult<Bound<'py, PyAny>> {
        let value = self.value()?;
        match self.peek() {
            None => Ok(value),
            Some(_) => Err(self.error("Extra data")),
        }
    }

    fn value(&mut self) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        match self.peek() {
            Some(b'"') => self.string().map(Bound::into_any),
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'n') if self.literal(b"null") => Ok(PyNone::get(py).to_owned().into_any()),
            Some(b't') if self.literal(b"true") => Ok(PyBool::new(py, true).to_owned().into_any()),
            Some(b'f') if self.literal(b"false") => Ok(PyBool::new(py, false).to_owned().into_any()),
            Some(b'N') if self.literal(b"NaN") => Ok(PyFloat::new(py, f64::NAN).into_any()),
            Some(b'I') if self.literal(b"Infinity") => Ok(PyFloat::new(py, f64::INFINITY).into_any()),
            _ => Err(self.error("Expecting value")),
        }
    }

    /// The next byte that is not white space, which is skipped.
    fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                _ => return Some(byte),
            }
        }
        None
    }

    fn literal(&mut self, literal: &[u8]) -> bool {
        let found = self.bytes[self.at..].starts_with(literal);
        if found {
            self.at += literal.len();
        }
        found
    }

    fn error(&self, what: &str) -> PyErr {
        let before = &self.bytes[..self.at.min(self.bytes.len())];
        let line = before.split(|&byte| byte == b'\n').count();
        let column = before.iter().rev().take_while(|&&byte| byte != b'\n').count() + 1;
        PyValueError::new_err(format!("{what}: line {line} column {column} (byte {})", before.len()))
    }

    fn nested(
        &mut self,
        inside: impl FnOnce(&mut Self) -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if self.depth == MAX_DEPTH {
            return Err(self.error(&format!("Nested deeper than {MAX_DEPTH} levels")));
        }
        self.depth += 1;
        self.at += 1;
        let value = inside(self);
        self.depth -= 1;
        value
    }

    fn array(&mut self) -> PyResult<Bound<'py, PyAny>> {
        let start = self.values.len();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(PyList::empty(self.py).into_any());
        }
        loop {
            let value = self.value()?;
            self.values.push(value);
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.error("Expecting ',' delimiter")),
            }
        }
        self.at += 1;
        Ok(PyList::new(self.py, self.values.drain(start..))?.into_any())
    }

    fn object(&mut self) -> PyResult<Bound<'py, PyAny>> {
        let dict = PyDict::new(self.py);
        let marks = self.members(&dict)?;
        if marks >= 2 && dict.len() == 2 { self.marked(dict) } else { Ok(dict.into_any()) }
    }

    /// The members of an object whose brace was read, into a dict; how many of them are marks of a type.
    fn members(&mut self, dict: &Bound<'py, PyDict>) -> PyResult<usize> {
        let mut marks = 0;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(marks);
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.error("Expecting property name enclosed in double quotes"));
            }
            let rest = &self.bytes[self.at..];
            marks += usize::from(rest.starts_with(b"\"__type__\"") || rest.starts_with(b"\"__value__\""));
            let key = self.key()?;
            if self.peek() != Some(b':') {
                return Err(self.error("Expecting ':' delimiter"));
            }
            self.at += 1;
            let value = self.value()?;
            dict.set_item(key, value)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.error("Expecting ',' delimiter")),
            }
        }
        self.at += 1;
        Ok(marks)
    }

    /// An object of two keys, at least one of them a mark.
    fn marked(&self, dict: Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>> {
        let py = self.py;
        let (Some(kind), Some(value)) =
            (dict.get_item(intern!(py, "__type__"))?, dict.get_item(intern!(py, "__value__"))?)
        else {
            return Ok(dict.into_any());
        };
        if let Some(decoders) = self.decoders
            && let Some(decoder) = decoders.get_item(&kind)?
        {
            return decoder.call1((value,));
        }
        let name = kind.cast::<PyString>().ok().and_then(|name| name.to_str().ok());
        match name {
            Some("datetime") => from_iso(py, "datetime", &value),
            Some("date") => from_iso(py, "datetime", &value)?.call_method0("date"),
            Some("time") => from_iso(py, "time", &value),
            Some("decimal") => py.import("decimal")?.getattr("Decimal")?.call1((value,)),
            Some("uuid") => py.import("uuid")?.getattr("UUID")?.call((), Some(value.cast::<PyDict>()?)),
            Some("bytes") => value.call_method1("encode", ("utf-8",)),
            Some("base64") => {
                let encoded = value.call_method1("encode", ("utf-8",))?;
                py.import("base64")?.call_method1("b64decode", (encoded,))
            }
            _ => Err(PyValueError::new_err(format!("Unsupported type: {}", kind.repr()?))),
        }
    }

    fn number(&mut self) -> PyResult<Bound<'py, PyAny>> {
        let start = self.at;
        let negative = self.bytes[start] == b'-';
        self.at += usize::from(negative);
        if negative && self.literal(b"Infinity") {
            return Ok(PyFloat::new(self.py, f64::NEG_INFINITY).into_any());
        }
        let first = self.at;
        let digits = if self.literal(b"0") { 1 } else { self.digits() };
        if digits == 0 {
            self.at = start;
            return Err(self.error("Expecting value"));
        }
        let whole = self.at;
        let is_float = self.fraction() | self.exponent();
        if is_float {
            let value: f64 = self.text[start..self.at].parse().map_err(|_| self.error("Bad number"))?;
            return Ok(PyFloat::new(self.py, value).into_any());
        }
        if digits > 18 {
            return self.py.get_type::<PyInt>().call1((&self.text[start..whole],));
        }
        let value = self.bytes[first..whole].iter().fold(0, |sum, byte| sum * 10 + i64::from(byte - b'0'));
        Ok((if negative { -value } else { value }).into_pyobject(self.py)?.into_any())
    }

    fn digits(&mut self) -> usize {
        let rest = &self.bytes[self.at..];
        let count = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        self.at += count;
        count
    }

    fn fraction(&mut self) -> bool {
        let start = self.at;
        if self.literal(b".") && self.digits() > 0 {
            return true;
        }
        self.at = start;
        false
    }

    fn exponent(&mut self) -> bool {
        let start = self.at;
        if matches!(self.bytes.get(start), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.bytes.get(self.at), Some(b'+' | b'-')));
            if self.digits() > 0 {
                return true;
            }
        }
        self.at = start;
        false
    }

    /// A key: mostly one of a few names that come again and again.
    fn key(&mut self) -> PyResult<Bound<'py, PyString>> {
        let start = self.at + 1;
        let length = self.plain(start);
        if self.bytes.get(start + length) == Some(&b'"')
            && let Some(keys) = &mut self.keys
        {
            self.at = start + length + 1;
            return Ok(keys.get(self.py, &self.text[start..start + length]));
        }
        self.string()
    }

    /// How many bytes from `start` stand for themselves.
    fn plain(&self, start: usize) -> usize {
        let rest = &self.bytes[start..];
        rest.iter().position(|&byte| byte == b'"' || byte == b'\\' || byte < 0x20).unwrap_or(rest.len())
    }

    fn string(&mut self) -> PyResult<Bound<'py, PyString>> {
        let opening = self.at;
        let start = opening + 1;
        let end = start + self.plain(start);
        if self.bytes.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(PyString::new(self.py, &self.text[start..end]));
        }
        self.scratch.clear();
        self.at = start;
        let mut surrogates = false;
        loop {
            let length = self.plain(self.at);
            self.scratch.extend_from_slice(&self.bytes[self.at..self.at + length]);
            self.at += length;
            match self.bytes.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => surrogates |= self.escape()?,
                Some(_) => return Err(self.error("Invalid control character")),
                None => {
                    self.at = opening;
                    return Err(self.error("Unterminated string starting"));
                }
            }
        }
        self.at += 1;
        if surrogates {
            let bytes = PyBytes::new(self.py, &self.scratch);
            return Ok(bytes.call_method1("decode", ("utf-8", "surrogatepass"))?.cast_into()?);
        }
        Ok(PyString::new(self.py, &String::from_utf8_lossy(&self.scratch)))
    }

    /// Undoes one escape into `scratch`; tells whether it was a lone surrogate.
    fn escape(&mut self) -> PyResult<bool> {
        let byte = self.bytes.get(self.at + 1).copied();
        let plain = match byte {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => return self.unicode(),
            _ => return Err(self.error("Invalid \\escape")),
        };
        self.at += 2;
        self.scratch.push(plain);
        Ok(false)
    }

    fn unicode(&mut self) -> PyResult<bool> {
        let Some(first) = self.hex(self.at) else { return Err(self.error("Invalid \\uXXXX escape")) };
        self.at += 6;
        let mut code = first;
        if (0xd800..0xdc00).contains(&first)
            && let Some(second @ 0xdc00..0xe000) = self.hex(self.at)
        {
            self.at += 6;
            code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        }
        if let Some(character) = char::from_u32(code) {
            self.scratch.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            return Ok(false);
        }
        let low_bits = |shift: u32| 0x80 | (code >> shift & 0x3f) as u8;
        self.scratch.extend_from_slice(&[0xe0 | (code >> 12) as u8, low_bits(6), low_bits(0)]);
        Ok(true)
    }

    /// The code unit of the `\uXXXX` at this place.
    fn hex(&self, at: usize) -> Option<u32> {
        let escape = self.text.as_bytes().get(at..at + 6)?;
        if !escape.starts_with(b"\\u") {
            return None;
        }
        escape[2..].iter().try_fold(0, |sum, &digit| Some(sum * 16 + char::from(digit).to_digit(16)?))
    }
}

fn from_iso<'py>(py: Python<'py>, class: &str, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    py.import(intern!(py, "datetime"))?.getattr(class)?.call_method1(intern!(py, "fromisoformat"), (value,))
}

/// Recently seen object keys. Written and read by whoever decodes, attached.
static KEYS: Mutex<KeyCache> = Mutex::new(KeyCache { slots: [const { None }; 256] });

/// Keys by hash; a newcomer takes the place of what was there. Bounded: 256 keys of at most 32 bytes.
struct KeyCache {
    slots: [Option<(Box<str>, Py<PyString>)>; 256],
}

impl KeyCache {
    fn get<'py>(&mut self, py: Python<'py>, key: &str) -> Bound<'py, PyString> {
        if key.len() > 32 {
            return PyString::new(py, key);
        }
        let slot = &mut self.slots[place(key.as_bytes())];
        match slot {
            Some((cached, object)) if **cached == *key => object.bind(py).clone(),
            _ => {
                let object = PyString::new(py, key);
                *slot = Some((key.into(), object.clone().unbind()));
                object
            }
        }
    }
}

/// A place for a key, by its length, its first and its last bytes.
fn place(key: &[u8]) -> usize {
    let word = |bytes: &[u8]| bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    let end = key.len().min(8);
    let mixed = (word(&key[..end]) ^ word(&key[key.len() - end..]).rotate_left(29) ^ key.len() as u64)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as usize
}
