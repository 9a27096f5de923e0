//! Headers and arguments: JSON here, a field table on the wire.
//!
//! A table has no order of its own in the AMQP library, so Celery's headers are put back into Celery's order and
//! the others follow by name.

use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde_json::{Map, Number, Value};

use crate::protocol::{HEADER_ORDER, json};

/// A JSON value as py-amqp writes it: the smallest of its integer types, doubles, long texts.
pub(super) fn value(value: &Value) -> AMQPValue {
    match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(value) => AMQPValue::Boolean(*value),
        Value::Number(number) => number_value(number),
        Value::String(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Array(items) => {
            AMQPValue::FieldArray(items.iter().map(self::value).collect::<Vec<_>>().into())
        }
        Value::Object(object) => AMQPValue::FieldTable(table(object)),
    }
}

fn number_value(number: &Number) -> AMQPValue {
    if let Some(integer) = number.as_i64() {
        return i32::try_from(integer).map_or(AMQPValue::LongLongInt(integer), AMQPValue::LongInt);
    }
    match number.as_f64().filter(|_| number.is_f64()) {
        Some(double) => AMQPValue::Double(double),
        // No integer type is wide enough; its digits at least are kept.
        None => AMQPValue::LongString(number.to_string().into()),
    }
}

/// A JSON object as a field table. A name that is too long for AMQP is left out: nobody could read it.
pub(super) fn table(object: &Map<String, Value>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in object {
        if let Ok(name) = ShortString::try_new(name.as_str()) {
            table.insert(name, self::value(value));
        }
    }
    table
}

/// Header text as a field table. Python's `NaN` and `Infinity` become numbers that AMQP can carry.
pub(super) fn from_text(headers: &[u8]) -> Option<FieldTable> {
    let parsed = serde_json::from_slice::<Option<Map<String, Value>>>(headers);
    let parsed = parsed.or_else(|error| {
        json::mask_nan(headers).map_or(Err(error), |masked| serde_json::from_slice(&masked))
    });
    parsed.ok().map(|object| object.map(|object| table(&object)).unwrap_or_default())
}

/// A field table as header text, in Celery's order.
pub(super) fn to_text(table: &FieldTable) -> Vec<u8> {
    let fields = table.inner();
    let mut out = Vec::with_capacity(64 + 32 * fields.len());
    out.push(b'{');
    let mut known = 0;
    for (name, value) in HEADER_ORDER.iter().filter_map(|name| fields.get_key_value(*name)) {
        write_field(&mut out, name, value);
        known += 1;
    }
    // Mostly there are no others.
    if known < fields.len() {
        for (name, value) in fields.iter().filter(|(name, _)| !HEADER_ORDER.contains(&name.as_str())) {
            write_field(&mut out, name, value);
        }
    }
    out.push(b'}');
    out
}

fn write_field(out: &mut Vec<u8>, name: &ShortString, value: &AMQPValue) {
    if out.len() > 1 {
        out.extend_from_slice(b", ");
    }
    json::write(out, name.as_str());
    out.extend_from_slice(b": ");
    // As `json_value` has it, without one in between.
    match value {
        AMQPValue::Void => out.extend_from_slice(b"null"),
        AMQPValue::LongString(text) => json::write(out, &*String::from_utf8_lossy(text.as_bytes())),
        AMQPValue::LongInt(number) => json::write(out, number),
        value => json::write(out, &json_value(value)),
    }
}

/// What others write is read as far as JSON has a word for it.
pub(super) fn json_value(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Void => Value::Null,
        AMQPValue::Boolean(value) => Value::Bool(*value),
        AMQPValue::ShortShortInt(value) => Value::from(*value),
        AMQPValue::ShortShortUInt(value) => Value::from(*value),
        AMQPValue::ShortInt(value) => Value::from(*value),
        AMQPValue::ShortUInt(value) => Value::from(*value),
        AMQPValue::LongInt(value) => Value::from(*value),
        AMQPValue::LongUInt(value) => Value::from(*value),
        AMQPValue::LongLongInt(value) => Value::from(*value),
        AMQPValue::Timestamp(value) => Value::from(*value),
        AMQPValue::Float(value) => Value::from(f64::from(*value)),
        AMQPValue::Double(value) => Value::from(*value),
        AMQPValue::DecimalValue(value) => {
            Value::from(f64::from(value.value) / 10_f64.powi(i32::from(value.scale)))
        }
        AMQPValue::ShortString(text) => Value::from(text.as_str()),
        AMQPValue::LongString(text) => Value::from(String::from_utf8_lossy(text.as_bytes())),
        AMQPValue::ByteArray(bytes) => Value::from(String::from_utf8_lossy(bytes.as_slice())),
        AMQPValue::FieldArray(items) => items.as_slice().iter().map(json_value).collect(),
        AMQPValue::FieldTable(table) => json_object(table).into(),
    }
}

/// A table as a JSON object.
pub(super) fn json_object(table: &FieldTable) -> Map<String, Value> {
    table.inner().iter().map(|(name, value)| (name.to_string(), json_value(value))).collect()
}

#[cfg(test)]
mod tests {
    use lapin::types::DecimalValue;

    use super::*;

    #[test]
    fn celerys_headers_come_back_in_celerys_order_and_others_behind() {
        let text = r#"{"lang": "py", "task": "t", "id": "1", "eta": null, "retries": 0, "timelimit": [null, 2.5], "stamps": {}, "a": 1, "tenant": "caf\u00e9"}"#;
        let table = from_text(text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(to_text(&table)).unwrap(), text);
    }

    #[test]
    fn integers_take_the_type_that_py_amqp_gives_them() {
        let number = |text: &str| value(&serde_json::from_str(text).unwrap());
        assert_eq!(number("2147483647"), AMQPValue::LongInt(i32::MAX));
        assert_eq!(number("-2147483649"), AMQPValue::LongLongInt(-2_147_483_649));
        assert_eq!(number("1.5"), AMQPValue::Double(1.5));
        assert_eq!(number("18446744073709551615"), AMQPValue::LongString("18446744073709551615".into()));
    }

    #[test]
    fn what_foreign_senders_write_is_read_as_far_as_it_goes() {
        let decimal = AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 125 });
        assert_eq!(json_value(&decimal), 1.25);
        assert_eq!(json_value(&AMQPValue::Timestamp(5)), 5);
        assert_eq!(json_value(&AMQPValue::LongString(vec![255].into())), "\u{fffd}");
        assert_eq!(json_value(&AMQPValue::Float(f32::NAN)), Value::Null);
    }

    #[test]
    fn header_text_that_is_no_strict_json_still_makes_a_table() {
        assert_eq!(from_text(b"{\"a\": NaN}").unwrap().inner().len(), 1);
        assert_eq!(from_text(b"null"), Some(FieldTable::default()));
        assert_eq!(from_text(b""), None);
        assert_eq!(from_text(b"[1]"), None);
        let long = format!("{{\"{}\": 1, \"b\": 2}}", "x".repeat(300));
        assert_eq!(from_text(long.as_bytes()).unwrap().inner().len(), 1);
    }
}
