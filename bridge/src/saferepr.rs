//! Celery's argsrepr: a Python-like repr, cut near a length and a depth. Only monitors and logs read it.

use std::fmt::Write as _;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFrozenSet, PyInt, PyList, PySet, PyString, PyTuple};

/// Levels that are followed when the caller asks for no limit: recursion stays bounded.
const DEEPEST: usize = 200;

/// Celery's argsrepr text.
#[pyfunction]
#[pyo3(signature = (obj, maxlen = 1024, maxlevels = 3))]
pub(crate) fn saferepr(obj: &Bound<'_, PyAny>, maxlen: i64, maxlevels: usize) -> PyResult<String> {
    let levels = if maxlevels == 0 { DEEPEST } else { maxlevels.min(DEEPEST) };
    repr_within(obj, maxlen, levels)
}

fn repr_within(obj: &Bound<'_, PyAny>, maxlen: i64, levels: usize) -> PyResult<String> {
    let mut writer = Writer { out: String::new(), left: maxlen, cut: false, levels, open: Vec::new() };
    writer.value(obj)?;
    Ok(writer.out)
}

struct Writer {
    out: String,
    /// Characters left. What is begun is finished, so it may fall below zero.
    left: i64,
    /// The length ran out: only closing brackets are written from here on.
    cut: bool,
    levels: usize,
    /// Containers being written, outermost first, by address.
    open: Vec<*mut ffi::PyObject>,
}

impl Writer {
    fn value(&mut self, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Ok(text) = obj.cast::<PyString>() {
            self.text(&text.to_string_lossy());
            return Ok(());
        }
        if let Ok(number) = obj.cast_exact::<PyInt>()
            && let Ok(small) = number.extract::<i64>()
        {
            self.cut_token(&small.to_string());
        } else if let Ok(tuple) = obj.cast::<PyTuple>() {
            let close = if tuple.len() == 1 { ",)" } else { ")" };
            self.container(obj, "(", close, |this| this.items(tuple.iter(), tuple.len()))?;
        } else if let Ok(dict) = obj.cast::<PyDict>() {
            self.container(obj, "{", "}", |this| this.entries(dict))?;
        } else if let Ok(list) = obj.cast::<PyList>() {
            self.container(obj, "[", "]", |this| this.items(list.iter(), list.len()))?;
        } else if let Ok(bytes) = obj.cast::<PyBytes>() {
            self.bytes(bytes.as_bytes());
        } else if obj.is_instance_of::<PySet>() || obj.is_instance_of::<PyFrozenSet>() {
            self.set(obj)?;
        } else {
            self.cut_token(&repr_or_reason(obj));
        }
        Ok(())
    }

    /// Whether the next token may be written; the first that may not leaves a mark.
    fn room(&mut self) -> bool {
        if self.left <= 0 && !self.cut {
            self.cut = true;
            self.out.push_str(", ...");
        }
        !self.cut
    }

    fn token(&mut self, token: &str) {
        if self.room() {
            self.out.push_str(token);
            self.left -= count(token);
        }
    }

    fn cut_token(&mut self, token: &str) {
        if self.room() {
            let before = self.out.len();
            cut_into(&mut self.out, token, self.left);
            self.left -= count(&self.out[before..]);
        }
    }

    fn text(&mut self, text: &str) {
        if self.room() {
            let mut token = String::with_capacity(text.len().min(self.left as usize + 8) + 2);
            cut_into(&mut token, text, self.left);
            let token = format!("'{}'", token.replace('\'', "\\'"));
            self.token(&token);
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if self.room() {
            let kept = &bytes[..bytes.len().min(self.left as usize)];
            let mut token = String::from("b'");
            match std::str::from_utf8(kept) {
                Ok(text) => token.push_str(text),
                Err(_) => kept.iter().for_each(|byte| {
                    let _infallible = write!(token, "{byte:02x}");
                }),
            }
            token.push_str(if kept.len() < bytes.len() { "...'" } else { "'" });
            self.token(&token);
        }
    }

    fn container(
        &mut self,
        obj: &Bound<'_, PyAny>,
        start: &str,
        close: &str,
        inside: impl FnOnce(&mut Self) -> PyResult<()>,
    ) -> PyResult<()> {
        if self.open.len() >= self.levels {
            self.token(&format!("{start}...{close}"));
            return Ok(());
        }
        if self.open.contains(&obj.as_ptr()) {
            let kind = obj.get_type();
            self.cut_token(&format!("<Recursion on {} with id={}>", kind.name()?, obj.as_ptr() as usize));
            return Ok(());
        }
        if !self.room() {
            return Ok(());
        }
        self.token(start);
        self.open.push(obj.as_ptr());
        inside(self)?;
        self.open.pop();
        self.out.push_str(close);
        self.left -= count(close);
        Ok(())
    }

    fn items<'py>(&mut self, items: impl Iterator<Item = Bound<'py, PyAny>>, size: usize) -> PyResult<()> {
        for (at, item) in items.enumerate() {
            self.value(&item)?;
            if at + 1 < size {
                self.token(", ");
            }
            if self.cut {
                break;
            }
        }
        Ok(())
    }

    fn entries(&mut self, dict: &Bound<'_, PyDict>) -> PyResult<()> {
        let pairs = dict.items();
        for (at, pair) in pairs.iter().enumerate() {
            let (key, value) = pair.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>()?;
            if self.room() {
                let key = repr_within(&key, self.left, self.levels)?;
                self.token(&key);
            }
            self.token(": ");
            if !self.cut {
                self.value(&value)?;
            }
            if at + 1 < pairs.len() {
                self.token(", ");
            }
            if self.cut {
                break;
            }
        }
        Ok(())
    }

    fn set(&mut self, set: &Bound<'_, PyAny>) -> PyResult<()> {
        let kind = set.get_type();
        let name = kind.name()?;
        let size = set.len()?;
        if size == 0 {
            self.cut_token(&format!("{name}()"));
            return Ok(());
        }
        let (start, close) = if set.cast_exact::<PySet>().is_ok() {
            (String::from("{"), "}")
        } else {
            (format!("{name}({{"), "})")
        };
        let items = set.try_iter()?.collect::<PyResult<Vec<_>>>()?;
        self.container(set, &start, close, |this| this.items(items.into_iter(), size))
    }
}

/// Appends `text`, or when it is not shorter than `limit`: its beginning, back to a blank, and dots.
fn cut_into(out: &mut String, text: &str, limit: i64) {
    let limit = limit.max(0) as usize;
    match text.char_indices().nth(limit) {
        None if text.len() < limit || text.chars().count() < limit => out.push_str(text),
        end => {
            let kept = &text[..end.map_or(text.len(), |(at, _)| at)];
            out.push_str(kept.rsplit_once(' ').map_or(kept, |(head, _)| head));
            out.push_str("...");
        }
    }
}

fn count(text: &str) -> i64 {
    text.chars().count() as i64
}

fn repr_or_reason(obj: &Bound<'_, PyAny>) -> String {
    let py = obj.py();
    match obj.repr() {
        Ok(repr) => repr.to_string_lossy().into_owned(),
        Err(error) => {
            let kind = obj.get_type();
            format!("<Unrepresentable {kind}{:#x}: {}>", obj.as_ptr() as usize, error.value(py))
        }
    }
}
