#![no_main]
lorica_fuzz::target!("qpack");
