#![no_main]
lorica_fuzz::target!("access_log");
