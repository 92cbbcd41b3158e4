//! lorica-api
