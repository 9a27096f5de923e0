//! The signature of Standard Webhooks: HMAC-SHA256 over id, time and body, one for each secret that is in use.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

/// What a secret begins with when the rest of it is base64.
const PREFIX: &str = "whsec_";

/// The secrets that webhooks are signed with. Never printed.
#[derive(Clone, Default)]
pub struct Secrets {
    /// Used when a webhook names none.
    usual: Vec<hmac::Key>,
    named: HashMap<String, Vec<hmac::Key>>,
}

impl Secrets {
    /// Those of the list, and those of each name; during a rotation there are several.
    pub fn new(usual: &[String], named: &BTreeMap<String, Vec<String>>) -> Self {
        let keys = |secrets: &[String]| secrets.iter().map(|secret| key(secret)).collect::<Vec<_>>();
        Self {
            usual: keys(usual),
            named: named.iter().map(|(name, list)| (name.clone(), keys(list))).collect(),
        }
    }

    /// The value of the header `webhook-signature`; empty when there is no secret, none when that name has none.
    pub(crate) fn sign(&self, name: Option<&str>, id: &str, timestamp: i64, body: &[u8]) -> Option<String> {
        let keys = match name {
            None => &self.usual,
            Some(name) => self.named.get(name)?,
        };
        let start = format!("{id}.{timestamp}.");
        let signatures: Vec<String> = keys
            .iter()
            .map(|key| {
                let mut context = hmac::Context::with_key(key);
                context.update(start.as_bytes());
                context.update(body);
                format!("v1,{}", STANDARD.encode(context.sign()))
            })
            .collect();
        Some(signatures.join(" "))
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({} and {} named)", self.usual.len(), self.named.len())
    }
}

/// A secret that is no base64 after its prefix, or has none, is taken as it is.
fn key(secret: &str) -> hmac::Key {
    let bytes = secret.strip_prefix(PREFIX).and_then(|text| STANDARD.decode(text).ok());
    hmac::Key::new(hmac::HMAC_SHA256, bytes.as_deref().unwrap_or(secret.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(usual: &[&str]) -> Secrets {
        let usual: Vec<_> = usual.iter().map(|secret| (*secret).to_owned()).collect();
        let named = BTreeMap::from([("customer".to_owned(), vec!["other".to_owned()])]);
        Secrets::new(&usual, &named)
    }

    #[test]
    fn a_signature_is_that_of_the_standard() {
        // The example of the specification's libraries.
        let signed = secrets(&["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]).sign(
            None,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signed.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
    }

    #[test]
    fn there_is_one_signature_for_each_secret_of_a_rotation() {
        let signed = secrets(&["new", "old"]).sign(None, "id", 1, b"{}").expect("signed");
        let old = secrets(&["old"]).sign(None, "id", 1, b"{}").expect("signed");
        assert_eq!(signed.split(' ').count(), 2);
        assert!(signed.ends_with(&old));
    }

    #[test]
    fn a_secret_is_found_by_its_name_and_one_that_is_not_there_is_told_of() {
        let named = secrets(&["usual"]).sign(Some("customer"), "id", 1, b"");
        assert_eq!(named, secrets(&["other"]).sign(None, "id", 1, b""));
        assert_eq!(secrets(&["usual"]).sign(Some("nobody"), "id", 1, b""), None);
        assert_eq!(secrets(&[]).sign(None, "id", 1, b"").as_deref(), Some(""));
    }

    #[test]
    fn a_secret_is_never_printed() {
        assert!(!format!("{:?}", secrets(&["sesame"])).contains("sesame"));
    }
}
