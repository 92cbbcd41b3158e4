#![no_main]
lorica_fuzz::target!("first_bytes");
