//! The Python module `celeriac._core`: registers classes and functions, nothing else.

mod errors;
mod json;
mod saferepr;
mod values;

#[pyo3::pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::json::{json_dumps, json_loads};
    #[pymodule_export]
    use crate::saferepr::saferepr;
    #[pymodule_export]
    use crate::values::{Publication, ResultRecord};

    #[pymodule_init]
    fn init(m: &Bound<'_, PyModule>) -> PyResult<()> {
        m.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
