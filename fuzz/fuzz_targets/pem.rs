#![no_main]
lorica_fuzz::target!("pem");
