//! Remote control: the request that is broadcast, and the reply of one node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{DecodeError, json};

const PART: &str = "control request";

/// A command to all workers, or to some.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ControlRequest {
    /// The command.
    pub method: String,
    /// Its arguments by name.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub arguments: Map<String, Value>,
    /// Node names; none, or an empty list, is everybody.
    #[serde(default)]
    pub destination: Option<Vec<String>>,
    /// What node names must match, when no destination is given.
    #[serde(default)]
    pub pattern: Option<String>,
    /// How to match; `glob` is supported.
    #[serde(default)]
    pub matcher: Option<String>,
    /// Names the request in replies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// Where replies go; none wants no reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<ReplyTo>,
}

/// Where the reply to a control request goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyTo {
    /// The exchange.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
}

impl ControlRequest {
    /// Reads the body of a request. One that selects nodes by anything but a glob is refused, since it
    /// cannot be known whom it means.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let request: Self = json::object(body, PART)?;
        let by_pattern = request.destination.as_ref().is_none_or(Vec::is_empty) && request.pattern.is_some();
        if by_pattern && request.matcher.as_deref().is_some_and(|matcher| matcher != "glob") {
            return Err(DecodeError::UnsupportedMatcher);
        }
        Ok(request)
    }

    /// The body to send, as kombu writes it.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        json::write(&mut out, self);
        out
    }

    /// Whether a node is meant.
    pub fn addresses(&self, node: &str) -> bool {
        match (&self.destination, &self.pattern, &self.matcher) {
            (Some(nodes), _, _) if !nodes.is_empty() => nodes.iter().any(|name| name == node),
            (_, Some(pattern), Some(_)) => glob(pattern, node),
            _ => true,
        }
    }
}

/// What one node answers.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlReply {
    /// The node.
    pub node: String,
    /// Its answer.
    pub value: Value,
}

impl ControlReply {
    /// Reads the body of a reply: an object with one member.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let members: BTreeMap<String, Value> = json::object(body, "control reply")?;
        let mut members = members.into_iter();
        match (members.next(), members.next()) {
            (Some((node, value)), None) => Ok(Self { node, value }),
            _ => Err(DecodeError::Invalid { part: "control reply", field: "node", expected: "one member" }),
        }
    }

    /// The body to send.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        json::write(&mut out, &BTreeMap::from([(&self.node, &self.value)]));
        out
    }
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Shell patterns as Python's `fnmatch` has them: `*`, `?`, `[set]`, `[!set]`. Goes back to the last star
/// only, so that its time is the product of the two lengths at the most.
fn glob(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p, n));
            p += 1;
        } else if let Some(length) = matches_one(&pattern[p..], name[n]) {
            p += length;
            n += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (p, n) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Whether the first element of the pattern takes this character, and how long that element is.
fn matches_one(pattern: &[char], c: char) -> Option<usize> {
    match *pattern.first()? {
        '?' => Some(1),
        '[' => {
            let negated = pattern.get(1) == Some(&'!');
            let start = if negated { 2 } else { 1 };
            // A bracket right at the start of the set belongs to it; a set that is not closed is a text.
            let Some(end) = (start + 1..pattern.len()).find(|at| pattern[*at] == ']') else {
                return (c == '[').then_some(1);
            };
            (in_set(&pattern[start..end], c) != negated).then_some(end + 1)
        }
        literal => (literal == c).then_some(1),
    }
}

fn in_set(set: &[char], c: char) -> bool {
    let mut at = 0;
    while at < set.len() {
        if at + 2 < set.len() && set[at + 1] == '-' {
            if (set[at]..=set[at + 2]).contains(&c) {
                return true;
            }
            at += 3;
        } else {
            if set[at] == c {
                return true;
            }
            at += 1;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_fnmatch_does() {
        for (pattern, name, matches) in [
            ("w*", "w1@host", true),
            ("w*", "x1@host", false),
            ("*@host", "w1@host", true),
            ("*a*b", "xaxbxab", true),
            ("*a*b", "xaxbx", false),
            ("w?@*", "w1@host", true),
            ("w?@*", "w@host", false),
            ("w[12]*", "w2@h", true),
            ("w[!12]*", "w2@h", false),
            ("w[a-c]", "wb", true),
            ("w[]]", "w]", true),
            ("w[", "w[", true),
            ("w[!", "w[!", true),
            ("", "", true),
            ("", "w", false),
            ("**", "", true),
        ] {
            assert_eq!(glob(pattern, name), matches, "{pattern} {name}");
        }
    }

    #[test]
    fn a_destination_goes_before_a_pattern_and_nothing_means_everybody() {
        let parse = |text: &str| ControlRequest::parse(text.as_bytes());
        let all = parse(r#"{"method": "ping", "arguments": null, "destination": []}"#).unwrap();
        assert!(all.addresses("a@b"));
        let one = parse(r#"{"method": "x", "destination": ["a@b"], "pattern": "*", "matcher": "glob"}"#);
        assert!(one.as_ref().unwrap().addresses("a@b") && !one.unwrap().addresses("c@b"));
        let glob = parse(r#"{"method": "x", "pattern": "a@*", "matcher": "glob"}"#).unwrap();
        assert!(glob.addresses("a@b") && !glob.addresses("b@b"));
        let pcre = parse(r#"{"method": "x", "pattern": "a@.*", "matcher": "pcre"}"#);
        assert_eq!(pcre.unwrap_err(), DecodeError::UnsupportedMatcher);
        assert!(parse(r#"{"arguments": {}}"#).is_err());
    }
}
