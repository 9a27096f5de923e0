//! Options of connections, the same for clients and workers: what the engine is told of its stores.

use celeriac::driver::{ConnectOptions, ReplyOptions, Threading, TlsOptions, TlsVerify};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::options::Options;
use crate::values::json_value;

/// How to connect to the broker and to the result backend.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    pub(crate) broker: ConnectOptions,
    pub(crate) backend: ConnectOptions,
}

impl Connections {
    /// Reads the options of a client, which may be followed by stock workers and parks nothing, or of a worker.
    pub(crate) fn read(given: &Options<'_>, threading: Threading) -> PyResult<Self> {
        let mut broker = ConnectOptions {
            threading,
            park: threading == Threading::Dedicated,
            heartbeat: given.duration("heartbeat")?,
            reply: ReplyOptions {
                queue: given.take("reply_queue")?,
                persistent: given.take("result_persistent")?.unwrap_or_default(),
                expires_ms: given.take("result_expires_ms")?,
            },
            ..ConnectOptions::default()
        };
        if let Some(topology) = dict(given, "topology")? {
            broker.topology = std::sync::Arc::new(topology);
        }
        if let Some(content_type) = given.take("result_content_type")? {
            broker.result_content_type = content_type;
        }
        if let Some(timeout) = given.duration("connect_timeout")? {
            broker.connect_timeout = timeout;
            if threading == Threading::Inline {
                broker.publish_timeout = timeout;
            }
        }
        let mut backend = broker.clone();
        if let Some(timeout) = given.duration("backend_connect_timeout")? {
            backend.connect_timeout = timeout;
        }
        broker.transport = dict(given, "transport_options")?.unwrap_or_default();
        backend.transport = dict(given, "backend_transport_options")?.unwrap_or_default();
        broker.tls = tls(given, "tls")?;
        backend.tls = tls(given, "backend_tls")?;
        Ok(Self { broker, backend })
    }
}

/// An option that is a dict of JSON values.
fn dict<T: serde::de::DeserializeOwned>(given: &Options<'_>, name: &str) -> PyResult<Option<T>> {
    let Some(found) = given.take::<Bound<'_, PyDict>>(name)? else { return Ok(None) };
    json_value(&found).map(Some).map_err(|error| given.wrong(name, &error.to_string()))
}

fn tls(given: &Options<'_>, name: &str) -> PyResult<Option<TlsOptions>> {
    let Some(found) = given.take::<Bound<'_, PyDict>>(name)? else { return Ok(None) };
    let options = Options::new(name, &found)?;
    let verify = match options.take::<String>("verify")?.as_deref() {
        None | Some("full") => TlsVerify::Full,
        Some("certificate") => TlsVerify::Certificate,
        Some("nothing") => TlsVerify::Nothing,
        Some(other) => {
            return Err(
                options.wrong("verify", &format!("{other:?} is none of full, certificate and nothing"))
            );
        }
    };
    let read = TlsOptions {
        ca_certs: options.take("ca_certs")?,
        certfile: options.take("certfile")?,
        keyfile: options.take("keyfile")?,
        verify,
    };
    options.finish()?;
    Ok(Some(read))
}
