//! Arguments of commands, and answers in the words of Celery's workers, which are Python's.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::protocol::ControlRequest;

/// `{"ok": ...}`.
pub(super) fn ok(text: impl Into<Value>) -> Value {
    json!({ "ok": text.into() })
}

/// `{"error": ...}`.
pub(super) fn error(text: impl Into<Value>) -> Value {
    json!({ "error": text.into() })
}

/// The answer to a command that raised this exception.
pub(super) fn raised(class: &str, message: &str) -> Value {
    error(format!("{class}({})", text_repr(message)))
}

/// The answer to a command without arguments that it needs; none when they are there.
pub(super) fn missing(request: &ControlRequest, needed: &[&str]) -> Option<Value> {
    let absent: Vec<String> = needed
        .iter()
        .filter(|name| !request.arguments.contains_key(**name))
        .map(|name| format!("'{name}'"))
        .collect();
    let (last, others) = absent.split_last()?;
    let names = match others {
        [] => last.clone(),
        [one] => format!("{one} and {last}"),
        many => format!("{}, and {last}", many.join(", ")),
    };
    let plural = if others.is_empty() { "" } else { "s" };
    let count = absent.len();
    let message =
        format!("{}() missing {count} required positional argument{plural}: {names}", request.method);
    Some(raised("TypeError", &message))
}

/// A text argument; nothing for null and other types.
pub(super) fn text<'a>(request: &'a ControlRequest, name: &str) -> Option<&'a str> {
    request.arguments.get(name).and_then(Value::as_str)
}

/// Whether an argument is true as Python has it.
pub(super) fn truth(request: &ControlRequest, name: &str) -> bool {
    match request.arguments.get(name) {
        None | Some(Value::Null) => false,
        Some(Value::Bool(value)) => *value,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(members)) => !members.is_empty(),
    }
}

/// One text, or the texts of a list; each once, in their order.
pub(super) fn texts(value: Option<&Value>) -> Vec<&str> {
    let mut found: Vec<&str> = match value {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let mut seen = std::collections::HashSet::new();
    found.retain(|text| seen.insert(*text));
    found
}

/// A text as Python's `repr` shows it.
pub(super) fn text_repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => _ = write!(out, "\\x{:02x}", c as u32),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// A value as Python's `repr` shows it.
pub(super) fn repr(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text_repr(text),
        Value::Array(list) => format!("[{}]", list.iter().map(repr).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => dict_repr(members),
    }
}

pub(super) fn dict_repr(members: &Map<String, Value>) -> String {
    let pairs: Vec<String> =
        members.iter().map(|(key, value)| format!("{}: {}", text_repr(key), repr(value))).collect();
    format!("{{{}}}", pairs.join(", "))
}

/// Texts as a set of Python.
pub(super) fn set_repr<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let members: Vec<String> = texts.into_iter().map(text_repr).collect();
    if members.is_empty() { "set()".to_owned() } else { format!("{{{}}}", members.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_python_shows_them() {
        for (value, shown) in [
            (json!("it's"), "\"it's\""),
            (json!("a\"'b\\\n"), "'a\"\\'b\\\\\\n'"),
            (json!({"a": [1, null, true, 1.5]}), "{'a': [1, None, True, 1.5]}"),
        ] {
            assert_eq!(repr(&value), shown);
        }
        assert_eq!(set_repr([]), "set()");
        assert_eq!(set_repr(["a", "b"]), "{'a', 'b'}");
    }

    #[test]
    fn missing_arguments_are_told_as_a_call_in_python_tells_them() {
        let request = ControlRequest { method: "f".into(), ..ControlRequest::default() };
        let told = |needed: &[&str]| missing(&request, needed).unwrap()["error"].as_str().unwrap().to_owned();

        assert_eq!(told(&["a"]), "TypeError(\"f() missing 1 required positional argument: 'a'\")");
        assert!(told(&["a", "b"]).ends_with("2 required positional arguments: 'a' and 'b'\")"));
        assert!(told(&["a", "b", "c"]).ends_with("arguments: 'a', 'b', and 'c'\")"));
        assert_eq!(missing(&request, &[]), None);
    }
}
