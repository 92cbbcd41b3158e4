#![no_main]
lorica_fuzz::target!("http2_answers");
