//! lorica-observe
