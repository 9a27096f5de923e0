//! What a store tells of itself, to a person who looks after it.

use std::collections::BTreeMap;

/// What a store says of itself. What it does not tell is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreReport {
    /// Version of the server, or of the library that keeps the file.
    pub version: Option<String>,
    /// The store's clock minus ours.
    pub clock_offset_ms: Option<i64>,
    /// Workers of ours with a lease.
    pub workers: Option<u64>,
    /// Consumers of each queue, whoever they are; queues that are not there are left out.
    pub consumers: Option<BTreeMap<String, u64>>,
    /// Settings of the server by their own names.
    pub settings: BTreeMap<String, String>,
}
