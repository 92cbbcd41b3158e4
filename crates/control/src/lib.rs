//! lorica-control
