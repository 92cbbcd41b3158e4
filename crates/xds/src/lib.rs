//! lorica-xds
