#![no_main]
lorica_fuzz::target!("certificate_requests");
