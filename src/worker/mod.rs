//! Running tasks: claiming, deciding, giving to the pool, committing.

pub mod pool;
