//! Python objects to JSON bytes.

use std::io::Write as _;

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyType};
use pyo3::{ffi, intern};

use super::MAX_DEPTH;
use crate::errors::Class;

/// Encodes one value. Every failure, of user code too, is an `EncodeError` with its cause.
pub(crate) fn to_json(obj: &Bound<'_, PyAny>, default: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<u8>> {
    let mut out = Vec::with_capacity(256);
    append_json(obj, default, 0, &mut out)?;
    Ok(out)
}

/// As [`to_json`], into a text that is being written: `depth` containers are open in it.
pub(crate) fn append_json(
    obj: &Bound<'_, PyAny>,
    default: Option<&Bound<'_, PyAny>>,
    depth: usize,
    out: &mut Vec<u8>,
) -> PyResult<()> {
    let mut encoder = Encoder { out: std::mem::take(out), default, depth };
    let written = encoder.value(obj);
    *out = encoder.out;
    written.map_err(|error| Class::Encode.wrap(obj.py(), error))
}

/// Appends a text as a JSON string.
pub(crate) fn append_text(text: &str, out: &mut Vec<u8>) {
    let mut encoder = Encoder { out: std::mem::take(out), default: None, depth: 0 };
    encoder.quoted(text);
    *out = encoder.out;
}

struct Encoder<'a, 'py> {
    out: Vec<u8>,
    default: Option<&'a Bound<'py, PyAny>>,
    depth: usize,
}

impl<'py> Encoder<'_, 'py> {
    /// Writes any value. The common exact types are found by comparing one pointer; subclasses come later.
    fn value(&mut self, obj: &Bound<'py, PyAny>) -> PyResult<()> {
        if let Ok(text) = obj.cast_exact::<PyString>() {
            self.text(text)
        } else if obj.is_none() {
            self.raw(b"null")
        } else if let Ok(flag) = obj.cast_exact::<PyBool>() {
            self.raw(if flag.is_true() { b"true" } else { b"false" })
        } else if let Ok(number) = obj.cast_exact::<PyInt>() {
            self.int(number)
        } else if let Ok(dict) = obj.cast_exact::<PyDict>() {
            self.dict(dict)
        } else if let Ok(list) = obj.cast_exact::<PyList>() {
            self.list(list)
        } else if let Ok(tuple) = obj.cast_exact::<PyTuple>() {
            self.tuple(tuple)
        } else if let Ok(number) = obj.cast_exact::<PyFloat>() {
            self.float(number)
        } else {
            self.uncommon(obj)
        }
    }

    fn uncommon(&mut self, obj: &Bound<'py, PyAny>) -> PyResult<()> {
        if let Ok(text) = obj.cast::<PyString>() {
            self.text(text)
        } else if let Ok(number) = obj.cast::<PyInt>() {
            self.int(number)
        } else if let Ok(number) = obj.cast::<PyFloat>() {
            self.float(number)
        } else if let Ok(list) = obj.cast::<PyList>() {
            self.list(list)
        } else if let Ok(tuple) = obj.cast::<PyTuple>() {
            self.tuple(tuple)
        } else if let Ok(dict) = obj.cast::<PyDict>() {
            self.dict(dict)
        } else {
            self.extended(obj)
        }
    }

    /// What JSON does not know, in kombu's order: `__json__()`, marked types, the caller's `default`.
    fn extended(&mut self, obj: &Bound<'py, PyAny>) -> PyResult<()> {
        let py = obj.py();
        if let Some(reducer) = obj.getattr_opt(intern!(py, "__json__"))?
            && !reducer.is_none()
        {
            let reduced = reducer.call0()?;
            return self.nested(|this| this.value(&reduced));
        }
        if let Ok(bytes) = obj.cast::<PyBytes>() {
            return self.bytes(bytes);
        }
        let marked = Marked::of(py)?;
        for (class, name) in &marked.iso {
            if obj.is_instance(class.bind(py))? {
                let text = obj.call_method0(intern!(py, "isoformat"))?;
                return self.marked(name, |this| this.value(&text));
            }
        }
        if obj.is_instance(marked.decimal.bind(py))? {
            let text = obj.str()?;
            return self.marked("decimal", |this| this.text(&text));
        }
        if obj.is_instance(marked.uuid.bind(py))? {
            let hex = obj.getattr(intern!(py, "hex"))?;
            return self.marked("uuid", |this| {
                this.raw(b"{\"hex\": ")?;
                this.value(&hex)?;
                this.raw(b"}")
            });
        }
        if let Some(default) = self.default {
            let replaced = default.call1((obj,))?;
            return self.nested(|this| this.value(&replaced));
        }
        let kind = obj.get_type();
        Err(PyTypeError::new_err(format!("Object of type {} is not JSON serializable", kind.name()?)))
    }

    fn bytes(&mut self, bytes: &Bound<'py, PyBytes>) -> PyResult<()> {
        if let Ok(text) = std::str::from_utf8(bytes.as_bytes()) {
            return self.marked("bytes", |this| {
                this.quoted(text);
                Ok(())
            });
        }
        let encoded =
            bytes.py().import("base64")?.call_method1("b64encode", (bytes,))?.cast_into::<PyBytes>()?;
        let text = String::from_utf8_lossy(encoded.as_bytes());
        self.marked("base64", |this| {
            this.quoted(&text);
            Ok(())
        })
    }

    fn marked(&mut self, name: &str, value: impl FnOnce(&mut Self) -> PyResult<()>) -> PyResult<()> {
        self.raw(b"{\"__type__\": \"")?;
        self.raw(name.as_bytes())?;
        self.raw(b"\", \"__value__\": ")?;
        value(self)?;
        self.raw(b"}")
    }

    fn nested(&mut self, inside: impl FnOnce(&mut Self) -> PyResult<()>) -> PyResult<()> {
        if self.depth == MAX_DEPTH {
            let text = format!("value is nested deeper than {MAX_DEPTH} levels, or contains itself");
            return Err(PyValueError::new_err(text));
        }
        self.depth += 1;
        let done = inside(self);
        self.depth -= 1;
        done
    }

    fn dict(&mut self, dict: &Bound<'py, PyDict>) -> PyResult<()> {
        self.nested(|this| {
            this.out.push(b'{');
            let size = dict.len();
            let mut entries = Entries { dict, at: 0 };
            let mut first = true;
            while let Some((key, value)) = entries.next() {
                if !std::mem::take(&mut first) {
                    this.out.extend_from_slice(b", ");
                }
                this.key(&key)?;
                this.out.extend_from_slice(b": ");
                this.value(&value)?;
                if dict.len() != size {
                    return Err(PyRuntimeError::new_err("dictionary changed size during encoding"));
                }
            }
            this.out.push(b'}');
            Ok(())
        })
    }

    /// Keys become text as Python's `json` makes them.
    fn key(&mut self, key: &Bound<'py, PyAny>) -> PyResult<()> {
        if let Ok(text) = key.cast::<PyString>() {
            return self.text(text);
        }
        if !(key.is_none() || key.is_instance_of::<PyInt>() || key.is_instance_of::<PyFloat>()) {
            let kind = key.get_type();
            let text = format!("keys must be str, int, float, bool or None, not {}", kind.name()?);
            return Err(PyTypeError::new_err(text));
        }
        self.out.push(b'"');
        self.value(key)?;
        self.raw(b"\"")
    }

    fn list(&mut self, list: &Bound<'py, PyList>) -> PyResult<()> {
        self.nested(|this| {
            this.out.push(b'[');
            let mut at = 0;
            while at < list.len() {
                if at > 0 {
                    this.out.extend_from_slice(b", ");
                }
                this.value(&list.get_item(at)?)?;
                at += 1;
            }
            this.raw(b"]")
        })
    }

    fn tuple(&mut self, tuple: &Bound<'py, PyTuple>) -> PyResult<()> {
        self.nested(|this| {
            this.out.push(b'[');
            for at in 0..tuple.len() {
                if at > 0 {
                    this.out.extend_from_slice(b", ");
                }
                this.value(&tuple.get_item(at)?)?;
            }
            this.raw(b"]")
        })
    }

    #[expect(unsafe_code, reason = "one call instead of an exception for each big int")]
    fn int(&mut self, number: &Bound<'py, PyInt>) -> PyResult<()> {
        let py = number.py();
        let mut overflow = 0;
        // SAFETY: attached, and `number` is an int (or of a subclass), for which this cannot raise.
        let small = unsafe { ffi::PyLong_AsLongLongAndOverflow(number.as_ptr(), &raw mut overflow) };
        if overflow == 0 {
            let _infallible = write!(self.out, "{small}");
            return Ok(());
        }
        let repr = py.get_type::<PyInt>().call_method1(intern!(py, "__repr__"), (number,))?;
        self.raw(repr.cast::<PyString>()?.to_str()?.as_bytes())
    }

    fn float(&mut self, number: &Bound<'py, PyFloat>) -> PyResult<()> {
        let py = number.py();
        let value = number.value();
        if value.is_nan() {
            self.raw(b"NaN")
        } else if value.is_infinite() {
            self.raw(if value > 0.0 { b"Infinity" } else { b"-Infinity" })
        } else if value == 0.0 || (1e-4..1e16).contains(&value.abs()) {
            // The same digits as Python's (the even ones of a tie too), and here the same form.
            serde_json::to_writer(&mut self.out, &value)
                .map_err(|error| PyValueError::new_err(error.to_string()))?;
            Ok(())
        } else {
            let repr = py.get_type::<PyFloat>().call_method1(intern!(py, "__repr__"), (number,))?;
            self.raw(repr.cast::<PyString>()?.to_str()?.as_bytes())
        }
    }

    fn text(&mut self, text: &Bound<'py, PyString>) -> PyResult<()> {
        if let Ok(text) = text.to_str() {
            self.quoted(text);
            return Ok(());
        }
        // Lone surrogates (file names that are no UTF-8): JSON escapes carry them.
        let units = text.call_method1("encode", ("utf-16-le", "surrogatepass"))?.cast_into::<PyBytes>()?;
        self.out.push(b'"');
        for unit in units.as_bytes().chunks_exact(2) {
            match u16::from_le_bytes([unit[0], unit[1]]) {
                unit @ 0..0x80 => self.ascii(unit as u8),
                unit => self.escaped(unit),
            }
        }
        self.raw(b"\"")
    }

    fn quoted(&mut self, text: &str) {
        self.out.push(b'"');
        let bytes = text.as_bytes();
        let mut start = 0;
        while start < bytes.len() {
            let plain = bytes[start..].iter().position(|&byte| !PLAIN[byte as usize]);
            let end = plain.map_or(bytes.len(), |length| start + length);
            self.out.extend_from_slice(&bytes[start..end]);
            start = end;
            if let Some(&byte) = bytes.get(end) {
                start += self.special(byte, &text[end..]);
            }
        }
        self.out.push(b'"');
    }

    /// Writes the character that `rest` begins with, escaped; returns its length.
    fn special(&mut self, byte: u8, rest: &str) -> usize {
        if byte < 0x80 {
            self.ascii(byte);
            return 1;
        }
        let Some(character) = rest.chars().next() else { return rest.len() };
        let mut units = [0; 2];
        for unit in character.encode_utf16(&mut units) {
            self.escaped(*unit);
        }
        character.len_utf8()
    }

    fn ascii(&mut self, byte: u8) {
        let short = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            _ if PLAIN[byte as usize] => return self.out.push(byte),
            _ => return self.escaped(u16::from(byte)),
        };
        self.out.extend_from_slice(&[b'\\', short]);
    }

    fn escaped(&mut self, unit: u16) {
        let digit = |shift: u16| b"0123456789abcdef"[usize::from(unit >> shift & 0xf)];
        self.out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
    }

    #[expect(clippy::unnecessary_wraps, reason = "ends most methods, which can fail")]
    fn raw(&mut self, bytes: &[u8]) -> PyResult<()> {
        self.out.extend_from_slice(bytes);
        Ok(())
    }
}

/// Bytes that stand for themselves inside a JSON string that is ASCII.
static PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0x20;
    while byte < 0x7f {
        plain[byte] = byte != b'"' as usize && byte != b'\\' as usize;
        byte += 1;
    }
    plain
};

/// Entries of a dict that user code may change meanwhile: unlike `PyO3`'s iterator it does not panic then.
struct Entries<'a, 'py> {
    dict: &'a Bound<'py, PyDict>,
    at: ffi::Py_ssize_t,
}

impl<'py> Entries<'_, 'py> {
    #[expect(unsafe_code, reason = "PyO3's iterator panics when the dict changes")]
    fn next(&mut self) -> Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let py = self.dict.py();
        let (mut key, mut value) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: attached, `dict` is a dict; the position only ever comes from this function, which checks
        // it against the dict as it is now. The borrowed references become owned before anything else runs.
        unsafe {
            if ffi::PyDict_Next(self.dict.as_ptr(), &raw mut self.at, &raw mut key, &raw mut value) == 0 {
                return None;
            }
            Some((Bound::from_borrowed_ptr(py, key), Bound::from_borrowed_ptr(py, value)))
        }
    }
}

/// Classes that are written with a `__type__` mark.
struct Marked {
    /// In this order: a datetime is a date as well.
    iso: [(Py<PyType>, &'static str); 3],
    decimal: Py<PyType>,
    uuid: Py<PyType>,
}

impl Marked {
    /// Imported when the first such value comes: most bodies have none.
    fn of(py: Python<'_>) -> PyResult<&'static Self> {
        static MARKED: PyOnceLock<Marked> = PyOnceLock::new();
        MARKED.get_or_try_init(py, || {
            let class = |module: &str, name: &str| -> PyResult<Py<PyType>> {
                Ok(py.import(module)?.getattr(name)?.cast_into::<PyType>()?.unbind())
            };
            Ok(Self {
                iso: [
                    (class("datetime", "datetime")?, "datetime"),
                    (class("datetime", "date")?, "date"),
                    (class("datetime", "time")?, "time"),
                ],
                decimal: class("decimal", "Decimal")?,
                uuid: class("uuid", "UUID")?,
            })
        })
    }
}
