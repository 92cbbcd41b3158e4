#![no_main]
lorica_fuzz::target!("http1_requests");
