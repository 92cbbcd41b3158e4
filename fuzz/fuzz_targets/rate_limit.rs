#![no_main]
lorica_fuzz::target!("rate_limit");
