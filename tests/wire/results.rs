//! Result records as Celery stores them.

use celeriac::protocol::{ResultDocument, state};
use serde_json::Value;

use crate::golden::{cases, text};

const FOLDERS: [&str; 7] = [
    "redis_results",
    "redis_results_extended",
    "redis_results_failure_expires",
    "redis_results_keyprefix",
    "redis_results_no_expiry",
    "redis_results_protocol_1",
    "redis_results_unordered_chord",
];

fn assert_document(record: &str, name: &str) -> String {
    let document = ResultDocument::parse(record.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let expected: Value = serde_json::from_str(record).unwrap();
    assert_eq!(Some(&*document.status), text(&expected["status"]), "{name}");
    assert_eq!(document.traceback.as_deref(), text(&expected["traceback"]), "{name}");
    assert_eq!(document.date_done.as_deref(), text(&expected["date_done"]), "{name}");
    assert_eq!(document.group_id.as_deref(), text(&expected["group_id"]), "{name}");
    assert_eq!(document.parent_id.as_deref(), text(&expected["parent_id"]), "{name}");
    assert_eq!(Some(&*document.task_id), text(&expected["task_id"]), "{name}");
    assert_eq!(serde_json::from_str::<Value>(&document.result).unwrap(), expected["result"], "{name}");
    assert_eq!(serde_json::from_str::<Value>(&document.children).unwrap(), expected["children"], "{name}");
    if expected.get("name").is_none() && expected.get("stamped_headers").is_none() {
        assert_eq!(String::from_utf8(document.to_json()).unwrap(), record, "{name}: written again");
    }
    document.status
}

#[test]
fn every_json_record_is_read_and_written_again_byte_for_byte() {
    let mut states = std::collections::BTreeMap::new();
    for (name, case) in FOLDERS.into_iter().flat_map(cases) {
        let Some(keys) = case["keys"].as_object() else { continue };
        for (key, entry) in keys {
            if let (true, Some(record)) = (key.contains("celery-task-meta-"), text(&entry["value"])) {
                *states.entry(assert_document(record, &name)).or_insert(0) += 1;
            }
        }
    }
    assert!(states.values().sum::<i32>() >= 50, "{states:?}");
    for known in [state::SUCCESS, state::FAILURE, state::REVOKED, state::RETRY, state::STARTED] {
        assert!(states.contains_key(known), "no record is {known}: {states:?}");
    }
}

#[test]
fn records_that_clients_met_are_read_or_refused() {
    let (_, case) = cases("client_reads").pop().unwrap();
    let rows = case["rows"].as_array().unwrap();
    assert!(rows.len() > 10, "only {} rows", rows.len());
    for row in rows {
        let record = row["stored"].to_string();
        if row["stored"].is_null() {
            assert!(ResultDocument::parse(record.as_bytes()).is_err());
            continue;
        }
        let document = ResultDocument::parse(record.as_bytes());
        let document = document.unwrap_or_else(|error| panic!("{}: {error}", row["case"]));
        assert_eq!(Some(&*document.status), text(&row["stored"]["status"]));
    }
}

#[test]
fn what_is_no_record_is_refused() {
    for record in
        ["", "null", "[\"SUCCESS\"]", "{}", r#"{"status": 1}"#, r#"{"status": "SUCCESS", "result": }"#]
    {
        assert!(ResultDocument::parse(record.as_bytes()).is_err(), "{record}");
    }
}
