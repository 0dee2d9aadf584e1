//! Lines kept in files until they are replayed: published atomically, compressed when large.
