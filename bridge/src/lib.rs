//! The Python module `celeriac._core`: registers classes and functions, nothing else.

mod arrivals;
mod call_template;
mod changes;
mod child;
mod chord;
mod client;
mod completions;
mod compression;
mod connections;
mod consumer;
mod convert;
mod errors;
mod json;
mod listener;
mod logging;
mod options;
mod record;
mod request;
mod runtime;
mod saferepr;
mod schedule;
mod topics;
mod uuids;
mod values;
mod wakeup;
mod worker;
mod worker_options;

#[pyo3::pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::arrivals::Arrivals;
    #[pymodule_export]
    use crate::call_template::CallTemplate;
    #[pymodule_export]
    use crate::changes::Changes;
    #[pymodule_export]
    use crate::child::{Child, Execution};
    #[pymodule_export]
    use crate::chord::ChordPart;
    #[pymodule_export]
    use crate::client::Client;
    #[pymodule_export]
    use crate::completions::Completions;
    #[pymodule_export]
    use crate::compression::{compress, decompress};
    #[pymodule_export]
    use crate::consumer::{Consumer, Delivery};
    #[pymodule_export]
    use crate::json::{json_dumps, json_loads};
    #[pymodule_export]
    use crate::listener::Listener;
    #[pymodule_export]
    use crate::record::json_record;
    #[pymodule_export]
    use crate::runtime::shutdown_runtime;
    #[pymodule_export]
    use crate::saferepr::saferepr;
    #[pymodule_export]
    use crate::schedule::Schedule;
    #[pymodule_export]
    use crate::topics::topic_matches;
    #[pymodule_export]
    use crate::uuids::uuids;
    #[pymodule_export]
    use crate::values::{Publication, ResultRecord};
    #[pymodule_export]
    use crate::worker::Worker;

    #[pymodule_init]
    fn init(m: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::runtime::register_fork_hook(m)?;
        crate::runtime::register_exit_hook(m)?;
        m.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
