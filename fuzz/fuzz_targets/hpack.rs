#![no_main]
lorica_fuzz::target!("hpack");
