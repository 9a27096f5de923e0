//! Result records as they lie in Redis: which key, and which state is found in the bytes.

use celeriac::driver::redis::{ResultPlace, stored_state};
use celeriac::protocol::state;
use serde_json::Value;

use crate::golden::{base64, case, cases, text};

const FOLDERS: [&str; 9] = [
    "redis_results",
    "redis_results_compressed",
    "redis_results_extended",
    "redis_results_failure_expires",
    "redis_results_keyprefix",
    "redis_results_no_expiry",
    "redis_results_pickle",
    "redis_results_protocol_1",
    "redis_results_unordered_chord",
];

fn bytes(value: &Value) -> Vec<u8> {
    text(value).map_or_else(|| base64(&value["base64"]), |text| text.as_bytes().to_vec())
}

fn place(case: &Value) -> ResultPlace {
    let prefix = &case["settings"]["result_backend_transport_options"]["global_keyprefix"];
    ResultPlace::new(0, text(prefix).unwrap_or_default())
}

#[test]
fn the_state_of_every_record_is_found_under_its_key() {
    let (mut found, mut states) = (0, std::collections::BTreeMap::new());
    for (name, case) in FOLDERS.into_iter().flat_map(cases) {
        let Some(keys) = case["keys"].as_object() else { continue };
        let records = keys.iter().filter(|(key, _)| key.contains("celery-task-meta-"));
        for (key, entry) in records.filter(|(_, entry)| !entry["value"].is_null()) {
            let stored = bytes(&entry["value"]);
            let decoded = &case["decoded"][key.as_str()]["status"];
            let expected =
                text(decoded).or_else(|| text(&case["reached"])).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(stored_state(&stored).as_deref(), Some(expected), "{name}");
            let id = key.split("celery-task-meta-").nth(1).unwrap();
            assert_eq!(place(&case).key(id), *key, "{name}");
            *states.entry(expected.to_owned()).or_insert(0) += 1;
            found += 1;
        }
    }
    assert!(found >= 55, "only {found}");
    for known in [state::SUCCESS, state::FAILURE, state::REVOKED, state::RETRY, state::STARTED] {
        assert!(states.contains_key(known), "no record is {known}: {states:?}");
    }
}

#[test]
fn the_key_is_the_channel_and_the_record_is_the_message() {
    let mut checked = 0;
    for (name, case) in FOLDERS.into_iter().flat_map(cases) {
        for command in case["commands"].as_array().into_iter().flatten() {
            let words = command["cmd"].as_array().unwrap();
            let key = text(&words[1]).unwrap_or_default();
            if text(&words[0]) != Some("PUBLISH") || !key.contains("celery-task-meta-") {
                continue;
            }
            let id = key.split("celery-task-meta-").nth(1).unwrap();
            assert_eq!(place(&case).key(id), key, "{name}");
            assert!(stored_state(&bytes(&words[2])).is_some(), "{name}");
            checked += 1;
        }
    }
    assert!(checked >= 30, "only {checked}");
}

#[test]
fn a_prefix_of_celery_is_ours() {
    let key = text(&case("redis_results_keyprefix", "success")["task_id"]).unwrap().to_owned();
    assert_eq!(ResultPlace::new(0, "acme").key(&key), format!("acme_celery-task-meta-{key}"));
}
