//! Reads the golden data.

use std::path::Path;

use base64::Engine as _;
use serde_json::Value;

/// Every case of a folder of `tests/golden`, by name.
pub(crate) fn cases(folder: &str) -> Vec<(String, Value)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
    let mut cases: Vec<(String, Value)> = std::fs::read_dir(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
        })
        .collect();
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(!cases.is_empty(), "{folder} is empty");
    cases
}

/// One case.
pub(crate) fn case(folder: &str, name: &str) -> Value {
    let found = cases(folder).into_iter().find(|(case, _)| case == name);
    found.unwrap_or_else(|| panic!("no case {name} in {folder}")).1
}

/// Every text under the key `raw` that is a whole envelope, anywhere in a case (one of them was shortened).
pub(crate) fn raw_envelopes(case: &Value) -> Vec<(&str, &Value)> {
    let mut found = Vec::new();
    collect(case, &mut found);
    found
}

fn collect<'a>(value: &'a Value, found: &mut Vec<(&'a str, &'a Value)>) {
    match value {
        Value::Object(members) => {
            if let (Some(Value::String(raw)), Some(decoded)) = (members.get("raw"), members.get("decoded"))
                && raw.starts_with("{\"body\"")
                && raw.ends_with("}}")
                && decoded.is_object()
            {
                found.push((raw, decoded));
            }
            members.values().for_each(|member| collect(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        _ => {}
    }
}

/// Base64 to bytes.
pub(crate) fn base64(text: &Value) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(text.as_str().unwrap()).unwrap()
}

/// Text, or none if it is null or missing.
pub(crate) fn text(value: &Value) -> Option<&str> {
    value.as_str()
}
