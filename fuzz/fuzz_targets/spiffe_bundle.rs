#![no_main]
lorica_fuzz::target!("spiffe_bundle");
