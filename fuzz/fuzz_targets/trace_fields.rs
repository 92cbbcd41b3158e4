#![no_main]
lorica_fuzz::target!("trace_fields");
