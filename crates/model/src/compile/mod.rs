//! Resources and registry in, units out.
