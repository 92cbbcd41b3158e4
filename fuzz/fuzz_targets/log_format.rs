#![no_main]
lorica_fuzz::target!("log_format");
