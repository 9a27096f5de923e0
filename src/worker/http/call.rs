//! One call: what a message asks for, and what came of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING, UPGRADE, USER_AGENT};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_util::client::legacy::{Client, Error as ClientError};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::HttpOptions;
use super::connect::{Connector, DialError};
use super::guard::Guard;
use super::rules::Problem;
use crate::clock::{Clock, UnixMillis};
use crate::protocol::Message;

/// Connections are made by us, one request at a time on each.
pub(super) type HttpClient = Client<Connector, Full<Bytes>>;

/// A compressed message may not become larger than this.
const MAX_BODY: usize = 64 << 20;
/// A call takes no longer than this, whatever its message says.
const MAX_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Headers that belong to the connection.
const OURS: [HeaderName; 5] = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, UPGRADE];

/// The keyword arguments of a call.
#[derive(Debug, Deserialize)]
pub(super) struct Call<'a> {
    #[serde(borrow)]
    url: Cow<'a, str>,
    method: Option<Cow<'a, str>>,
    /// Sent as JSON, as it stands.
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
    /// Sent as it is; base64 here.
    content: Option<Cow<'a, str>>,
    headers: Option<BTreeMap<String, String>>,
    /// Seconds.
    timeout: Option<f64>,
    retries: Option<u32>,
    /// It is a webhook, or signed like one.
    sign: Option<Sign>,
}

/// How a call is signed.
#[derive(Debug, Deserialize)]
struct Sign {
    /// The same in each try; the task's id when there is none.
    id: Option<String>,
    /// The name of the secret; none is the usual one.
    key: Option<String>,
    /// It follows the schedule of webhooks, and becomes a dead letter in the end.
    #[serde(default)]
    webhook: bool,
}

/// The arguments, and what follows.
#[derive(Debug)]
pub(super) struct Body<'a> {
    pub(super) call: Call<'a>,
    /// What the step before it in a chain has returned.
    front: Option<&'a RawValue>,
}

/// A request that is ready to be sent.
#[derive(Debug)]
pub(super) struct Prepared {
    request: Request<Full<Bytes>>,
    /// Method and host.
    pub(super) shown: String,
    timeout: Duration,
}

/// What the receiver answered.
#[derive(Debug)]
pub(super) struct Response {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
    shown: String,
}

/// The body of a message, decompressed.
pub(super) fn plain(message: &Message) -> Result<Cow<'_, [u8]>, String> {
    #[derive(Deserialize)]
    struct Packed {
        #[serde(default)]
        compression: Option<String>,
    }
    if message.body.first() == Some(&b'[') {
        return Ok(Cow::Borrowed(&message.body));
    }
    let packed: Packed = serde_json::from_slice(&message.headers).map_err(|error| error.to_string())?;
    let Some(method) = packed.compression else { return Err("the body is not JSON".to_owned()) };
    let body = crate::protocol::decompress(&message.body, &method, MAX_BODY);
    body.map(Cow::Owned).map_err(|error| error.to_string())
}

impl<'a> Body<'a> {
    /// Reads the body of a message. The error holds nothing of its content.
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, String> {
        type Parts<'a> = (Vec<&'a RawValue>, Call<'a>, serde::de::IgnoredAny);
        let (args, call, _): Parts<'a> = serde_json::from_slice(body).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            format!("the arguments are not those of an HTTP task (line {line}, column {column})")
        })?;
        Ok(Self { call, front: args.first().copied() })
    }
}

impl Call<'_> {
    pub(super) fn is_webhook(&self) -> bool {
        self.sign.as_ref().is_some_and(|sign| sign.webhook)
    }

    pub(super) fn retries(&self, usual: u32) -> u32 {
        self.retries.unwrap_or(usual)
    }
}

impl Body<'_> {
    /// Makes the request: checks the URL and signs the body.
    pub(super) fn prepare(
        &self,
        task_id: &str,
        options: &HttpOptions,
        now: UnixMillis,
    ) -> Result<Prepared, Problem> {
        let call = &self.call;
        let method = call.method.as_deref().unwrap_or("POST").to_ascii_uppercase();
        let method =
            Method::from_bytes(method.as_bytes()).map_err(|_| invalid("the method is not one of HTTP"))?;
        let guard: &Guard = &options.guard;
        let target = guard.target(&call.url).map_err(|refusal| Problem::refused(&refusal))?;
        let uri = Uri::try_from(&target.uri).map_err(|_| invalid("the URL cannot be sent"))?;
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("celeriac/", env!("CARGO_PKG_VERSION"))));
        let body = self.bytes(&method, &mut headers)?;
        headers.insert("idempotency-key", text(task_id)?);
        for (name, value) in call.headers.iter().flatten() {
            let bad = || invalid(&format!("the header {name:?} cannot be sent"));
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            if OURS.contains(&name) {
                return Err(bad());
            }
            let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        if let Some(sign) = &call.sign {
            sign.write(&mut headers, task_id, options, now, &body)?;
        }
        let mut request = Request::new(Full::new(body));
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
        let shown = format!("{} {}", request.method(), target.shown);
        let timeout = call.timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Ok(Prepared { request, shown, timeout: timeout.unwrap_or(options.timeout).min(MAX_TIMEOUT) })
    }

    fn bytes(&self, method: &Method, headers: &mut HeaderMap) -> Result<Bytes, Problem> {
        if let Some(content) = self.call.content.as_deref() {
            let bytes = STANDARD.decode(content).map_err(|_| invalid("the content is not base64"))?;
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            return Ok(bytes.into());
        }
        // What a chain hands on has no place in a request that has no body.
        let bodiless = matches!(*method, Method::GET | Method::HEAD);
        let Some(payload) = self.call.payload.or(self.front.filter(|_| !bodiless)) else {
            return Ok(Bytes::new());
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(Bytes::copy_from_slice(payload.get().as_bytes()))
    }
}

impl Sign {
    /// Adds the headers of Standard Webhooks.
    fn write(
        &self,
        headers: &mut HeaderMap,
        task_id: &str,
        options: &HttpOptions,
        now: UnixMillis,
        body: &[u8],
    ) -> Result<(), Problem> {
        let id = self.id.as_deref().unwrap_or(task_id);
        let timestamp = now.0.div_euclid(1_000);
        let key = self.key.as_deref();
        let Some(signature) = options.secrets.sign(key, id, timestamp, body) else {
            let key = key.unwrap_or_default();
            return Err(invalid(&format!("webhook_secrets of this worker has no secret called {key:?}")));
        };
        headers.insert("webhook-id", text(id)?);
        headers.insert("webhook-timestamp", timestamp.into());
        if !signature.is_empty() {
            headers.insert("webhook-signature", text(&signature)?);
        }
        Ok(())
    }
}

/// It cannot be sent as it is asked for, nor will it be.
fn invalid(why: &str) -> Problem {
    Problem { class: "HttpRefused", text: why.to_owned(), ..Problem::default() }
}

fn text(value: &str) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(value).map_err(|_| invalid("the id cannot be sent as a header"))
}

impl Prepared {
    /// The same in no more than the hard limit of its task.
    pub(super) fn limited(mut self, hard_limit: Option<Duration>) -> Self {
        self.timeout = hard_limit.map_or(self.timeout, |limit| limit.min(self.timeout));
        self
    }

    /// Sends it, and reads the answer.
    pub(super) async fn send(
        self,
        client: &HttpClient,
        max_response: usize,
        clock: &Clock,
    ) -> Result<Response, Problem> {
        let Self { request, shown, timeout } = self;
        let exchange = async {
            let response = client.request(request).await.map_err(|error| failed(&shown, &error))?;
            let (parts, body) = response.into_parts();
            let body = read(body, max_response, &shown).await?;
            Ok((parts.status.as_u16(), parts.headers, body))
        };
        let (status, headers, body) = tokio::time::timeout(timeout, exchange).await.unwrap_or_else(|_| {
            Err(Problem::timeout(format!("{shown} took longer than {} s", timeout.as_secs_f64())))
        })?;
        if (200..300).contains(&status) {
            return Ok(Response { status, headers, body, shown });
        }
        Err(Problem::status(&shown, status, &headers, &body, clock.now()))
    }
}

fn failed(shown: &str, error: &ClientError) -> Problem {
    match DialError::within(error) {
        Some(DialError::Refused(refusal)) => Problem::refused(refusal),
        Some(DialError::Failed(why)) => Problem::network(format!("{shown}: {why}")),
        None => {
            // The innermost cause says what happened.
            let mut cause: &dyn std::error::Error = error;
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            Problem::network(format!("{shown}: {cause}"))
        }
    }
}

/// The whole body, unless it is too large.
async fn read(mut body: Incoming, most: usize, shown: &str) -> Result<Bytes, Problem> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Problem::network(format!("{shown}: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if all.len() + data.len() > most {
            return Err(Problem {
                class: "HttpResponseTooLarge",
                text: format!("{shown} answered with more than {most} bytes (http_max_response_bytes)"),
                ..Problem::default()
            });
        }
        all.extend_from_slice(&data);
    }
    Ok(all.freeze())
}

impl Response {
    /// The result of the task, as JSON text.
    pub(super) fn to_json(&self) -> String {
        let mut headers: BTreeMap<&str, String> = BTreeMap::new();
        for (name, value) in &self.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            headers
                .entry(name.as_str())
                .and_modify(|all| {
                    all.push_str(", ");
                    all.push_str(&value);
                })
                .or_insert_with(|| value.into_owned());
        }
        let headers = serde_json::to_string(&headers).unwrap_or_else(|_| "{}".to_owned());
        let (body, encoding) = self.body_json();
        let status = self.status;
        format!(r#"{{"status": {status}, "headers": {headers}, "body": {body}, "encoding": "{encoding}"}}"#)
    }

    fn body_json(&self) -> (String, &'static str) {
        let media = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if (media == "application/json" || media.ends_with("+json"))
            && let Ok(value) = serde_json::from_slice::<&RawValue>(&self.body)
        {
            return (value.get().to_owned(), "json");
        }
        let quoted = |text: &str| serde_json::to_string(text).unwrap_or_else(|_| "\"\"".to_owned());
        match std::str::from_utf8(&self.body) {
            Ok(text) => (quoted(text), "text"),
            Err(_) => (quoted(&STANDARD.encode(&self.body)), "base64"),
        }
    }

    /// What monitors are told.
    pub(super) fn summary(&self) -> String {
        format!("{}: {} with {} bytes", self.shown, self.status, self.body.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(kwargs: &str, args: &str) -> Result<Prepared, Problem> {
        let body = format!("[{args}, {kwargs}, null]");
        let options = HttpOptions::default();
        Body::parse(body.as_bytes()).expect("arguments").prepare("id-1", &options, UnixMillis(5_000))
    }

    async fn body_of(prepared: Prepared) -> Bytes {
        prepared.request.into_body().collect().await.expect("a body").to_bytes()
    }

    #[tokio::test]
    async fn a_payload_is_sent_as_it_stands() {
        let prepared = prepared(r#"{"url": "https://example.com/a?b=c", "payload": {"n":  1.50}}"#, "[]")
            .expect("ready");
        assert_eq!(prepared.shown, "POST https://example.com/...");
        assert_eq!(prepared.request.headers()["idempotency-key"], "id-1");
        assert_eq!(prepared.request.headers()["content-type"], "application/json");
        assert_eq!(body_of(prepared).await, r#"{"n":  1.50}"#);
    }

    #[tokio::test]
    async fn what_a_chain_hands_on_is_the_payload_unless_there_is_one() {
        let url = r#""url": "https://example.com/""#;
        assert_eq!(body_of(prepared(&format!("{{{url}}}"), "[[1]]").expect("ready")).await, "[1]");
        let own = prepared(&format!(r#"{{{url}, "payload": 2}}"#), "[[1]]").expect("ready");
        assert_eq!(body_of(own).await, "2");
        let get = prepared(&format!(r#"{{{url}, "method": "get"}}"#), "[[1]]").expect("ready");
        assert_eq!(body_of(get).await, "");
    }

    #[test]
    fn what_cannot_be_sent_is_refused_without_its_content() {
        let bad = [
            r#"{"url": "https://example.com/", "headers": {"Host": "secret"}}"#,
            r#"{"url": "https://example.com/", "headers": {"a b": "secret"}}"#,
            r#"{"url": "https://example.com/", "headers": {"a": "secret\n"}}"#,
            r#"{"url": "https://example.com/", "method": "secret secret"}"#,
            r#"{"url": "https://example.com/", "content": "secret!"}"#,
            r#"{"url": "https://secret:secret@example.com/"}"#,
            r#"{"url": "https://example.com/", "sign": {"key": "nobody"}}"#,
        ];
        for kwargs in bad {
            let problem = prepared(kwargs, "[]").expect_err(kwargs);
            assert!(!problem.text.contains("secret!") && problem.class == "HttpRefused", "{problem:?}");
        }
        for body in ["[[], {}, null]", "[[], [], null]", "{}", r#"[[], {"url": 1}, null]"#] {
            assert!(Body::parse(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn an_answer_becomes_json_text_or_base64() {
        let response = |media: &'static str, body: &'static [u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
            headers.append("x", HeaderValue::from_static("1"));
            headers.append("x", HeaderValue::from_static("2"));
            Response { status: 200, headers, body: body.into(), shown: String::new() }.to_json()
        };
        let expected = concat!(
            r#"{"status": 200, "headers": {"content-type":"application/json; charset=utf-8","x":"1, 2"}, "#,
            r#""body": {"a": 1.0}, "encoding": "json"}"#
        );
        assert_eq!(response("application/json; charset=utf-8", br#"{"a": 1.0}"#), expected);
        assert!(
            response("application/problem+json", b"[1]").ends_with(r#""body": [1], "encoding": "json"}"#)
        );
        assert!(response("application/json", b"{oops").ends_with(r#""body": "{oops", "encoding": "text"}"#));
        assert!(response("image/png", b"\xff\x00").ends_with(r#""body": "/wA=", "encoding": "base64"}"#));
    }
}
