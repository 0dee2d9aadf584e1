//! Batches that wait, bounded by count, bytes and age; what must leave is returned.
